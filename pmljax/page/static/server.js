// What is asked of the server, and what it tells. All addresses are relative: the token is part of the page's own.

export class Refused extends Error {}

const SILENT = "The server does not answer. Is it still running?";
export const GONE = "This page is not served any more, or in too many tabs: open the address that the command printed last";

async function ask(path, options) {
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    throw new Refused(SILENT);
  }
  if (answer.ok) return answer;
  let message = answer.status === 404 ? GONE : `${answer.status} ${answer.statusText}`;
  try {
    message = (await answer.json()).error || message;
  } catch { /* no JSON: the status says it */ }
  throw new Refused(message);
}

// Packets: two lengths, JSON, bytes (page/wire.py).
const text = new TextDecoder();

function packetAt(buffer, at) {
  const view = new DataView(buffer, at);
  const [json, body] = [view.getUint32(0, true), view.getUint32(4, true)];
  const about = JSON.parse(text.decode(new Uint8Array(buffer, at + 8, json)));
  return { ...about, body: buffer.slice(at + 8 + json, at + 8 + json + body), next: at + 8 + json + body };
}

function packetsOf(buffer) {
  const out = [];
  for (let at = 0; at < buffer.byteLength;) {
    const one = packetAt(buffer, at);
    out.push(one);
    at = one.next;
  }
  return out;
}

async function bytes(asked) {
  const answer = await asked;
  try {
    return await answer.arrayBuffer();
  } catch { // it broke off on the way
    throw new Refused(SILENT);
  }
}

const packet = async (asked) => packetAt(await bytes(asked), 0);

// Inputs are sent one after the other: two that overtake each other would be two others.
let line = Promise.resolve();
function inTurn(send) {
  const mine = line.then(send);
  line = mine.catch(() => {});
  return mine;
}

// Done once everything said so far was answered, and one after the other.
let turns = Promise.resolve();
export const afterwards = (act) => (turns = turns.then(() => line).then(act).catch(() => {}));
export const edit = (input, view) =>
  inTurn(() => packet(ask(`edit?view=${view}`, { method: "POST", body: JSON.stringify(input) })));
export const mask = (file, frame, label) =>
  inTurn(() => packet(ask(`mask?frame=${frame}&view=${frame}&label=${label || 1}`, { method: "POST", body: file })));
export const frame = (i) => packet(ask(`frames?frames=${i}&view`));
export const frames = async (list) => packetsOf(await bytes(ask(`frames?frames=${list.join(",")}`)));
export const margins = (i) => packet(ask(`margins?frame=${i}`));
export const colours = (i) => packet(ask(`colours?frame=${i}`));
export const why = async (i, y, x) => (await ask(`why?frame=${i}&y=${y}&x=${x}`)).json();
export const picture = async (i) => createImageBitmap(await (await ask(`picture/${i}.jpg`)).blob());

// A file that is made, under the name that it is given.
export async function file(path) {
  const answer = await ask(path);
  const told = answer.headers.get("content-disposition") || "";
  const [, plain, coded] = told.match(/filename="([^"]*)"|filename\*=utf-8''(.*)/i) || [];
  try {
    return { name: coded ? decodeURIComponent(coded) : plain || path.split("/").at(-1), data: await answer.blob() };
  } catch {
    throw new Refused(SILENT);
  }
}

// heard: {state, sure, lost(for good or not)}. Only while the page is seen: a browser gives one server six connections in all.
export function listen(heard) {
  let events = null;
  const close = () => {
    events?.close();
    events = null;
  };
  const open = () => {
    if (events || document.hidden) return;
    events = new EventSource("changes");
    events.addEventListener("state", (e) => heard.state(JSON.parse(e.data)));
    events.addEventListener("sure", (e) => heard.sure(JSON.parse(e.data)));
    const mine = events;
    mine.addEventListener("error", () => heard.lost(mine.readyState === EventSource.CLOSED));
  };
  document.addEventListener("visibilitychange", () => (document.hidden ? close() : open()));
  addEventListener("pagehide", close);
  addEventListener("pageshow", open); // also where the browser brings the page back as it was
  open();
}

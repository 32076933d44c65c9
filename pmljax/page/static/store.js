// What the page knows, in one place. Whoever changes something says so by `changed(what)`; whoever shows it listens by `on`.

import * as server from "./server.js";

export const store = {
  state: { phase: "embedding", revision: 0, count: 0, objects: [], references: {}, width: 16, height: 9, rate: 24 },
  sure: [], // of each frame, thousandths; −1 where it is not known yet
  frame: 0,
  label: 1,
  tool: "click",
  width: 9,
  mode: "masks",
  opacity: 0.55,
  hidden: new Set(),
  selected: null, // an input, as the packet of the frame in view has it
  why: false,
  playing: false,
};

const listeners = new Map();
export function on(what, listener) {
  for (const name of what.split(" ")) listeners.set(name, [...(listeners.get(name) || []), listener]);
}
export function changed(what) {
  for (const name of what.split(" ")) for (const listener of listeners.get(name) || []) listener();
}

// Frames: of each the newest packet, which is of one state. Far from the view they are let go.
const KEPT = 400;
const BATCH = 16;
const packets = new Map();
export const packetOf = (i) => packets.get(i);

export function keep(packet) {
  const newest = !(packets.get(packet.frame)?.revision > packet.revision);
  if (newest) packets.set(packet.frame, packet); // before the state is heard, which asks for what is behind it
  if (packet.state) heard(packet.state);
  if (!newest || packet.frame !== store.frame) return;
  if (store.selected && !packet.inputs.some((input) => JSON.stringify(input) === JSON.stringify(store.selected))) {
    store.selected = null; // it is gone, or another has its number
    changed("selected");
  }
  changed("packet");
}

export function heard(state) {
  if (state.revision < store.state.revision) return;
  const before = store.state;
  store.state = state;
  if (!before.count && state.count) changed("count");
  changed("state");
  follow();
}

const behind = (i) => (packets.get(i)?.revision ?? -1) < store.state.revision;

// The frame in view first, the others nearest first; begun again from there whenever a newer input came.
let following = false;
export async function follow() {
  if (following || store.state.phase !== "ready") return;
  following = true;
  try {
    for (;;) {
      for (const i of packets.keys()) if (Math.abs(i - store.frame) > KEPT) packets.delete(i);
      if (behind(store.frame)) {
        keep(await server.frame(store.frame));
        continue;
      }
      const wanted = [];
      for (let d = 1; d <= KEPT && wanted.length < BATCH; d++) {
        for (const i of [store.frame + d, store.frame - d]) {
          if (i >= 0 && i < store.state.count && behind(i)) wanted.push(i);
        }
      }
      if (!wanted.length) break;
      for (const packet of await server.frames(wanted)) keep(packet);
    }
    document.dispatchEvent(new CustomEvent("settled", { detail: { revision: store.state.revision } }));
  } catch (error) {
    if (!(error instanceof server.Refused)) throw error;
    setTimeout(follow, 1000);
    return;
  } finally {
    following = false;
  }
  if (behind(store.frame)) follow();
}

export function show(i) {
  const last = Math.max(store.state.count - 1, 0);
  i = Math.min(Math.max(i, 0), last);
  if (i === store.frame) return;
  store.frame = i;
  store.selected = null;
  changed("frame");
  if (behind(i)) follow();
}

// Inputs
export async function say(input) {
  try {
    const done = input instanceof Blob ? await server.mask(input, store.frame, store.label) : await server.edit(input, store.frame);
    keep(done);
    return done;
  } catch (error) {
    toast(error.message, true);
    changed("packet");
    return null;
  }
}

export function choose(label) {
  store.label = label;
  changed("label");
}

export const nameOf = (label) =>
  label ? store.state.objects.find((o) => o.label === label)?.name || `Object ${label}` : "Background";

// A line of news
let hiding;
export function toast(message, bad = false) {
  const place = document.getElementById("toast");
  place.textContent = message;
  place.className = bad ? "on bad" : "on";
  clearTimeout(hiding);
  hiding = setTimeout(() => (place.className = ""), bad ? 6000 : 2200);
}

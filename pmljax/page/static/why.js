// Why: which references decided the pixel under the pointer, and how the vote went.

import { swatch } from "./panel.js";
import * as server from "./server.js";
import { pending, pixelAt, redraw } from "./stage.js";
import { nameOf, on, show, store } from "./store.js";

const card = document.getElementById("because");
const canvas = document.getElementById("canvas");
const PAUSE = 60; // milliseconds between two questions
let asking = false, wanted = null, last = null; // pixels: the next question's, the last one's

async function ask(pixel) {
  wanted = last = pixel;
  if (asking) return;
  asking = true;
  while (wanted && store.why) {
    const [y, x] = wanted;
    wanted = null;
    try {
      const found = await server.why(store.frame, y, x);
      if (store.why && found.frame === store.frame) tell(found, y, x);
    } catch { /* not ready yet: asked again with the next movement */ }
    await new Promise((done) => setTimeout(done, PAUSE));
  }
  asking = false;
}

function tell({ label, said, shares, references }, y, x) {
  const head = document.createElement("h3");
  const where = document.createElement("span");
  where.className = "quiet";
  where.textContent = said ? "you said so" : `at ${x}, ${y}`;
  head.append(swatch(label), nameOf(label), where);
  const bar = document.createElement("div");
  bar.className = "shares";
  for (const [id, share] of Object.entries(shares)) {
    const part = swatch(+id);
    part.className = "";
    part.style.flex = String(share);
    part.title = `${nameOf(+id)} ${Math.round(100 * share)} %`;
    bar.append(part);
  }
  const rows = references.slice(0, 8).map((r) => {
    const row = document.createElement("button");
    const text = document.createElement("span");
    text.textContent = `${nameOf(r.label)} · frame ${r.frame}`;
    const near = document.createElement("span");
    near.className = "near";
    near.textContent = `${Math.round(100 * r.weight)} % · ${r.distance.toFixed(2)}`;
    row.setAttribute("aria-label", `${text.textContent}, ${near.textContent}: go there`);
    row.append(swatch(r.label), text, near);
    row.addEventListener("click", () => show(r.frame));
    return row;
  });
  const foot = document.createElement("p");
  foot.className = "quiet";
  foot.textContent = references.length ? "part of the vote · distance" : "Nothing is marked yet";
  card.replaceChildren(head, bar, ...rows, foot);
  card.hidden = false;
  pending.because = references;
  redraw();
}

export function askAt(pixel) {
  if (store.why && pixel) ask(pixel);
}

export function begin() {
  canvas.addEventListener("pointermove", (event) => store.why && askAt(pixelAt(event.clientX, event.clientY)));
  on("frame packet", () => askAt(last)); // another answer, perhaps, for the same pixel
  on("why", () => {
    if (store.why) return;
    last = null;
    card.hidden = true;
    pending.because = [];
    redraw();
  });
}

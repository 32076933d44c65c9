// The frames in a row: where the references are, how sure each frame is; play, step, drag.

import { picture } from "./stage.js";
import { changed, on, show, store, toast } from "./store.js";

const track = document.getElementById("track");
const strip = document.getElementById("strip");
const seen = { revision: -1, frames: new Set() }; // where "next" has been since the last input
let drawing = false;

function draw() {
  drawing = false;
  const ratio = devicePixelRatio || 1;
  const [width, height] = [track.clientWidth, track.clientHeight];
  [strip.width, strip.height] = [Math.round(width * ratio), Math.round(height * ratio)];
  const context = strip.getContext("2d");
  context.scale(ratio, ratio);
  const { count, references, revision } = store.state;
  if (!count) return;
  const x = (i) => (i * width) / count;
  const [top, bottom] = [12, height - 6];
  context.fillStyle = "#0e1013";
  context.beginPath();
  context.roundRect(0, top, width, bottom - top, 4);
  context.fill();
  // How sure: the taller and warmer, the less.
  const known = store.sure.filter((s) => s >= 0);
  const [least, most] = known.reduce(([a, b], s) => [Math.min(a, s), Math.max(b, s)], [1000, 0]);
  store.sure.forEach((s, i) => {
    if (s < 0 || most < 1) return;
    const doubt = (most - s) / Math.max(most - least, 60);
    const h = 3 + (bottom - top - 5) * doubt;
    context.fillStyle = `rgb(${90 + 142 * doubt}, ${110 + 52 * doubt}, ${140 - 48 * doubt})`;
    context.fillRect(x(i), bottom - h, Math.max(width / count - (width / count > 4 ? 1 : 0), 1), h);
  });
  for (const [frame, cells] of Object.entries(references)) {
    const at = x(+frame + 0.5);
    context.fillStyle = "#8ab8f0";
    context.beginPath();
    context.arc(at, 6, Math.min(2.5 + Math.log10(cells + 1), 5), 0, 7);
    context.fill();
  }
  const at = x(store.frame + 0.5);
  context.fillStyle = "#fff";
  context.fillRect(Math.round(at) - 1, 2, 2, height - 4);
  track.setAttribute("aria-valuemax", String(count - 1));
  track.setAttribute("aria-valuenow", String(store.frame));
  track.setAttribute("aria-valuetext", `frame ${store.frame} of ${count}`);
  track.dataset.revision = String(revision);
  document.getElementById("where").textContent = `${store.frame} / ${count - 1}`;
}

function redraw() {
  if (drawing) return;
  drawing = true;
  requestAnimationFrame(draw);
}

function seek(event) {
  const box = track.getBoundingClientRect();
  show(Math.floor(((event.clientX - box.left) / box.width) * store.state.count));
}

// Play
let timer;
export function play(playing = !store.playing) {
  clearTimeout(timer);
  store.playing = playing && store.state.count > 1;
  const button = document.getElementById("play");
  document.getElementById("play-icon").setAttribute("href", store.playing ? "#i-pause" : "#i-play");
  button.dataset.tip = store.playing ? "Pause" : "Play";
  button.setAttribute("aria-label", button.dataset.tip);
  if (store.playing) timer = setTimeout(tick, 0, performance.now());
}

function tick(due) {
  const next = (store.frame + 1) % store.state.count;
  for (let i = 0; i < 6; i++) picture((next + i) % store.state.count);
  const ready = picture(next);
  if (ready) show(next);
  const after = Math.max(due + 1000 / store.state.rate, performance.now() - 100);
  timer = setTimeout(tick, Math.max(after - performance.now(), ready ? 0 : 10), after);
}

// The frame that is least sure, then the next such, until something is said.
export function leastSure() {
  if (seen.revision !== store.state.revision) Object.assign(seen, { revision: store.state.revision, frames: new Set() });
  seen.frames.add(store.frame);
  let best = -1;
  store.sure.forEach((s, i) => {
    if (s >= 0 && !seen.frames.has(i) && (best < 0 || s < store.sure[best])) best = i;
  });
  if (best < 0) {
    toast(store.sure.some((s) => s >= 0) ? "Every frame was seen since the last input" : "Still finding out how sure the frames are");
    return;
  }
  show(best);
}

export function begin() {
  track.addEventListener("pointerdown", (event) => {
    track.setPointerCapture?.(event.pointerId);
    play(false);
    seek(event);
  });
  track.addEventListener("pointermove", (event) => event.buttons && seek(event));
  document.getElementById("play").addEventListener("click", () => play());
  document.getElementById("back").addEventListener("click", () => show(store.frame - 1));
  document.getElementById("forward").addEventListener("click", () => show(store.frame + 1));
  document.getElementById("next").addEventListener("click", leastSure);
  new ResizeObserver(redraw).observe(track);
  on("frame state sure count", redraw);
  on("frame", () => [1, -1, 2].forEach((d) => picture(store.frame + d)));
}

export function known({ sure }) {
  store.sure = sure;
  changed("sure");
}

// What the pointer, and the cursor of the keyboard, do to the picture.

import * as server from "./server.js";
import { pan, pending, pixelAt, place, redraw, mark, zoom } from "./stage.js";
import { changed, on, packetOf, say, store, toast } from "./store.js";
import { play } from "./timeline.js";

const canvas = document.getElementById("canvas");
const RING = 16; // pixels of background around a box
const pointers = new Map();
let stroke = null; // of the tool: {op, points, label}
let moving = null; // the picture is moved, or pinched
let spaceHeld = false;

const at = ([y, x]) => ({ y, x });
const boxOf = ({ points: [a, b], label, frame }) => ({
  op: "box", frame, label, ring: label ? RING : 0,
  top: Math.min(a[0], b[0]), left: Math.min(a[1], b[1]), bottom: Math.max(a[0], b[0]), right: Math.max(a[1], b[1]),
});

function press(pixel, label) {
  if (store.state.phase !== "ready") return;
  play(false); // what is marked is the frame that was seen
  if (store.mode === "colours") { // an embedding stays as it is: what a mark changes shows in the masks
    store.mode = "masks";
    changed("mode");
  }
  if (store.tool === "click") say({ op: "click", frame: store.frame, ...at(pixel), label });
  else if (store.tool === "select") select(pixel);
  else {
    stroke = { op: store.tool, label, frame: store.frame, points: [pixel] };
    pending.draw = drawStroke;
    redraw();
  }
}

function drag(pixel) {
  if (!stroke) return;
  const last = stroke.points.at(-1);
  if (stroke.op === "box") stroke.points[1] = pixel;
  else if (last[0] !== pixel[0] || last[1] !== pixel[1]) stroke.points.push(pixel);
  redraw();
}

function release() {
  if (!stroke) return;
  const { op, points, label, frame } = stroke;
  stroke = null;
  pending.draw = null;
  redraw();
  if (op === "box") {
    if (points.length === 2 && points[0][0] !== points[1][0] && points[0][1] !== points[1][1]) say(boxOf({ points, label, frame }));
    else toast("Drag from one corner to the other");
  } else if (op === "scribble") say({ op, frame, points, width: store.width, label });
  else say({ op, frame, points, width: store.width });
}

export function cancel() {
  const was = stroke || pending.cursor;
  stroke = pending.draw = null;
  redraw();
  return Boolean(was);
}

function drawStroke(context, px) {
  const { op, points, label } = stroke;
  if (op === "box") {
    if (points.length === 2) mark(context, boxOf(stroke));
    return;
  }
  if (op === "scribble") mark(context, { op, points, width: store.width, label });
  else {
    context.beginPath();
    points.forEach(([y, x], i) => context[i ? "lineTo" : "moveTo"](x + 0.5, y + 0.5));
    if (points.length === 1) context.lineTo(points[0][1] + 0.51, points[0][0] + 0.5);
    context.lineCap = context.lineJoin = "round";
    context.lineWidth = Math.max(store.width, 2 * px);
    context.strokeStyle = "#ffffff66";
    context.stroke();
  }
}

// The mark nearest to a pixel, if one is near.
function select(pixel) {
  const near = 12 / place.scale;
  let best = null, distance = near;
  for (const input of packetOf(store.frame)?.inputs || []) {
    const d = distanceTo(input, pixel);
    if (d <= distance) [best, distance] = [input, d];
  }
  store.selected = best;
  changed("selected");
}

function distanceTo(input, [y, x]) {
  if (input.op === "click") return Math.hypot(input.y - y, input.x - x);
  if (input.op === "box") {
    const dx = Math.max(input.left - x, 0, x - input.right), dy = Math.max(input.top - y, 0, y - input.bottom);
    const inside = Math.min(x - input.left, input.right - x, y - input.top, input.bottom - y);
    return Math.hypot(dx, dy) || Math.abs(inside);
  }
  if (input.op !== "scribble") return Infinity;
  let best = Infinity;
  input.points.forEach((p, i) => {
    const q = input.points[Math.max(i - 1, 0)];
    const length = Math.hypot(p[0] - q[0], p[1] - q[1]) || 1;
    const t = Math.min(Math.max(((y - q[0]) * (p[0] - q[0]) + (x - q[1]) * (p[1] - q[1])) / length ** 2, 0), 1);
    best = Math.min(best, Math.hypot(q[0] + t * (p[0] - q[0]) - y, q[1] + t * (p[1] - q[1]) - x));
  });
  return Math.max(best - input.width / 2, 0);
}

export function removeSelected() {
  const { selected } = store;
  if (selected === null) return;
  store.selected = null; // pressed once more, it does not remove what has this number next
  changed("selected");
  const same = JSON.stringify(selected);
  server.afterwards(async () => { // marks have numbers: of what was said before, all of them are known then
    if (!packetOf(selected.frame)?.inputs.some((input) => JSON.stringify(input) === same)) return;
    if (await say({ op: "remove", input: selected.input, revision: store.state.revision })) toast("Mark removed");
  });
}

// The pointer
function down(event) {
  pointers.set(event.pointerId, event);
  canvas.setPointerCapture?.(event.pointerId);
  if (pointers.size > 1) { // two fingers move the picture; what the first began is forgotten
    stroke = pending.draw = null;
    moving = { touch: null };
    return;
  }
  if (event.button === 1 || (event.button === 0 && spaceHeld)) {
    moving = {};
    event.preventDefault();
    return;
  }
  if (event.button !== 0 && event.button !== 2) return;
  const pixel = pixelAt(event.clientX, event.clientY);
  if (!pixel) {
    moving = {};
    return;
  }
  pending.cursor = null;
  const label = event.button === 2 || event.altKey || event.ctrlKey ? 0 : store.label; // Ctrl-click: a Mac's right button
  // A finger may be the first of two: it clicks when it leaves.
  if (event.pointerType === "touch" && (store.tool === "click" || store.tool === "select")) moving = { tap: { pixel, label } };
  else press(pixel, label);
}

function move(event) {
  const before = pointers.get(event.pointerId);
  if (!before) return;
  const [dx, dy] = [event.clientX - before.clientX, event.clientY - before.clientY];
  pointers.set(event.pointerId, event);
  if (pointers.size === 2 && moving) {
    const [a, b] = [...pointers.values()];
    const other = a.pointerId === event.pointerId ? b : a;
    const now = Math.hypot(event.clientX - other.clientX, event.clientY - other.clientY);
    const was = Math.hypot(before.clientX - other.clientX, before.clientY - other.clientY);
    const box = canvas.getBoundingClientRect();
    pan(dx / 2, dy / 2);
    if (was > 0) zoom(now / was, (event.clientX + other.clientX) / 2 - box.left, (event.clientY + other.clientY) / 2 - box.top);
    moving = { touch: true };
  } else if (moving && !moving.tap && pointers.size === 1) pan(dx, dy);
  else if (stroke) for (const e of event.getCoalescedEvents?.() || [event]) drag(pixelAt(e.clientX, e.clientY, true));
}

function up(event) {
  if (!pointers.delete(event.pointerId)) return;
  if (moving) {
    const { tap } = moving;
    if (!pointers.size) moving = null;
    if (tap && event.type === "pointerup") press(tap.pixel, tap.label);
    return;
  }
  if (event.type === "pointercancel") cancel();
  else release();
}

export function holdSpace(held) {
  spaceHeld = held;
  canvas.toggleAttribute("data-hand", held);
}

// The keyboard's cursor
const STEPS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };

export function toggleCursor() {
  const { width, height } = store.state;
  pending.cursor = pending.cursor ? null : [height >> 1, width >> 1];
  if (pending.cursor) canvas.focus();
  else cancel();
  redraw();
}

// The picture moves as far as it must for the cursor to stay in view.
const EDGE = 24; // pixels of the window between it and the view's edge
function follow([y, x]) {
  const away = (at, size) => Math.min(size - EDGE - at, 0) + Math.max(EDGE - at, 0);
  const dx = away(place.left + (x + 0.5) * place.scale, canvas.clientWidth);
  const dy = away(place.top + (y + 0.5) * place.scale, canvas.clientHeight);
  if (!place.whole && (dx || dy)) pan(dx, dy);
}

// Whether the key was the cursor's.
export function cursorKey(event) {
  if (!pending.cursor) return false;
  const step = STEPS[event.key];
  if (step) {
    const far = event.shiftKey ? 1 : 8;
    const { width, height } = store.state;
    const move = ([y, x]) => [
      Math.min(Math.max(y + step[0] * far, 0), height - 1), Math.min(Math.max(x + step[1] * far, 0), width - 1),
    ];
    pending.cursor = move(pending.cursor);
    drag(pending.cursor);
    follow(pending.cursor);
    redraw();
  } else if (event.key === "Enter") {
    if (stroke) release();
    else press(pending.cursor, event.altKey ? 0 : store.label);
  } else if (event.key === "Escape") {
    if (stroke) cancel();
    else toggleCursor();
  } else return false;
  return true;
}

export function begin() {
  on("frame", () => stroke && cancel()); // a stroke belongs to the frame that it was begun on
  canvas.addEventListener("pointerdown", down);
  canvas.addEventListener("pointermove", move);
  canvas.addEventListener("pointerup", up);
  canvas.addEventListener("pointercancel", up);
  canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    const box = canvas.getBoundingClientRect();
    zoom(Math.exp(-event.deltaY * (event.ctrlKey ? 0.01 : 0.0015)), event.clientX - box.left, event.clientY - box.top);
  }, { passive: false });
}

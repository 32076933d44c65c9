// The picture: frame, mask, marks; zoom and pan.

import { bright, canvasOf, labelsOf, paintColours, paintLabels, paintMargins } from "./paint.js";
import * as server from "./server.js";
import { on, packetOf, store } from "./store.js";

const canvas = document.getElementById("canvas");
const context = canvas.getContext("2d", { alpha: false });
const PICTURES = 48; // decoded, at most

// Where the picture lies: pixel (x, y) of it is at (left + x·scale, top + y·scale) of the canvas, in CSS pixels.
export const place = { scale: 1, left: 0, top: 0, whole: true };
export const pending = { draw: null, cursor: null, because: [] }; // what tools and "why" draw on top

export function fit() {
  const { width, height } = store.state;
  const margin = canvas.clientWidth > 500 ? 16 : 0;
  const scale = Math.min((canvas.clientWidth - 2 * margin) / width, (canvas.clientHeight - 2 * margin) / height);
  Object.assign(place, { scale: Math.max(scale, 0.01), whole: true });
  place.left = (canvas.clientWidth - width * place.scale) / 2;
  place.top = (canvas.clientHeight - height * place.scale) / 2;
  redraw();
}

export function zoom(factor, x = canvas.clientWidth / 2, y = canvas.clientHeight / 2) {
  const scale = Math.min(Math.max(place.scale * factor, 0.05), 40);
  place.left = x - ((x - place.left) * scale) / place.scale;
  place.top = y - ((y - place.top) * scale) / place.scale;
  Object.assign(place, { scale, whole: false });
  redraw();
}

export function pan(dx, dy) {
  place.left += dx;
  place.top += dy;
  place.whole = false;
  redraw();
}

// The pixel [y, x] under a point of the window; null outside.
export function pixelAt(clientX, clientY, clamped = false) {
  const box = canvas.getBoundingClientRect();
  let x = Math.floor((clientX - box.left - place.left) / place.scale);
  let y = Math.floor((clientY - box.top - place.top) / place.scale);
  const { width, height } = store.state;
  const inside = x >= 0 && y >= 0 && x < width && y < height;
  if (!inside && !clamped) return null;
  x = Math.min(Math.max(x, 0), width - 1);
  y = Math.min(Math.max(y, 0), height - 1);
  return [y, x];
}

// Pictures
const pictures = new Map(); // frame → ImageBitmap, or the promise of one
export function picture(i) {
  if (i < 0 || i >= store.state.count) return null;
  const there = pictures.get(i);
  if (there instanceof ImageBitmap) {
    pictures.delete(i); // the last one used goes to the end
    pictures.set(i, there);
    return there;
  }
  if (!there) {
    const coming = server.picture(i).then(
      (bitmap) => {
        pictures.set(i, bitmap);
        for (const [old, one] of pictures) {
          if (pictures.size <= PICTURES) break;
          if (one instanceof ImageBitmap && old !== store.frame) {
            pictures.delete(old);
            one.close();
          }
        }
        if (i === store.frame) redraw();
      },
      () => setTimeout(() => pictures.delete(i), 1000), // asked again, in a while
    );
    pictures.set(i, coming);
  }
  return null;
}

// Layers over the picture: painted anew only when what they show is another.
const painted = { key: "", layer: null, map: null };
const maps = { sure: new Map(), colours: new Map() };

// How sure the vote is, and the marks that it is of: both of one state, the old one until both of the new are there.
let agreed = null;
function agreedOn(frame) {
  const [map, packet] = [maps.sure.get(frame), packetOf(frame)];
  if (map && packet && map.revision === packet.revision) agreed = { frame, map, inputs: packet.inputs };
  return agreed?.frame === frame ? agreed : null;
}

function layer() {
  const { frame, mode, opacity } = store;
  const packet = packetOf(frame);
  if (mode === "masks") {
    if (!packet) return null;
    const key = `masks ${frame} ${packet.revision} ${opacity} ${[...store.hidden]}`;
    if (painted.key !== key) {
      const { width, height } = store.state;
      const labels = labelsOf(packet.body, width * height);
      painted.layer = canvasOf(paintLabels(labels, width, height, opacity, store.hidden), "masks");
      painted.key = key;
    }
    return painted.layer;
  }
  const known = maps[mode].get(frame);
  const fresh = known && (mode === "colours" || known.revision >= store.state.revision);
  if (!fresh) fetchMap(mode, frame);
  const map = mode === "sure" ? agreedOn(frame)?.map : known;
  if (!map) return null;
  const key = `${mode} ${frame} ${map.revision} ${opacity}`;
  if (painted.key !== key) {
    const paint = mode === "sure" ? paintMargins : paintColours;
    Object.assign(painted, { layer: canvasOf(paint(map.body, map.grid, opacity), mode), map, key });
  }
  return painted.layer;
}

const fetching = new Set();
async function fetchMap(mode, frame) {
  if (fetching.has(mode) || store.state.phase !== "ready") return;
  fetching.add(mode);
  try {
    const found = await (mode === "sure" ? server.margins(frame) : server.colours(frame));
    if (maps[mode].size > 100) maps[mode].clear();
    maps[mode].set(frame, found);
  } catch {
    setTimeout(() => { // asked again, in a while
      fetching.delete(mode);
      redraw();
    }, 1000);
    return;
  }
  fetching.delete(mode);
  redraw();
}

// Drawing
let waiting = false;
export function redraw() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => {
    waiting = false;
    draw();
  });
}

let shown = "";
function draw() {
  const ratio = devicePixelRatio || 1;
  const [w, h] = [Math.round(canvas.clientWidth * ratio), Math.round(canvas.clientHeight * ratio)];
  if (canvas.width !== w || canvas.height !== h) [canvas.width, canvas.height] = [w, h];
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.fillStyle = "#08090b";
  context.fillRect(0, 0, canvas.clientWidth, canvas.clientHeight);
  const { width, height } = store.state;
  const bitmap = picture(store.frame);
  const over = layer();
  context.translate(place.left, place.top);
  context.scale(place.scale, place.scale);
  context.imageSmoothingEnabled = place.scale < 4;
  if (bitmap) context.drawImage(bitmap, 0, 0, width, height);
  else {
    context.fillStyle = "#15181d";
    context.fillRect(0, 0, width, height);
  }
  if (store.mode === "sure") {
    context.fillStyle = "#0009";
    context.fillRect(0, 0, width, height);
  }
  if (over) {
    context.imageSmoothingEnabled = store.mode !== "masks" || place.scale < 1;
    if (store.mode === "masks") context.drawImage(over, 0, 0, width, height);
    else {
      context.save();
      context.beginPath();
      context.rect(0, 0, width, height);
      context.clip();
      const { grid, cell, origin } = painted.map;
      context.drawImage(over, origin[1], origin[0], cell[1] * grid[1], cell[0] * grid[0]);
      context.restore();
    }
  }
  marks();
  for (const r of pending.because) if (r.frame === store.frame) reference(r);
  pending.draw?.(context, 1 / place.scale);
  if (pending.cursor) crosshair(...pending.cursor);
  const packet = packetOf(store.frame);
  const now = `${store.frame} ${packet?.revision}`;
  if (packet && now !== shown) {
    shown = now;
    document.dispatchEvent(new CustomEvent("shown", { detail: { frame: store.frame, revision: packet.revision } }));
  }
}

export function colourOf(label) {
  return label ? bright[label] : "#f4f6fa";
}

function marks() {
  const { inputs } = (store.mode === "sure" && agreedOn(store.frame)) || packetOf(store.frame) || { inputs: [] };
  for (const input of inputs) {
    if (input.op !== "erase" && input.op !== "mask") mark(context, input, input.input === store.selected?.input);
  }
}

export function mark(context, input, selected = false) {
  const px = 1 / place.scale;
  const colour = colourOf(input.label);
  const stroke = (width, style) => {
    context.lineWidth = width;
    context.strokeStyle = style;
    context.stroke();
  };
  context.lineJoin = context.lineCap = "round";
  context.setLineDash([]);
  context.beginPath();
  if (input.op === "click") {
    const [x, y] = [input.x + 0.5, input.y + 0.5];
    context.arc(x, y, 5.5 * px, 0, 7);
    stroke((selected ? 7 : 4) * px, selected ? "#8ab8f0" : "#0009");
    context.fillStyle = input.label ? colour : "#15181d";
    context.fill();
    stroke(2 * px, "#fff");
    if (!input.label) {
      context.beginPath();
      context.moveTo(x - 2.5 * px, y);
      context.lineTo(x + 2.5 * px, y);
      stroke(1.5 * px, "#fff");
    }
  } else if (input.op === "scribble" || input.op === "erase") {
    input.points.forEach(([y, x], i) => context[i ? "lineTo" : "moveTo"](x + 0.5, y + 0.5));
    if (input.points.length === 1) context.lineTo(input.points[0][1] + 0.51, input.points[0][0] + 0.5);
    const width = Math.max(input.width, 2 * px);
    if (selected) stroke(width + 6 * px, "#8ab8f0");
    context.globalAlpha = 0.35;
    stroke(width, colour);
    context.globalAlpha = 1;
    stroke(Math.min(width, 2.5 * px), colour);
  } else {
    const { top, left, bottom, right, ring } = input;
    context.rect(left, top, right - left + 1, bottom - top + 1);
    stroke((selected ? 6 : 4) * px, selected ? "#8ab8f0" : "#0008");
    stroke(2 * px, colour);
    if (ring) {
      context.beginPath();
      context.rect(left - ring, top - ring, right - left + 1 + 2 * ring, bottom - top + 1 + 2 * ring);
      context.setLineDash([4 * px, 4 * px]);
      stroke(1.2 * px, "#f4f6fa99");
      context.setLineDash([]);
    }
  }
}

function reference(r) {
  const px = 1 / place.scale;
  context.beginPath();
  context.arc(r.x + 0.5, r.y + 0.5, 9 * px, 0, 7);
  context.lineWidth = 2 * px;
  context.strokeStyle = "#8ab8f0";
  context.stroke();
}

function crosshair(y, x) {
  const px = 1 / place.scale;
  for (const [width, style] of [[4 * px, "#000a"], [1.5 * px, "#fff"]]) {
    context.lineWidth = width;
    context.strokeStyle = style;
    context.beginPath();
    for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
      context.moveTo(x + 0.5 + 4 * dx * px, y + 0.5 + 4 * dy * px);
      context.lineTo(x + 0.5 + 16 * dx * px, y + 0.5 + 16 * dy * px);
    }
    context.stroke();
  }
}

export function begin() {
  new ResizeObserver(() => (place.whole ? fit() : redraw())).observe(canvas);
  on("count", fit);
  on("frame packet mode opacity hidden selected label", redraw);
  on("state", () => {
    if (place.whole) fit();
    else redraw();
  });
  fit();
}

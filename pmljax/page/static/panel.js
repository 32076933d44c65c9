// The objects, the marks on this frame, the tools' buttons.

import { bright } from "./paint.js";
import * as server from "./server.js";
import { changed, choose, nameOf, on, packetOf, say, store, toast } from "./store.js";
import { removeSelected } from "./tools.js";

const byId = (id) => document.getElementById(id);

function made(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== null) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", `#i-${name}`);
  svg.append(use);
  return svg;
}

export function swatch(label) {
  const element = made("span", { class: "swatch" });
  element.style.background = label ? bright[label] : "#3a414d";
  return element;
}

// Objects
let renaming = null;

export function objects() {
  const there = store.state.objects;
  return there.some((o) => o.label === store.label) || !store.label ? there : [...there, { label: store.label, name: "" }];
}

function listed() {
  const all = [...objects()].sort((a, b) => a.label - b.label);
  if (!all.length) all.push({ label: 1, name: "" });
  return [...all, { label: 0, name: "Background" }];
}

function drawObjects() {
  const list = byId("objects");
  if (renaming !== null && list.querySelector("input")) return; // news must not take the name from under the fingers
  const focused = list.contains(document.activeElement) ? document.activeElement.dataset.focus : null;
  list.replaceChildren(...listed().map(row));
  if (renaming !== null) list.querySelector("input")?.focus();
  else if (focused) list.querySelector(`[data-focus="${focused}"]`)?.focus();
}

function row({ label, name }, index) {
  const called = nameOf(label);
  const item = made("li", {
    "data-chosen": label === store.label ? "" : null, "data-label": label,
    class: store.hidden.has(label) ? "off" : "",
  });
  if (renaming === label) {
    const input = made("input", { value: name || called, "aria-label": `Name of ${called}`, maxlength: 80 });
    let done = false;
    const finish = async (keep, byKey = false) => {
      if (done) return;
      done = true;
      const text = input.value.trim();
      if (keep && text && text !== called) await say({ op: "name", label, name: text });
      if (renaming === label) renaming = null;
      input.remove();
      drawObjects();
      if (byKey) byId("objects").querySelector(`[data-focus="choose-${label}"]`)?.focus();
    };
    input.addEventListener("keydown", (event) => {
      event.stopPropagation();
      if (event.isComposing) return; // Enter there ends what an input method composes
      if (event.key === "Enter" || event.key === "Escape") finish(event.key === "Enter", true);
    });
    input.addEventListener("blur", () => finish(true));
    input.addEventListener("focus", () => input.select());
    item.append(swatch(label), input);
    return item;
  }
  const key = label ? (index < 9 ? String(index + 1) : "") : "0";
  item.append(made("button", {
    class: "name", "data-focus": `choose-${label}`, "aria-pressed": String(label === store.label), onclick: () => choose(label), ondblclick: () => label && rename(label),
    "data-tip": label ? `Choose ${called}` : "What you mark is background", "data-key": key || null,
  }, swatch(label), made("span", {}, called), made("kbd", {}, key)));
  if (!label) return item;
  const small = (what, name, action, more = {}) => item.append(made("button", {
    class: "icon", "data-focus": `${what}-${label}`, "data-tip": name, "aria-label": `${name} ${called}`, onclick: action, ...more,
  }, icon(more["data-icon"] || what)));
  const off = store.hidden.has(label);
  small("hide", off ? "Show" : "Hide", () => hide(label), { "aria-label": `Hide ${called}`, "aria-pressed": String(off), "data-icon": off ? "hidden" : "eye", "data-key": "H" });
  small("rename", "Rename", () => rename(label), { "data-icon": "pencil", "data-key": "F2" });
  small("delete", "Delete", () => forget(label), { "data-icon": "trash", "data-key": "Shift-Delete" });
  return item;
}

export function hide(label = store.label) {
  if (!label) return;
  if (!store.hidden.delete(label)) store.hidden.add(label);
  changed("hidden");
}

export function rename(label = store.label) {
  if (!label) return;
  renaming = label;
  drawObjects();
}

export async function forget(label = store.label) {
  if (!store.state.objects.some((o) => o.label === label)) return;
  const called = nameOf(label);
  const done = await say({ op: "forget", label });
  if (!done) return;
  toast(`${called} deleted; undo brings it back`);
  if (store.label !== label) return;
  const used = new Set(store.state.used); // an id that was had has a name and a past
  let fresh = 1;
  while (used.has(fresh) && fresh < 254) fresh++;
  choose(store.state.objects[0]?.label || fresh);
}

let given = new Set(); // labels that were given here, known to the server or not yet
export function addObject() {
  const first = store.label || 1; // the object that is there before anything is said
  const taken = new Set([...(store.state.used || []), ...given, first]);
  let label = 1;
  while (taken.has(label)) label++;
  if (label > 254) return toast("All 254 ids are taken", true);
  const before = given.has(first);
  given.add(label).add(first);
  choose(label); // at once: what is drawn next is the new object's
  server.afterwards(async () => {
    const unknown = !before && !store.state.objects.some((o) => o.label === first);
    if (unknown) await say({ op: "name", label: first, name: "" });
    if (!(await say({ op: "name", label, name: "" }))) given.delete(label);
  });
}

export function chooseNth(n) {
  const found = listed();
  const one = n === 0 ? found.at(-1) : found[n - 1];
  if (one && (n === 0 || one.label)) choose(one.label);
}

// Marks
const WORDS = { click: "Click", scribble: "Scribble", box: "Box", mask: "Mask", erase: "Erased" };

function drawMarks() {
  const list = byId("marks");
  const focused = list.contains(document.activeElement) ? document.activeElement.dataset.focus : null;
  const inputs = packetOf(store.frame)?.inputs || [];
  list.replaceChildren(...inputs.map((input) => {
    const what = input.op === "mask" || input.op === "erase" ? WORDS[input.op] : `${WORDS[input.op]}: ${nameOf(input.label)}`;
    const item = made("li", { "data-chosen": input.input === store.selected?.input ? "" : null });
    const select = () => {
      store.selected = input;
      changed("selected");
    };
    const dot = input.op === "mask" || input.op === "erase" ? made("span", { class: "swatch" }) : swatch(input.label);
    item.append(
      made("button", { class: "name", "data-focus": `mark-${input.input}`, "data-tip": "Select this mark", "data-key": "V", onclick: select, "aria-pressed": String(input.input === store.selected?.input) }, dot, made("span", {}, what)),
      made("button", {
        class: "icon", "data-focus": `remove-${input.input}`, "aria-label": `Remove ${what}`, "data-tip": "Remove", "data-key": "Delete",
        onclick: () => {
          select();
          removeSelected();
        },
      }, icon("trash")),
    );
    return item;
  }));
  if (!inputs.length) list.append(made("li", { class: "none" }, "None"));
  if (focused) list.querySelector(`[data-focus="${focused}"]`)?.focus();
}

// Buttons
function drawButtons() {
  for (const button of document.querySelectorAll("[data-tool]")) button.setAttribute("aria-pressed", String(button.dataset.tool === store.tool));
  for (const button of document.querySelectorAll("[data-mode]")) button.setAttribute("aria-pressed", String(button.dataset.mode === store.mode));
  byId("why").setAttribute("aria-pressed", String(store.why));
  for (const name of ["undo", "redo"]) {
    byId(name).disabled = !store.state[name];
    byId(name).dataset.tip = `${name === "undo" ? "Undo" : "Redo"}${store.state[name] ? `: ${store.state[name]}` : ""}`;
  }
  byId("remove").hidden = store.selected === null;
  if (document.activeElement !== byId("width")) byId("width").value = store.width; // not while it is being typed
}

function drawHint() {
  const { phase, inputs, background, objects: there } = store.state;
  let hint = "";
  if (phase === "ready" && !inputs) hint = "Click on an object; right-click or Alt-click on the background";
  else if (phase === "ready" && !background) hint = "Now some background: right-click, Alt-click, or choose Background";
  else if (phase === "ready" && !there.length) hint = "Now an object: click on it";
  byId("hint").textContent = hint;
}

export function undo(op) {
  server.afterwards(async () => { // of what was said before it, whether it is known yet or not
    const what = store.state[op];
    if (what && (await say({ op }))) toast(`${op === "undo" ? "Undone" : "Done again"}: ${what}`);
  });
}

export function begin() {
  on("state label hidden", drawObjects);
  on("frame packet selected state", drawMarks);
  on("state tool mode why width selected", drawButtons);
  on("state", drawHint);
  byId("add").addEventListener("click", addObject);
  byId("undo").addEventListener("click", () => undo("undo"));
  byId("redo").addEventListener("click", () => undo("redo"));
  drawObjects();
  drawMarks();
}

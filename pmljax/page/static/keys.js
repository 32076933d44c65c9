// Keys, tooltips, and the list of keys.

import { addObject, chooseNth, forget, hide, rename, undo } from "./panel.js";
import { fit, zoom, pending } from "./stage.js";
import { changed, show, store } from "./store.js";
import { leastSure, play } from "./timeline.js";
import { cancel, cursorKey, holdSpace, removeSelected, toggleCursor } from "./tools.js";
import { askAt } from "./why.js";

const byId = (id) => document.getElementById(id);

export function tool(name) {
  cancel();
  store.tool = name;
  changed("tool");
}

export function mode(name) {
  store.mode = name;
  changed("mode");
}

export function toggleWhy() {
  store.why = !store.why;
  changed("why");
}

export function width(value) {
  store.width = Math.min(Math.max(Math.round(value) || 1, 1), 99);
  changed("width");
}

export function opacity(value) {
  store.opacity = Math.min(Math.max(value, 0), 1);
  byId("opacity").value = String(Math.round(100 * store.opacity));
  changed("opacity");
}

const KEYS = [
  ["Q", "Click", () => tool("click")],
  ["W", "Scribble", () => tool("scribble")],
  ["E", "Box", () => tool("box")],
  ["R", "Eraser", () => tool("erase")],
  ["V", "Select a mark", () => tool("select")],
  ["[", "Narrower", () => width(store.width - 2)],
  ["]", "Wider", () => width(store.width + 2)],
  ["1 … 9", "Choose an object"],
  ["0", "Choose the background"],
  ["A", "Add an object", addObject],
  ["F2", "Rename the object", () => rename()],
  ["H", "Hide or show the object", () => hide()],
  ["Delete", "Remove the selected mark", removeSelected],
  ["Shift-Delete", "Delete the object"],
  ["Ctrl-Z", "Undo"],
  ["Ctrl-Shift-Z", "Redo"],
  ["Space", "Play; held: move the picture"],
  ["← →", "A frame back, on (Shift: ten)"],
  ["Home, End", "First, last frame"],
  ["N", "To the frame that is least sure", leastSure],
  ["M", "View: masks", () => mode("masks")],
  ["S", "View: how sure", () => mode("sure")],
  ["D", "View: the embedding", () => mode("colours")],
  ["O, Shift-O", "More, less opacity"],
  ["I", "Why", toggleWhy],
  ["C", "Cursor for the keyboard: arrows (Shift: 1 pixel), Enter, Alt-Enter", toggleCursor],
  ["U", "Mask from a PNG", () => byId("file").click()],
  ["X", "Export", () => byId("export").toggleAttribute("open")],
  ["F", "Whole picture", fit],
  ["+ −, wheel", "Zoom"],
  ["?", "This list", () => byId("keys").showModal()],
];
const BY_KEY = new Map(KEYS.filter(([, , action]) => action).map(([key, , action]) => [key.toLowerCase(), action]));

let spaceDown = 0;
function press(event) {
  const target = event.target;
  if (target.closest?.("dialog[open]")) return;
  const typed = event.getModifierState?.("AltGraph"); // Windows says Ctrl and Alt to a key that makes a sign, as [ in German
  const command = (event.ctrlKey && !typed) || event.metaKey;
  const key = event.key.toLowerCase();
  const typing = target.matches?.("input:not([type=range])");
  if (command && (key === "z" || key === "y")) {
    if (typing) return;
    event.preventDefault();
    undo(key === "y" || event.shiftKey ? "redo" : "undo");
    return;
  }
  if (typing || command || (event.altKey && !typed && event.key !== "Enter")) return;
  if (target === byId("canvas") || target === document.body) {
    if (cursorKey(event)) {
      event.preventDefault();
      if (pending.cursor) askAt(pending.cursor);
      return;
    }
  }
  const onButton = target.matches?.("button, summary, a, input");
  if (event.key === " ") {
    if (onButton) return;
    event.preventDefault();
    if (!event.repeat) {
      spaceDown = performance.now();
      holdSpace(true);
    }
  } else if (event.key === "Escape") {
    clearTimeout(timer);
    byId("tip").hidden = true;
    if (pending.cursor) toggleCursor();
    else if (!cancel()) byId("export").open = false;
    store.selected = null;
    changed("selected");
  } else if (event.key === "ArrowLeft" || event.key === "ArrowRight") {
    if (target.matches?.("input")) return;
    event.preventDefault();
    play(false);
    show(store.frame + (event.key === "ArrowLeft" ? -1 : 1) * (event.shiftKey ? 10 : 1));
  } else if (event.key === "Home" || event.key === "End") {
    if (target.matches?.("input")) return;
    event.preventDefault();
    show(event.key === "Home" ? 0 : store.state.count - 1);
  } else if (event.key === "Backspace") removeSelected();
  else if (/^[0-9]$/.test(event.key)) chooseNth(+event.key);
  else if (event.key === "Delete" && event.shiftKey) forget();
  else if (key === "o") opacity(store.opacity + (event.shiftKey ? -0.1 : 0.1));
  else if (event.key === "+" || event.key === "=") zoom(1.25);
  else if (event.key === "-") zoom(0.8);
  else if (BY_KEY.has(key)) {
    event.preventDefault();
    BY_KEY.get(key)();
  }
}

function lift(event) {
  if (event.key !== " " || !spaceDown) return;
  holdSpace(false);
  if (performance.now() - spaceDown < 300) play();
  spaceDown = 0;
}

// Tooltips
let timer;
function tip(event) {
  const owner = event.target.closest?.("[data-tip]");
  const place = byId("tip");
  clearTimeout(timer);
  place.hidden = true;
  if (!owner || event.type === "pointerdown" || (event.type === "focusin" && !event.target.matches(":focus-visible"))) return;
  timer = setTimeout(() => {
    place.replaceChildren(owner.dataset.tip);
    if (owner.dataset.key) {
      const key = document.createElement("kbd");
      key.textContent = owner.dataset.key;
      place.append(key);
    }
    place.hidden = false;
    const [box, mine] = [owner.getBoundingClientRect(), place.getBoundingClientRect()];
    const beside = owner.closest("#tools") && innerWidth > 760;
    let left = beside ? box.right + 8 : box.left + box.width / 2 - mine.width / 2;
    let top = beside ? box.top + box.height / 2 - mine.height / 2 : box.bottom + 8;
    if (top + mine.height > innerHeight - 4) top = box.top - mine.height - 8;
    left = Math.min(Math.max(left, 6), innerWidth - mine.width - 6);
    place.style.transform = `translate(${Math.round(left)}px, ${Math.round(top)}px)`;
  }, 350);
}

export function begin() {
  addEventListener("keydown", press);
  addEventListener("keyup", lift);
  addEventListener("blur", () => { // the key is lifted where nobody hears it
    holdSpace(false);
    spaceDown = 0;
  });
  for (const kind of ["pointerover", "pointerdown", "focusin"]) addEventListener(kind, tip);
  const list = byId("keys-list");
  for (const [key, what] of KEYS) {
    const [term, meaning] = [document.createElement("dt"), document.createElement("dd")];
    const cap = document.createElement("kbd");
    cap.textContent = key;
    term.append(cap);
    meaning.textContent = what;
    list.append(term, meaning);
  }
  byId("help").addEventListener("click", () => byId("keys").showModal());
}

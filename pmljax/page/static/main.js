// The page: what is shown, what is asked, wired together.

import * as keys from "./keys.js";
import * as panel from "./panel.js";
import * as server from "./server.js";
import * as stage from "./stage.js";
import { changed, follow, heard, on, say, store, toast } from "./store.js";
import * as timeline from "./timeline.js";
import * as tools from "./tools.js";
import * as why from "./why.js";

const byId = (id) => document.getElementById(id);
const told = new Set(); // what was said once

function tellState() {
  const { phase, embedded, count, title, model, width, height, message, notice, film_error } = store.state;
  document.body.dataset.phase = phase;
  document.title = `${title} · pmljax`;
  byId("title").textContent = title;
  byId("about").textContent = `${width}×${height} · ${count} frames · ${model}`;
  byId("loading-what").textContent =
    phase === "failed" ? "It could not be opened" : phase === "stopped" ? "The server was stopped" : "Embedding the video, once";
  byId("loading-bar").value = count ? Math.min(embedded / count, 1) : 0;
  byId("loading-more").textContent =
    phase !== "embedding" ? message : embedded >= count && count ? "Getting ready" : `${embedded} of ${count || "?"} frames`;
  for (const [news, bad] of [[notice, false], [film_error, true]]) {
    if (!news || told.has(news)) continue;
    told.add(news);
    toast(news, bad);
  }
}

function drop() {
  const stageBox = byId("stage");
  const take = (file) => {
    if (!file) return;
    if (store.state.phase !== "ready") return toast("The video is still being embedded", true);
    if (file.size > 32 * 2 ** 20) return toast("The mask is larger than 32 MiB", true);
    say(file).then((done) => done && toast("Mask taken"));
  };
  let depth = 0;
  const dropping = (on) => stageBox.toggleAttribute("data-dropping", on);
  addEventListener("dragenter", (e) => { e.preventDefault(); depth++; dropping(true); });
  addEventListener("dragleave", () => { depth = Math.max(depth - 1, 0); if (!depth) dropping(false); });
  addEventListener("dragover", (e) => e.preventDefault());
  addEventListener("drop", (e) => { e.preventDefault(); depth = 0; dropping(false); take(e.dataTransfer?.files[0]); });
  const file = byId("file");
  byId("mask").addEventListener("click", () => file.click());
  file.addEventListener("change", () => { take(file.files[0]); file.value = ""; });
}

function buttons() {
  for (const b of document.querySelectorAll("[data-tool]")) b.addEventListener("click", () => keys.tool(b.dataset.tool));
  for (const b of document.querySelectorAll("[data-mode]")) b.addEventListener("click", () => keys.mode(b.dataset.mode));
  byId("why").addEventListener("click", keys.toggleWhy);
  byId("fit").addEventListener("click", stage.fit);
  byId("opacity").addEventListener("input", (e) => keys.opacity(e.target.value / 100));
  byId("remove").addEventListener("click", tools.removeSelected);
  byId("width").addEventListener("change", (e) => {
    keys.width(+e.target.value);
    e.target.value = store.width;
  });
  const menu = byId("export");
  addEventListener("pointerdown", (e) => menu.contains(e.target) || (menu.open = false));
  for (const link of menu.querySelectorAll("a")) {
    link.addEventListener("click", async (event) => {
      event.preventDefault();
      menu.open = false;
      const { phase, decoded, count } = store.state;
      if (phase !== "ready" || decoded < count) return toast("Not yet: the video is still being read", true);
      toast("Being made; the browser saves it");
      try {
        const { name, data } = await server.file(link.getAttribute("href"));
        const saved = document.createElement("a");
        saved.download = name;
        saved.href = URL.createObjectURL(data);
        saved.click();
        setTimeout(() => URL.revokeObjectURL(saved.href), 60000);
      } catch (error) {
        toast(error.message, true);
      }
    });
  }
}

on("state", tellState);
stage.begin();
tools.begin();
timeline.begin();
panel.begin();
why.begin();
keys.begin();
drop();
buttons();

let ready = false;
server.listen({
  state: (state) => {
    heard(state);
    // A tab that is opened chooses the first object there is; later the choice is the user's.
    if (!ready && state.phase === "ready") {
      ready = true;
      if (state.objects.length && !state.objects.some((o) => o.label === store.label)) panel.chooseNth(1);
    }
  },
  sure: timeline.known,
  lost: (gone) => {
    if (["stopped", "failed"].includes(document.body.dataset.phase)) return;
    toast(gone ? server.GONE : "The server does not answer; nothing acknowledged is lost", true);
  },
});
on("frame", follow);
changed("frame");

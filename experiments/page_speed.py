"""From mouse press to new mask on the canvas, in the real browser; then until every frame has its new mask; and undo.

    python -m experiments.page_speed --model run
    python -m experiments.page_speed --frames 2000 --clicks 6 --model run     # a long video: memory, and a page that answers

Serves a made clip of 480×854 (or --video), opens the page in Chromium, and each round clicks on a random pixel of a random
frame, alternately the object and the background, waits until all frames have their masks, and takes the click back. Times are
taken in the page: from the pointer's (the key's) own time stamp to the animation frame after the one in which the canvas was
drawn; "all frames" counts from there. Medians over the clicks, the first four left out.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro

from experiments.page_drive import browser, resident, served
from pmljax.data.synthetic import clip
from pmljax.data.video import VideoWriter
from pmljax.files import write_file
from pmljax.terminal import status

WATCH = """
window.watched = {};
for (const kind of ['pointerdown', 'keydown']) addEventListener(kind, (e) => {
  window.watched = { began: e.timeStamp };
}, true);
document.addEventListener('shown', () => requestAnimationFrame(() => {
  window.watched.shown ??= performance.now();
}));
document.addEventListener('settled', () => { window.watched.settled = performance.now(); });
"""


@dataclass(frozen=True)
class Config:
    model: str = "color"
    video: Path | None = None
    """A video or a folder of pictures; a made one by default."""
    frames: int = 100
    """Of the made video: so many pictures are made, up to 100, and shown again and again."""
    clicks: int = 50
    seed: int = 0
    out: Path | None = None
    """A JSON file to write to."""


def made(path: Path, frames: int) -> Path:
    pictures = np.asarray(clip(jax.random.key(0), frames=min(frames, 100), size=(480, 854), objects=3).frames)
    with VideoWriter(path) as video:
        for i in range(frames):
            # Forth and back, so that there is no jump.
            at = i % (2 * len(pictures))
            video.write(pictures[min(at, 2 * len(pictures) - 1 - at)], i / 24)
    return path


def measure(page: Any, act: Any) -> tuple[float, float]:
    """(milliseconds to the new mask, from there to all of them)."""
    act()
    for _ in range(2000):
        seen = page.evaluate("window.watched")
        if "shown" in seen and "settled" in seen and seen["settled"] >= seen["shown"] - 50:
            return seen["shown"] - seen["began"], seen["settled"] - seen["shown"]
        page.wait_for_timeout(20)
    raise TimeoutError(seen)


def main(config: Config) -> None:
    rng = np.random.default_rng(config.seed)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        video = config.video or made(root / "clip.mp4", config.frames)
        begin = time.perf_counter()
        arguments = (video, "--out", root / "out", "--model", config.model)
        with served(*arguments, cache=root / "cache") as server, browser() as opened:
            page = opened.new_page(viewport={"width": 1280, "height": 720})
            page.add_init_script(WATCH)
            page.goto(server.address)
            page.wait_for_selector("body[data-phase=ready]", timeout=1_800_000)
            ready = time.perf_counter() - begin
            page.wait_for_timeout(8000)  # what compiles while nobody waits
            canvas, track = (page.locator(f"#{name}").bounding_box() for name in ("canvas", "track"))
            found: dict[str, list[tuple[float, float]]] = {"click": [], "undo": []}
            for i in range(config.clicks + 4):
                page.mouse.click(track["x"] + rng.uniform(0.01, 0.99) * track["width"], track["y"] + 20)
                page.wait_for_timeout(700)
                x = canvas["x"] + rng.uniform(0.1, 0.9) * canvas["width"]
                y = canvas["y"] + rng.uniform(0.2, 0.8) * canvas["height"]
                button = "right" if i % 2 else "left"
                found["click"].append(measure(page, lambda: page.mouse.click(x, y, button=button)))  # noqa: B023
                page.wait_for_timeout(300)
                found["undo"].append(measure(page, lambda: page.keyboard.press("Control+z")))
                page.wait_for_timeout(300)
                page.keyboard.press("Control+Shift+z")
                page.wait_for_timeout(700)
            memory = resident(server.process.pid)
    table: dict[str, object] = {"model": config.model, "ready, s": ready}
    for name, times in found.items():
        shown, settled = np.array(times[4:]).T
        for what, values in (("the frame in view", shown), ("all frames, later", settled)):
            numbers = {"median": np.median(values), "p90": np.quantile(values, 0.9), "slowest": values.max()}
            table[f"{name}: {what}, ms"] = {k: round(float(v), 1) for k, v in numbers.items()}
    table["largest resident set of the server, GiB"] = round(memory, 2)
    print(json.dumps(table, indent=1))
    if config.out:
        write_file(config.out, json.dumps(table, indent=1).encode())


if __name__ == "__main__":
    config = tyro.cli(Config, description=__doc__)
    sys.exit(status(lambda: main(config)))

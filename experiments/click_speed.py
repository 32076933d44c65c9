"""Time and memory of a session: a click's answer for the frame in view and for all frames, undo, opening the cache again.

    python -m experiments.click_speed --video clip.mp4 --model MODEL
    python -m experiments.click_speed --frames 2000 --memory 0.25 --model MODEL      # a long video, read from its file

Without a video, noise of 480×854 that moves. Each round clicks on a random pixel of a random frame, alternately 0 and 1, asks
for the labels of that frame, then for those of every cell of every frame; then takes the click back (the last input: what was
before it is kept), asks again, and makes it once more. Medians over the clicks, the first four left out (they compile).
Memory is the process's largest resident set.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import tyro

from experiments.frame_speed import noise
from pmljax.data.sources import open_frames
from pmljax.device import Device, keep_memory, use_device
from pmljax.files import write_file
from pmljax.interact import Session
from pmljax.terminal import status
from pmljax.weights import load


@dataclass(frozen=True)
class Config:
    model: str = "random:small"
    video: Path | None = None
    """A video or a folder of pictures; made frames by default."""
    frames: int = 100
    """Of the made video."""
    clicks: int = 50
    memory: float = 1.0
    """GiB of embeddings that are held; longer videos are read from their file."""
    k: int | None = None
    """Neighbours that vote; None: as a `Session` has it for the network."""
    seed: int = 0
    device: Device = "auto"
    out: Path | None = None
    """A JSON file to write to."""


class Moving:
    """One picture that moves by a few pixels a frame."""

    def __init__(self, frames: int):
        self.picture, self.frames = noise(), frames
        self.size = self.picture.shape[:2]

    def stamped(self) -> Iterator[SimpleNamespace]:
        for i in range(self.frames):
            yield SimpleNamespace(image=np.roll(self.picture, (i, 3 * i), (0, 1)), number=i)

    def digest(self) -> str:
        return f"moving {self.frames}"


def main(config: Config) -> None:
    use_device(config.device)
    model = load(config.model)
    video = open_frames(config.video) if config.video else Moving(config.frames)
    rng = np.random.default_rng(config.seed)
    with tempfile.TemporaryDirectory() as cache:
        options = {"k": config.k, "cache": cache, "memory": int(config.memory * 2**30)}
        seconds: dict[str, list[float]] = {n: [] for n in ("view", "all", "undo: view", "undo: all")}
        begin = time.perf_counter()
        session = Session(model, video, **options)  # pyright: ignore
        embedding = time.perf_counter() - begin
        begin = time.perf_counter()
        session = Session(model, video, **options)  # pyright: ignore
        opening = time.perf_counter() - begin
        count, size = session.embedded.count, session.size
        for i in range(config.clicks + 4):
            frame, y, x = (int(rng.integers(n)) for n in (count, *size))
            for name, change in (("", lambda: session.click(frame, y, x, i % 2)), ("undo: ", session.undo)):  # noqa: B023
                begin = time.perf_counter()
                change()
                session.labels(frame)
                seconds[f"{name}view"].append(time.perf_counter() - begin)
                session.grid_labels()
                seconds[f"{name}all"].append(time.perf_counter() - begin)
            session.redo()
            session.grid_labels()
    table = {
        "frames": count,
        "size": list(size),
        "embed, s": embedding,
        "open again, s": opening,
        "held in memory": session.embedded.held is not None,
        **{f"{name}, ms": 1e3 * float(np.median(found[4:])) for name, found in seconds.items()},
        **{f"{name}, ms, slowest": 1e3 * float(np.max(found[4:])) for name, found in seconds.items()},
        "largest resident set, GiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }
    print(json.dumps(table, indent=1))
    if config.out:
        write_file(config.out, json.dumps(table, indent=1).encode())


if __name__ == "__main__":
    keep_memory()
    config = tyro.cli(Config, description=__doc__)
    sys.exit(status(lambda: main(config)))

"""The demo's clip: made, written as a video with its first mask, and scored against its truth."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import numpy as np
from jaxtyping import UInt8

from pmljax.data.frames import RATE
from pmljax.data.synthetic import clip
from pmljax.data.video import VideoWriter
from pmljax.errors import InputError
from pmljax.files import write_file
from pmljax.labels import encode_labels, read_labels
from pmljax.metrics import frame_scores, table

FRAMES, SIZE, OBJECTS = 20, (240, 426), 2


def take_folder(out: Path) -> None:
    """Make the demo's folder; InputError for one that holds anything and is not marked as a demo's, by demo.json."""
    if out.is_dir() and any(out.iterdir()) and not (out / "demo.json").is_file():
        raise InputError(
            f"{out}: found {min(p.name for p in out.iterdir())}; expected a new folder, or an earlier demo's"
        )
    out.mkdir(parents=True, exist_ok=True)


def make_clip(out: Path, seed: int) -> UInt8[np.ndarray, "t h w"]:
    """Write `out`/clip.mp4 and `out`/first.png, and demo.json, which marks the folder; returns the true labels of every
    frame. `out`: as `take_folder` leaves it."""
    write_file(
        out / "demo.json", json.dumps({"seed": seed, "frames": FRAMES, "size": SIZE, "objects": OBJECTS}).encode()
    )
    made = clip(jax.random.key(seed), frames=FRAMES, size=SIZE, objects=OBJECTS)
    frames, labels = np.asarray(made.frames), np.asarray(made.labels)
    with VideoWriter(out / "clip.mp4", threads=1) as video:
        for i, frame in enumerate(frames):
            video.write(frame, i / RATE)
    write_file(out / "first.png", encode_labels(labels[0]))
    return labels


def score_clip(results: Path, truth: UInt8[np.ndarray, "t h w"]) -> dict[str, dict[str, float]]:
    """The table of J and F for the labels in `results`, the first and the last frame left out as on DAVIS."""
    frames = range(1, len(truth) - 1)
    values = np.stack(
        [frame_scores(read_labels(results / f"{i:05d}.png"), truth[i], range(1, OBJECTS + 1)) for i in frames]
    )
    return table({f"object_{k + 1}": values[:, k] for k in range(OBJECTS)})

"""Time of the parts of a frame: embedding, search, vote and growth, solver, by preset and number of objects.

    python -m experiments.frame_speed --model MODEL --frame DAVIS/JPEGImages/480p/SEQ/00000.jpg [--device gpu]

Milliseconds, medians of interleaved rounds, compilation left out. Objects are slanted stripes over the picture, so that all
rows search the same embeddings. "label" is `label_embedding`: search, vote, growth or solver, argmax, adaptation.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
import tyro

from pmljax.data.images import read_image
from pmljax.device import Device, keep_memory, use_device
from pmljax.files import write_file
from pmljax.labelling import label_embedding, segment_frame
from pmljax.model import at_stride, embed
from pmljax.presets import preset_of
from pmljax.segment import start, step
from pmljax.terminal import status
from pmljax.weights import load

OBJECTS = (1, 3, 10)


@dataclass(frozen=True)
class Config:
    model: str = "random:small"
    frame: Path | None = None
    """A picture of 480×854; noise of uneven sizes by default."""
    presets: tuple[str, ...] = ("plain", "default", "paper")
    rounds: int = 9
    device: Device = "auto"
    out: Path | None = None
    """A JSON file to write to."""


def stripes(size: tuple[int, int], objects: int) -> np.ndarray:
    """Labels 0…objects, each about as many pixels."""
    y, x = np.mgrid[: size[0], : size[1]]
    return ((x + y / 3) * (objects + 1) / (size[1] + size[0] / 3)).astype(np.uint8)


def noise(size: tuple[int, int] = (480, 854)) -> np.ndarray:
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (size[0] // 16 + 1, size[1] // 16 + 1, 3)).repeat(16, 0).repeat(16, 1)
    return np.clip(coarse[: size[0], : size[1]] + rng.normal(0, 8, (*size, 3)), 0, 255).astype(np.uint8)


def medians(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Milliseconds of every call, one after the other in every round."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    for i in range(rounds + 2):
        for name, call in calls.items():
            begin = time.perf_counter()
            jax.block_until_ready(call())
            if i > 1:
                found[name].append((time.perf_counter() - begin) * 1e3)
    return {name: float(np.median(times)) for name, times in found.items()}


def main(config: Config) -> None:
    use_device(config.device)
    model = load(config.model)
    frame = read_image(config.frame) if config.frame else noise()
    calls: dict[str, Callable[[], object]] = {}
    for name in config.presets:
        preset = preset_of(model.config, name)
        fine = at_stride(model, preset.stride)
        one = jax.jit(lambda m, f, p=preset: embed(m, f[None], np.zeros(1, np.float32), p.size, flip=p.flip)[0])
        embedding = one(fine, frame)
        calls[f"{name}: embed"] = lambda one=one, fine=fine: one(fine, frame)
        for objects in OBJECTS:
            state = start(model, frame, stripes(frame.shape[:2], objects), preset=preset)
            for _ in range(preset.adaptation.frames):  # the ring is full
                state, _ = step(model, state, frame)
            r = state.references
            calls[f"{name}, {objects}: label"] = lambda c=fine.config, r=r, e=embedding, p=preset: label_embedding(
                c, r, e, frame, np.int32(9), preset=p
            )
            calls[f"{name}, {objects}: whole frame"] = lambda r=r, p=preset: segment_frame(
                model, r, frame, np.float32(9), np.int32(9), preset=p
            )
    table = medians(calls, config.rounds)
    for name, ms in table.items():
        print(f"{name:32} {ms:8.1f} ms")
    if config.out:
        write_file(config.out, json.dumps(table, indent=1).encode())


if __name__ == "__main__":
    keep_memory()
    config = tyro.cli(Config, description=__doc__)
    sys.exit(status(lambda: main(config)))

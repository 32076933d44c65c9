"""Inputs for measurements, with the statistics of pictures: frames, a clip, training clips, embeddings of a video.

Time may depend on values (the solver's vertices, a search tree's pruning, a codec), so none of them is flat noise or zeros.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pmljax.data.frames import RATE
from pmljax.data.video import VideoWriter
from pmljax.files import write_file
from pmljax.labels import encode_labels
from pmljax.sampling import Clip


def picture(size: tuple[int, int] = (480, 854), seed: int = 0) -> np.ndarray:
    """uint8 `[h, w, 3]` whose spectrum falls with frequency as photographs' do; colours vary less than brightness.

    1/frequency^1.5: Gaussian fields have no flat parts, and 1/frequency would give the solver three times the vertices of
    DAVIS's frames (87,000 to 151,000 of eight; this: 122,000)."""
    h, w = size
    frequency = np.hypot(np.fft.fftfreq(h)[:, None], np.fft.rfftfreq(w)[None])
    frequency[0, 0] = np.inf  # no mean
    fields = np.random.default_rng(seed).normal(size=(3, h, w))
    fields = np.fft.irfft2(np.fft.rfft2(fields) / frequency**1.5, (h, w))
    luma, red, blue = fields / fields.std((1, 2), keepdims=True)
    rgb = 118 + 55 * luma[..., None] + 10 * np.stack([red, -(red + blue) / 2, blue], -1)
    return rgb.clip(0, 255).astype(np.uint8)


def moving(count: int, size: tuple[int, int] = (480, 854), seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(frames uint8 `[t, h, w, 3]`, labels uint8 `[t, h, w]`): a disc with a picture of its own goes across another one, which
    pans."""
    h, w = size
    behind, disc = picture((h, w), seed), picture((h, w), seed + 1)
    y, x = np.mgrid[:h, :w]
    frames, labels = [], []
    for t in range(count):
        centre = (h / 2 + h / 8 * np.sin(t / 9), w / 3 + w / 3 * t / max(count - 1, 1))
        inside = np.hypot(y - centre[0], x - centre[1]) < h / 4
        frames.append(np.where(inside[..., None], np.roll(disc, (t, 3 * t), (0, 1)), np.roll(behind, -2 * t, 1)))
        labels.append(inside.astype(np.uint8))
    return np.stack(frames), np.stack(labels)


def write_clip(folder: Path, count: int, size: tuple[int, int]) -> tuple[Path, Path]:
    """`folder`/clip.mp4 and `folder`/first.png, of `moving`."""
    frames, labels = moving(count, size)
    video, mask = folder / "clip.mp4", folder / "first.png"
    with VideoWriter(video) as writer:
        for i, frame in enumerate(frames):
            writer.write(frame, i / RATE)
    write_file(mask, encode_labels(labels[0]))
    return video, mask


def training_clips(count: int, size: tuple[int, int] = (480, 854)) -> Clip:
    """`count` clips of three frames, whole."""
    h, w = size
    made = [moving(3, size, 2 * i) for i in range(count)]
    fields: tuple[Any, ...] = (
        np.stack([frames for frames, _ in made]),
        np.stack([labels for _, labels in made]),
        np.tile(np.array([0, 1, 2], np.float32), (count, 1)),
        np.tile(np.array([0, 0, h, w], np.float32), (count, 3, 1)),
        np.tile(np.array([h, w], np.int32), (count, 1)),
        np.arange(count, dtype=np.uint32),
    )
    return Clip(*fields)


def embeddings(frames: int, grid: tuple[int, int] = (61, 108), d: int = 128, seed: int = 0) -> np.ndarray:
    """float32 `[frames·y·x, d]` of unit length, as those of a video: neighbouring cells are alike, and frames near in time
    are, so most of a query's nearest lie together."""
    rng = np.random.default_rng(seed)
    (y, x), block = grid, 8
    shape = (y // block + 1, x // block + 1, d)
    places, drift = rng.normal(size=(2, *shape)).astype(np.float32)
    out = np.empty((frames, y, x, d), np.float32)
    for t in range(frames):
        coarse = places + t / max(frames, 10) * drift
        out[t] = coarse.repeat(block, 0).repeat(block, 1)[:y, :x] + 0.5 * rng.standard_normal((y, x, d), np.float32)
    out /= np.linalg.norm(out, axis=-1, keepdims=True)
    return out.reshape(-1, d)

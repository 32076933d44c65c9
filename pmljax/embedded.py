"""A video's embeddings, computed once: in memory, or in a file that the next opening of the same video finds.

They are kept as whole numbers in half precision: a component times a scale, rounded. Lengths stay under 2,000, so half
precision holds every number exactly, and every product, sum and squared distance stays under 2²⁴, where float32 adds without
rounding. Distances are therefore the same to the last bit however the search is cut into pieces, on any device.
Axes: `t` frame, `y x` grid, `c` = y·x cell, `d` embedding, `n` row.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import tempfile
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float16, Num

from pmljax.config import ShortSide
from pmljax.errors import InputError
from pmljax.files import write_file
from pmljax.model import Model, embed
from pmljax.weights.bundled import fingerprint

FORMAT = 1
LENGTH = 2000.0  # of the longest embedding: with rounding, ‖a − b‖² < 4·2,010² < 2²⁴
CHUNK = 8  # frames that are searched at once
MEMORY = 1 << 30  # bytes of embeddings that are held; longer videos are read from their file, chunk by chunk
OLD = 24 * 3600  # seconds after which an unfinished file is taken for one that a killed process left


@runtime_checkable
class Video(Protocol):
    """What is embedded: `pmljax.frames(…)`, say."""

    @property
    def size(self) -> tuple[int, int]: ...
    def stamped(self) -> Iterator[Any]:
        """Frames with `image`, uint8 `[h, w, 3]`, and `number`."""
        ...

    def digest(self) -> str: ...


class Lent:
    """A file that is in no cache: it goes with the last session on it, copies of one included."""

    def __init__(self, path: Path):
        weakref.finalize(self, _remove, path, os.getpid())

    def __deepcopy__(self, _: object) -> Lent:
        return self

    def __reduce__(self):
        raise TypeError(
            "a session of a long video without a cache cannot be pickled: its embeddings are in a file that"
            " goes with it; give it a cache"
        )


def _remove(path: Path, owner: int) -> None:
    if os.getpid() == owner:  # no process that was forked from it
        path.unlink(missing_ok=True)


@dataclass
class Embedded:
    """count: frames.  grid: (y, x).  held: the chunks in memory, or None where `path` is read.  digest: of the video.
    lent: what keeps the file at `path`, where it is nobody's cache."""

    count: int
    grid: tuple[int, int]
    dimensions: int
    digest: str
    held: list[jax.Array] | None
    path: Path | None
    lent: Lent | None = None

    @property
    def cells(self) -> int:
        return math.prod(self.grid)

    @property
    def chunks(self) -> int:
        return -(-self.count // CHUNK)

    def chunk(self, i: int) -> Float16[Array, "n d"]:
        """The cells of frames i·CHUNK …, one after the other; beyond the last frame zeros, so that all chunks are alike."""
        if self.held is not None:
            return self.held[i]
        first, last = i * CHUNK, min((i + 1) * CHUNK, self.count)
        rows = self._read(first * self.cells, (last - first) * self.cells)
        missing = CHUNK * self.cells - len(rows)
        return jax.device_put(np.pad(rows, ((0, missing), (0, 0))) if missing else rows)

    def rows(self, places: np.ndarray) -> Float16[np.ndarray, "n d"]:
        """The embeddings of cells by their place, frame·c + cell."""
        out = np.zeros((len(places), self.dimensions), np.float16)
        for frame in np.unique(places // self.cells):
            here = places // self.cells == frame
            cells = places[here] % self.cells
            if self.held is not None:
                i, f = divmod(int(frame), CHUNK)
                # In NumPy: JAX would compile once for every number of cells.
                out[here] = np.asarray(self.held[i])[f * self.cells + cells]
            else:
                out[here] = self._read(int(frame) * self.cells, self.cells)[cells]
        return out

    def _read(self, first: int, count: int) -> Float16[np.ndarray, "n d"]:
        # Read, not mapped: pages of a map count as the process's memory.
        row = 2 * self.dimensions
        assert self.path is not None
        try:
            data = np.fromfile(self.path, np.float16, count * self.dimensions, offset=first * row)
        except OSError as error:
            raise InputError(f"{self.path}: cannot be read ({error.strerror}); open the video again") from None
        if data.size != count * self.dimensions:
            raise InputError(f"{self.path}: is shorter than it was; open the video again")
        return data.reshape(count, self.dimensions)


def embed_video(
    model: Model,
    video: Video,
    *,
    size: ShortSide = 480,
    cache: Path | None = None,
    memory: int = MEMORY,
    advance: Callable[[], object] = lambda: None,
) -> tuple[Embedded, bool]:
    """(the embeddings of every frame, whether they were there already). `advance` is called after each frame.

    cache: a folder; the file is named by the SHA-256 of weights, configuration, format, size seen and video, and is complete or
    not there. None: nothing is kept after the session.  memory: as MEMORY.
    """
    digest = video.digest()
    seen = model.config.seen(video.size, size)
    key = hashlib.sha256(f"{FORMAT} {fingerprint(model)} {seen} {digest}".encode()).hexdigest()
    found = cache and _open(cache / key, digest, memory)
    if found and found.grid == model.config.grid(seen):
        return found, True
    try:
        return _embed(model, video, size, cache and cache / key, digest, memory, advance), False
    except OSError as error:
        where = cache or tempfile.gettempdir()
        raise InputError(
            f"{where}: the embeddings cannot be written ({error.strerror or error}); expected a place with room, named by"
            " PMLJAX_CACHE"
        ) from None


def scale_of(model: Model, grid: tuple[int, int], first: Float[np.ndarray, "y x d"]) -> float:
    """What components are multiplied with. Lengths that the first frame does not show (of networks whose embeddings have
    none of their own) may be half as much again before they are cut."""
    if model.config.unit:
        return LENGTH
    if not model.config.depth:  # colours up to 255, rows and columns
        return LENGTH / math.hypot(255 * math.sqrt(3), *grid)
    return LENGTH / (1.5 * float(np.linalg.norm(first, axis=-1).max()) or 1.0)


@jax.jit
def quantise(embedding: Float[Array, "y x d"], scale: Num[Array, ""]) -> Float16[Array, "n d"]:
    """The whole numbers that are kept."""
    rows = embedding.reshape(-1, embedding.shape[-1]).astype(jnp.float32) * scale
    length = jnp.sqrt(jnp.sum(rows * rows, -1, keepdims=True))
    return jnp.round(rows * jnp.minimum(1, LENGTH / jnp.maximum(length, 1e-6))).astype(jnp.float16)


def _embed(
    model: Model,
    video: Video,
    size: ShortSide,
    path: Path | None,
    digest: str,
    memory: int,
    advance: Callable[[], object],
) -> Embedded:
    grid = model.config.grid(model.config.seen(video.size, size))
    scale, count, waiting, out = 0.0, 0, None, None
    folder = path.parent if path else Path(tempfile.gettempdir())
    folder.mkdir(parents=True, exist_ok=True)
    _sweep(folder)
    # Unfinished it has a name of its own: another process may be embedding the same video.
    handle, name = tempfile.mkstemp(".part", ".embedding-", folder)
    try:
        with os.fdopen(handle, "wb") as file:
            for frame in video.stamped():
                if frame.image.shape[:2] != video.size:
                    (h, w), (y, x) = frame.image.shape[:2], video.size
                    raise InputError(f"frame {count}: found {w}×{h}, expected the video's {x}×{y} (width×height)")
                out = embed(model, frame.image[None], np.array([frame.number], np.float32), size)[0]
                if not count:
                    scale = scale_of(model, grid, np.asarray(out))
                out = quantise(out, np.float32(scale))
                if waiting is not None:  # the device works on this frame while the one before is written
                    file.write(np.asarray(waiting).tobytes())
                    advance()
                waiting, count = out, count + 1
            if waiting is None:
                raise InputError("found no frames, expected one at least")
            file.write(np.asarray(waiting).tobytes())
            advance()
            file.flush()
            os.fsync(file.fileno())
        d = model.config.dimensions
        record = {
            "format": FORMAT,
            "count": count,
            "grid": grid,
            "dimensions": d,
            "bytes": 2 * count * math.prod(grid) * d,
        }
        if path:
            os.replace(name, path.with_suffix(".bin"))
            # Last: without it, nothing above is ever read.
            write_file(path.with_suffix(".json"), json.dumps(record).encode())
            name = str(path.with_suffix(".bin"))
        lent = None if path else Lent(Path(name))
        return _hold(Embedded(count, grid, d, digest, None, Path(name), lent), memory)
    except BaseException:
        if name.endswith(".part"):
            Path(name).unlink(missing_ok=True)
        raise


def _open(path: Path, digest: str, memory: int) -> Embedded | None:
    try:
        record = json.loads(path.with_suffix(".json").read_text())
        (y, x), count, d = record["grid"], record["count"], record["dimensions"]
        stored = path.with_suffix(".bin")
        if (
            record["format"] != FORMAT
            or stored.stat().st_size != record["bytes"]
            or record["bytes"] != 2 * count * y * x * d
        ):
            return None
        return _hold(Embedded(count, (y, x), d, digest, None, stored), memory)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _hold(there: Embedded, memory: int) -> Embedded:
    """With its chunks in memory, if they fit."""
    if 2 * there.count * there.cells * there.dimensions <= memory:
        there.held = [there.chunk(i) for i in range(there.chunks)]
        there.lent = None
    return there


def _sweep(folder: Path) -> None:
    for left in folder.glob(".embedding-*.part"):
        try:
            if time.time() - left.stat().st_mtime > OLD:
                left.unlink()
        except OSError:
            pass

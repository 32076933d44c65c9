"""What training clips are drawn from: annotated videos, made clips; reading, scaled down, with a cache between them.

A source draws a clip from a random generator alone. NumPy only. Axes: `h w` frame of a source.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from pmljax.data import davis
from pmljax.data.images import read_image
from pmljax.errors import InputError
from pmljax.labels import VOID, check_labels, has_ids, read_labels


class RawClip(NamedTuple):
    """What a source draws: whole frames of one size; `name` says which."""

    frames: list[UInt8[np.ndarray, "h w 3"]]
    labels: list[UInt8[np.ndarray, "h w"]]
    numbers: list[float]
    name: str


@runtime_checkable
class Source(Protocol):
    """Something that clips are drawn from. `most`: the largest number of frames that a clip of it can have."""

    most: int

    def draw(self, rng: np.random.Generator, frames: int, short_side: int | None) -> RawClip:
        """A clip of `frames` frames that follows from `rng` alone; the first frame is the anchors'."""
        ...

    def describe(self, rng: np.random.Generator, frames: int) -> str:
        """The name of the clip that `draw` gives for the same `rng`; nothing is decoded."""
        ...


@runtime_checkable
class ReelSource(Source, Protocol):
    """A source that can be read once and for all: `reels` videos, or what stands for one."""

    @property
    def reels(self) -> int: ...

    def reel(self, index: int, rng: np.random.Generator, views: int, short_side: int | None) -> RawClip:
        """All that clips of one video are drawn from: its annotated frames, or `views` of a picture, which follow from
        `rng`. Several threads may call it at once."""
        ...


# Reading


class Cache:
    """Decoded pictures in memory, the least recently used dropped first. One may serve several sources and threads.

    A copy in another process begins empty, so that N processes hold up to N times `max_bytes`.
    """

    def __init__(self, max_bytes: int = 2 * 10**9):
        self.max_bytes, self.bytes = max_bytes, 0
        self._held: OrderedDict[Any, np.ndarray] = OrderedDict()
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return Cache, (self.max_bytes,)

    def get(self, key: Any, make: Callable[[], np.ndarray]) -> np.ndarray:
        """What is held under `key`, or else what `make` gives, read-only. Two threads may make the same at once."""
        with self._lock:
            if key in self._held:
                self._held.move_to_end(key)
                return self._held[key]
        made = make()
        made.setflags(write=False)
        if made.nbytes > self.max_bytes:
            return made
        with self._lock:
            if key not in self._held:
                self._held[key] = made
                self.bytes += made.nbytes
            while self.bytes > self.max_bytes:
                self.bytes -= self._held.popitem(last=False)[1].nbytes
        return made


def scale_down(image: np.ndarray, short_side: int | None) -> np.ndarray:
    """`image` with its short side no longer than `short_side`: colours averaged, labels `[h, w]` taken at the centres."""
    from PIL import Image

    h, w = image.shape[:2]
    if short_side is None or min(h, w) <= short_side:
        return image
    size = (round(w * short_side / min(h, w)), round(h * short_side / min(h, w)))
    how = Image.Resampling.BOX if image.ndim == 3 else Image.Resampling.NEAREST
    return np.array(Image.fromarray(image).resize(size, how))


def hold_pair(
    key: tuple[Any, ...], read: Callable[[], tuple[np.ndarray, np.ndarray]], short_side: int | None, cache: Cache | None
) -> tuple[np.ndarray, np.ndarray]:
    """The frame and the labels that `read` gives, scaled down; from the cache where it holds them under `key`."""

    def both() -> np.ndarray:
        image, labels = (scale_down(array, short_side) for array in read())
        # One array, so that the cache holds or drops both; row beside row, which copies fast.
        return np.concatenate([image.reshape(len(image), -1), labels], 1)

    held = both() if cache is None else cache.get((*key, short_side), both)
    w = held.shape[1] // 4
    return held[:, : 3 * w].reshape(len(held), w, 3), held[:, 3 * w :]


def fingerprint(files: Iterable[Path]) -> str:
    """Eight digits that differ where the files' names or sizes do: which data a run was begun with."""
    digest = hashlib.sha256()
    for path in files:
        try:
            size = path.stat().st_size
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror}); expected a file that is there") from None
        digest.update(f"{path.parent.name}/{path.name} {size}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:8]


@lru_cache(4096)
def _any_ids(masks: tuple[Path, ...]) -> bool:
    return any(map(has_ids, masks))


def read_pair(
    picture: Path, mask: Path, short_side: int | None, cache: Cache | None, beside: tuple[Path, ...] = ()
) -> tuple[np.ndarray, np.ndarray]:
    """A frame uint8 `[h, w, 3]` and its labels `[h, w]`, scaled down; InputError if they are not of one size.

    beside: the masks of the same video: where one has ids (`has_ids`), 255 alone in a grey mask is void.
    """

    def read() -> tuple[np.ndarray, np.ndarray]:
        image, labels = read_image(picture), read_labels(mask, ids=True)
        if set(np.unique(labels)) <= {0, VOID} and not _any_ids(
            beside
        ):  # the others are looked at for such masks alone
            labels = read_labels(mask)
        return image, check_labels(labels, str(mask), image.shape[:2])

    return hold_pair((picture, mask), read, short_side, cache)


# Sources


class VideoSource:
    """Annotated videos: a video is drawn, then distinct annotated frames of it in random order."""

    def __init__(
        self,
        sequences: Sequence[davis.Sequence],
        name: str = "video",
        cache: Cache | None = None,
        *,
        merge: bool = False,
    ):
        """merge: all objects are one, as DAVIS-2016 has them. InputError if one of `sequences` has fewer than 3 annotated
        frames; see `long_enough`."""
        if not sequences:
            raise InputError(f"{name}: found no sequences; expected at least one")
        self.name, self.cache, self.merge = name, cache, merge
        self.videos = [(s.name, s.annotated()) for s in sequences]
        self.masks = {frames[0][2].parent: tuple(mask for *_, mask in frames) for _, frames in self.videos if frames}
        for video, frames in self.videos:
            if len(frames) < 3:
                raise InputError(f"{name} {video}: found {len(frames)} annotated frames; expected 3 or more")
        self.most = min(len(frames) for _, frames in self.videos)

    @property
    def reels(self) -> int:
        return len(self.videos)

    def _choose(self, rng: np.random.Generator, frames: int) -> tuple[str, list[tuple[float, Path, Path]]]:
        video, annotated = self.videos[int(rng.integers(len(self.videos)))]
        chosen = [annotated[i] for i in rng.permutation(len(annotated))[:frames]]
        return " ".join([self.name, video, *(path.stem for _, path, _ in chosen)]), chosen

    def draw(self, rng: np.random.Generator, frames: int, short_side: int | None) -> RawClip:
        return self._read(*self._choose(rng, frames), short_side)

    def reel(self, index: int, rng: np.random.Generator, views: int, short_side: int | None) -> RawClip:
        video, annotated = self.videos[index]
        return self._read(f"{self.name} {video}", annotated, short_side)

    def _read(self, name: str, chosen: list[tuple[float, Path, Path]], short_side: int | None) -> RawClip:
        beside = () if self.merge else self.masks[chosen[0][2].parent]
        read = [read_pair(picture, mask, short_side, self.cache, beside) for _, picture, mask in chosen]
        for (_, picture, _), (_, labels) in zip(chosen, read, strict=True):
            if labels.shape != read[0][1].shape:
                raise InputError(f"{picture}: its size is not that of {chosen[0][1].name}; expected frames of one size")
        labels = [np.where(one % VOID > 0, np.uint8(1), one) if self.merge else one for _, one in read]
        return RawClip([image for image, _ in read], labels, [n for n, _, _ in chosen], name)

    def describe(self, rng: np.random.Generator, frames: int) -> str:
        return self._choose(rng, frames)[0]


def long_enough(sequences: Sequence[davis.Sequence], frames: int = 3) -> tuple[list[davis.Sequence], int]:
    """The sequences that have that many annotated frames, and how many do not: YouTube-VOS has such videos."""
    kept = [s for s in sequences if len(s.annotated()) >= frames]
    return kept, len(sequences) - len(kept)


class SyntheticSource:
    """Made clips (`data.synthetic`): a pool is made once, on the CPU; distinct frames of one of them are drawn."""

    def __init__(
        self,
        seed: int,
        clips: int = 64,
        *,
        length: int = 8,
        size: tuple[int, int] = (240, 426),
        objects: int = 3,
        light: float = 0.0,
    ):
        """`length`: frames that each clip has to draw from. They have 1, 2, … `objects` objects by turns. light: as in
        `clip`."""
        import jax

        from pmljax.data.synthetic import clip

        self.most, self.pool = length, []
        with jax.default_device(jax.local_devices(backend="cpu")[0]):
            keys = jax.random.split(jax.random.key(seed), clips)
            for i in range(clips):
                made = clip(keys[i], frames=length, size=size, objects=1 + i % objects, light=light)
                self.pool.append((np.asarray(made.frames), np.asarray(made.labels)))

    @property
    def reels(self) -> int:
        return len(self.pool)

    def _choose(self, rng: np.random.Generator, frames: int) -> tuple[str, int, list[int]]:
        which = int(rng.integers(len(self.pool)))
        chosen = [int(i) for i in rng.permutation(self.most)[:frames]]
        return " ".join(["synthetic", str(which), *map(str, chosen)]), which, chosen

    def draw(self, rng: np.random.Generator, frames: int, short_side: int | None) -> RawClip:
        name, which, chosen = self._choose(rng, frames)
        return self._scaled(name, which, chosen, short_side)

    def reel(self, index: int, rng: np.random.Generator, views: int, short_side: int | None) -> RawClip:
        return self._scaled(f"synthetic {index}", index, list(range(self.most)), short_side)

    def _scaled(self, name: str, which: int, chosen: list[int], short_side: int | None) -> RawClip:
        images, labels = ([scale_down(array[i], short_side) for i in chosen] for array in self.pool[which])
        return RawClip(images, labels, [float(i) for i in chosen], name)

    def describe(self, rng: np.random.Generator, frames: int) -> str:
        return self._choose(rng, frames)[0]

"""Training clips by number: `Clips` draws clip i from (seed, i) alone, `batches` reads them ahead with Grain.

Nothing is shuffled and nothing is remembered: the same seed gives the same clips for any number of hosts, processes and
threads, and a run that goes on at step s asks for batch s. NumPy only.
Axes: `t` frame of the clip, `h w` frame of a source, `H W` canvas.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypedDict, runtime_checkable

import numpy as np
from jaxtyping import Float32, Int32, Shaped, UInt8

from pmljax.data import davis
from pmljax.data.images import read_image
from pmljax.errors import InputError
from pmljax.labels import VOID, check_labels, read_labels

LENGTH = 2**31  # clips of a run: more than any run draws, and the numbers still fit uint32


class Sample(TypedDict):
    """One clip as `pmljax.sampling.Clip` takes it; a batch has the same keys and a leading axis.

    frames, labels: on a canvas of one size; the content lies at the top left, beyond it frames are 0 and labels void.
    numbers: the frames' own.  window: (top, left, height, width): where the canvas begins in the whole frame, and that
    frame's size, in pixels of the canvas.  extent: (h, w) of the content.  number: of the clip.
    """

    frames: UInt8[np.ndarray, "t H W 3"]
    labels: UInt8[np.ndarray, "t H W"]
    numbers: Float32[np.ndarray, "t"]
    window: Float32[np.ndarray, "t 4"]
    extent: Int32[np.ndarray, "2"]
    number: Shaped[np.ndarray | np.uint32, ""]


class RawClip(NamedTuple):
    """What a source draws: whole frames of one size; `name` says which."""

    frames: list[UInt8[np.ndarray, "h w 3"]]
    labels: list[UInt8[np.ndarray, "h w"]]
    numbers: list[float]
    name: str


@runtime_checkable
class Source(Protocol):
    """Something that clips are drawn from. `most`: the largest number of frames that a clip of it can have.

    `reels`: how many videos, or what stands for one, it has in all."""

    most: int

    @property
    def reels(self) -> int: ...

    def draw(self, rng: np.random.Generator, frames: int, short_side: int | None) -> RawClip:
        """A clip of `frames` frames that follows from `rng` alone; the first frame is the anchors'."""
        ...

    def describe(self, rng: np.random.Generator, frames: int) -> str:
        """The name of the clip that `draw` gives for the same `rng`; nothing is decoded."""
        ...

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


def read_pair(picture: Path, mask: Path, short_side: int | None, cache: Cache | None) -> tuple[np.ndarray, np.ndarray]:
    """A frame uint8 `[h, w, 3]` and its labels `[h, w]`, scaled down; InputError if they are not of one size."""

    def read() -> tuple[np.ndarray, np.ndarray]:
        image = read_image(picture)
        return image, check_labels(read_labels(mask), str(mask), image.shape[:2])

    return hold_pair((picture, mask), read, short_side, cache)


# Sources


class VideoSource:
    """Annotated videos: a video is drawn, then distinct annotated frames of it in random order."""

    def __init__(self, sequences: Sequence[davis.Sequence], name: str = "video", cache: Cache | None = None):
        """InputError if one of `sequences` has fewer than 3 annotated frames; see `long_enough`."""
        if not sequences:
            raise InputError(f"{name}: found no sequences; expected at least one")
        self.name, self.cache = name, cache
        self.videos = [(s.name, s.annotated()) for s in sequences]
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
        read = [read_pair(picture, mask, short_side, self.cache) for _, picture, mask in chosen]
        for (_, picture, _), (_, labels) in zip(chosen, read, strict=True):
            if labels.shape != read[0][1].shape:
                raise InputError(f"{picture}: its size is not that of {chosen[0][1].name}; expected frames of one size")
        return RawClip([image for image, _ in read], [labels for _, labels in read], [n for n, _, _ in chosen], name)

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


# Clips and batches


class Clips:
    """Clips by their global number: `clips[i]` follows from (seed, i) alone.

    canvas: (h, w); frames larger than that are cut to it, all frames of a clip alike and so that an object of the first
    is in view.  short_side: frames whose short side is longer are scaled down to it first.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        weights: Sequence[int | float],
        *,
        seed: int,
        canvas: tuple[int, int],
        short_side: int | None = None,
        frames: int = 3,
    ):
        if not sources or len(sources) != len(weights) or min(weights) < 0 or sum(weights) <= 0:
            raise InputError(f"weights: found {list(weights)} for {len(sources)} sources; expected one each, 0 or more")
        if seed < 0 or min(canvas) < 1 or (short_side is not None and short_side < 1):
            raise InputError(f"found seed {seed}, canvas {canvas}, short side {short_side}; expected none below 0 or 1")
        for source in sources:
            if not 1 <= frames <= source.most:
                raise InputError(f"frames: found {frames} a clip; expected 1…{source.most}, as a source has no more")
        self.sources, self.seed, self.canvas = list(sources), seed, canvas
        self.short_side, self.frames = short_side, frames
        self.bounds = np.cumsum(weights) / sum(weights)

    def __len__(self) -> int:
        return LENGTH

    def _choose(self, number: int) -> tuple[Source, np.random.Generator]:
        rng = np.random.Generator(np.random.Philox(key=[self.seed, number]))
        return self.sources[int(np.searchsorted(self.bounds[:-1], rng.random(), side="right"))], rng

    def describe(self, number: int) -> str:
        """What clip `number` is made from, such as "davis bear 00040 00000 00016"."""
        source, rng = self._choose(number)
        return source.describe(rng, self.frames)

    def __getitem__(self, number: int) -> Sample:
        source, rng = self._choose(number)
        clip = source.draw(rng, self.frames, self.short_side)
        size = clip.labels[0].shape
        top, left = _cut(rng, clip.labels[0], self.canvas)
        h, w = (min(n, m) for n, m in zip(size, self.canvas, strict=True))
        frames = np.zeros((self.frames, *self.canvas, 3), np.uint8)
        labels = np.full((self.frames, *self.canvas), VOID, np.uint8)
        for t in range(self.frames):
            frames[t, :h, :w] = clip.frames[t][top : top + h, left : left + w]
            labels[t, :h, :w] = clip.labels[t][top : top + h, left : left + w]
        return Sample(
            frames=frames,
            labels=labels,
            numbers=np.array(clip.numbers, np.float32),
            window=np.tile(np.array([top, left, *size], np.float32), (self.frames, 1)),
            extent=np.array([h, w], np.int32),
            number=np.uint32(number),
        )


def _cut(rng: np.random.Generator, labels: np.ndarray, canvas: tuple[int, int]) -> tuple[int, int]:
    """Where the window of the canvas's size begins: evenly among those that hold one pixel of an object, itself drawn
    evenly; among all windows where there is no object."""
    spare = [max(n - m, 0) for n, m in zip(labels.shape, canvas, strict=True)]
    if not any(spare):
        return 0, 0
    objects = np.flatnonzero((labels > 0) & (labels < VOID))
    low, high = [0, 0], list(spare)
    if len(objects):
        place = divmod(int(objects[rng.integers(len(objects))]), labels.shape[1])
        low = [min(max(p - m + 1, 0), s) for p, m, s in zip(place, canvas, spare, strict=True)]
        high = [min(p, s) for p, s in zip(place, spare, strict=True)]
    return int(rng.integers(low[0], high[0] + 1)), int(rng.integers(low[1], high[1] + 1))


class _Share:
    """The clips that one host reads, in order: batch s holds the clips s·batch …; each host has its slice of every one."""

    def __init__(self, clips: Clips, batch: int, start: int, host: int, hosts: int):
        self.clips, self.batch, self.start, self.host, self.local = clips, batch, start, host, batch // hosts

    def __len__(self) -> int:
        return (len(self.clips) // self.batch - self.start) * self.local

    def __getitem__(self, index: int) -> Sample:
        step, place = divmod(index, self.local)
        return self.clips[(self.start + step) * self.batch + self.host * self.local + place]


def batches(
    clips: Clips,
    *,
    batch: int,
    start: int = 0,
    host: int = 0,
    hosts: int = 1,
    workers: int = 0,
    threads: int = 2,
    prefetch: int = 4,
) -> Iterator[dict[str, Any]]:
    """This host's part `[batch / hosts, …]` of the batches from number `start` on, without end: `Sample` with a leading axis.

    workers: processes that read (0: none; a script that asks for some needs `if __name__ == "__main__"`).
    threads: of each.  prefetch: batches held ready by each.
    """
    try:
        import grain.python as grain
    except ImportError:
        raise InputError("reading training clips needs Grain; pip install 'pmljax[train]'") from None
    if batch < 1 or batch % hosts or not 0 <= host < hosts or not 0 <= start < LENGTH // batch:
        given = f"batch {batch}, start {start}, host {host} of {hosts}"
        raise InputError(f"found {given}; expected a batch that is a multiple of the hosts, and none below 0")
    share = _Share(clips, batch, start, host, hosts)
    ahead = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=prefetch if threads else 0)
    data = grain.MapDataset.source(share).batch(share.local, drop_remainder=True).to_iter_dataset(ahead)
    if workers:
        from absl import flags

        if not flags.FLAGS.is_parsed():  # Grain asks for a flag of its own, and this is no program of absl's
            flags.FLAGS.mark_as_parsed()
        data = data.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers))

    def stream() -> Iterator[dict[str, Any]]:
        iterator = iter(data)
        try:
            for found in iterator:
                # From a process it lies in shared memory, which must not outlive the iterator: copied, it is let go.
                yield {key: np.array(value) for key, value in found.items()} if workers else found
        finally:
            iterator.close()  # ends the processes now, not when the garbage is collected

    return stream()

"""Training clips by number: `Clips` draws clip i from (seed, i) alone, `batches` reads them ahead with Grain.

Nothing is shuffled and nothing is remembered: the same seed gives the same clips for any number of hosts, processes and
threads, and a run that goes on at step s asks for batch s. NumPy only.
Axes: `t` frame of the clip, `H W` canvas.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypedDict

import numpy as np
from jaxtyping import Float32, Int32, Shaped, UInt8

from pmljax.data.clip_sources import Source
from pmljax.data.readers import end_with_parent
from pmljax.errors import InputError
from pmljax.labels import VOID

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

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        end_with_parent()  # this is a copy in a process that reads

    def __len__(self) -> int:
        return (len(self.clips) // self.batch - self.start) * self.local

    def __getitem__(self, index: int) -> Sample:
        step, place = divmod(index, self.local)
        return self.clips[(self.start + step) * self.batch + self.host * self.local + place]


def check_share(batch: int, start: int, host: int, hosts: int) -> None:
    """InputError for a part of batches that there is not."""
    if batch < 1 or batch % hosts or not 0 <= host < hosts or not 0 <= start < LENGTH // batch:
        given = f"batch {batch}, start {start}, host {host} of {hosts}"
        raise InputError(f"found {given}; expected a batch that is a multiple of the hosts, and none below 0")


def reader() -> Any:
    """Grain, which reads the clips; InputError where it is not installed."""
    try:
        import grain.python
    except ImportError:
        raise InputError("reading training clips needs Grain; pip install 'pmljax[train]'") from None
    return grain.python


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
    grain = reader()
    check_share(batch, start, host, hosts)
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

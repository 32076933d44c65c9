"""Clips from pictures that lie on the device: every source is read once, then compiled calls draw from it.

For accelerators, whose steps take less than reading their clips does. Every clip of a source is three frames of one of its
reels: a video's annotated frames, a picture's moved views, a made clip. `batches` moves a picture anew for every clip; here
there are as many views as are asked for, and its parts are one object in all of its clips or in none. Clip n follows from the
key and n alone, as it does there, but is another.
Axes: `s` source, `r` reel, `n` frame of a source, `h w` canvas, `t` frame of a clip, `b` clip.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt32

from pmljax.data.batches import LENGTH, check_share
from pmljax.data.clip_sources import RawClip, ReelSource, SyntheticSource, scale_down
from pmljax.data.readers import end_with_parent
from pmljax.device import free_memory
from pmljax.errors import InputError
from pmljax.labels import VOID
from pmljax.sampling import Clip, paste


class Store(NamedTuple):
    """A source on the device.

    pixels: red, green, blue and label of a pixel, from the lowest byte up: a fourth of the elements that an
    index has to count.  numbers: the frames' own.  extent: (h, w) of their content, at the top left.  first, count: the
    frames of each reel.
    """

    pixels: UInt32[Array, "n h w"]
    numbers: Float[Array, "n"]
    extent: Int[Array, "n 2"]
    first: Int[Array, "r"]
    count: Int[Array, "r"]


def hold(
    sources: Sequence[ReelSource],
    *,
    canvas: tuple[int, int],
    short_side: int | None = None,
    frames: int = 3,
    views: int = 8,
    seed: int = 0,
    workers: int = 0,
) -> tuple[Store, ...]:
    """Read the sources and put them on the device: four bytes a pixel.

    canvas: (h, w); frames that are larger are scaled down to fit.  short_side: frames whose short side is longer are scaled
    down to it.  frames: of a clip.  views: of a picture; they follow from `seed`.  workers: processes that read (0: two
    threads, which is what helps: more wait for each other; a script that asks for some needs `if __name__ == "__main__"`).
    Raises InputError for a source that the device has no room for.
    """
    if views < frames:
        raise InputError(f"views {views}: expected at least the {frames} frames of a clip")
    readers = [_Reader(source, canvas, short_side, views, seed) for source in sources]
    with ThreadPoolExecutor(2) as threads, ExitStack() as opened:
        processes = threads
        if workers:
            # Spawned: a fork of a process in which JAX has begun can hang.
            context = multiprocessing.get_context("spawn")
            processes = opened.enter_context(ProcessPoolExecutor(workers, context, initializer=end_with_parent))
        # What lies in memory already need not travel there and back.
        pools = [threads if isinstance(r.source, SyntheticSource) else processes for r in readers]
        stores = tuple(_store(list(pool.map(r, range(r.source.reels)))) for pool, r in zip(pools, readers, strict=True))
    for source, store in zip(sources, stores, strict=True):
        if store.count.min() < frames:
            raise InputError(f"{source}: found {store.count.min()} frames of a video; expected the {frames} of a clip")
    return stores


class _Reader(NamedTuple):
    """Reads and packs one reel; one object, so that it can travel to another process."""

    source: Any
    canvas: tuple[int, int]
    short_side: int | None
    views: int
    seed: int

    def __call__(self, index: int) -> tuple[list[np.ndarray], list[float]]:
        rng = np.random.Generator(np.random.Philox(key=[self.seed, index]))
        return _packed(self.source.reel(index, rng, self.views, self.short_side), self.canvas)


def _store(reels: list[tuple[list[np.ndarray], list[float]]]) -> Store:
    pictures = [picture for found, _ in reels for picture in found]
    extent = np.array([picture.shape for picture in pictures], np.int32)
    size, room = 4 * len(pictures) * int(np.prod(extent.max(0))), free_memory()
    if room is not None and size > room:
        raise InputError(
            f"--resident: found a source of {len(pictures)} pictures, {size / 2**30:.3g} GiB; expected at most the"
            f" {room / 2**30:.3g} GiB free on the device; make --short-side or --views smaller, or leave --resident out"
        )
    pixels = np.full((len(pictures), *extent.max(0)), VOID << 24, np.uint32)  # black and void beyond the content
    for i, picture in enumerate(pictures):
        pixels[i, : picture.shape[0], : picture.shape[1]] = picture
    count = np.array([len(found) for found, _ in reels], np.int32)
    numbers = np.array([n for _, found in reels for n in found], np.float32)
    return Store(*map(jnp.asarray, (pixels, numbers, extent, np.cumsum(count, dtype=np.int32) - count, count)))


def _packed(reel: RawClip, canvas: tuple[int, int]) -> tuple[list[np.ndarray], list[float]]:
    h, w = reel.labels[0].shape
    share = min(canvas[0] / h, canvas[1] / w, 1)
    short_side = max(int(share * min(h, w)), 1)
    pictures = []
    for image, labels in zip(reel.frames, reel.labels, strict=True):
        # Of a strip thinner than a pixel of the canvas one is left, and of its length what the canvas holds.
        image, labels = (scale_down(x, short_side)[: canvas[0], : canvas[1]].astype(np.uint32) for x in (image, labels))
        pictures.append(image[..., 0] | image[..., 1] << 8 | image[..., 2] << 16 | labels << 24)
    return pictures, reel.numbers


@partial(jax.jit, static_argnames=("frames", "canvas", "pasted"))
def draw(
    stores: tuple[Store, ...],
    shares: Float[Array, "s"],
    key: PRNGKeyArray,
    numbers: UInt32[Array, "b"],
    *,
    frames: int,
    canvas: tuple[int, int],
    pasted: float = 0.0,
) -> Clip:
    """The clips of these numbers, leading axis b: distinct frames of a reel in random order, reels of a source evenly.

    shares: how often each source is drawn; they sum to 1.  pasted: how often an object of another clip lies before a
    clip's frames (`sampling.paste`).
    """

    def one(number: Array) -> Clip:
        keys = jax.random.split(jax.random.fold_in(key, number), 4)
        clip = _draw(stores, shares, keys[0], number, frames, canvas)
        if not pasted:
            return clip
        both = paste(keys[2], clip, _draw(stores, shares, keys[1], number, frames, canvas))
        return jax.tree.map(partial(jnp.where, jax.random.bernoulli(keys[3], pasted)), both, clip)

    return jax.vmap(one)(numbers)


def _draw(
    stores: tuple[Store, ...],
    shares: Float[Array, "s"],
    key: PRNGKeyArray,
    number: Array,
    frames: int,
    canvas: tuple[int, int],
) -> Clip:
    keys = jax.random.split(key)
    chosen = jax.random.choice(keys[0], len(stores), p=shares)
    each = [_from_store(store, keys[1], number, frames, canvas) for store in stores]
    return jax.tree.map(lambda *x: jax.lax.select_n(chosen, *x), *each)


def _from_store(store: Store, key: PRNGKeyArray, number: Array, frames: int, canvas: tuple[int, int]) -> Clip:
    keys = jax.random.split(key)
    reel = jax.random.randint(keys[0], (), 0, store.count.shape[0])
    # The highest of a random number for each frame there is: a random order of distinct ones. No reel is longer than all.
    most = store.pixels.shape[0]
    score = jnp.where(jnp.arange(most) < store.count[reel], jax.random.uniform(keys[1], (most,)), -1)
    which = store.first[reel] + jax.lax.top_k(score, frames)[1]
    pixels = jnp.pad(
        store.pixels[which],
        [(0, 0)] + [(0, n - m) for n, m in zip(canvas, store.pixels.shape[1:], strict=True)],
        constant_values=np.uint32(VOID << 24),
    )
    bytes_ = [(pixels >> np.uint32(8 * i)).astype(jnp.uint8) for i in range(4)]
    extent = store.extent[which[0]]
    window = jnp.broadcast_to(jnp.concatenate([jnp.zeros(2), extent.astype(jnp.float32)]), (frames, 4))
    return Clip(jnp.stack(bytes_[:3], -1), bytes_[3], store.numbers[which], window, extent, number)


def resident_batches(
    stores: tuple[Store, ...],
    weights: Sequence[int | float],
    *,
    batch: int,
    canvas: tuple[int, int],
    seed: int,
    start: int = 0,
    host: int = 0,
    hosts: int = 1,
    frames: int = 3,
    pasted: float = 0.0,
) -> Iterator[Clip]:
    """This host's part `[batch / hosts, …]` of the batches from number `start` on, without end, on the device."""
    check_share(batch, start, host, hosts)
    local, key = batch // hosts, jax.random.fold_in(jax.random.key(seed), LENGTH - 1)
    shares = jnp.asarray(np.array(weights, np.float32) / sum(weights))
    for n in range(start, LENGTH // batch):
        first = n * batch + host * local
        numbers = jnp.arange(first, first + local, dtype=jnp.uint32)
        yield draw(stores, shares, key, numbers, frames=frames, canvas=canvas, pasted=pasted)

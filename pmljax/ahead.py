"""A stream's embeddings, computed one frame ahead of the labels.

A frame's embedding does not wait for the labels of the frames before it. On a CPU, where neither keeps all cores busy all
the time, a thread embeds the next frame while this one is labelled: two cores take .31 s instead of .37 a frame of 480×854.
An accelerator has one queue of work, so there a frame is one compiled call.
Axes: `h w` image, `y x` grid, `d` embedding.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num, UInt8

from pmljax.jitted import jitted
from pmljax.model import Model, at_stride, embed
from pmljax.presets import Preset

PLATFORMS = ("cpu",)


class Numbered(NamedTuple):
    """A frame of a stream: its own number, its picture, and its embedding where that is under way."""

    number: int
    frame: np.ndarray
    embedding: Future[jax.Array] | None


@jitted(static_argnames="preset")
def embed_frame(
    model: Model,
    frame: UInt8[Array | np.ndarray, "h w 3"],
    number: Num[Array, ""] | np.float32 | int,
    *,
    preset: Preset,
) -> Float[Array, "y x d"]:
    """The embedding of one frame as `preset` sees it. frame: uint8 RGB as decoded.  number: the frame's own."""
    model = at_stride(model, preset.stride)
    return embed(model, frame[None], jnp.asarray(number)[None], preset.size, flip=preset.flip)[0]


def embed_ahead(
    model: Model, frames: Iterator[tuple[int, np.ndarray]], preset: Preset, wanted: Callable[[int], bool]
) -> Generator[Numbered]:
    """The frames of a stream, each with its embedding if its index is `wanted`, while that of the next one is computed.

    What `frames` raises comes after every frame before it.
    """
    if jax.default_backend() not in PLATFORMS:
        yield from (Numbered(number, frame, None) for number, frame in frames)
        return

    # Settings of the caller's thread, such as `with jax.enable_x64(True)`, are not another's.
    x64, device = jax.config.jax_enable_x64, jax.config.jax_default_device  # pyright: ignore

    def embedded(number: int, frame: np.ndarray) -> jax.Array:
        with jax.enable_x64(x64), jax.default_device(device):
            # Waits here: what is only dispatched would be computed in its turn, after what the other thread dispatches.
            return jax.block_until_ready(embed_frame(model, frame, np.float32(number), preset=preset))

    pool, ending = ThreadPoolExecutor(1, "embed"), sys.is_finalizing
    try:
        before, failure = None, None
        for index in itertools.count():
            try:
                number, frame = next(frames)
            except StopIteration:
                break
            except Exception as error:
                failure = error
                break
            frame = np.array(frame)  # its reader may fill the same memory with the next one
            here = Numbered(number, frame, pool.submit(embedded, number, frame) if wanted(index) else None)
            if before:
                yield before
            before = here
        if before:
            yield before
        if failure is not None:
            raise failure
    finally:
        if not ending():  # of the interpreter, which stops the thread itself and takes away what the next line needs
            pool.shutdown(cancel_futures=True)

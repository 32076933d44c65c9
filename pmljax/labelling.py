"""The compiled calls: labels of one frame from references, with the network in them or without.

Axes: `h w` image, `y x` grid, `r` reference row, `d` embedding, `o` label column (0 background, then the objects' ids
ascending).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Num, UInt8

from pmljax.adaptation import adapt, search, within_reach
from pmljax.ahead import embed_frame
from pmljax.bilateral import solve
from pmljax.confidence import vote_confidence
from pmljax.config import ModelConfig
from pmljax.jitted import jitted
from pmljax.labels import grow_matrix
from pmljax.model import Model, at_stride
from pmljax.preprocess import apply_axes
from pmljax.presets import Preset, preset_of
from pmljax.references import References, both_axes
from pmljax.retrieval import vote


class Segmented(NamedTuple):
    """labels: uint8 `[h, w]`, full size.  shares: the votes on the grid, `[y, x, o]`.  references: for the next frame."""

    labels: jax.Array
    shares: jax.Array
    references: References


def grow(
    shares: Float[Array, "y x o"], ids: UInt8[Array, "o"], a_y: Array | np.ndarray, a_x: Array | np.ndarray
) -> UInt8[Array, "h w"]:
    """The id with the largest share at every pixel, shares grown linearly; of equal ones the lowest id.

    One label after the other, so that memory does not grow with the labels.
    """
    a_y, a_x = a_y.astype(shares.dtype), a_x.astype(shares.dtype)

    def better(best: tuple[jax.Array, jax.Array], label: tuple[jax.Array, jax.Array]):
        share, i = label
        here = jnp.matmul(jnp.matmul(a_y, share, precision="highest"), a_x.T, precision="highest")
        return (jnp.maximum(best[0], here), jnp.where(here > best[0], i, best[1])), None

    size = (a_y.shape[0], a_x.shape[0])
    nothing = (jnp.full(size, -1.0, shares.dtype), jnp.zeros(size, jnp.uint8))
    return jax.lax.scan(better, nothing, (jnp.moveaxis(shares, -1, 0), ids))[0][1]


@jitted(owned=True, static_argnames="preset")
def segment_frame(
    model: Model,
    references: References,
    frame: UInt8[Array | np.ndarray, "h w 3"],
    number: Num[Array, ""] | np.float32 | int = 0,
    index: Int[Array, ""] | np.int32 | int = 0,
    *,
    preset: Preset | None = None,
) -> Segmented:
    """Label one frame: embed, nearest, vote, grow, argmax, adapt, in one compiled call (once per size and capacity).

    frame: uint8 RGB as decoded, of the marked frame's size.  number: the frame's own, for configurations with time in their
    position.  index: its place in the stream, for adaptation.  preset: the one that the references were made with (`start`),
    by default the network's. Neither can be told from the references: of another size or preset other rows would count.
    """
    preset = preset or preset_of(model.config)
    embedding = embed_frame(model, frame, number, preset=preset)
    return label_embedding(at_stride(model, preset.stride).config, references, embedding, frame, index, preset=preset)


@jitted(static_argnames=("config", "preset"))
def label_embedding(
    config: ModelConfig,
    references: References,
    embedding: Float[Array, "y x d"],
    frame: UInt8[Array | np.ndarray, "h w 3"],
    index: Int[Array, ""] | np.int32 | int = 0,
    *,
    preset: Preset,
) -> Segmented:
    """`segment_frame` without the network: what follows once a frame is embedded. Of `frame` it needs the size, and the
    colours for the solver. config: of the network at the preset's stride."""
    size = (frame.shape[0], frame.shape[1])
    found = search(embedding, references, preset.adaptation, k=preset.k, metric=preset.metric, stretch=preset.stretch)
    votes = vote(found.neighbours, references.share, majority=preset.majority, temperature=preset.temperature)
    index, grid = jnp.asarray(index, jnp.int32), (embedding.shape[0], embedding.shape[1])
    votes = within_reach(votes, references, grid, index, preset.adaptation)
    references = adapt(references, embedding, found, votes, index, preset.adaptation)
    shares = votes.reshape(*embedding.shape[:2], -1)
    a_y, a_x = both_axes(
        config, size, preset.size, lambda s, c, stride, n: grow_matrix(c, s, stride, n, half_pixel=config.half_pixel)
    )
    if preset.solver is None:
        return Segmented(grow(shares, references.ids, a_y, a_x), shares, references)
    image, target = jnp.asarray(frame), apply_axes(a_y, a_x, shares)
    solved = solve(image, target, vote_confidence(target, preset.solver), preset.solver)
    # Where two objects tie there is no confidence, and nothing reaches some such pixels: their zeros are no background.
    solved = jnp.where((solved > 0).any(-1, keepdims=True), solved, target)
    return Segmented(references.ids[solved.argmax(-1)], shares, references)

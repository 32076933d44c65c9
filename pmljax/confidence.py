"""How much each pixel of a vote is to be trusted, for the bilateral solver: the vote's margin, less beside label borders.

Axes: `h w` image, `o` label.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int32

from pmljax.bilateral_grid import DEFAULT, BilateralConfig


def vote_confidence(shares: Float[Array, "h w o"], config: BilateralConfig = DEFAULT) -> Float[Array, "h w"]:
    """How much a vote is to be trusted, 0…1: its margin times `near_border` of its labels.

    shares: of the vote, grown to the image, ≥ 0. The margin is the best label's share minus the second best's; a lone
    label's is its share.
    """
    labels = shares.argmax(-1).astype(jnp.int32)
    others = jnp.where(labels[..., None] == jnp.arange(shares.shape[-1], dtype=jnp.int32)[None, None], 0, shares)
    return (shares.max(-1) - others.max(-1)) * near_border(labels, config).astype(shares.dtype)


def near_border(labels: Int32[Array, "h w"], config: BilateralConfig = DEFAULT) -> Float[Array, "h w"]:
    """From `border_confidence` beside another label up to 1, linearly over `border` pixels.

    The distance is the chessboard's, to the nearest pixel with another label, diagonals included.
    """
    if not config.border:
        return jnp.ones(labels.shape)
    near = _window(labels, jnp.maximum) != -_window(-labels, jnp.maximum)

    def one_further(_, state):
        # {distance ≤ k + 1} is {distance ≤ k} grown by one: what lies one step closer has the same label.
        near, beyond = state
        return _window(near, jnp.logical_or), beyond + (~near).astype(jnp.int32)

    # A loop, as XLA would fuse the rounds written out and compute each again for the next.
    _, beyond = lax.fori_loop(0, config.border, one_further, (near, jnp.zeros_like(labels)))
    return config.border_confidence + (1 - config.border_confidence) * (beyond.astype(float) / config.border)


def _window(x: jax.Array, most: Callable[[jax.Array, jax.Array], jax.Array]) -> jax.Array:
    """The largest of each 3 × 3 pixels, by shifts, with `most` of two."""
    for axis in (0, 1):
        edges = jnp.pad(x, [(1, 1) if a == axis else (0, 0) for a in (0, 1)], mode="edge")
        before, here, after = (lax.slice_in_dim(edges, i, i + x.shape[axis], axis=axis) for i in range(3))
        x = most(most(before, here), after)
    return x

"""The fast bilateral solver (Barron & Poole, ECCV 2016): an image's own edges decide how far a label reaches.

It finds x that minimises λ/2 Σ Ŵ_ij (x_i − x_j)² + Σ c_i (x_i − t_i)² over pixels, t the target, c the confidence, Ŵ the
bilateral affinity of the guide image. Pixels are gathered in vertices, cells of a grid in place and colour, and with
x = Sᵀy this is the linear system A y = b over the occupied vertices:

    A = λ (D_m − D_n B̄ D_n) + diag(S c)        b = S (c ∘ t)

S puts a pixel in its one vertex (hard assignment). B̄ is the *sum* over the five axes of [1 2 1], an absent neighbour
counting 0. n and m bistochastise it. As m = n ∘ B̄n, the diagonal of B̄ cancels: λ (D_m − D_n B̄ D_n) y is
λ n ∘ (d ∘ y − N (n ∘ y)), N the sum over the neighbours alone and d = N n. So it is computed here: it cannot turn negative.

Target 0…1 with confidence 1 and λ 128 is the solver as published. The public solver of this method writes its confidence
`2^16 - 1`, in Python 2 XOR 15 = 13, of 65535: a data term 5,041 times too weak, as if λ were 645,268.

There is no capacity: there are never more vertices (`bilateral_grid`) than pixels, and what follows them is compiled for a
few numbers of rows and runs with the least that holds the image's.

Axes: `h w` image, `v` vertex rows, the last of which is no vertex and holds 0, `o` labels or other channels.
"""

from __future__ import annotations

import math
from functools import partial
from typing import cast

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, UInt8

from pmljax.bilateral_grid import (
    DEFAULT,
    BilateralConfig,
    Smoothness,
    find_vertices,
    neighbour_sum,
    smoothness_of,
    splat,
    take,
)

# A CPU's time is that of the gathers, so rows that hold no vertex cost: 2^17 took 46 ms where 2^18 took 90 (25 steps, one
# channel). Each size is compiled too, half a second: beside one for all images these parts of the largest power of two below
# the pixels. 73 frames of DAVIS have .30 to .88 of it, two thirds of them less than half. Elsewhere, and for small images,
# there is one size.
SIZES = {"cpu": (1 / 2, 3 / 4)}
SMALL = 2**15


@partial(jax.jit, static_argnames="config")
def solve(
    image: UInt8[Array, "h w 3"],
    target: Float[Array, "h w o"],
    confidence: Float[Array, "h w"],
    config: BilateralConfig = DEFAULT,
) -> Float[Array, "h w o"]:
    """`target` made smooth where `image` is, and kept where `confidence` is high; all channels in one solve.

    image: RGB 0…255.  target: 0…1, or any.  confidence: ≥ 0; where a connected part of the grid has none, 0 comes out, and
    where all of it is far below 1e-3, float32's rounding shows. Half precision is made single first.
    Gradients (reverse mode) to target and confidence are those of the system's solution, by a second solve with as many
    steps, not those of the steps taken. For many frames use `lax.map`: under `vmap` every size compiled would run.
    """
    vertices = find_vertices(image, config)
    target, confidence = (x if x.dtype.itemsize >= 4 else x.astype(jnp.float32) for x in (target, confidence))
    h, w, o = target.shape

    def with_rows(rows: int, target: jax.Array, confidence: jax.Array) -> jax.Array:
        c = confidence[..., None]
        data = splat(vertices.of_pixel, jnp.concatenate([c * target, c, jnp.ones_like(c)], -1), rows)
        smoothness = smoothness_of(vertices, data[:, o + 1], config)
        y = _solve_system(smoothness, data[:, o], data[:, :o], config)
        return take(vertices.of_pixel, cast(jax.Array, y))

    sizes = _sizes(h * w)
    chosen = sum((vertices.count >= rows).astype(jnp.int32) for rows in sizes[:-1])
    return lax.switch(chosen, [partial(with_rows, rows) for rows in sizes], target, confidence)


# The system


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _solve_system(
    smoothness: Smoothness, weight: Float[Array, "v"], b: Float[Array, "v o"], config: BilateralConfig
) -> Float[Array, "v o"]:
    """y with A y = b, weight = S c, from y₀ = b / S c (0 where nothing is known)."""
    known = weight[:, None] > 0
    start = jnp.where(known, b / jnp.where(known, weight[:, None], 1), 0)
    return _conjugate_gradients(smoothness, weight, b, start, config)


def _solve_forward(smoothness, weight, b, config):
    y = _solve_system(smoothness, weight, b, config)
    return y, (smoothness, weight, y)


def _solve_backward(config, residuals, g):
    """A is symmetric: with u = A⁻¹ g, the gradient to b is u and to the diagonal −u ∘ y.

    A part of the grid without confidence has no inverse: a small weight there keeps its gradient finite.
    """
    smoothness, weight, y = residuals
    held = jnp.where((weight > 0) | (smoothness.n == 0), weight, config.diagonal_floor)
    u = _conjugate_gradients(smoothness, held, g, jnp.zeros_like(g), config)
    return None, -(u * y).sum(-1), u


_solve_system.defvjp(_solve_forward, _solve_backward)


def _conjugate_gradients(
    smoothness: Smoothness,
    weight: Float[Array, "v"],
    b: Float[Array, "v o"],
    start: Float[Array, "v o"],
    config: BilateralConfig,
) -> Float[Array, "v o"]:
    """Conjugate gradients, preconditioned by the diagonal; each channel has its own step lengths and its own end."""
    n, diagonal = smoothness.n[:, None], (smoothness.diagonal + weight)[:, None]
    inverse = 1 / jnp.maximum(diagonal, config.diagonal_floor)

    def apply(y: jax.Array) -> jax.Array:
        return diagonal * y - config.smoothness * n * neighbour_sum(smoothness.neighbours, n * y)

    def dot(x: jax.Array, y: jax.Array) -> jax.Array:
        """`[1, o]`. As a product of many rows at once: a sum of rows of few channels takes a CPU five times as long."""
        side = math.gcd(len(x), 512)
        return sums(sums((x * y).reshape(-1, side * x.shape[1])).reshape(side, -1))

    def sums(x: jax.Array) -> jax.Array:
        return jnp.matmul(jnp.ones((1, len(x)), x.dtype), x, precision="highest")

    def ratio(x: jax.Array, y: jax.Array) -> jax.Array:
        return jnp.where(y > 0, x / jnp.where(y > 0, y, 1), 0)

    enough = config.tolerance**2 * dot(b, b)

    def under_way(state):
        taken, (_, _, _, _, left) = state
        return (taken < config.steps) & jnp.any(left > enough)

    def step(state):
        taken, (y, r, p, rz, left) = state
        q = apply(p)
        along = jnp.where(left > enough, ratio(rz, dot(p, q)), 0)
        along = jnp.where(taken < 0, 1, along)
        y, r = y + along * p, r - along * q
        z = inverse * r
        new_rz, left = jnp.split(dot(jnp.concatenate([r, r], 1), jnp.concatenate([z, r], 1)), 2, 1)
        return taken + 1, (y, r, z + ratio(new_rz, rz) * p, new_rz, left)

    # The first is a step from 0 to `start`, whose residual would otherwise be compiled once more.
    none, all_left = jnp.zeros_like(enough), jnp.full_like(enough, jnp.inf)
    return lax.while_loop(under_way, step, (jnp.int32(-1), (jnp.zeros_like(b), b, start, none, all_left)))[1][0]


def _sizes(pixels: int) -> tuple[int, ...]:
    """The numbers of rows that are compiled, ascending; the last holds as many vertices as pixels."""
    parts = SIZES.get(jax.default_backend(), ()) if pixels >= SMALL else ()
    power = 1 << pixels.bit_length() - 1
    return (*(int(part * power) for part in parts), pixels + 1)

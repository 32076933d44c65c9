"""The grid of the bilateral solver: an image's pixels gathered in vertices by place and colour, and their ten neighbours.

A vertex lies in one cell of σ_space × σ_space pixels, so sorting the colours of each cell finds all of them. What the solver
(`bilateral`, where the formulas stand) makes of them: S, Sᵀ, N, and n with m = n ∘ B̄n.

Axes: `h w` image, `v` vertex rows, the last of which is no vertex and holds 0, `a` the ten neighbours (± along each
axis), `o` labels or other channels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int32, UInt8


@dataclass(frozen=True)
class BilateralConfig:
    """The grid, the weights and the steps; the defaults are the published ones."""

    sigma_luma: float = 4.0
    """Grey levels a vertex spans in Y, to a thousandth."""
    sigma_chroma: float = 4.0
    """The same in U and V."""
    sigma_space: int = 8
    """Pixels a vertex spans down and across."""
    smoothness: float = 128.0
    """λ."""
    steps: int = 25
    """Of conjugate gradients, at most."""
    tolerance: float = 1e-5
    """A channel is done when ‖b − A y‖ is at most this times ‖b‖."""
    diagonal_floor: float = 1e-5
    """The preconditioner divides by no less."""
    rounds: int = 10
    """Of bistochastisation."""
    border: int = 0
    """Pixels from a change of label over which `vote_confidence` rises to its full value. 0: borders count as all else;
    on true labels taken through stride 8, 14 frames of three training sequences, 4 and 8 made J worse at λ 128."""
    border_confidence: float = 0.1
    """Its factor at the change itself."""

    def __post_init__(self):
        for name in ("sigma_luma", "sigma_chroma", "sigma_space"):
            if not 0.001 <= getattr(self, name) <= 256:
                raise ValueError(f"{name}: found {getattr(self, name)}, expected .001…256")
        for name in ("smoothness", "tolerance", "diagonal_floor", "border_confidence"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name}: found {getattr(self, name)}, expected 0 or more")
        luma, chroma = self.levels
        if luma * chroma * chroma * self.sigma_space**2 + self.sigma_space**2 >= 2**31:
            raise ValueError(
                f"sigma_luma {self.sigma_luma}, sigma_chroma {self.sigma_chroma}, sigma_space {self.sigma_space}: found"
                " more colours × pixels of a cell than an int32 holds; expected coarser colours or smaller cells"
            )

    @property
    def levels(self) -> tuple[int, int]:
        """Levels of Y and of U, V, one more of each than can be occupied: a step past the end meets nobody."""
        return int(255 / self.sigma_luma) + 2, int(255.5 / self.sigma_chroma) + 2


DEFAULT = BilateralConfig()


class Vertices(NamedTuple):
    """The occupied vertices, ordered by cell (row by row) and then by colour.

    of_pixel: the vertex of each pixel, `[h, w]`.  colour: (Y, U, V) as one number, `[v]`; −1 where there is no vertex.
    cell: `[v]`.  first: the first vertex of each cell and, at the end, their number, `[cells + 1]`.
    """

    of_pixel: jax.Array
    colour: jax.Array
    cell: jax.Array
    first: jax.Array

    @property
    def count(self) -> Int32[Array, ""]:
        return self.first[-1]


class Smoothness(NamedTuple):
    """λ (D_m − D_n B̄ D_n), as y → diagonal ∘ y − λ n ∘ N (n ∘ y).

    neighbours: rows, `[a, v]`; an absent one is the last row.  n, diagonal: `[v]`, 0 where there is no vertex.
    """

    neighbours: jax.Array
    n: jax.Array
    diagonal: jax.Array


@partial(jax.jit, static_argnames="config")
def find_vertices(image: UInt8[Array, "h w 3"], config: BilateralConfig = DEFAULT) -> Vertices:
    """The occupied 5-tuples trunc(y/σ), trunc(x/σ), trunc(Y/σ), trunc(U/σ), trunc(V/σ); `h w + 1` rows."""
    h, w = image.shape[:2]
    s, area = config.sigma_space, config.sigma_space**2
    luma, chroma = config.levels
    nobody = luma * chroma * chroma  # the colour of what lies beyond the picture: above all others
    colour = jnp.pad(_colours(image, config), ((0, -h % s), (0, -w % s)), constant_values=nobody)
    down, across = colour.shape[0] // s, colour.shape[1] // s
    in_cells = colour.reshape(down, s, across, s).swapaxes(1, 2).reshape(down * across, area)
    # One number sorts and remembers the pixel. Sorting cells takes a third of the time of sorting the image.
    ordered = jnp.sort(in_cells * area + jnp.arange(area, dtype=jnp.int32)[None], -1, stable=False)
    colour, pixel = ordered // area, ordered % area
    new = (colour != jnp.pad(colour[:, :-1], ((0, 0), (1, 0)), constant_values=-1)) & (colour < nobody)
    so_far = jnp.cumsum(new, -1, dtype=jnp.int32)
    first = jnp.pad(jnp.cumsum(so_far[:, -1], dtype=jnp.int32), (1, 0))
    vertex = first[:-1, None] + so_far - 1  # [cells, area]
    cells = jnp.broadcast_to(jnp.arange(down * across, dtype=jnp.int32)[:, None], colour.shape)
    of_pixel = jnp.zeros(down * across * area, jnp.int32)
    of_pixel = of_pixel.at[(cells * area + pixel).ravel()].set(vertex.ravel(), unique_indices=True)
    of_pixel = of_pixel.reshape(down, across, s, s).swapaxes(1, 2).reshape(down * s, across * s)[:h, :w]
    rows = h * w + 1
    place = jnp.where(new, vertex, rows).ravel()
    return Vertices(
        of_pixel,
        jnp.full(rows, -1, jnp.int32).at[place].set(colour.ravel(), mode="drop"),
        jnp.zeros(rows, jnp.int32).at[place].set(cells.ravel(), mode="drop"),
        first,
    )


def _colours(image: UInt8[Array, "h w 3"], config: BilateralConfig) -> Int32[Array, "h w"]:
    """(Y, U, V) of JPEG, divided and truncated, as one number.

    Whole numbers, as the coefficients have six decimals: a grey pixel's U is 128 on every device, never 127.99999.
    """
    r, g, b = jnp.moveaxis(image.astype(jnp.int32), -1, 0)
    luma, chroma = (round(1000 * s) for s in (config.sigma_luma, config.sigma_chroma))
    y = (299 * r + 587 * g + 114 * b) // luma
    u = (-168736 * r - 331264 * g + 500000 * b + 128000000) // (1000 * chroma)
    v = (500000 * r - 418688 * g - 81312 * b + 128000000) // (1000 * chroma)
    return (y * config.levels[1] + u) * config.levels[1] + v


def neighbours_of(vertices: Vertices, rows: int, config: BilateralConfig = DEFAULT) -> Int32[Array, "a v"]:
    """The row of each vertex's neighbours at +1 and −1 along y, x, Y, U, V; the last row, `rows` − 1, where absent.

    rows: above the number of vertices.
    """
    across = -(-vertices.of_pixel.shape[1] // config.sigma_space)
    cells = vertices.first.shape[0] - 1
    cell, colour = vertices.cell[None, :rows], vertices.colour[None, :rows]
    row, last = jnp.arange(rows, dtype=jnp.int32)[None], rows - 1
    chroma = config.levels[1]
    # The five axes at once: [5, v]. A colour with one more V is the next number, and so on.
    to_cell = cell + jnp.array([[across], [1], [0], [0], [0]], jnp.int32)
    to_colour = colour + jnp.array([[0], [0], [chroma * chroma], [chroma], [1]], jnp.int32)
    inside = (to_cell < cells) & ((cell % across != across - 1) | (jnp.arange(5) != 1)[:, None])
    to_cell = jnp.minimum(to_cell, cells - 1)
    end = _rows(vertices.first, to_cell + 1)

    def halve(_, bounds):
        low, high = bounds
        middle = (low + high) // 2
        before = (low < high) & (_rows(colour[0], jnp.minimum(middle, last)) < to_colour)
        return jnp.where(before, middle + 1, low), jnp.where(before, high, middle)

    # Bisection among the vertices of one cell: at most σ_space² of them.
    low, _ = lax.fori_loop(0, (config.sigma_space**2).bit_length(), halve, (_rows(vertices.first, to_cell), end))
    met = inside & (row < vertices.count) & (low < end) & (_rows(colour[0], jnp.minimum(low, last)) == to_colour)
    axis = jnp.arange(5, dtype=jnp.int32)[:, None]
    place = jnp.where(met, axis * rows + low, 5 * rows).ravel()
    back = jnp.full(5 * rows, last, jnp.int32)
    back = back.at[place].set(jnp.broadcast_to(row, (5, rows)).ravel(), mode="drop", wrap_negative_indices=False)
    return jnp.stack([jnp.where(met, low, last), back.reshape(5, rows)], 1).reshape(10, rows)


def splat(of_pixel: Int32[Array, "h w"], x: Float[Array, "h w o"], rows: int) -> Float[Array, "v o"]:
    """S x: the sum over each vertex's pixels."""
    o = x.shape[-1]
    sums = jnp.zeros((rows, o), x.dtype).at[of_pixel.ravel()]
    return sums.add(x.reshape(-1, o), mode="promise_in_bounds", wrap_negative_indices=False)


def take(of_pixel: Int32[Array, "h w"], y: Float[Array, "v o"]) -> Float[Array, "h w o"]:
    """Sᵀ y: each pixel's vertex (slicing)."""
    return _rows(y, of_pixel)


def neighbour_sum(neighbours: Int32[Array, "a v"], y: Float[Array, "v o"]) -> Float[Array, "v o"]:
    """N y, for y whose last row is 0. B̄ y is 10 y + N y.

    Ten gathers of rows that one loop adds up; one gather of `[a, v]` and a sum took five times as long.
    """
    return sum((_rows(y, i) for i in neighbours[1:]), _rows(y, neighbours[0]))


def _rows(x: jax.Array, i: Int32[Array, "..."]) -> jax.Array:
    """x[i], for rows that there are: what indexing does for other numbers would be compiled for each of its uses."""
    return x.at[i].get(mode="promise_in_bounds", wrap_negative_indices=False)


def bistochastise(
    neighbours: Int32[Array, "a v"], pixels: Float[Array, "v"], rounds: int
) -> tuple[Float[Array, "v"], Float[Array, "v"]]:
    """(n, N n): n ← sqrt(n ∘ m / B̄n) from n = 1, m the vertices' pixels. After it, m = n ∘ B̄n = n ∘ (10 n + N n)."""

    def once(i, state):
        n, around = state
        blurred = 10 * n + around
        better = jnp.where(pixels > 0, jnp.sqrt(n * pixels / jnp.where(pixels > 0, blurred, 1)), 0)
        n = jnp.where(i > 0, better, n)
        return n, neighbour_sum(neighbours, n[:, None])[:, 0]

    # At 0 for N 1 alone: before the loop the ten gathers would be compiled a second time.
    ones = (pixels > 0).astype(pixels.dtype)
    return lax.fori_loop(0, rounds + 1, once, (ones, jnp.zeros_like(ones)))


def smoothness_of(vertices: Vertices, pixels: Float[Array, "v"], config: BilateralConfig) -> Smoothness:
    """The bistochastised smoothness of a grid. pixels: of each vertex; more of them than there are vertices."""
    neighbours = neighbours_of(vertices, pixels.shape[0], config)
    n, around = bistochastise(neighbours, pixels, config.rounds)
    return Smoothness(neighbours, n, config.smoothness * n * around)

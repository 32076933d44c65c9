"""What is remembered longer than the last frames: cells in and around the objects, of frames spread over all that was seen.

The last frames know what an object looks like now, the user's pixels what it looked like first; a side that it turned away, or
what was covered for a while, only what lies between. Those rows are searched everywhere, as if a little further (FURTHER).
Axes: `y x` grid, `q` = y·x cells, `d` embedding, `o` label column.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

SPARSE = 5  # every how many-th frame is kept of, while there is room: then every tenth, twentieth, … (`slot_of`)
CELLS = 512  # of each, at most
PRESENT = 0.1  # an object is in a cell that has as much of it
AROUND = 2  # cells around those: what is kept tells the object from what is beside it
FURTHER = 1 / 16  # added to their squared distances, of unit vectors: where the last frames know as well, those count


class Kept(NamedTuple):
    """cell: int32 `[n]`, of the grid.  valid: bool `[n]`, false where fewer cells than n may be kept."""

    cell: jax.Array
    valid: jax.Array


def cells_kept(cells: int) -> int:
    """How many cells are kept of a frame of `cells`."""
    return min(CELLS, cells)


def slot_of(number: Int[Array, ""], there: Int[Array, "n"]) -> tuple[Int[Array, ""], Bool[Array, ""]]:
    """(the slot that frame `number` of those that may be kept, 1, 2, 3, …, takes, whether it takes one).

    there: the numbers of the frames in the slots, −1 where nothing is kept.  Where there is room it is taken. Else of those
    whose numbers have the fewest factors of two the oldest goes, for one that has more: the frames that are kept span all that
    was seen, every one at first, then every second, every fourth, …
    """

    def twos(n: Int[Array, "..."]) -> Int[Array, "..."]:
        """The largest power of two that divides n."""
        return jnp.where(n > 0, n & -n, jnp.iinfo(jnp.int32).max)

    room = there < 0
    fewest = twos(there).min()  # of what is not there, the most
    going = jnp.where(room, -1, jnp.where(twos(there) == fewest, there, jnp.iinfo(jnp.int32).max))
    return going.argmin().astype(jnp.int32), room.any() | (twos(number) > fewest)


def choose(shares: Float[Array, "y x o"], joins: Bool[Array, "q"], index: Int[Array, ""]) -> Kept:
    """Which cells of the frame `index` are kept: of those that join and lie in or near an object, as many as there is room for,
    spread evenly (by multiples of the golden ratio, others in every frame)."""
    y, x, _ = shares.shape
    near = around(shares[..., 1:].max(-1, keepdims=True) > PRESENT, AROUND).ravel()
    turn = jnp.arange(y * x, dtype=jnp.uint32) * 40503 + index.astype(jnp.uint32) * 27146  # of 2¹⁶: φ − 1, √2 − 1
    rank = jnp.where(near & joins, (turn % 65536).astype(jnp.int32), -1)
    best, cell = jax.lax.top_k(rank, cells_kept(y * x))
    return Kept(cell, best >= 0)


def around(where: Bool[Array, "y x o"], radius: int) -> Bool[Array, "y x o"]:
    """Whether it holds for any cell at most `radius` rows and columns away."""
    side = 2 * radius + 1
    for window in ((side, 1, 1), (1, side, 1)):
        where = jax.lax.reduce_window(where, False, jax.lax.bitwise_or, window, (1, 1, 1), "same")
    return where

"""The nearest marked cells of every cell, kept up to date as marked cells come and go.

All distances are whole numbers (`embedded`), and of equal ones the lower place stands first: what is kept depends on the set of
marked cells alone, and equals a search from scratch to the last bit.
Axes: `n` cell, `k` neighbour, `m` marked cell, `o` label column, `d` embedding.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float16, Int32, UInt8

from pmljax.retrieval import Neighbours, nearest

FEW = 8  # marked cells that are compared one by one with every cell, without a matrix product
EMPTY = 2**31 - 1  # the place of no neighbour: behind every other


class Answer(NamedTuple):
    """Of the cells of one chunk. distances: float32 `[n, k]`, nearest first, inf where there is none.  places: int32 `[n, k]`,
    frame·c + cell of those neighbours, EMPTY where there is none.  marked: the places that were compared with, ascending."""

    distances: jax.Array
    places: jax.Array
    marked: Int32[np.ndarray, "m"]


def nothing(cells: int, k: int) -> tuple[jax.Array, jax.Array]:
    return jnp.full((cells, k), jnp.inf, jnp.float32), jnp.full((cells, k), EMPTY, jnp.int32)


@jax.jit
def add(
    embeddings: Float16[Array, "n d"],
    distances: Float[Array, "n k"],
    places: Int32[Array, "n k"],
    rows: Float16[Array, "m d"],
    marked: Int32[Array, "m"],
) -> tuple[Float[Array, "n k"], Int32[Array, "n k"]]:
    """The k nearest of those there and of `rows`; of equal distances the lower place. EMPTY rows do not count."""
    q, r = embeddings.astype(jnp.float32), rows.astype(jnp.float32)
    if len(marked) <= FEW:
        candidates = [
            (jnp.sum((q - one[None]) ** 2, -1), jnp.full(len(q), at)) for one, at in zip(r, marked, strict=True)
        ]
        for candidate in candidates:
            distances, places = _insert(distances, places, *candidate)
        return distances, places
    found: Neighbours = nearest(q, r, marked != EMPTY, k=distances.shape[1])
    at = jnp.where(found.rows < 0, EMPTY, marked[jnp.maximum(found.rows, 0)])
    columns = (jnp.moveaxis(found.distances, -1, 0), jnp.moveaxis(at, -1, 0))
    return jax.lax.scan(lambda best, one: (_insert(*best, *one), None), (distances, places), columns)[0]


def _insert(
    distances: Float[Array, "n k"], places: Int32[Array, "n k"], distance: Float[Array, "n"], place: Int32[Array, "n"]
):
    """One candidate a cell put where it belongs; what it pushes out of the k is gone."""
    distance, place = jnp.where(place == EMPTY, jnp.inf, distance)[:, None], place[:, None]
    before = (distance < distances) | ((distance == distances) & (place < places))
    after = jnp.pad(before, ((0, 0), (1, 0)))[:, :-1]  # of the neighbour before: then that one moves here

    def moved(x: Array, new: Array) -> Array:
        return jnp.where(after, jnp.roll(x, 1, -1), jnp.where(before, new, x))

    return moved(distances, distance), moved(places, place)


@jax.jit
def have(places: Int32[Array, "n k"], gone: Int32[Array, "m"]) -> Array:
    """Whether one of a cell's neighbours is among `gone`, ascending."""
    at = jnp.minimum(jnp.searchsorted(gone, places), len(gone) - 1)
    return ((gone[at] == places) & (places != EMPTY)).any(-1)


@jax.jit
def search_anew(
    embeddings: Float16[Array, "n d"],
    distances: Float[Array, "n k"],
    places: Int32[Array, "n k"],
    cells: Int32[Array, "c"],
    rows: Float16[Array, "m d"],
    marked: Int32[Array, "m"],
) -> tuple[Float[Array, "n k"], Int32[Array, "n k"]]:
    """The k nearest of `rows` for some cells, in place of what they had."""
    found = add(embeddings[cells], *nothing(len(cells), distances.shape[1]), rows, marked)
    return distances.at[cells].set(found[0]), places.at[cells].set(found[1])


@partial(jax.jit, static_argnames="labels")
def votes(
    places: Int32[Array, "n k"], marked: Int32[Array, "m"], columns: Int32[Array, "m"], *, labels: int
) -> Float[Array, "n o"]:
    """The mean over a cell's neighbours of their labels."""
    there = places != EMPTY
    of = columns[jnp.minimum(jnp.searchsorted(marked, places), len(marked) - 1)]
    each = jnp.where(there[..., None], jax.nn.one_hot(of, labels, dtype=jnp.float32), 0)
    return each.sum(1) / jnp.maximum(there.sum(-1, keepdims=True, dtype=jnp.float32), 1)


@jax.jit
def cell_labels(
    places: Int32[Array, "n k"], marked: Int32[Array, "m"], columns: Int32[Array, "m"], ids: UInt8[Array, "o"]
) -> UInt8[Array, "n"]:
    return ids[votes(places, marked, columns, labels=len(ids)).argmax(-1)]

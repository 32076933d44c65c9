"""The nearest marked cells of every cell, kept up to date as marked cells come and go.

All distances are whole numbers (`embedded`), and of equal ones the lower place stands first: what is kept depends on the set of
marked cells alone, and equals a search from scratch to the last bit.
Axes: `n` cell, `k` neighbour, `m` marked cell, `o` label column, `d` embedding.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float16, Int32, UInt8

from pmljax.retrieval import Neighbours, nearest

FEW = 24  # marked cells that are compared one by one with every cell: 2 ms each (51,000 cells, k 10), where 128 at once take 73
WHOLE = (
    2.0**16
)  # what the nearest neighbour's vote weighs; the sum of fifty stays under 2²⁴, where float32 adds exactly
ENTRIES, FINE = (
    4096,
    128,
)  # of the table of weights; entries a temperature (or up to twice as many), so that the last are 0
ANEW = 4096  # cells that are searched anew at once
EMPTY = 2**31 - 1  # the place of no neighbour: behind every other


class Answer(NamedTuple):
    """Of the cells of one chunk. distances: float32 `[n, k]`, nearest first, inf where there is none.  places: int32 `[n, k]`,
    frame·c + cell of those neighbours, EMPTY where there is none.  marked: the places that were compared with, ascending."""

    distances: jax.Array
    places: jax.Array
    marked: Int32[np.ndarray, "m"]

    @property
    def bytes(self) -> int:
        return self.distances.nbytes + self.places.nbytes


def nothing(cells: int, k: int) -> tuple[jax.Array, jax.Array]:
    return jax.device_put((np.full((cells, k), np.inf, np.float32), np.full((cells, k), EMPTY, np.int32)))


@jax.jit
def add(
    embeddings: Float16[Array, "n d"],
    distances: Float[Array, "n k"],
    places: Int32[Array, "n k"],
    rows: Float16[Array, "m d"],
    marked: Int32[Array, "m"],
) -> tuple[Float[Array, "n k"], Int32[Array, "n k"]]:
    """The k nearest of those there and of `rows`; of equal distances the lower place. EMPTY rows do not count."""
    if len(marked) <= FEW:
        q = embeddings.astype(jnp.float32)

        def one(best: tuple[Array, Array], row: tuple[Array, Array]):
            distance = jnp.sum((q - row[0].astype(jnp.float32)[None]) ** 2, -1)
            return _insert(*best, distance, jnp.full(len(q), row[1])), None

        return jax.lax.scan(one, (distances, places), (rows, marked))[0]
    found = search(embeddings, rows, marked, k=distances.shape[1])
    columns = tuple(jnp.moveaxis(x, -1, 0) for x in found)
    return jax.lax.scan(lambda best, one: (_insert(*best, *one), None), (distances, places), columns)[0]


@partial(jax.jit, static_argnames="k")
def search(
    embeddings: Float16[Array, "n d"], rows: Float16[Array, "m d"], marked: Int32[Array, "m"], *, k: int
) -> tuple[Float[Array, "n k"], Int32[Array, "n k"]]:
    """The k nearest of `rows`, whose places ascend; of equal distances the lower place. EMPTY rows do not count."""
    found: Neighbours = nearest(embeddings.astype(jnp.float32), rows.astype(jnp.float32), marked != EMPTY, k=k)
    return found.distances, jnp.where(found.rows < 0, EMPTY, marked[jnp.maximum(found.rows, 0)])


def _insert(
    distances: Float[Array, "n k"], places: Int32[Array, "n k"], distance: Float[Array, "n"], place: Int32[Array, "n"]
) -> tuple[Array, Array]:
    """One candidate a cell put where it belongs; what it pushes out of the k is gone."""
    distance, place = jnp.where(place == EMPTY, jnp.inf, distance)[:, None], place[:, None]
    before = (distance < distances) | ((distance == distances) & (place < places))
    after = jnp.pad(before, ((0, 0), (1, 0)))[:, :-1]  # of the neighbour before: then that one moves here

    def moved(x: Array, new: Array) -> Array:
        return jnp.where(after, jnp.roll(x, 1, -1), jnp.where(before, new, x))

    return moved(distances, distance), moved(places, place)


@jax.jit
def remove(
    distances: Float[Array, "n k"], places: Int32[Array, "n k"], gone: Int32[Array, "m"]
) -> tuple[Float[Array, "n k"], Int32[Array, "n k"]]:
    """The neighbours without those at `gone`, for cells that have all there are. EMPTY ones do not count."""

    def one(best: tuple[Array, Array], place: Array):
        from_here = jnp.cumsum((best[1] == place) & (place != EMPTY), -1) > 0

        def moved(x: Array, none: Any) -> Array:
            return jnp.where(from_here, jnp.pad(x[:, 1:], ((0, 0), (0, 1)), constant_values=none), x)

        return (moved(best[0], jnp.inf), moved(best[1], EMPTY)), None

    return jax.lax.scan(one, (distances, places), gone)[0]


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
    found = search(embeddings[cells], rows, marked, k=distances.shape[1])
    return distances.at[cells].set(found[0]), places.at[cells].set(found[1])


def updated(
    before: Answer | None,
    cells: int,
    embeddings: Callable[[], Float16[Array, "n d"]],
    marked: Int32[np.ndarray, "m"],
    rows: Float16[np.ndarray, "m d"],
    k: int,
) -> Answer:
    """The answer of a chunk of `cells` cells to what is marked now, from the one before, if there is one.

    embeddings: of the chunk's cells, asked for where they are needed.  rows: the embeddings of the cells at `marked`.
    """
    old = before.marked if before else marked[:0]
    come = ~np.isin(marked, old, assume_unique=True)
    gone = old[~np.isin(old, marked, assume_unique=True)]
    if before is None or come.sum() + len(gone) >= len(marked):
        return Answer(*_from_scratch(embeddings, cells, marked, rows, k), marked)
    found, lost = (before.distances, before.places), marked[:0]
    if len(old) <= k and len(gone) <= FEW:  # every cell has all there are as its neighbours
        found = remove(*found, _few(gone)) if len(gone) else found
    elif len(gone):
        lost = np.flatnonzero(np.asarray(have(found[1], filled(gone, power(len(gone), FEW)))))
        if 2 * len(lost) > cells:
            return Answer(*_from_scratch(embeddings, cells, marked, rows, k), marked)
    if not come.any() and not len(lost):
        return Answer(found[0], found[1], marked)
    here = embeddings()
    if come.any():
        found = add(here, *found, *_some(rows, marked, come))
    every = _some(rows, marked, np.ones(len(marked), bool))
    for begin in range(0, len(lost), ANEW):
        some = filled(lost[begin : begin + ANEW], ANEW, lost[begin])  # filled up with one cell again and again
        found = search_anew(here, *found, some, *every)
    return Answer(found[0], found[1], marked)


def _from_scratch(
    embeddings: Callable[[], jax.Array], cells: int, marked: np.ndarray, rows: np.ndarray, k: int
) -> tuple[jax.Array, jax.Array]:
    every = _some(rows, marked, np.ones(len(marked), bool))
    if len(marked) > FEW:
        return search(embeddings(), *every, k=k)
    return add(embeddings(), *nothing(cells, k), *every) if len(marked) else nothing(cells, k)


def _some(rows: np.ndarray, marked: np.ndarray, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(embeddings, places) of chosen marked cells, filled up."""
    places = _few(marked[chosen])
    out = np.zeros((len(places), rows.shape[1]), np.float16)
    out[: chosen.sum()] = rows[chosen]
    return out, places


def _few(places: np.ndarray) -> np.ndarray:
    """Filled up to 1, 8, FEW, or a power of two."""
    n = len(places)
    return filled(places, 1 if n == 1 else 8 if n <= 8 else FEW if n <= FEW else power(n, 128))


def filled(places: np.ndarray, size: int, value: int | np.integer = EMPTY) -> Int32[np.ndarray, "m"]:
    """`places` filled up to `size`, so that few sizes are compiled."""
    out = np.full(size, value, np.int32)
    out[: len(places)] = places
    return out


def power(n: int, least: int) -> int:
    """The power of two from n up, at least `least`."""
    return max(1 << max(n - 1, 0).bit_length(), least)


# The vote


class Weighing(NamedTuple):
    """What a neighbour's vote weighs, by how much further than the nearest it is: `table[⌊distance/step⌋]`, 0 beyond its end.

    A table of whole numbers, not the exponential: so a vote too is the same to the last bit wherever it is computed.
    first: what the nearest weighs besides, so that of two that share a step its label wins.  clicks: whether they weigh
    more, as `weights_of` says.
    """

    step: np.float32
    table: Float[np.ndarray, "e"]
    first: np.float32
    clicks: np.bool_


def weighing_of(temperature: float | None) -> Weighing:
    """exp(−distance/temperature), WHOLE for the nearest; None: the same for all. temperature: in the distances' units."""
    if temperature is None:
        return Weighing(np.float32(1), np.full(ENTRIES, WHOLE, np.float32), np.float32(0), np.False_)
    step = 2.0 ** max(math.floor(math.log2(temperature / FINE)), 0)  # a division by it does not round
    table = np.round(WHOLE * np.exp(-np.arange(ENTRIES) * step / temperature)).astype(np.float32)
    return Weighing(np.float32(step), table, np.float32(1), np.True_)


class Marked(NamedTuple):
    """All that is marked, filled up. places: ascending, then EMPTY.  columns: of their labels.  clicked: whether it was a click
    that marked them last."""

    places: Int32[Array | np.ndarray, "m"]
    columns: Int32[Array | np.ndarray, "m"]
    clicked: Bool[Array | np.ndarray, "m"]


@jax.jit
def weights_of(
    distances: Float[Array | np.ndarray, "n k"],
    places: Int32[Array | np.ndarray, "n k"],
    weighing: Weighing,
    marked: Marked,
) -> tuple[Float[Array, "n k"], Int32[Array, "n k"]]:
    """(how much each neighbour's vote weighs, a whole number, 0 where there is none; the column of its label).

    Where clicks weigh more, one does as much as k cells of a scribble, a box or a mask (`clicks_weigh`): those outnumber a few
    clicks, and would take the whole picture.
    """
    there = jnp.isfinite(distances)
    at = jnp.minimum(jnp.searchsorted(marked.places, places), len(marked.places) - 1)
    of, clicked = jnp.asarray(marked.columns)[at], jnp.asarray(marked.clicked)[at]
    beyond = jnp.where(there, distances - distances[:, :1], 0)
    at = jnp.minimum(beyond / weighing.step, ENTRIES - 1).astype(jnp.int32)
    weights = jnp.asarray(weighing.table)[at].at[:, 0].add(weighing.first)
    weights *= jnp.where(weighing.clicks & clicked, clicks_weigh(distances.shape[1]), 1)
    return jnp.where(there, weights, 0), of


def clicks_weigh(k: int) -> int:
    """As how many cells of a line a click weighs: k; of more than 15 neighbours so many that the sum of all stays under 2²⁴."""
    return max(min(k, int(2**24 / (WHOLE + 1)) // k), 1)


def _votes(
    distances: Float[Array, "n k"], places: Int32[Array, "n k"], weighing: Weighing, marked: Marked, labels: int
) -> Float[Array, "n o"]:
    weights, of = weights_of(distances, places, weighing, marked)
    each = weights[..., None] * jax.nn.one_hot(of, labels, dtype=jnp.float32)
    return each.sum(1) / jnp.maximum(weights.sum(-1, keepdims=True), 1)


@partial(jax.jit, static_argnames=("cells", "labels"))
def votes(
    distances: Float[Array, "n k"],
    places: Int32[Array, "n k"],
    frame: Int32[Array, ""],
    weighing: Weighing,
    marked: Marked,
    *,
    cells: int,
    labels: int,
) -> Float[Array, "c o"]:
    """Each label's share of the weights of a cell's neighbours, for the cells of a chunk's frame number `frame`."""
    distances, places = (jax.lax.dynamic_slice_in_dim(x, frame * cells, cells) for x in (distances, places))
    return _votes(distances, places, weighing, marked, labels)


@jax.jit
def cell_labels(
    distances: Float[Array, "n k"],
    places: Int32[Array, "n k"],
    weighing: Weighing,
    marked: Marked,
    ids: UInt8[Array, "o"],
) -> UInt8[Array, "n"]:
    return ids[_votes(distances, places, weighing, marked, len(ids)).argmax(-1)]

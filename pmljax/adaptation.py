"""Online adaptation: pixels of frames already labelled join the references, under the labels that they were given.

The last rows of `References` are a ring of whole frames: the newest takes the place of the oldest (or some stay longer:
`Adaptation.older`), the user's rows, which come first, are never touched, and no shape grows. The paper's rule lets a pixel
join where all its neighbours agree; beyond it, whole frames join with their soft labels, searched only near each query.
Between the two are the cells that are remembered longer (`memory`).
Axes: `y x` grid, `q` = y·x queries, `r` reference row, `k` neighbours, `o` label column.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from pmljax.augmented import VIEWS
from pmljax.errors import InputError
from pmljax.memory import FURTHER, SPARSE, around, cells_kept, choose, slot_of
from pmljax.references import References, places, put
from pmljax.retrieval import Metric, Neighbours, merge, nearest, nearest_in_window
from pmljax.separation import separating

APART = 4  # every how many-th frame is kept longer: beside 8 and 16 the best of what was tried (experiments/README.md)
LOST = 10  # a label with fewer than one in so many of the cells that the user marked is not followed but looked for
TRACE = 0.1  # less than that share of a cell is not made the whole of it
ELSEWHERE = 4  # nor one that has so many times as much out of reach as within: there it is, and here a remnant,
REMNANT = 2  # if it has so many times as much as each of the last frames had: look-alikes wait while it is covered for a moment
SOLID = 3  # a place where a label was is one with so many of its nine cells: from specks nothing spreads
TILE = 16_384  # the user's cells of a mask at 640 lines, or the memory's, at once: in two tiles a third longer
ROWS = 128  # each part of the references is padded to a multiple: the tile of `nearest`


@dataclass(frozen=True)
class Adaptation:
    """Which pixels of which frames join."""

    frames: int = 0
    """How many frames' pixels are references: the last ones, but for `older`; 0: none, the user's alone."""
    window: int | None = None
    """Rows and columns of the grid around a query in which they are searched. None: everywhere."""
    rule: Literal["all", "unanimous"] = "all"
    """all: every pixel, with the shares of its vote.  unanimous: those whose neighbours all have one label, with it."""
    every: int = 1
    """Every n-th frame of the stream joins; `frames` of those are kept."""
    older: int = 0
    """How many of `frames` are older: of those that leave the last ones, every fourth (APART) stays, until so many newer
    ones do (the stream's first frames, until then). What something else covered for some frames is then known again."""
    memory: int = 0
    """Of how many frames some cells are remembered longer: every fifth in which anything that is followed is in sight; once
    there is no room, every tenth, then every twentieth, … (`pmljax/memory.py`)."""
    augmented: int = 0
    """Of how many other views of the first marked frame (`pmljax/augmented.py`: VIEWS) some cells are remembered too (without
    `frames` they count as the user's own); networks that see a position, or frames at a size of their own, are shown none."""
    bound: float | None = None
    """The largest distance to the nearest reference with which a pixel still joins (to the memory's with what is added to
    those, FURTHER: without it .005 less, experiments/README.md). None: any."""
    drift: float | None = None
    """The largest distance to the nearest of the user's own rows with which it does: from frame to frame labels may
    wander, but not away from everything that the user marked. None: any."""
    reach: int | None = None
    """Rows and columns of the grid around the cells that had a label in the frames kept, beyond which no cell is given it
    while it is anywhere in them: things that look alike elsewhere stay what they are. None: no such limit."""
    erosion: int = 0
    """Cells on either side of a border between labels that do not join."""

    def __post_init__(self):
        whole = (self.frames, self.every, self.older, self.memory, self.augmented, self.erosion)
        whole += (self.window or 0, self.reach or 0)
        if not all(isinstance(n, int | np.integer) for n in whole) or self.rule not in ("all", "unanimous"):
            raise InputError(f"{self}: expected whole numbers, and all or unanimous as rule")
        low = (*whole[:1], self.every - 1, *whole[2:])
        if min(low) < 0 or not all(b is None or b > 0 for b in (self.bound, self.drift)):
            raise InputError(
                f"{self}: expected frames, window, reach, older, memory and erosion from 0 up, every from 1 up, bound and"
                " drift above 0"
            )
        if self.older >= max(self.frames, 1):
            raise InputError(f"{self}: expected fewer older frames than frames, so that the last one is among them")
        if not 0 <= self.augmented <= len(VIEWS):
            raise InputError(f"{self}: expected augmented 0…{len(VIEWS)}")
        if (self.memory and not self.frames) or (self.remembered and self.drift is not None):
            raise InputError(f"{self}: expected frames above 0, and no drift, with a memory")

    @property
    def remembered(self) -> int:
        """Of how many frames and views cells are remembered."""
        return self.memory + self.augmented

    def ring(self, cells: int) -> int:
        """Rows of the references that the ring takes for a grid of `cells`."""
        return -(-self.frames * cells // ROWS) * ROWS

    def rows(self, cells: int) -> int:
        """Rows that come after the user's: the memory's, those of the views, then the ring's."""
        return self.ring(cells) + -(-self.remembered * cells_kept(cells) // ROWS) * ROWS


class Found(NamedTuple):
    """neighbours: the k nearest of all references.  away: distance to the nearest of the user's rows, `[q]`."""

    neighbours: Neighbours
    away: jax.Array


def search(
    embedding: Float[Array, "y x d"],
    references: References,
    adaptation: Adaptation,
    *,
    k: int,
    metric: Metric,
    stretch: float = 0.0,
) -> Found:
    """The k nearest references of every cell: the user's and the memory's everywhere, those of the ring within the window.
    Without a ring there is no memory, and the views of what the user marked are as near as what he marked.

    stretch: of the distances to the user's rows and the memory's, along what separates the user's labels (`separation`).
    """
    y, x, d = embedding.shape
    queries, n = embedding.reshape(-1, d), adaptation.frames
    user = references.valid.shape[0] - adaptation.rows(y * x)
    begin = references.valid.shape[0] - adaptation.ring(y * x)
    if user <= 0 or references.embedding.shape[1] != d:
        found = f"{references.valid.shape[0]} rows of {references.embedding.shape[1]}"
        raise InputError(
            f"references: found {found}, expected more than {adaptation.rows(y * x)} of {d}: those of a stream begun with this"
            " network, preset and size"
        )
    asking, rows, valid = queries, references.embedding[:begin], references.valid[:begin]
    if metric != "l2" and (stretch or (n and adaptation.remembered)):
        raise InputError(f"metric {metric}: expected l2 with a {'stretch' if stretch else 'memory'}")
    if stretch:
        by = separating(rows[:user], references.share[:user], valid[:user], stretch)
        asking, rows = (jnp.matmul(e, by, precision="highest") for e in (queries, rows))
    own = user if n else begin
    marked = nearest(asking, rows[:own], valid[:own], k=k, metric=metric, reference_tile=TILE)
    away = marked.distances[:, 0]
    if not n:
        return Found(marked, away)
    if adaptation.window is None:
        made = nearest(queries, references.embedding[begin:], references.valid[begin:], k=k, metric=metric)
    elif metric != "l2":
        raise InputError(f"metric {metric}: expected l2 with a window")
    else:
        ring = slice(begin, begin + n * y * x)
        made = nearest_in_window(
            embedding,
            references.embedding[ring].reshape(n, y, x, d),
            references.valid[ring].reshape(n, y, x),
            k=k,
            radius=adaptation.window,
        )
    if adaptation.remembered:
        # Where k of the last frames' cells are nearer than anything of it can be, it need not be asked: in most places.
        where = (made.distances[:, -1] >= FURTHER) & valid[user:].any()
        kept = nearest(asking, rows[user:], valid[user:], where=where, k=k, reference_tile=TILE)
        marked = merge(marked, kept._replace(distances=kept.distances + FURTHER), user)
    return Found(merge(marked, made, begin), away)


def within_reach(
    shares: Float[Array, "q o"],
    references: References,
    grid: tuple[int, int],
    index: Int[Array, ""],
    adaptation: Adaptation,
) -> Float[Array, "q o"]:
    """What a frame's cells voted, without the labels that could not have come to where the cell is: their share goes to the
    cell's other labels, each as it has of them, or to the background where those have less than a tenth (TRACE) in all.

    index: of the frame.  Where a label was: in the frames of the ring, older ones too, each cell's largest, and what the user
    marked on the last `frames`·`every` frames; specks do not count (`_solid`). Where no recent mask has it, it is lost, and may
    come back anywhere: when no frame of the ring has a tenth (LOST) of the cells that it has in the largest of the user's
    masks, or when this frame has that many out of reach, less than a quarter of those (ELSEWHERE) within, and none of the last
    frames had half of them (REMNANT).
    """
    if adaptation.reach is None or not adaptation.frames:
        return shares
    (y, x), o = grid, shares.shape[-1]
    begin, after = (references.valid.shape[0] - of(y * x) for of in (adaptation.rows, adaptation.ring))
    has = jax.nn.one_hot(references.share.argmax(-1), o, dtype=bool)
    ring = has[after : after + adaptation.frames * y * x].reshape(-1, y * x, o)
    marked = has[:begin] & references.valid[:begin, None]
    place = references.place[:begin]
    oldest = index - adaptation.frames * adaptation.every
    cell = jnp.where(place[:, 0] >= oldest, place[:, 1] * x + place[:, 2], y * x)  # older: beyond the grid, dropped
    recent = jnp.zeros((y * x, o), bool).at[cell].max(marked, mode="drop")

    masks = marked[: begin // (y * x) * y * x].reshape(-1, y * x, o)  # one after the other, as they were given
    most = masks.sum(1, dtype=jnp.int32).max(0)
    was = jax.vmap(_solid)(ring.reshape(-1, y, x, o)).any(0) | _solid(recent.reshape(y, x, o))
    near = around(was, adaptation.reach).reshape(-1, o)
    voted = jax.nn.one_hot(shares.argmax(-1), o, dtype=bool)
    within, beyond = ((voted & where).sum(0, dtype=jnp.int32) for where in (near, ~near))
    had = ring.sum(1, dtype=jnp.int32)
    frame = references.place[after : after + adaptation.frames * y * x : y * x, 0]
    newest = frame >= index - (adaptation.frames - adaptation.older) * adaptation.every
    lately = jnp.where(newest[:, None], had, 0).max(0)
    elsewhere = (ELSEWHERE * within < beyond) & (REMNANT * lately < beyond) & (LOST * beyond > most)
    lost = ((LOST * had.max(0) < most) | elsewhere) & ~recent.any(0)
    kept = jnp.where(near | lost.at[0].set(True)[None], shares, 0)  # the background may be anywhere
    given, left = shares.sum(-1), kept.sum(-1)
    enough = left > TRACE * given
    by = jnp.where(enough, given / jnp.where(enough, left, 1), 0)  # exactly 1 where all may stay
    return (kept * by[:, None]).at[:, 0].add(jnp.where(enough, 0, given))


def adapt(
    references: References,
    embedding: Float[Array, "y x d"],
    found: Found,
    shares: Float[Array, "q o"],
    index: Int[Array, ""],
    adaptation: Adaptation,
) -> References:
    """The references after the frame `index` of the stream, whose cells voted `shares`; one frame leaves (`leaving`)."""
    y, x, d = embedding.shape
    cells = y * x
    if not adaptation.frames:
        return references
    share, nearest_of_all = shares, found.neighbours.distances[:, 0]
    joins = _near(nearest_of_all, adaptation.bound) & _near(found.away, adaptation.drift)
    if adaptation.rule == "unanimous":
        share, agreed = _unanimous(found.neighbours, references.share)
        joins &= agreed
    if adaptation.erosion:
        joins &= _inside(shares.argmax(-1).reshape(y, x), adaptation.erosion).ravel()
    begin = references.valid.shape[0] - adaptation.ring(cells)
    at = begin + leaving(references.place[begin : begin + adaptation.frames * cells : cells, 0], adaptation) * cells
    written = {"embedding": embedding.reshape(-1, d), "share": share, "valid": joins, "place": places(index, y, x)}
    references = put(references, written, at, None if adaptation.every == 1 else index % adaptation.every == 0)
    if not adaptation.memory:
        return references
    cell, valid = choose(shares.reshape(y, x, -1), joins, index)
    rows = {name: column[cell] for name, column in written.items()} | {"valid": valid}
    apart, each = SPARSE * adaptation.every, cells_kept(cells)
    start = references.valid.shape[0] - adaptation.rows(cells)
    slots = slice(start, start + adaptation.memory * each)
    held = references.valid[slots].reshape(-1, each).sum(1, dtype=jnp.int32)  # cells; of none there is room
    first = references.place[0, 0] // apart  # of the first mask
    frame = references.place[slots][::each, 0] // apart
    slot, takes = slot_of(index // apart - first, jnp.where(held > 0, frame - first, -1))
    # Where all that is followed is out of sight, there is next to nothing to keep, and what is remembered stays.
    takes &= (index % apart == 0) & (LOST * valid.sum(dtype=jnp.int32) >= held[slot])
    return put(references, rows, start + slot * each, takes)


def leaving(index: Int[Array, "n"], adaptation: Adaptation) -> Int[Array, ""]:
    """Which of the ring's frames makes room for the next. index: theirs in the stream, −1 where there is none.

    A place without a frame, else the oldest. With `older`: the oldest of the last ones, unless its index is a multiple of
    APART·every: then the oldest of all.
    """
    oldest = jnp.argmin(index).astype(jnp.int32)
    if not adaptation.older:
        return oldest
    last = jax.lax.top_k(index, adaptation.frames - adaptation.older)[1][-1]
    stays = (index[last] % (APART * adaptation.every) == 0) | (index[oldest] < 0)
    return jnp.where(stays, oldest, last)


@partial(jax.jit, static_argnames=("cells", "adaptation"))
def withdraw(references: References, frame: Int[Array, ""] | int, cells: int, adaptation: Adaptation) -> References:
    """The references without what frame `frame` gave them of itself, as if it had not joined: the user's rows of that frame
    stay."""
    begin = references.valid.shape[0] - adaptation.rows(cells)
    own = (jnp.arange(references.valid.shape[0]) >= begin) & (references.place[:, 0] == frame)
    return references._replace(
        share=jnp.where(own[:, None], 0, references.share),
        valid=references.valid & ~own,
        place=jnp.where(own[:, None], -1, references.place),
    )


def _solid(where: Bool[Array, "y x o"]) -> Bool[Array, "y x o"]:
    """Without the cells that have fewer than SOLID such in the three by three around them; a label that has no others stays."""
    count = jax.lax.reduce_window(where.astype(jnp.int8), jnp.int8(0), jax.lax.add, (3, 3, 1), (1, 1, 1), "same")
    solid = where & (count >= SOLID)
    return jnp.where(solid.any((0, 1)), solid, where)


def _near(distances: Float[Array, "q"], bound: float | None) -> Bool[Array, "q"]:
    return jnp.isfinite(distances) if bound is None else distances <= bound


def _inside(labels: Int[Array, "y x"], radius: int) -> Bool[Array, "y x"]:
    """Whether all cells at most `radius` rows and columns away have the same label; beyond the grid there is none."""

    def of_all(pick: Callable[..., jax.Array], start: int) -> jax.Array:
        side = (2 * radius + 1,) * 2
        return jax.lax.reduce_window(labels, jnp.array(start, labels.dtype), pick, side, (1, 1), "same")

    return of_all(jax.lax.max, -1) == of_all(jax.lax.min, 2**30)


def _unanimous(found: Neighbours, share: Float[Array, "r o"]) -> tuple[Float[Array, "q o"], Bool[Array, "q"]]:
    """(one-hot label of the nearest, whether all k neighbours have it)."""
    labels = share.argmax(-1)[jnp.maximum(found.rows, 0)]
    agreed = (labels == labels[:, :1]).all(-1) & jnp.isfinite(found.distances).all(-1)
    return jax.nn.one_hot(labels[:, 0], share.shape[-1], dtype=share.dtype), agreed

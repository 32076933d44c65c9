"""What a session shows besides labels: who decided a pixel, how sure the vote was, and the embedding as colours.

Axes: `t` frame, `y x` grid, `c` cell, `d` embedding, `m` marked cell, `o` label column, `b` block of marked cells of one label.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float16, Int32, UInt8

from pmljax.answers import power
from pmljax.embedded import CHUNK, LENGTH, Embedded
from pmljax.interact import Session

BLOCK = 128  # marked cells of one label that are compared at once
SAMPLED = 64  # chunks of a video, evenly spaced, from which its principal components are computed
SPREAD = 2.5  # standard deviations from the mean at which a colour is full


# Who decided


class Reference(NamedTuple):
    """A marked cell that voted. frame, y, x: its centre, in pixels.  distance: between the embeddings, in units of LENGTH.
    weight: its part of the pixel's vote."""

    frame: int
    y: int
    x: int
    label: int
    distance: float
    weight: float


class Why(NamedTuple):
    """label: of the pixel.  said: whether the user gave it.  shares: {label: share of the vote}.  references: those that voted,
    the heaviest first, of equal ones the nearest."""

    label: int
    said: bool
    shares: dict[int, float]
    references: list[Reference]


def why(session: Session, frame: int, y: int, x: int) -> Why:
    """Who decided pixel (y, x): the neighbours of the (up to four) cells between which its vote is interpolated."""
    label = int(session.labels(frame)[y, x])
    places, labels, _ = session.marked()
    distances, nearest, heavy = session.neighbours(frame)
    weights: dict[int, list[float]] = {}
    row, column = session.growth[0][y], session.growth[1][x]
    for i in np.flatnonzero(row):
        for j in np.flatnonzero(column):
            cell = int(i) * session.grid.cells[1] + int(j)
            voted = heavy[cell] > 0
            part = heavy[cell][voted] / max(heavy[cell][voted].sum(), 1)
            for place, distance, weight in zip(nearest[cell][voted], distances[cell][voted], part, strict=True):
                share = float(row[i]) * float(column[j]) * float(weight)
                before = weights.setdefault(int(place), [0.0, math.inf])
                weights[int(place)] = [before[0] + share, min(before[1], math.sqrt(distance) / LENGTH)]
    found, shares = [], {}
    for place, (weight, distance) in weights.items():
        of, cell = divmod(place, session.embedded.cells)
        vote = int(labels[np.searchsorted(places, place)])
        found.append(Reference(of, *session.grid.pixel_of(cell), vote, distance, weight))
        shares[vote] = shares.get(vote, 0.0) + weight
    found.sort(key=lambda r: (-r.weight, r.distance, r.frame, r.y, r.x))
    return Why(label, bool(session.said(frame).pixels[y, x] >= 0), dict(sorted(shares.items())), found)


# How sure


def margins(session: Session, frame: int, every: int = 1) -> Float[np.ndarray, "y x"]:
    """How sure each cell of a frame is, 0…1: 1 − d₁/d₂, with d₁ the distance to the nearest marked cell and d₂ to the nearest
    of any other label than that one's. 0 where fewer than two labels are marked: nothing was said against anything.

    A vote of one neighbour is unanimous everywhere; how close the runner-up came is what tells, also where more vote and the
    runner-up wins. every: of the rows and columns of cells.
    """
    _, labels, rows = session.marked()
    ids = np.unique(labels)
    cells = np.arange(session.embedded.cells).reshape(session.grid.cells)[::every, ::every]
    if len(ids) < 2:
        return np.zeros(cells.shape, np.float32)
    blocks: list[np.ndarray] = []
    for i in ids:
        mine = np.flatnonzero(labels == i)
        # Filled up with the label's first cell again: a minimum does not mind.
        blocks.append(np.concatenate([mine, np.full(-len(mine) % BLOCK, mine[0])]).reshape(-1, BLOCK))
    columns = np.repeat(np.arange(len(ids)), [len(b) for b in blocks])
    chosen = np.concatenate(blocks)
    more = (1 << (len(chosen) - 1).bit_length()) - len(chosen)
    chosen = np.concatenate([chosen, np.repeat(chosen[:1], more, 0)])
    columns = np.concatenate([columns, np.repeat(columns[:1], more)]).astype(np.int32)
    chunk, f = divmod(frame, CHUNK)
    queries = session.embedded.chunk(chunk)
    at = (f * session.embedded.cells + cells.ravel()).astype(np.int32)
    best = _nearest_of_each(queries, at, rows[chosen], columns, np.zeros(power(len(ids), 1), np.int32))
    two = np.sqrt(np.partition(np.asarray(best), 1, axis=-1)[:, :2])
    sure = 1 - two[:, 0] / np.maximum(two[:, 1], 1e-9)
    return np.where(two[:, 1] > 0, sure, 0).astype(np.float32).reshape(cells.shape)


@jax.jit
def _nearest_of_each(
    embeddings: Float16[Array, "n d"],
    cells: Int32[Array, "c"],
    rows: Float16[Array, "b m d"],
    columns: Int32[Array, "b"],
    labels: Int32[Array, "o"],
) -> Float[Array, "c o"]:
    """The squared distance to the nearest row of each label, inf for columns without rows. Whole numbers: exact."""
    q = embeddings[cells].astype(jnp.float32)
    lengths = (q * q).sum(-1)

    def one(best: Array, block: tuple[Array, Array]) -> tuple[Array, None]:
        r, column = block[0].astype(jnp.float32), block[1]
        product = jnp.matmul(q, r.T, precision="highest")
        found = (lengths[:, None] - 2 * product + (r * r).sum(-1)[None]).min(-1)
        return best.at[:, column].min(found), None

    nothing = jnp.full((len(cells), len(labels)), jnp.inf, jnp.float32)
    return jax.lax.scan(one, nothing, (rows, columns))[0]


# The embedding as colours


class Basis(NamedTuple):
    """The first three principal components of a video's embeddings: mean `[d]`, directions `[d, 3]`, standard deviations."""

    mean: Float[np.ndarray, "d"]
    directions: Float[np.ndarray, "d 3"]
    deviations: Float[np.ndarray, "3"]


def principal(embedded: Embedded) -> Basis:
    """Over all frames (of long videos: over SAMPLED chunks, evenly spaced), so that a thing keeps its colour."""
    count, d = 0, embedded.dimensions
    total, square = np.zeros(d), np.zeros((d, d))
    for i in np.unique(np.linspace(0, embedded.chunks - 1, min(SAMPLED, embedded.chunks)).round().astype(int)):
        frames = min(CHUNK, embedded.count - int(i) * CHUNK)
        rows = np.asarray(embedded.chunk(int(i)))[: frames * embedded.cells].astype(np.float32)
        total += rows.sum(0, dtype=np.float64)
        square += rows.T @ rows
        count += len(rows)
    mean = total / count
    values, vectors = np.linalg.eigh(square / count - np.outer(mean, mean))
    directions = np.zeros((d, 3))
    directions[:, : min(d, 3)] = vectors[:, ::-1][:, :3]
    # An eigenvector's sign is nobody's: the largest component is positive.
    directions *= np.where(np.take_along_axis(directions, np.abs(directions).argmax(0)[None], 0) < 0, -1, 1)
    deviations = np.zeros(3)
    deviations[: min(d, 3)] = np.sqrt(np.maximum(values[::-1][:3], 0))
    return Basis(mean, directions, deviations)


def colours(embedded: Embedded, frame: int, basis: Basis) -> UInt8[np.ndarray, "y x 3"]:
    """The cells of a frame: a component a channel, grey where it is the video's mean."""
    chunk, f = divmod(frame, CHUNK)
    rows = np.asarray(embedded.chunk(chunk))[f * embedded.cells : (f + 1) * embedded.cells].astype(np.float32)
    at = (rows - basis.mean) @ basis.directions / np.maximum(SPREAD * basis.deviations, 1e-9)
    return np.clip(127.5 + 127.5 * at, 0, 255).astype(np.uint8).reshape(*embedded.grid, 3)

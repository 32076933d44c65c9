"""Online adaptation: pixels of frames already labelled join the references, under the labels that they were given.

The rows of `References` after the user's are a ring of whole frames: the newest takes the place of the oldest, the user's
rows are never touched, and no shape grows. The paper's rule (METHOD §1) lets a pixel join where all its neighbours agree;
beyond it, whole frames join with their soft labels, searched only near each query.
Axes: `y x` grid, `q` = y·x queries, `r` reference row, `k` neighbours, `o` label column.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from pmljax.errors import InputError
from pmljax.references import References
from pmljax.retrieval import Metric, Neighbours, merge, nearest, nearest_in_window

ROWS = 128  # each part of the references is padded to a multiple: the tile of `nearest`


@dataclass(frozen=True)
class Adaptation:
    """Which pixels of which frames join."""

    frames: int = 0
    """The last frames whose pixels are references; 0: none, the user's alone."""
    window: int | None = None
    """Rows and columns of the grid around a query in which they are searched. None: everywhere."""
    rule: Literal["all", "unanimous"] = "all"
    """all: every pixel, with the shares of its vote.  unanimous: those whose neighbours all have one label, with it."""
    bound: float | None = None
    """The largest distance to the nearest reference with which a pixel still joins. None: any."""

    def __post_init__(self):
        if (
            self.frames < 0
            or (self.window is not None and self.window < 0)
            or not (self.bound is None or self.bound > 0)
        ):
            raise InputError(f"{self}: expected frames and window from 0 up, and a bound above 0")

    def rows(self, cells: int) -> int:
        """Rows of the references that the ring takes for a grid of `cells`."""
        return -(-self.frames * cells // ROWS) * ROWS


def search(
    embedding: Float[Array, "y x d"], references: References, adaptation: Adaptation, *, k: int, metric: Metric
) -> Neighbours:
    """The k nearest references of every cell: the user's everywhere, those of the ring within the window."""
    y, x, d = embedding.shape
    queries, n = embedding.reshape(-1, d), adaptation.frames
    if not n or adaptation.window is None:
        return nearest(queries, references.embedding, references.valid, k=k, metric=metric)
    if metric != "l2":
        raise InputError(f"metric {metric}: expected l2 with a window")
    user = references.valid.shape[0] - adaptation.rows(y * x)
    ring = slice(user, user + n * y * x)
    return merge(
        nearest(queries, references.embedding[:user], references.valid[:user], k=k),
        nearest_in_window(
            embedding,
            references.embedding[ring].reshape(n, y, x, d),
            references.valid[ring].reshape(n, y, x),
            k=k,
            radius=adaptation.window,
        ),
        user,
    )


def adapt(
    references: References,
    embedding: Float[Array, "y x d"],
    found: Neighbours,
    shares: Float[Array, "q o"],
    index: Int[Array, ""],
    adaptation: Adaptation,
) -> References:
    """The references after the frame `index` of the stream, whose cells voted `shares`; the oldest frame leaves."""
    y, x, d = embedding.shape
    cells = y * x
    if not adaptation.frames:
        return references
    share, joins = shares, _near(found, adaptation.bound)
    if adaptation.rule == "unanimous":
        share, agreed = _unanimous(found, references.share)
        joins &= agreed
    begin = references.valid.shape[0] - adaptation.rows(cells)
    ages = references.place[begin : begin + adaptation.frames * cells : cells, 0]
    at = begin + jnp.argmin(ages).astype(jnp.int32) * cells
    place = jnp.stack(jnp.meshgrid(jnp.arange(y), jnp.arange(x), indexing="ij"), -1).astype(jnp.int32)
    place = jnp.concatenate([jnp.broadcast_to(index, (cells, 1)), place.reshape(-1, 2)], -1)
    written = {"embedding": embedding.reshape(-1, d), "share": share, "valid": joins, "place": place}
    return references._replace(
        **{
            name: jax.lax.dynamic_update_slice_in_dim(getattr(references, name), rows, at, 0)
            for name, rows in written.items()
        }
    )


def withdraw(references: References, frame: Int[Array, ""] | int, cells: int, adaptation: Adaptation) -> References:
    """The references without what frame `frame` gave them of itself: the user's rows of that frame stay."""
    begin = references.valid.shape[0] - adaptation.rows(cells)
    own = (jnp.arange(references.valid.shape[0]) >= begin) & (references.place[:, 0] == frame)
    return references._replace(valid=references.valid & ~own)


def _near(found: Neighbours, bound: float | None) -> Bool[Array, "q"]:
    nearest_one = found.distances[:, 0]
    return jnp.isfinite(nearest_one) if bound is None else nearest_one <= bound


def _unanimous(found: Neighbours, share: Float[Array, "r o"]) -> tuple[Float[Array, "q o"], Bool[Array, "q"]]:
    """(one-hot label of the nearest, whether all k neighbours have it)."""
    labels = share.argmax(-1)[jnp.maximum(found.rows, 0)]
    agreed = (labels == labels[:, :1]).all(-1) & jnp.isfinite(found.distances).all(-1)
    return jax.nn.one_hot(labels[:, 0], share.shape[-1], dtype=share.dtype), agreed

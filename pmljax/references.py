"""References: the pixels that a frame is compared with, made from the pixels that the user marked.

Axes: `h w` image, `y x` grid, `r` reference row, `d` embedding, `o` label column (0 background, then the objects' ids
ascending).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8

from pmljax.config import ModelConfig, ShortSide
from pmljax.errors import InputError
from pmljax.labels import VOID, cells_of_thin, object_ids, shrink_matrix
from pmljax.preprocess import apply_axes


class References(NamedTuple):
    """What pixels are compared with: a fixed number of rows, of which `valid` ones count. Shapes never grow.

    embedding: `[r, d]`.  share: `[r, o]`, each label's share of the row.  valid: bool `[r]`.
    place: int32 `[r, 3]`, index of the frame in the stream, and grid y, x.
    ids: uint8 `[o]`, the id of each column: 0, the objects' ascending, then 255 for columns not in use.
    """

    embedding: jax.Array
    share: jax.Array
    valid: jax.Array
    place: jax.Array
    ids: jax.Array


@partial(jax.jit, static_argnames=("config", "short_side", "hard"))
def reference_rows(
    config: ModelConfig,
    embedding: Float[Array, "y x d"],
    labels: UInt8[Array | np.ndarray, "h w"],
    ids: UInt8[Array, "o"],
    index: Int[Array, ""] | int = 0,
    *,
    late: Bool[Array, ""] | bool = False,
    short_side: ShortSide = None,
    hard: bool = True,
) -> References:
    """Every cell of a marked frame as a reference: a cell's share of a label is that label's area in the cell's box.

    Void takes no part in the shares; cells more than half void are not valid. `late`: a mask in the middle of a video,
    whose 0 says nothing: only cells with an object as their largest label are valid.
    config: of the network that embedded it.  short_side: as it saw the frame (`ShortSide`).  hard: a row carries its one
    largest label instead of shares.
    """
    y, x = embedding.shape[:2]
    matrix = partial(shrink_matrix, half_pixel=config.half_pixel)
    a_y, a_x = both_axes(config, (labels.shape[0], labels.shape[1]), short_side, matrix)

    def area(label: jax.Array) -> jax.Array:
        return apply_axes(a_y, a_x, (labels == label)[..., None].astype(embedding.dtype))[..., 0]

    void = area(jnp.uint8(VOID))
    # Columns not in use carry VOID as their id; no pixel may count for them.
    share = jnp.where((ids != VOID)[None, None], jnp.moveaxis(jax.lax.map(area, ids), 0, -1), 0)
    share = share / jnp.maximum(share.sum(-1, keepdims=True), 1e-6)
    share, valid = share.reshape(y * x, -1), void.ravel() <= 0.5
    label = share.argmax(-1)
    if hard:
        share = jax.nn.one_hot(label, share.shape[-1], dtype=share.dtype)
    valid = valid.ravel() & (~jnp.asarray(late) | (label > 0))
    return References(embedding.reshape(y * x, -1), share, valid, places(index, y, x), ids)


def places(index: Int[Array, ""] | int, y: int, x: int) -> Int[Array, "q 3"]:
    """(frame, row, column) of every cell of the frame `index`, row by row."""
    cell = jnp.stack(jnp.meshgrid(jnp.arange(y), jnp.arange(x), indexing="ij"), -1).reshape(-1, 2).astype(jnp.int32)
    return jnp.concatenate([jnp.broadcast_to(jnp.asarray(index, jnp.int32), (y * x, 1)), cell], -1)


def keep_thin_objects(
    rows: References, labels: np.ndarray, config: ModelConfig, short_side: ShortSide, name: str
) -> References:
    """`rows` in which every object of `labels` has a row: one that fills no cell gets the free cell that it fills most.

    InputError for an object without a free cell (`cells_of_thin`), in which `name` stands for the mask.
    """
    ids = np.asarray(rows.ids).tolist()
    seen = config.seen(labels.shape, short_side)
    label = np.where(rows.valid, np.asarray(rows.share).argmax(-1), -1)
    areas = {}
    for column in (ids.index(i) for i in object_ids(labels)):
        if not (label == column).any():
            y, x = (
                np.clip(((p + 0.5) * n / s - 0.5) / config.stride + 0.5, 0, g - 1).astype(int)
                for p, n, s, g in zip(
                    np.nonzero(labels == ids[column]), seen, labels.shape, config.grid(seen), strict=True
                )
            )
            areas[column] = np.bincount(y * config.grid(seen)[1] + x, minlength=len(label))
    taken = cells_of_thin(label, areas)
    if left := areas.keys() - set(taken.values()):
        raise InputError(
            f"{name}: object {ids[min(left)]} lies in cells that are all that another object has;"
            f" expected at least one cell ({config.stride}×{config.stride} pixels) for each"
        )
    if not taken:
        return rows
    cells, columns = np.array(list(taken)), np.array(list(taken.values()))
    share = rows.share.at[cells].set(jax.nn.one_hot(columns, rows.share.shape[1], dtype=rows.share.dtype))
    return rows._replace(share=share, valid=rows.valid.at[cells].set(True))


def put(
    references: References,
    rows: dict[str, jax.Array],
    at: Int[Array, ""] | int,
    when: Bool[Array, ""] | None = None,
) -> References:
    """The references with `rows` from row `at` on; where not `when` (None: always) what is there is written once more."""
    if when is not None:
        there = {name: jax.lax.dynamic_slice_in_dim(getattr(references, name), at, len(r)) for name, r in rows.items()}
        rows = jax.tree.map(partial(jnp.where, when), rows, there)
    return references._replace(
        **{name: jax.lax.dynamic_update_slice_in_dim(getattr(references, name), r, at, 0) for name, r in rows.items()}
    )


def with_ids(references: References, ids: Iterable[int]) -> References:
    """References with columns for `ids` too, in ascending order; more columns than before compile once more."""
    old = [int(i) for i in np.asarray(references.ids) if i != VOID]
    new = sorted({*old, *ids})
    if new == old:
        return references
    columns = id_columns(new)
    source = np.array([old.index(i) if i in old else -1 for i in new] + [-1] * (len(columns) - len(new)))
    return references._replace(share=_columns(references.share, source.astype(np.int32)), ids=columns)


@jax.jit
def _columns(share: Float[Array, "r o"], source: Int[Array, "columns"]) -> Float[Array, "r columns"]:
    """The columns of `share` that `source` counts, of −1 zeros."""
    return jnp.where(source >= 0, share[:, source], 0)


def id_columns(ids: list[int]) -> UInt8[Array, "o"]:
    """`ids` filled up with VOID to 2, 4, 8, 16, … columns."""
    columns = max(2, 1 << (len(ids) - 1).bit_length())
    return jax.device_put(np.array(ids + [VOID] * (columns - len(ids)), np.uint8))


def both_axes(
    config: ModelConfig, size: tuple[int, int], short_side: ShortSide, matrix: Callable[..., np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """`matrix` of both axes for frames of `size`: called with the pixels, the cells, the stride, the pixels seen."""
    seen = config.seen(size, short_side)
    y, x = config.grid(seen)
    return matrix(size[0], y, config.stride, seen[0]), matrix(size[1], x, config.stride, seen[1])

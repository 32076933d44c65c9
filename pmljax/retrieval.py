"""Exact k nearest neighbours, block by block, and the vote of the neighbours.

Axes: `q` queries, `r` references, `d` embedding, `k` neighbours, `o` labels (0 background).

Ties: of references at equal distance the lower row wins, whatever the tiles. Reference tiles are multiples of 128, as the
last bits of a matrix product depend on other tile sizes. Products run at `precision="highest"`: float32 would be TF32 on
a GPU and bfloat16 on a TPU.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from pmljax.jitted import jitted

Metric = Literal["l2", "cosine"]

MAX_K = 50
REFERENCE_TILE = 8192
# One query tile against one reference tile stays in a CPU's cache: 256 × 6,656 took .094 s, 6,656 × 6,656 .26 s.
QUERY_TILE = {"cpu": 256}
GROUP, SUBGROUP = 32, 8  # columns that one minimum stands for: of a thousand and more, and of fewer on a CPU
# Smallest numbers are taken one by one up to so many times columns: ten of 64 columns in a third of `lax.top_k`'s time.
FEW = {"cpu": 1024}
BLOCK = 4  # side of a block of queries in a window: .05 s a frame at 480p (radius 6, five grids), with 8 .17 s, with 16 .46 s
BLOCKS_AT_ONCE = 8  # of eight grids 38 ms on two cores with AVX-512, with 4 41, with 16 42 (experiments/README.md)
FAR = 1e30  # the score of what does not count: above all others, and unlike ∞ it may be multiplied by 0


class Neighbours(NamedTuple):
    """The k nearest references of each query, nearest first.

    distances: `[q, k]`, squared L2 or 1 − cosine; inf where there are fewer than k valid references.
    rows: int32 `[q, k]`; −1 there.
    """

    distances: jax.Array
    rows: jax.Array


@jitted(owned=True, static_argnames=("k", "metric", "reference_tile", "query_tile"))
def nearest(
    queries: Float[ArrayLike, "q d"],
    references: Float[ArrayLike, "r d"],
    valid: Bool[ArrayLike, "r"] | None = None,
    *,
    where: Bool[ArrayLike, "q"] | None = None,
    k: int = 5,
    metric: Metric = "l2",
    reference_tile: int = REFERENCE_TILE,
    query_tile: int | None = None,
) -> Neighbours:
    """The `k` nearest of `references` for each of `queries`: exact, with memory that does not grow with `r`.

    Returns `Neighbours`: distances and rows, `[q, k]`, inf and −1 where there are fewer than k. Half precision is made single
    first.  valid: which references count (all by default); those with a squared length of 1e29 or more, or with NaN, never do.
    where: which queries ask (all by default); the others find nothing, and cost next to nothing.
    As distances are ‖q‖² − 2 q·r + ‖r‖², they are good to about 1e-7 of the squared lengths in float32: of vectors that are
    long beside their distances subtract the mean first.
    k: 1…50.  metric: "l2" (squared) or "cosine" (1 − cosine; the cosine with a zero vector is 0).  reference_tile: a multiple
    of 128, at most that many rows.
    """
    queries, references = jnp.asarray(queries), jnp.asarray(references)  # for type checkers: here all are traced
    valid, where = (None if x is None else jnp.asarray(x) for x in (valid, where))
    if not 1 <= k <= MAX_K:
        raise ValueError(f"k: found {k}, expected 1…{MAX_K}")
    if queries.shape[-1] != references.shape[-1]:
        raise ValueError(f"queries: found {queries.shape[-1]} dimensions, the references have {references.shape[-1]}")
    if valid is not None and valid.shape != references.shape[:1]:
        raise ValueError(
            f"valid: found {list(valid.shape)}, expected [{len(references)}], one for each of the references"
        )
    if where is not None and where.shape != queries.shape[:1]:
        raise ValueError(f"where: found {list(where.shape)}, expected [{len(queries)}], one for each of the queries")
    if metric not in ("l2", "cosine"):
        raise ValueError(f"metric: found {metric}, expected l2 or cosine")
    if reference_tile % 128 or reference_tile < 1:
        raise ValueError(f"reference_tile: found {reference_tile}, expected a multiple of 128")
    queries, references = single(queries), single(references)
    dtype = max(queries.dtype, references.dtype, key=lambda d: d.itemsize)
    queries, references = queries.astype(dtype), references.astype(dtype)
    n_queries, n_references = queries.shape[0], references.shape[0]
    query_tile = min(query_tile or QUERY_TILE.get(jax.default_backend(), 4096), _round_up(n_queries, 8))
    tiles = max(-(-n_references // reference_tile), 1)
    reference_tile = _round_up(-(-n_references // tiles), 128)  # all as large, so that the last one repeats little
    if n_references < reference_tile:  # less than one tile: the only copy ever made
        missing = reference_tile - n_references
        valid = jnp.arange(reference_tile) < n_references if valid is None else jnp.pad(valid, (0, missing))
        references = jnp.pad(references, ((0, missing), (0, 0)))
    offsets = jnp.arange(tiles, dtype=jnp.int32) * reference_tile
    order, asks = None, None
    if where is not None:  # those that ask first: of all tiles but one everyone does, or nobody
        order = jnp.argsort(~where)
        queries, asks = queries[order], _tiles(where[order], query_tile).any(-1)
    asked = _tiles(_asking(queries, metric), query_tile)

    def next_tile(best: Neighbours, offset: Int[Array, ""]):
        # The last tile is moved back to end with the references; what it repeats of the one before is masked.
        start = jnp.minimum(offset, references.shape[0] - reference_tile)
        counts = start + jnp.arange(reference_tile, dtype=jnp.int32) >= offset
        if valid is not None:
            counts &= jax.lax.dynamic_slice_in_dim(valid, start, reference_tile)
        ranked = _ranked(jax.lax.dynamic_slice_in_dim(references, start, reference_tile), counts, metric)

        def search(tile: tuple[Float[Array, "q d1"], Neighbours]) -> Neighbours:
            q, best = tile
            found = _smallest(jnp.matmul(q, ranked.T, precision="highest"), k)
            if tiles == 1:  # nothing to put together, which would be compiled and run
                return found
            # The earlier rows stand first: on equal distance they stay.
            distances = jnp.concatenate([best.distances, found.distances], -1)
            rows = jnp.concatenate([best.rows, found.rows + start], -1)
            distances, order = _top(distances, k)
            return Neighbours(distances, jnp.take_along_axis(rows, order, -1))

        if asks is None:
            return jax.lax.map(search, (asked, best)), None
        return jax.lax.map(lambda t: jax.lax.cond(t[0], search, lambda t: t[1], t[1:]), (asks, asked, best)), None

    size = (*asked.shape[:2], k)
    none = Neighbours(jnp.full(size, FAR, queries.dtype), jnp.full(size, -1, jnp.int32))
    scores, rows = (x.reshape(-1, k)[:n_queries] for x in jax.lax.scan(next_tile, none, offsets)[0])
    found = _distances(scores, rows, queries, metric)
    if where is None or order is None:
        return found
    back, where = jnp.argsort(order), where[:, None]
    return Neighbours(jnp.where(where, found.distances[back], jnp.inf), jnp.where(where, found.rows[back], -1))


@jitted(static_argnames=("k", "radius"))
def nearest_in_window(
    queries: Float[Array, "y x d"],
    references: Float[Array, "t y x d"],
    valid: Bool[Array, "t y x"],
    *,
    k: int = 5,
    radius: int = 6,
) -> Neighbours:
    """The `k` nearest (squared L2) of the cells of `t` grids that lie at most `radius` rows and columns away from each query.

    Exact; rows count the cells of all grids, by grid, y, x, and of equal distances the lower row wins. A block of queries
    after the other, against the part of every grid that any of them reaches; what only others reach is masked.
    """
    if not 1 <= k <= MAX_K:
        raise ValueError(f"k: found {k}, expected 1…{MAX_K}")
    queries, references = single(queries), single(references)
    t, y, x, d = references.shape
    rows, columns = _round_up(y, BLOCK), _round_up(x, BLOCK)
    queries = jnp.pad(queries, ((0, rows - y), (0, columns - x), (0, 0)))
    around = ((0, 0), (radius, radius + rows - y), (radius, radius + columns - x))
    references, valid = jnp.pad(references, (*around, (0, 0))), jnp.pad(valid, around)
    length = jnp.sum(references * references, -1)
    valid &= length < FAR / 10  # as in `_ranked`
    references, own = jnp.where(valid[..., None], references, 0), jnp.where(valid, length, FAR)
    side = BLOCK + 2 * radius
    count = t * side**2
    step = jnp.arange(side, dtype=jnp.int32)[None] - jnp.arange(BLOCK, dtype=jnp.int32)[:, None]
    near = (step >= 0) & (step <= 2 * radius)  # of one axis: [query in the block, cell in the part]
    near = (near[:, None, :, None] & near[None, :, None, :]).reshape(BLOCK**2, 1, side, side)

    def scores(q: Float[Array, "i j d"], at: Int[Array, "2"]) -> Float[Array, "q r"]:
        part, begin = (t, side, side), (jnp.int32(0), at[0], at[1])
        r = jax.lax.dynamic_slice(references, (*begin, jnp.int32(0)), (*part, d)).reshape(count, d)
        there = jnp.where(near, jax.lax.dynamic_slice(own, begin, part)[None], FAR).reshape(-1, count)
        found = there - 2 * jnp.matmul(q.reshape(-1, d), r.T, precision="highest")
        return jnp.pad(found, ((0, 0), (0, max(k - count, 0))), constant_values=FAR)

    def search(some: tuple[Float[Array, "b i j d"], Int[Array, "b 2"]]) -> Neighbours:
        every = jax.vmap(scores)(*some)
        found = _smallest(every.reshape(-1, every.shape[-1]), k)
        grid, row, column = (found.rows // side**2, found.rows // side % side, found.rows % side)
        at = jnp.repeat(some[1] - radius, BLOCK**2, axis=0)
        return Neighbours(found.distances, (grid * y + row + at[:, :1]) * x + column + at[:, 1:])

    blocks = (rows // BLOCK, columns // BLOCK)

    def whole(found: Array) -> Array:
        """`[n, b·i·j, k]` as `[q, k]`."""
        found = found.reshape(-1, BLOCK, BLOCK, k)[: blocks[0] * blocks[1]]
        found = found.reshape(*blocks, BLOCK, BLOCK, k).swapaxes(1, 2)
        return found.reshape(rows, columns, k)[:y, :x].reshape(-1, k)

    corners = jnp.stack(jnp.meshgrid(*(jnp.arange(n, dtype=jnp.int32) * BLOCK for n in blocks), indexing="ij"), -1)
    asked = queries.reshape(blocks[0], BLOCK, blocks[1], BLOCK, d).swapaxes(1, 2)
    found = jax.lax.map(
        search,
        (_tiles(asked.reshape(-1, BLOCK, BLOCK, d), BLOCKS_AT_ONCE), _tiles(corners.reshape(-1, 2), BLOCKS_AT_ONCE)),
    )
    return _distances(whole(found.distances), whole(found.rows), queries[:y, :x].reshape(-1, d), "l2")


def merge(first: Neighbours, second: Neighbours, offset: int) -> Neighbours:
    """The k nearest of two sets of neighbours; the rows of the second are counted from `offset`. Of equal distances the
    first set's."""
    rows = jnp.where(second.rows < 0, -1, second.rows + offset)
    both = jnp.minimum(jnp.concatenate([first.distances, second.distances], -1), FAR)
    distances, order = _top(both, first.distances.shape[1])
    rows, there = jnp.take_along_axis(jnp.concatenate([first.rows, rows], -1), order, -1), distances < FAR
    return Neighbours(jnp.where(there, distances, jnp.inf), jnp.where(there, rows, -1))


@jitted(owned=True, static_argnames="majority", inline=True)
def vote(
    neighbours: Neighbours,
    shares: Float[ArrayLike, "r o"],
    *,
    majority: bool = False,
    temperature: float | Float[Array, ""] | None = None,
) -> Float[Array, "q o"]:
    """The labels of the neighbours, put together: `[q, o]`, summing to 1 (to 0 where a query has no neighbour).

    The mean of the neighbours' shares, each weighing exp(−distance/temperature) where one, above 0, is given; with `majority`,
    one-hot: the label that most neighbours have (each neighbour's is its largest share, of equal shares the lowest label),
    of tied labels the one with the nearest neighbour.
    """
    shares, there = jnp.asarray(shares), jnp.isfinite(neighbours.distances)
    found = jnp.where(there[..., None], shares[jnp.maximum(neighbours.rows, 0)], 0)  # [q, k, o]
    if not majority and temperature is not None:
        # The nearest weighs 1: as far as the others may be, something is left to divide by.
        beyond = jnp.where(
            there, neighbours.distances - jnp.where(there, neighbours.distances, jnp.inf).min(-1, keepdims=True), 0
        )
        weight = jnp.where(there, jnp.exp(-beyond / temperature), 0)
        return (found * weight[..., None]).sum(1) / jnp.maximum(weight.sum(-1, keepdims=True), 1e-6)
    if not majority:
        return found.sum(1) / jnp.maximum(there.sum(-1, keepdims=True, dtype=found.dtype), 1)
    k, o = found.shape[1:]
    hard = jnp.where(there[..., None], jax.nn.one_hot(found.argmax(-1), o, dtype=jnp.int32), 0)
    # Whole votes weigh k + 1; the rank of a label's nearest neighbour, 0…k, decides between equal votes.
    closeness = (hard * jnp.arange(k, 0, -1)[None, :, None]).max(1)
    winner = (hard.sum(1) * (k + 1) + closeness).argmax(-1)
    return jnp.where(there.any(-1, keepdims=True), jax.nn.one_hot(winner, o, dtype=shares.dtype), 0)


def single(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """In float32 at least: sums of products in half precision, or of integers, would choose other neighbours."""
    return x if x.dtype.itemsize >= 4 and jnp.issubdtype(x.dtype, jnp.floating) else x.astype(jnp.float32)


def _asking(queries: Float[Array, "... d"], metric: Metric) -> Float[Array, "... d1"]:
    """Queries as `_ranked` references are compared with: (q, 1), or the direction of q."""
    queries = _directions(queries) if metric == "cosine" else queries
    return jnp.concatenate([queries, jnp.ones((*queries.shape[:-1], 1), queries.dtype)], -1)


def _ranked(references: Float[Array, "... d"], valid: Bool[Array, "..."], metric: Metric) -> Float[Array, "... d1"]:
    """References so that one product with (q, 1) ranks them: (−2 r, ‖r‖²) or (−r/‖r‖, 1), and FAR where they do not count.

    The sum within the product saves two passes over all scores, a quarter of the time. Never −0, which would order
    before 0.
    """
    valid = valid & (jnp.sum(references * references, -1) < FAR / 10)  # which NaN is not
    references = jnp.where(valid[..., None], references, 0)  # whatever stands there: NaN would reach every score
    if metric == "cosine":
        rows, own = -_directions(references), jnp.ones(references.shape[:-1], references.dtype)
    else:
        rows, own = -2 * references, jnp.sum(references * references, -1)
    return jnp.concatenate([rows, jnp.where(valid, own, FAR)[..., None]], -1)


def _distances(
    scores: Float[Array, "q k"], rows: Int[Array, "q k"], queries: Float[Array, "q d"], metric: Metric
) -> Neighbours:
    """The neighbours by their scores: what the ranking left out is added, and what does not count is taken out."""
    there = scores < FAR / 2
    if metric == "l2":
        # ‖q‖² is the same for all: in the ranking it would only round.
        scores = jnp.maximum(scores + jnp.sum(queries**2, -1, keepdims=True), 0)
    return Neighbours(jnp.where(there, scores, jnp.inf), jnp.where(there, rows, -1))


def _smallest(scores: Float[Array, "q r"], k: int) -> Neighbours:
    """The k smallest of each row, equal ones by column. All are finite.

    A group's minimum ranks the group: the k smallest lie in the k groups with the smallest minima, which are found alike, so
    that only k·group columns are left, and of those in the same way.
    """
    q, r = scores.shape
    few = FEW.get(jax.default_backend(), 0)
    group = SUBGROUP if few and r < GROUP**2 else GROUP
    if k * r <= few or 2 * k * group > r:
        return Neighbours(*_top(scores, k))
    grouped = jnp.pad(scores, ((0, 0), (0, -r % group)), constant_values=FAR).reshape(q, -1, group)
    best = jnp.sort(_smallest(grouped.min(-1), k).rows, -1)  # columns in order again, for the ties
    columns = (best[..., None] * group + jnp.arange(group, dtype=jnp.int32)[None, None]).reshape(q, k * group)
    found = _smallest(jnp.take_along_axis(grouped, best[..., None], 1).reshape(q, k * group), k)
    return Neighbours(found.distances, jnp.take_along_axis(columns, found.rows, -1))


def _top(values: Float[Array, "q n"], k: int) -> tuple[Float[Array, "q k"], Int[Array, "q k"]]:
    """(the k smallest ascending, their columns), the lower column first where values are equal. All are finite."""
    n = values.shape[1]
    if k * n > FEW.get(jax.default_backend(), 0):
        largest, columns = jax.lax.top_k(-values, k)
        return -largest, columns
    # One after the other; a column lies in memory as a row, so that one instruction compares many queries.
    column = jnp.arange(n, dtype=jnp.int32)[:, None]

    def take(left: Float[Array, "n q"], _):
        least = left.min(0)
        at = jnp.where(left == least[None], column, n).min(0)
        return jnp.where(column == at[None], jnp.inf, left), (least, at)

    smallest, columns = jax.lax.scan(take, values.T, None, length=k)[1]
    return smallest.T, columns.T


def _directions(x: Float[Array, "n d"]) -> Float[Array, "n d"]:
    square = jnp.sum(x * x, -1, keepdims=True)
    return x * jnp.where(square > 0, jax.lax.rsqrt(jnp.where(square > 0, square, 1)), 0)


def _round_up(n: int, to: int) -> int:
    return max(-(-n // to), 1) * to


def _tiles(x: jax.Array, size: int) -> jax.Array:
    """`[n, …]` → `[tiles, size, …]`, filled up with zeros (False)."""
    padding = [(0, _round_up(x.shape[0], size) - x.shape[0])] + [(0, 0)] * (x.ndim - 1)
    return jnp.pad(x, padding).reshape(-1, size, *x.shape[1:])

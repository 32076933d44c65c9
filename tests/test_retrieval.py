"""Exact nearest neighbours: a float64 oracle, scikit-learn, ties to the bit, tiles, masks, and memory that stays flat."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pmljax.retrieval import MAX_K, Neighbours, merge, nearest, nearest_in_window, vote


def distances_by_hand(queries, references, metric):
    """All pairs in float64, from the definition."""
    q, r = np.float64(queries), np.float64(references)
    if metric == "l2":
        return ((q[:, None] - r[None]) ** 2).sum(-1)
    length = np.linalg.norm(q, axis=-1)[:, None] * np.linalg.norm(r, axis=-1)[None]
    return 1 - np.where(length > 0, (q @ r.T) / np.where(length > 0, length, 1), 0)


def nearest_by_hand(queries, references, valid, k, metric):
    """(distances, rows), of equal distances the lower row first; inf and −1 where there are fewer than k."""
    every = np.where(valid, distances_by_hand(queries, references, metric), np.inf)
    rows = np.argsort(every, -1, kind="stable")[:, :k]
    distances = np.take_along_axis(every, rows, -1)
    missing = k - rows.shape[1]
    distances = np.pad(distances, ((0, 0), (0, missing)), constant_values=np.inf)
    rows = np.pad(rows, ((0, 0), (0, missing)), constant_values=-1)
    return distances, np.where(np.isinf(distances), -1, rows)


def same_but_for_rounding(found, queries, references, valid, k, metric):
    """Rows may differ from the oracle's only where float64 distances differ by less than rounding can make."""
    expected, rows = nearest_by_hand(queries, references, valid, k, metric)
    found_distances, found_rows = map(np.asarray, found)
    assert np.array_equal(found_rows < 0, rows < 0)
    every = distances_by_hand(queries, references, metric)
    got = np.where(found_rows < 0, np.inf, np.take_along_axis(every, np.maximum(found_rows, 0), -1))
    scale = 1.0
    if metric == "l2":
        near = np.where(rows < 0, 0, (np.float64(references) ** 2).sum(-1)[np.maximum(rows, 0)])
        scale = (np.float64(queries) ** 2).sum(-1)[:, None] + near
    with np.errstate(invalid="ignore"):
        assert (np.where(np.isinf(expected), 0, np.abs(got - expected)) < 1e-5 * scale).all()
        assert (np.where(np.isinf(expected), 0, np.abs(found_distances - expected)) < 1e-5 * scale).all()


def test_what_is_not_finite_is_nobodys_neighbour():
    """Nor does it hide who is: NaN in a group would be its minimum."""
    queries, references = np.zeros((1, 2, 2), "f"), np.ones((1, 1, 2, 2), "f")
    references[0, 0, 0] = np.nan
    found = nearest_in_window(queries, references, np.ones((1, 1, 2), bool), k=1, radius=2)
    assert found.rows.tolist() == [[1], [1]] and found.distances.tolist() == [[2], [2]]
    with jax.enable_x64(True):
        found = nearest(np.zeros((1, 2), np.float32), np.ones((3, 2), np.float64), k=1)
    assert found.rows.tolist() == [[0]] and found.distances.dtype == jnp.float64


@pytest.mark.parametrize("metric", ["l2", "cosine"])
@pytest.mark.parametrize("k", [1, 5, 50])
def test_random_floats_against_float64(metric, k, rng):
    queries = rng.normal(size=(300, 24)).astype(np.float32)
    references = rng.normal(size=(1500, 24)).astype(np.float32)
    valid = rng.random(1500) < 0.7
    found = nearest(queries, references, valid, k=k, metric=metric, reference_tile=512)
    same_but_for_rounding(found, queries, references, valid, k, metric)


def small_integers(seed, n_queries, n_references, d=3):
    """Embeddings on which float32 is exact and ties abound."""
    rng = np.random.default_rng(seed)
    return rng.integers(-2, 3, (n_queries, d)).astype(np.float32), rng.integers(-2, 3, (n_references, d)).astype(
        np.float32
    )


# Every number of references with every k, and so that any two of k and the tiles meet: each is compiled by itself.
@pytest.mark.parametrize(
    ("n", "k", "tile", "query_tile"),
    [
        (n, k, (128, 256, 8192)[(i + j) % 3], (None, 8)[(i + j // 2) % 2])
        for i, n in enumerate([1, 7, 128, 300, 1100])
        for j, k in enumerate([1, 5, 50])
    ],
)
@settings(max_examples=12)
@given(seed=st.integers(0, 10**6), share=st.sampled_from([0.0, 0.05, 1.0]))
def test_ties_go_to_the_lower_row_whatever_the_tiles(n, k, tile, query_tile, seed, share):
    queries, references = small_integers(seed, 20, n)
    valid = np.random.default_rng(seed).random(n) < share
    found = nearest(queries, references, valid, k=k, reference_tile=tile, query_tile=query_tile)
    distances, rows = nearest_by_hand(queries, references, valid, k, "l2")
    assert np.array_equal(found.rows, rows) and np.array_equal(found.distances, np.float32(distances))


@pytest.mark.parametrize("share", [0.0, 0.01, 0.4, 1.0])
def test_only_queries_that_ask_find_something(share, rng):
    queries, references = small_integers(0, 700, 300)
    valid, where = rng.random(300) < 0.9, rng.random(700) < share
    few = partial(nearest, k=5, reference_tile=128, query_tile=64)
    distances, rows = nearest_by_hand(queries, references, valid, 5, "l2")
    found = few(queries, references, valid, where=where)
    assert np.array_equal(found.rows, np.where(where[:, None], rows, -1))
    assert np.array_equal(found.distances, np.where(where[:, None], np.float32(distances), np.inf))
    assert " cond[" in str(
        jax.make_jaxpr(few)(queries, references, valid, where=where)
    )  # what nobody asks is not computed


def test_equal_directions_tie_in_cosine():
    references = np.array([[0, 2], [3, 0], [3, 0], [0, 0], [-3, 0]], "f")
    found = nearest(np.array([[0.5, 0], [0, 0]], "f"), references, k=5, metric="cosine")
    assert found.rows.tolist() == [[1, 2, 0, 3, 4], [0, 1, 2, 3, 4]]
    assert np.allclose(found.distances, [[0, 0, 1, 1, 2], [1, 1, 1, 1, 1]])


@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_what_does_not_count_may_hold_anything(metric, rng):
    references = rng.normal(size=(300, 4)).astype("f")
    valid = np.arange(300) % 3 != 0
    queries = references[valid][:40]
    broken = np.where(valid[:, None], references, np.array([np.nan, np.inf, -np.inf, 1e20], "f"))
    expected = nearest(queries, references, valid, k=3, metric=metric, reference_tile=384)
    for tile in (128, 384):
        given = nearest(queries, broken, valid, k=3, metric=metric, reference_tile=tile)
        assert np.array_equal(given.rows, expected.rows) and np.array_equal(given.distances, expected.distances)
    grid = broken.reshape(3, 10, 10, 4)
    found = nearest_in_window(references[:100].reshape(10, 10, 4), grid, valid.reshape(3, 10, 10), k=3, radius=2)
    assert np.isfinite(found.distances).all() and valid[found.rows].all()


@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_references_that_are_no_numbers_never_count(metric, rng):
    references = rng.normal(size=(7, 4)).astype(np.float32)
    for wrong in (np.nan, np.inf, -np.inf, 1e20):
        broken = references.copy()
        broken[2, 1] = wrong
        given = nearest(references, broken, k=7, metric=metric)
        expected = nearest(references, references, np.arange(7) != 2, k=7, metric=metric)
        assert np.array_equal(given.rows, expected.rows) and np.array_equal(given.distances, expected.distances)


def test_without_a_mask_all_count_and_compiling_changes_nothing():
    queries, references = small_integers(0, 50, 700)
    masked = nearest(queries, references, np.ones(700, bool), k=5)
    assert all(np.array_equal(a, b) for a, b in zip(masked, nearest(queries, references, k=5), strict=True))
    with jax.disable_jit():
        eager = nearest(jnp.asarray(queries), jnp.asarray(references), k=5)
    many = jax.vmap(partial(nearest, k=5), (0, None))(np.stack([queries, queries[::-1]]), references)
    for plain, one, two in zip(*(map(np.asarray, found) for found in (masked, eager, many)), strict=True):
        assert (plain == one).all() and (plain == two[0]).all() and (plain[::-1] == two[1]).all()


@pytest.mark.parametrize("k", [1, 5])
def test_against_scikit_learn(k, rng):
    neighbors = pytest.importorskip("sklearn.neighbors")
    queries, references = (rng.normal(size=(n, 32)).astype(np.float32) for n in (400, 900))
    found = nearest(queries, references, k=k)
    distances, rows = (
        neighbors.NearestNeighbors(n_neighbors=k, algorithm="ball_tree").fit(references).kneighbors(queries)
    )
    assert np.allclose(np.sqrt(found.distances), distances, rtol=1e-4)
    assert (np.asarray(found.rows) == rows).mean() > 0.999


@pytest.mark.parametrize(("metric", "k"), [("l2", 1), ("l2", 5), ("cosine", 5)])
def test_memory_does_not_grow_with_the_references(metric, k):
    """XLA's own analysis of the compiled call, one frame's cells against 1, 10 and 100 frames' references."""

    def temporary(n):
        shapes = [
            jax.ShapeDtypeStruct(s, t) for s, t in (((6588, 128), "float32"), ((n, 128), "float32"), ((n,), bool))
        ]
        return nearest.lower(*shapes, k=k, metric=metric).compile().memory_analysis().temp_size_in_bytes

    # Tiles are as large as each other, so of whole ones only the number differs.
    small, middle, large = (temporary(n) for n in (8_192, 81_920, 819_200))
    assert abs(large - middle) < 2**16 and large < 1.1 * small
    found = [temporary(n) for n in (6_588, 65_880, 658_800)]
    assert max(found) < 20 * 2**20


def test_limits_are_named():
    x = np.zeros((4, 3), "f")
    for bad, word in [
        ({"k": 0}, "k: found 0"),
        ({"k": MAX_K + 1}, "k: found 51"),
        ({"reference_tile": 100}, "multiple of 128"),
    ]:
        with pytest.raises(ValueError, match=word):
            nearest(x, x, **bad)


def test_a_callers_arrays_may_be_filled_again_at_once(rng):
    """Aligned memory is not copied to a CPU's device; the search is under way when `nearest` has returned."""
    memory = np.empty(4 * 3000 * 16 + 64, np.uint8)
    begin = -memory.ctypes.data % 64
    queries = memory[begin : begin + 4 * 3000 * 16].view(np.float32).reshape(3000, 16)
    queries[:] = rng.normal(size=queries.shape)
    expected = np.asarray(nearest(queries.copy(), queries.copy(), k=2).rows)
    found = nearest(queries, queries, k=2)
    queries[:] = 0
    assert np.array_equal(found.rows, expected)


# The vote


def vote_by_hand(distances, rows, shares, majority):
    """One query after the other."""
    out = np.zeros((len(rows), shares.shape[1]))
    for q, (d, r) in enumerate(zip(distances, rows, strict=True)):
        there = [shares[i] for i, x in zip(r, d, strict=True) if np.isfinite(x)]
        if not there:
            continue
        if not majority:
            out[q] = np.mean(there, 0)
            continue
        labels = [int(np.argmax(s)) for s in there]
        most = max(labels.count(a) for a in labels)
        out[q, next(a for a in labels if labels.count(a) == most)] = 1  # the tied label that comes first is nearest
    return out


@given(st.integers(0, 10**6), st.sampled_from([1, 2, 5]), st.sampled_from([1, 2, 11]), st.booleans(), st.booleans())
def test_vote_against_a_loop(seed, k, o, hard, majority):
    rng = np.random.default_rng(seed)
    shares = rng.dirichlet(np.ones(o), 30)
    if hard:
        shares = np.eye(o)[shares.argmax(-1)]
    rows = rng.integers(0, 30, (25, k))
    distances = np.sort(rng.random((25, k)), -1)
    distances[rng.random((25, k)) < 0.2] = np.inf
    distances = np.sort(distances, -1)
    rows = np.where(np.isinf(distances), -1, rows)
    found = vote(Neighbours(distances.astype("f"), rows.astype("i")), shares.astype("f"), majority=majority)
    assert np.allclose(found, vote_by_hand(distances, rows, shares, majority), atol=1e-6)


def test_equal_votes_go_to_the_nearest():
    shares = np.eye(3, dtype="f")
    rows = np.array([[2, 1, 1, 2], [1, 2, 2, 1], [0, 2, 1, 1]], "i")
    distances = np.broadcast_to(np.arange(4, dtype="f"), (3, 4))
    assert np.asarray(vote(Neighbours(distances, rows), shares, majority=True)).argmax(-1).tolist() == [2, 1, 1]


@pytest.mark.parametrize(("size", "radius", "k"), [((5, 7), 1, 3), ((4, 9), 2, 10), ((3, 3), 6, 5), ((1, 1), 1, 2)])
def test_nearest_in_a_window_to_the_bit(size, radius, k, rng):
    """Small integers, so that ties abound: a search of all cells with those out of reach left out."""
    (y, x), t = size, 3
    queries = rng.integers(-2, 3, (y, x, 3)).astype("f")
    references = rng.integers(-2, 3, (t, y, x, 3)).astype("f")
    valid = rng.random((t, y, x)) < 0.6
    found = Neighbours(*map(np.asarray, nearest_in_window(queries, references, valid, k=k, radius=radius)))
    for i, (row, column) in enumerate(np.ndindex(y, x)):
        reach = valid.copy()
        reach &= (np.abs(np.arange(y) - row) <= radius)[None, :, None] & (np.abs(np.arange(x) - column) <= radius)
        expected = nearest_by_hand(queries[row, column][None], references.reshape(-1, 3), reach.ravel(), k, "l2")
        assert np.array_equal(found.distances[i], expected[0][0]) and np.array_equal(found.rows[i], expected[1][0])


def test_merged_neighbours_are_those_of_one_search(rng):
    queries, references = small_integers(0, 40, 300)
    valid = rng.random(300) < 0.05  # sometimes fewer than k in a half
    halves = [nearest(queries, references[h], valid[h], k=7) for h in (slice(150), slice(150, 300))]
    whole = nearest(queries, references, valid, k=7)
    for a, b in zip(jax.jit(merge, static_argnums=2)(*halves, 150), whole, strict=True):
        assert np.array_equal(a, b)


def test_votes_that_weigh_by_distance(rng):
    distances = np.sort(rng.random((6, 4)) * 100, -1).astype("f")  # exp(−100/.07) is nothing
    distances[0, 2:], distances[1] = np.inf, np.inf
    rows = np.where(np.isinf(distances), -1, rng.integers(0, 9, (6, 4))).astype("i")
    shares = rng.dirichlet(np.ones(3), 9).astype("f")
    found = vote(Neighbours(distances, rows), shares, temperature=0.07)
    for got, d, r in zip(np.asarray(found), np.float64(distances), rows, strict=True):
        weight = np.exp(-(d[r >= 0] - d[:1]) / 0.07)
        expected = (weight[:, None] * shares[r[r >= 0]]).sum(0) / weight.sum() if len(weight) else np.zeros(3)
        assert np.allclose(got, expected, atol=1e-6)


def test_tiles_that_are_none_and_half_precision(rng):
    q, r = (rng.normal(size=(n, 16)).astype("f") for n in (40, 300))
    for tile in (0, -128):
        with pytest.raises(ValueError, match="reference_tile"):
            nearest(q, r, reference_tile=tile)
    for dtype in (jnp.bfloat16, jnp.float16):
        found, expected = (nearest(*(x.astype(dtype).astype(to) for x in (q, r))) for to in (dtype, jnp.float32))
        assert found.distances.dtype == jnp.float32
        assert np.array_equal(found.rows, expected.rows) and np.array_equal(found.distances, expected.distances)

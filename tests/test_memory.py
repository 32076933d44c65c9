"""What is remembered longer: which cells of a frame, which frames, how they are searched, and what it is good for."""

import jax
import numpy as np
import pytest
from test_adaptation import (
    COLOR,
    SIZE,
    adapted,
    clip,
    mean_j,
    metric_of,
    references,
    run,
    searched,
    with_adaptation,
)

from pmljax.adaptation import Adaptation, Found, withdraw
from pmljax.ahead import embed_frame
from pmljax.errors import InputError
from pmljax.memory import AROUND, CELLS, FURTHER, PRESENT, choose, slot_of
from pmljax.references import References
from pmljax.retrieval import Neighbours
from pmljax.segment import start, step

# As in `test_adaptation`: called as they are, every operation in them would be compiled by itself.
chosen = jax.jit(choose)
taken = jax.jit(slot_of)


@pytest.mark.parametrize("grid", [(1, 1), (7, 9), (31, 33)])
@pytest.mark.parametrize("index", [0, 35, 10**6])
def test_the_cells_of_a_frame_against_a_loop(grid, index, rng):
    y, x = grid
    shares = rng.dirichlet([9, 1, 1], grid).astype("f")
    joins = rng.random(y * x) < 0.8
    near = np.zeros(grid, bool)
    for row, column in np.ndindex(grid):
        part = shares[
            max(row - AROUND, 0) : row + AROUND + 1,
            max(column - AROUND, 0) : column + AROUND + 1,
            1:,
        ]
        near[row, column] = (part > PRESENT).any()
    there = np.flatnonzero(near.ravel() & joins)
    turn = [(int(c) * 40503 + index * 27146) % 65536 for c in there]
    expected = there[np.argsort(turn)[::-1]][:CELLS]
    cell, valid = (np.asarray(v) for v in chosen(shares, joins, np.int32(index)))
    assert len(cell) == min(CELLS, y * x)
    assert np.array_equal(cell[valid], expected) and not valid[len(expected) :].any()


def test_they_are_spread_and_others_in_another_frame():
    shares, joins = np.full((64, 64, 2), 0.5, "f"), np.ones(64 * 64, bool)
    first, second = (set(chosen(shares, joins, np.int32(i)).cell.tolist()) for i in (5, 10))
    assert len(first) == CELLS and len(first & second) < CELLS / 2
    blocks = np.bincount([(c // 64 // 16) * 4 + c % 64 // 16 for c in first], minlength=16)
    assert blocks.min() > 0.5 * CELLS / 16 and blocks.max() < 2 * CELLS / 16


def remembered(rng, user, cells, frames, memory):
    """`test_adaptation.references`, with the memory's rows between the user's and the ring's."""
    r = references(rng, user, cells, frames)
    n = Adaptation(frames=frames, memory=memory).rows(cells) - Adaptation(frames=frames).rows(cells)
    more = (
        rng.integers(-2, 3, (n, 3)).astype("f"),
        np.eye(2, dtype="f")[rng.integers(0, 2, n)],
        (np.arange(n) < memory * cells) & (rng.random(n) < 0.7),
        np.zeros((n, 3), "i"),
    )
    return References(*(np.concatenate([a[:128], b, a[128:]]) for a, b in zip(r[:4], more, strict=True)), r.ids)


# An eighth: squared distances are 64ths, FURTHER is four of them, and the ring's fifth nearest is nearer, as near, or further.
@pytest.mark.parametrize(
    "grid, window, stretch, scale",
    [((4, 6), 1, 0.0, 1), ((4, 6), None, 0.0, 1), ((4, 6), 1, 2.0, 1), ((16, 33), 2, 0.0, 1 / 8)],
)
def test_search_against_a_loop(grid, window, stretch, scale, rng):
    (y, x), rule = grid, Adaptation(frames=3, memory=2, window=window)
    r = remembered(rng, 50, y * x, rule.frames, rule.memory)
    if stretch:  # no ties, which rounding would decide
        r = r._replace(embedding=r.embedding + rng.random(r.embedding.shape).astype("f"))
    begin = len(r.valid) - rule.ring(y * x)
    assert len(r.valid) == 128 + rule.rows(y * x) and r.valid[128:begin].sum() > 9
    queries = rng.integers(-2, 3, (y, x, 3)).astype("f") * np.float32(scale)
    r = r._replace(embedding=r.embedding * np.float32(scale))
    found, away = jax.tree.map(np.asarray, searched(queries, r, rule, k=5, metric="l2", stretch=stretch))
    by = np.asarray(metric_of(r.embedding[:128], r.share[:128], r.valid[:128], stretch)) if stretch else np.eye(3)
    nearer = set()
    for i, (row, column) in enumerate(np.ndindex(y, x)):
        beyond = queries[row, column] - r.embedding
        everywhere = np.arange(len(beyond)) < begin
        distances = np.where(everywhere, ((beyond @ by) ** 2).sum(-1), (beyond**2).sum(-1))
        distances[128:begin] += FURTHER
        distances[~r.valid] = np.inf
        user = distances[:128].min()
        for n in range(rule.frames * y * x) if window is not None else ():
            if max(abs((n % (y * x)) // x - row), abs(n % x - column)) > window:
                distances[begin + n] = np.inf
        best = np.argsort(distances, kind="stable")[:5]
        assert np.array_equal(found.rows[i], best)
        assert np.allclose(found.distances[i], distances[best], rtol=1e-5, atol=1e-5)
        assert np.isclose(away[i], user, rtol=1e-5, atol=1e-5)
        nearer.add(np.sign(np.sort(distances[begin:])[4] - FURTHER))
    assert nearer == ({-1, 0, 1} if scale < 1 else {1})
    cosine = dict(k=5, metric="cosine")
    with pytest.raises(InputError, match="metric cosine: expected l2 with a memory"):
        searched(queries, r, rule, **cosine)


@pytest.mark.parametrize("every", [1, 2])
def test_every_fifth_frame_that_joins_is_remembered(every, rng):
    """Against a list (`thinned`); rows are what the frame's cells were; the ring is as it is without."""
    frames = rng.integers(0, 255, (26 * every, *SIZE, 3), dtype=np.uint8)
    preset = with_adaptation(frames=2, memory=3, every=every)
    labels = np.uint8(frames[0, ..., 0] > 128)
    state = start(COLOR, frames[0], labels, preset=preset)
    other = start(COLOR, frames[0], labels, preset=with_adaptation(frames=2, every=every))
    cells = int(np.prod(COLOR.config.grid(SIZE)))
    begin = len(state.references.valid) - preset.adaptation.rows(cells)
    after, ring = slice(begin, begin + 3 * cells), slice(-preset.adaptation.ring(cells), None)
    for i, frame in enumerate(frames[1:], 1):
        state, _ = step(COLOR, state, frame)
        place, valid = (np.asarray(v)[after] for v in (state.references.place, state.references.valid))
        kept = [5 * every * n for n in thinned(i // (5 * every), 3)]
        assert sorted(set(place[valid, 0])) == kept
        if kept and i == kept[-1]:
            rows = np.asarray(state.references.embedding)[after][place[:, 0] == i]
            assert len(rows) == cells
            newest = np.asarray(state.references.place)[ring][:, 0] == i
            where = np.asarray(state.references.place)[ring][newest][:, 1:].tolist()
            at = [where.index(p) for p in place[place[:, 0] == i][:, 1:].tolist()]
            assert np.array_equal(rows, np.asarray(state.references.embedding)[ring][newest][at])
        other, _ = step(COLOR, other, frame)
        assert np.array_equal(np.asarray(state.references.place)[ring], np.asarray(other.references.place)[ring])
    without = withdraw(state.references, kept[-1], cells, preset.adaptation)
    assert sorted(set(np.asarray(without.place)[after][np.asarray(without.valid)[after], 0])) == kept[:-1]


def thinned(last, slots):
    """Which of 1…last are kept in so many slots."""
    kept = []
    for n in range(1, last + 1):
        if len(kept) == slots:
            fewest = min(k & -k for k in kept)
            if n & -n <= fewest:
                continue
            kept.remove(min(k for k in kept if k & -k == fewest))
        kept.append(n)
    return kept


@pytest.mark.parametrize("slots", [1, 2, 3, 13])
def test_what_is_kept_spans_all_that_was_seen(slots):
    there = np.full(slots, -1, np.int32)
    for n in range(1, 300):
        slot, takes = taken(np.int32(n), there)
        if takes:
            there[slot] = n
        kept = sorted(there[there >= 0].tolist())
        assert kept == thinned(n, slots)
        if n > slots > 1:
            assert np.diff([0, *kept, n]).max() <= 2 * n / slots


def test_a_stream_that_begins_late_is_remembered_as_one_that_begins_at_once():
    frames, truth = clip(33, lambda n: (36, 60), lambda n: np.array([230, 60, 60]), SIZE)
    kept = []
    for begin in (0, 705):  # 141·5: that many fives before it, an odd number, would thin it otherwise
        state = start(COLOR, frames[0], truth[0], index=begin, preset=with_adaptation(frames=2, memory=3))
        for frame in frames[1:]:
            state, _ = step(COLOR, state, frame)
        rule, cells = state.preset.adaptation, int(np.prod(COLOR.config.grid(frames[0].shape[:2])))
        here = slice(-rule.rows(cells), -rule.ring(cells))
        place, valid = np.asarray(state.references.place)[here], np.asarray(state.references.valid)[here]
        kept.append(sorted({int(i) - begin for i in place[valid, 0]}))
    assert kept[0] == kept[1] == [5 * n for n in thinned(6, 3)]


def test_what_does_not_join_is_not_remembered():
    y, x = 4, 6
    rule = Adaptation(frames=1, memory=2, bound=0.5)
    r = remembered(np.random.default_rng(0), 50, y * x, 1, 2)
    row = np.arange(len(r.valid))
    place = np.where(row[:, None] < 50, 0, -np.ones_like(r.place))
    r = r._replace(place=place, valid=r.valid & ((row < 50) | (row >= len(row) - rule.ring(y * x))))
    far = np.where(np.arange(y * x) < 7, np.float32(1), np.float32(0.1))
    found = Found(Neighbours(far[:, None], np.zeros((y * x, 1), "i")), far)
    shares = np.tile(np.array([[0.4, 0.6]], "f"), (y * x, 1))
    for index, kept in ((4, None), (5, 17)):
        out = adapted(r, np.ones((y, x, 3), "f"), found, shares, np.int32(index), rule)
        where = slice(128, len(r.valid) - rule.ring(y * x))
        valid = np.asarray(out.valid)[where]
        if kept is None:
            assert np.array_equal(valid, r.valid[where])
        else:
            assert valid.sum() == kept and (np.asarray(out.place)[where][valid, 1:] @ [x, 1] >= 7).all()


@pytest.mark.parametrize("held, takes", [(20, True), (21, False)])
def test_where_next_to_nothing_is_in_sight_what_is_remembered_stays(held, takes):
    """Two cells join in the place of `held` of a frame before."""
    y, x = 4, 6
    rule = Adaptation(frames=1, memory=1, bound=0.5)
    r = remembered(np.random.default_rng(0), 50, y * x, 1, 1)
    row = np.arange(len(r.valid))
    slot = (row >= 128) & (row < 128 + y * x)
    place = np.where(slot[:, None], np.array([[5, 0, 0]]), 0).astype("i")
    r = r._replace(place=place, valid=(row < 50) | (slot & (row < 128 + held)))
    far = np.where(np.arange(y * x) < 2, np.float32(0.1), np.float32(1))
    found = Found(Neighbours(far[:, None], np.zeros((y * x, 1), "i")), far)
    shares = np.tile(np.array([[0.4, 0.6]], "f"), (y * x, 1))
    out = adapted(r, np.ones((y, x, 3), "f"), found, shares, np.int32(10), rule)
    frame = np.asarray(out.place)[slot][np.asarray(out.valid)[slot], 0]
    assert frame.tolist() == ([10] * 2 if takes else [5] * held)


def test_a_side_that_was_turned_away_is_known_again():
    """Red, by and by blue, red again for longer than the last frames go back; then it turns its blue side at once."""
    red, blue = np.array([230, 60, 60]), np.array([20, 80, 240])

    def colour(n):
        i = n * 49
        return red + (blue - red) * (1 if i >= 42 else max(1 - abs(i - 15) / 12, 0))

    frames, truth = clip(50, lambda n: (36, 60), colour)
    found = {}
    for memory in (0, 9):
        labels = run(frames, truth, with_adaptation(frames=4, memory=memory, window=3))
        assert mean_j(labels[:41], truth[:41]) > 0.8
        found[memory] = mean_j(labels[42:], truth[42:])
    assert found[0] < 0.1 and found[9] > 0.8


def test_what_is_out_of_sight_for_long_is_not_forgotten():
    """Red turns blue and leaves for longer than the memory spans; blue it comes back."""
    red, blue, back = np.array([230, 60, 60]), np.array([20, 80, 240]), 70

    def place(n):
        return (36, 60) if not 14 <= n * (back + 4) < back else (1000, 1000)

    frames, truth = clip(back + 5, place, lambda n: red + (blue - red) * min(n * (back + 4) / 10, 1))
    labels = run(frames, truth, with_adaptation(frames=4, memory=9, window=3))  # of 45 frames
    assert mean_j(labels[:14], truth[:14]) > 0.8 and not truth[back - 1].any()
    assert mean_j(labels[back:], truth[back:]) > 0.8


def test_frames_of_which_nothing_is_kept_take_no_room():
    """In sight, away for long, in sight again: what was remembered first is there as long as there is room."""
    frames, truth = clip(
        100, lambda n: (36, 60) if not 16 <= n * 99 < 75 else (1000, 1000), lambda n: np.array([230, 60, 60])
    )
    preset = with_adaptation(frames=4, memory=9, window=3)
    state = start(COLOR, frames[0], truth[0], preset=preset)
    rule, cells = state.preset.adaptation, int(np.prod(COLOR.config.grid(frames[0].shape[:2])))
    for i, frame in enumerate(frames[1:], 1):  # in two calls, as `segment` does, for which they are compiled already
        embedding = embed_frame(COLOR, frame, np.float32(i), preset=preset)
        state, _ = step(COLOR, state, frame, embedding=embedding)
    here = slice(-rule.rows(cells), -rule.ring(cells))
    place, valid = np.asarray(state.references.place)[here], np.asarray(state.references.valid)[here]
    kept = {int(i) for i in place[valid, 0]}
    assert {5, 10, 15} <= kept and not any(16 <= i < 75 for i in kept) and len(kept) >= 5


def test_few_cells_are_all_remembered_and_a_memory_needs_frames(rng):
    for options in ({"memory": 3}, {"frames": 2, "memory": 3, "drift": 0.5}):
        with pytest.raises(InputError, match="expected frames above 0, and no drift, with a memory"):
            Adaptation(**options)
    with pytest.raises(InputError, match="older, memory and erosion from 0 up"):
        Adaptation(frames=2, memory=-1)
    assert Adaptation(frames=2, memory=3).rows(24) == 128 + 128
    assert Adaptation(frames=8, memory=13).rows(6588) == 52736 + 13 * CELLS

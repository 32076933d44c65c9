"""Adaptation: what joins, what leaves, what the user's rows never suffer; an object that changes, one that leaves."""

import dataclasses

import jax
import numpy as np
import pytest

import pmljax
from pmljax.adaptation import Adaptation, Found, adapt, search, withdraw, within_reach
from pmljax.errors import InputError
from pmljax.metrics import frame_scores
from pmljax.presets import Preset
from pmljax.references import References
from pmljax.retrieval import Neighbours
from pmljax.segment import segment, start, step
from pmljax.separation import separating

COLOR = pmljax.create("color")
SIZE = (64, 96)

# Called as they are, every operation in them would be compiled by itself.
searched = jax.jit(search, static_argnames=("adaptation", "k", "metric", "stretch"))
adapted = jax.jit(adapt, static_argnames="adaptation")
reached = jax.jit(within_reach, static_argnames=("grid", "adaptation"))
metric_of = jax.jit(separating, static_argnames="stretch")

PLAIN = Preset()


def with_adaptation(preset=PLAIN, **options):
    return dataclasses.replace(preset, adaptation=Adaptation(**options))


def clip(t, place, colour, size=(136, 232)):
    """(frames, truth): a square of 72 pixels at place(n), coloured colour(n), n in 0…1, before grey ground with noise."""
    rng = np.random.default_rng(0)
    frames, truth = rng.integers(110, 131, (t, *size, 3)).astype(np.uint8), np.zeros((t, *size), np.uint8)
    for i, n in enumerate(np.linspace(0, 1, t)):
        y, x = (int(v) for v in place(n))
        truth[i, max(y, 0) : max(y + 72, 0), max(x, 0) : max(x + 72, 0)] = 1
        frames[i][truth[i] == 1] = np.clip(colour(n) + rng.integers(-5, 6, (int(truth[i].sum()), 3)), 0, 255)
    return frames, truth


def run(frames, truth, preset):
    return np.stack(list(segment(COLOR, list(frames), truth[0], preset=preset)))


def mean_j(labels, truth):
    return float(np.mean([frame_scores(a, b, [1])[0, 0] for a, b in zip(labels[1:-1], truth[1:-1], strict=True)]))


# From red to the grey of the ground and on to blue: what the first frame shows is soon nearer to the ground.
CHANGING = clip(
    40, lambda n: (36, 36 + 64 * n), lambda n: np.array([230, 60, 60]) * (1 - n) + np.array([20, 80, 240]) * n
)
NEAR = with_adaptation(frames=6, window=3)  # compiled once for several tests
RULES = [
    pytest.param(NEAR, id="all, near"),
    pytest.param(with_adaptation(Preset(majority=True), frames=6, rule="unanimous"), id="paper"),
]


@pytest.mark.parametrize("preset", RULES)
def test_an_object_that_changes_colour_slowly(preset):
    frames, truth = CHANGING
    still = dataclasses.replace(preset, adaptation=Adaptation())
    assert mean_j(run(frames, truth, still), truth) < 0.6
    assert mean_j(run(frames, truth, preset), truth) >= 0.9


@pytest.mark.parametrize("preset", RULES)
def test_an_object_that_leaves_takes_its_label_with_it(preset):
    frames, truth = clip(31, lambda n: (36, 60 - 220 * n), lambda n: np.array([230, 60, 60]))
    gone = int(np.flatnonzero(~truth.any((1, 2)))[0])
    assert gone <= 21
    assert (run(frames, truth, preset)[gone + 9 :] > 0).mean((1, 2)).max() <= 0.01


def test_the_users_rows_stay_and_the_oldest_frame_leaves(rng):
    frames = rng.integers(0, 255, (7, *SIZE, 3), dtype=np.uint8)
    labels = np.zeros(SIZE, np.uint8)
    labels[8:40, 8:40] = 3
    preset = with_adaptation(frames=3, window=2)
    state = start(COLOR, frames[0], labels, preset=preset)
    user = [np.asarray(x)[: state.filled] for x in state.references[:4]]
    cells = int(np.prod(COLOR.config.grid(SIZE)))
    ring = slice(-preset.adaptation.rows(cells), None)
    for i in range(1, 7):
        state, _ = step(COLOR, state, frames[i])
        assert all(
            np.array_equal(a, np.asarray(b)[: state.filled]) for a, b in zip(user, state.references[:4], strict=True)
        )
        found = np.asarray(state.references.place)[ring][: 3 * cells : cells, 0]
        assert set(found) == ({-1} if i < 3 else set()) | set(range(max(1, i - 2), i + 1))
        valid = np.asarray(state.references.valid)[ring]
        assert valid.sum() == min(i, 3) * cells
    # Their embeddings are those of the frames.
    rows = np.asarray(state.references.embedding)[ring][np.asarray(state.references.place)[ring][:, 0] == 6]
    expected = np.asarray(pmljax.embed(COLOR, frames[6][None], np.zeros(1, "f")))[0].reshape(-1, 5)
    assert np.allclose(rows, expected, rtol=1e-5, atol=1e-4)  # compiled on its own
    without = withdraw(state.references, 5, cells, preset.adaptation)
    valid = np.asarray(state.references.valid).sum()
    assert valid - np.asarray(without.valid).sum() == cells
    assert not np.asarray(without.valid)[np.asarray(without.place)[:, 0] == 5].any()
    # Its own rows aside, a frame that the user marked keeps what the user said.
    assert np.asarray(withdraw(state.references, 0, cells, preset.adaptation).valid).sum() == valid


def references(rng, user, cells, frames, d=3, o=2):
    """Small integers, so that ties abound; the padding of either part is not valid."""
    ring = Adaptation(frames=frames).rows(cells)
    n = 128 + ring
    valid = np.zeros(n, bool)
    valid[:user] = True
    valid[128 : 128 + frames * cells] = rng.random(frames * cells) < 0.7
    share = np.eye(o, dtype="f")[rng.integers(0, o, n)]
    place = np.zeros((n, 3), "i")
    place[128 : 128 + frames * cells, 0] = np.repeat(rng.permutation(frames), cells)
    embedding = rng.integers(-2, 3, (n, d)).astype("f")
    return References(embedding, share, valid, place, np.array([0, 1], np.uint8))


def test_search_against_a_loop(rng):
    y, x, user, frames, window = 4, 6, 50, 3, 1
    r = references(rng, user, y * x, frames)
    queries = rng.integers(-2, 3, (y, x, 3)).astype("f")
    for radius in (window, None):
        found, away = searched(queries, r, Adaptation(frames=frames, window=radius), k=5, metric="l2")
        found, away = jax.tree.map(np.asarray, (found, away))
        for i, (row, column) in enumerate(np.ndindex(y, x)):
            distances = ((queries[row, column] - r.embedding) ** 2).sum(-1)
            distances[~r.valid] = np.inf
            for n in range(frames * y * x) if radius is not None else ():
                a, b = (n % (y * x)) // x, n % x
                if max(abs(a - row), abs(b - column)) > radius:
                    distances[128 + n] = np.inf
            assert away[i] == distances[:user].min()
            best = np.argsort(distances, kind="stable")[:5]
            assert np.array_equal(found.rows[i], best) and np.array_equal(found.distances[i], distances[best])


def test_the_users_rows_are_searched_in_the_metric_that_separates_them(rng):
    y, x, frames = 4, 6, 2
    r = references(rng, 50, y * x, frames)
    r = r._replace(embedding=r.embedding + rng.random(r.embedding.shape).astype("f"))
    queries = rng.normal(size=(y, x, 3)).astype("f")
    rule = Adaptation(frames=frames, window=1)
    found, away = jax.tree.map(np.asarray, searched(queries, r, rule, k=5, metric="l2", stretch=2.0))
    by = np.asarray(metric_of(r.embedding[:128], r.share[:128], r.valid[:128], 2.0))
    assert not np.allclose(by, np.eye(3))
    for i, (row, column) in enumerate(np.ndindex(y, x)):
        beyond = queries[row, column] - r.embedding
        distances = np.where(np.arange(len(beyond)) < 128, ((beyond @ by) ** 2).sum(-1), (beyond**2).sum(-1))
        distances[~r.valid] = np.inf
        for n in range(frames * y * x):
            if max(abs((n % (y * x)) // x - row), abs(n % x - column)) > 1:
                distances[128 + n] = np.inf
        assert np.isclose(away[i], distances[:50].min(), rtol=1e-4)
        assert np.allclose(found.distances[i], np.sort(distances)[:5], rtol=1e-4, atol=1e-5)
    with pytest.raises(InputError, match="metric cosine: expected l2 with a stretch"):
        searched(queries, r, Adaptation(), k=5, metric="cosine", stretch=1.0)


def test_the_unanimous_join_with_their_label_and_within_the_bounds(rng):
    y, x, k = 12, 20, 3
    r = references(rng, 50, y * x, 2)
    rows = rng.integers(0, 50, (y * x, k))
    distances = np.sort(rng.random((y * x, k)), -1).astype("f")
    distances[3, 2] = np.inf  # fewer neighbours than k: not all agree
    rows[3, 2] = -1
    found = Neighbours(distances, rows.astype("i"))
    away = rng.random(y * x).astype("f")
    votes = rng.integers(0, 2, (y, x))
    votes[:, :12] = 0
    rule = Adaptation(frames=2, rule="unanimous", bound=0.4, drift=0.5, erosion=1)
    embedding = rng.normal(size=(y, x, 3)).astype("f")
    after = adapted(r, embedding, Found(found, away), np.eye(2, dtype="f")[votes.ravel()], np.int32(9), rule)
    after = jax.tree.map(np.asarray, after)
    at = 128 + y * x * int(np.argmin(r.place[128 :: y * x][:2, 0]))
    labels, alone = r.share.argmax(-1), np.zeros(4, int)
    for q in range(y * x):
        its = [labels[n] for n in rows[q] if n >= 0]
        around = votes[max(q // x - 1, 0) : q // x + 2, max(q % x - 1, 0) : q % x + 2]
        rules = [len(its) == k and len(set(its)) == 1, distances[q, 0] <= 0.4, away[q] <= 0.5]
        rules.append(len(np.unique(around)) == 1)
        joins = all(rules)
        assert bool(after.valid[at + q]) == joins
        if sum(rules) == 3:
            alone[rules.index(False)] += 1
        if joins:
            assert after.share[at + q].argmax() == its[0] and list(after.place[at + q]) == [9, q // x, q % x]
    assert alone.min() > 0  # each rule alone keeps some out
    other = np.r_[0:at, at + y * x : len(labels)]
    assert all(np.array_equal(a[other], b[other]) for a, b in zip(r[:4], after[:4], strict=True))


def reach_by_hand(shares, r, grid, index, rule):
    """Label by label, cell by cell. The ring's last slots begin at row 128."""
    (y, x), label, last = grid, r.share.argmax(-1), rule.frames - rule.older
    valid, place, may = r.valid, r.place, np.ones(shares.shape, bool)
    for o in range(1, shares.shape[1]):
        ring = [
            {n for n in range(y * x) if label[128 + f * y * x + n] == o} for f in range(rule.frames)
        ]  # whether or not they joined
        user = [n for n in range(128) if valid[n] and label[n] == o]
        recent = {place[n, 1] * x + place[n, 2] for n in user if place[n, 0] >= index - rule.frames * rule.every}
        solid = set()
        for was in (recent, *ring):
            solid |= {
                n for n in was if sum(max(abs(n // x - m // x), abs(n % x - m % x)) <= 1 for m in was) >= 3
            } or was
        near = [any(max(abs(n // x - q // x), abs(n % x - q % x)) <= rule.reach for n in solid) for q in range(y * x)]
        voted = [shares[q].argmax() == o for q in range(y * x)]
        beyond = sum(v and not there for v, there in zip(voted, near, strict=True))
        largest = max((sum(place[n, 0] == f for n in user) for f in set(place[user, 0])), default=0)
        newest = [len(f) for f, n in zip(ring, place[128 :: y * x, 0], strict=False) if n >= index - last * rule.every]
        elsewhere = beyond * 10 > largest and beyond > 4 * (sum(voted) - beyond) and beyond > 2 * max(newest, default=0)
        if not recent and (max(map(len, ring)) * 10 < largest or elsewhere):
            continue  # lost: anywhere
        may[:, o] = near
    out = np.zeros(shares.shape)
    for q in range(y * x):
        given, left = shares[q].sum(), shares[q][may[q]].sum()
        if left > given / 10:
            out[q] = np.where(may[q], shares[q] * given / left, 0)
        else:
            out[q, 0] = given
    return out, bool(may.all())


@pytest.mark.parametrize("radius", [0, 1, 3])
@pytest.mark.parametrize("index, every", [(5, 1), (8, 1), (8, 4), (20, 1)])
def test_reach_against_a_loop(rng, radius, index, every):
    y, x, frames, o = 5, 9, 2, 4
    cells, rule = y * x, Adaptation(frames=frames, reach=radius, every=every)
    r = references(rng, 2 * cells, cells, frames, o=o)
    # Two masks, of frames 0 and 3; object 3 is in the user's rows alone, object 2 in them and in one cell of the ring.
    place, label = r.place.copy(), rng.choice(o, len(r.valid), p=[0.8, 0.05, 0.05, 0.1])
    for f, begin in ((0, 0), (3, cells)):
        place[begin : begin + cells] = [(f, a, b) for a in range(y) for b in range(x)]
    label[:cells][:12] = 2
    label[128:][label[128:] > 1] = 0
    label[128 + 7] = 2
    valid = r.valid.copy()
    valid[: 2 * cells : 3] = False
    r = r._replace(place=place, valid=valid, share=np.eye(o, dtype="f")[label], ids=np.arange(o, dtype=np.uint8))
    shares = rng.dirichlet(np.ones(o), cells).astype("f")
    shares[::3] = np.eye(o)[rng.choice(o, len(shares[::3]))]  # all of one label: nothing else is left beyond its reach
    shares[1], shares[4] = 0, shares[4] / 2  # no neighbour; less than whole
    shares[7::9] = [0.02, 0.04, 0, 0.94]  # a trace of another object
    found = reached(shares, r, (y, x), np.int32(index), rule)
    expected, anywhere = reach_by_hand(shares, r, (y, x), index, rule)
    assert np.allclose(found, expected, atol=1e-6)
    assert np.allclose(expected, shares, atol=1e-6) == anywhere and (not anywhere or radius == 3 or index > 5)


@pytest.mark.parametrize("beyond, somewhere_else", [(6, False), (7, True)])
def test_as_much_elsewhere_as_it_had_lately_is_a_look_alike(beyond, somewhere_else):
    """The last frame had three cells of the object, one is left; twice as many out of reach is a look-alike, more is it."""
    y, x, rule = 5, 9, Adaptation(frames=2, reach=1)
    label, place = np.zeros(128 + rule.rows(y * x), int), np.zeros((128 + rule.rows(y * x), 3), "i")
    label[:12] = 1  # the user's mask, of frame 0
    place[: y * x, 1:] = list(np.ndindex(y, x))
    for frame in range(2):
        begin = 128 + frame * y * x
        label[begin : begin + 3] = 1
        place[begin : begin + y * x, 0] = 18 + frame
    ids = np.array([0, 1], np.uint8)
    r = References(np.zeros((len(label), 3), "f"), np.eye(2, dtype="f")[label], np.arange(len(label)) < 45, place, ids)
    votes = np.zeros((y, x), int)
    votes[0, 0] = 1
    votes.reshape(-1)[-beyond:] = 1
    found = np.asarray(reached(np.eye(2, dtype="f")[votes.ravel()], r, (y, x), np.int32(20), rule)).argmax(-1)
    assert found[0] == 1 and found.sum() == 1 + beyond * somewhere_else


def twins(t, places):
    """Red squares of 40 pixels, of which the first is the object, at places(n) (None: not in view)."""
    rng = np.random.default_rng(0)
    frames, truth = rng.integers(110, 131, (t, 136, 232, 3)).astype(np.uint8), np.zeros((t, 136, 232), np.uint8)
    for i in range(t):
        for k, place in enumerate(places(i)):
            if place is not None:
                box = np.s_[place[0] : place[0] + 40, place[1] : place[1] + 40]
                frames[i][box] = np.array([230, 60, 60]) + rng.integers(-5, 6, (*truth[i][box].shape, 3))
                truth[i][box] = 1 if k == 0 else 0
    return frames, truth


def test_a_twin_elsewhere_is_out_of_reach():
    frames, truth = twins(16, lambda i: [(10 + 4 * i, 20), (20, 160) if i > 4 else None])
    near = with_adaptation(frames=3, window=3, reach=2)
    assert run(frames, truth, NEAR)[6, 20:60, 160:200].mean() > 0.8
    labels = run(frames, truth, near)
    assert not labels[:, :, 120:].any() and mean_j(labels, truth) >= 0.8


def test_what_was_lost_is_found_again_wherever_it_comes_back():
    frames, truth = twins(24, lambda i: [(48, 20) if i < 8 else (48, 180) if i > 14 else None])
    frames[8:, 130:, :8] = (230, 60, 60)  # a speck that is taken for it stays behind
    labels = run(frames, truth, with_adaptation(frames=3, window=3, reach=2))
    assert labels[13, 130:, :8].any()
    assert (labels[16:, 48:88, 180:220] == 1).mean() > 0.8


@pytest.mark.parametrize("hidden", [1, 2])
def test_a_twin_waits_while_the_object_is_covered(hidden):
    frames, truth = twins(24, lambda i: [(48, 20) if not 12 <= i < 12 + hidden else None, (48, 180) if i > 3 else None])
    labels = run(frames, truth, with_adaptation(frames=8, older=4, window=3, reach=2))
    assert not labels[:, :, 120:].any() and (labels[12 + hidden :, 48:88, 20:60] == 1).mean() > 0.8


def test_what_is_elsewhere_is_not_held_by_a_remnant():
    """Hidden by something that has its colour in part: a tenth of it and more stays behind, where it no longer is."""
    frames, truth = twins(26, lambda i: [(48, 20) if i < 8 else (48, 180) if i > 16 else None])
    frames[8:, 76:92, 20:36] = (230, 60, 60)
    labels = run(frames, truth, with_adaptation(frames=3, window=3, reach=2))
    cells = (truth[0] > 0).sum() / 64
    assert (labels[15, 76:92, 20:36] == 1).sum() / 64 > cells / 10  # by the first rule it is not lost
    assert (labels[18:, 48:88, 180:220] == 1).mean() > 0.8


def test_every_third_frame_joins(rng):
    frames = rng.integers(0, 255, (9, *SIZE, 3), dtype=np.uint8)
    preset = with_adaptation(frames=2, every=3)
    state = start(COLOR, frames[0], np.uint8(frames[0, ..., 0] > 128), preset=preset)
    cells = int(np.prod(COLOR.config.grid(SIZE)))
    ring = slice(-preset.adaptation.rows(cells), None)
    joined = []
    for frame in frames[1:]:
        state, _ = step(COLOR, state, frame)
        joined.append(set(np.asarray(state.references.place)[ring][: 2 * cells : cells, 0]) - {-1})
    assert joined == [set(), set(), {3}, {3}, {3}, {3, 6}, {3, 6}, {3, 6}]


@pytest.mark.parametrize("every, begin", [(1, 0), (1, 3), (2, 0)])
def test_every_fourth_frame_stays_longer(rng, every, begin):
    """Against a list of frames: the last ones, and of those that left them every fourth, as many as there is room for."""
    frames = rng.integers(0, 255, (22 * every, *SIZE, 3), dtype=np.uint8)
    preset = with_adaptation(frames=6, older=2, every=every)
    state = start(COLOR, frames[0], np.uint8(frames[0, ..., 0] > 128), index=begin, preset=preset)
    cells = int(np.prod(COLOR.config.grid(SIZE)))
    ring = slice(-preset.adaptation.rows(cells), None)
    kept = []
    for i, frame in enumerate(frames[1:], begin + 1):
        state, _ = step(COLOR, state, frame)
        if i % every == 0:
            if len(kept) == 6:
                leaves = kept[-4]  # the last four, before this one
                kept.remove(kept[0] if leaves % (4 * every) == 0 else leaves)
            kept.append(i)
        places = np.asarray(state.references.place)[ring][: 6 * cells].reshape(6, cells, 3)
        assert (places[..., 0] == places[:, :1, 0]).all()  # a slot is one frame
        assert sorted(set(places[:, 0, 0]) - {-1}) == kept
    newest = begin // every + 21
    assert kept == [every * n for n in (newest // 4 * 4 - 8, newest // 4 * 4 - 4, *range(newest - 3, newest + 1))]


def test_what_was_covered_is_known_again():
    """Blue by the time that it is covered: the user's pixels show it red, the last frames not at all."""
    red, blue = np.array([230, 60, 60]), np.array([20, 80, 240])
    frames, truth = clip(40, lambda n: (36, 60), lambda n: red + (blue - red) * min(n * 39 / 24, 1))
    frames[26:33], truth[26:33] = np.random.default_rng(1).integers(110, 131, frames[26:33].shape), 0
    found = {}
    for older in (0, 3):
        labels = run(frames, truth, with_adaptation(frames=6, older=older, window=3))
        assert mean_j(labels[:27], truth[:27]) > 0.8 and not labels[28:33].any()
        found[older] = mean_j(labels[32:], truth[32:])
    assert found[0] < 0.1 and found[3] > 0.8


def test_a_late_mask_takes_back_what_its_frame_made_of_itself(rng):
    frames = rng.integers(0, 255, (3, *SIZE, 3), dtype=np.uint8)
    labels = np.zeros(SIZE, np.uint8)
    labels[8:40, 8:40] = 1
    preset = with_adaptation(frames=2, window=2)
    state = start(COLOR, frames[0], labels, preset=preset, masks=2)
    state, _ = step(COLOR, state, frames[1])
    state, _ = step(COLOR, state, frames[2], 2 * labels)
    ring = np.arange(len(state.references.valid)) >= state.filled
    place, valid = np.asarray(state.references.place), np.asarray(state.references.valid)
    assert valid[ring & (place[:, 0] == 1)].all() and not (place[ring, 0] == 2).any()
    gone = ring & (place[:, 0] == -1)
    assert (
        gone.sum() >= ring.sum() // 2 and not valid[gone].any() and not np.asarray(state.references.share)[gone].any()
    )
    state, _ = step(COLOR, state, frames[2])  # takes the place that was made
    assert set(np.asarray(state.references.place)[ring, 0]) - {-1} == {1, 3}


def test_what_is_skipped_is_computed_for_the_frames_after_it():
    frames, truth = CHANGING
    whole = run(frames, truth, NEAR)
    part = list(segment(COLOR, list(frames), truth[0], preset=NEAR, skip=set(range(1, 30))))
    assert all(x is None for x in part[1:30]) and all(
        np.array_equal(a, b) for a, b in zip(part[30:], whole[30:], strict=True)
    )


def test_a_second_frame_compiles_nothing(rng):
    """Whatever is compiled, by whichever thread: the calls of a stream and what stands between them."""
    frames = rng.integers(0, 255, (4, *SIZE, 3), dtype=np.uint8)
    labels = np.uint8(frames[0, ..., 0] > 128)
    preset = with_adaptation(frames=2, window=2)
    compiled = []

    def heard(event, seconds, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(heard)
    try:
        state = start(COLOR, frames[0], labels, preset=preset)
        state, _ = step(COLOR, state, frames[1])
        assert compiled  # so it is heard
        before = len(compiled)
        for frame in frames[2:]:
            state, out = step(COLOR, state, frame)
            np.asarray(out)
        assert len(compiled) == before
        stream = segment(COLOR, list(frames) * 2, labels, preset=preset)
        first, second = next(stream), next(stream)
        before = len(compiled)
        assert len([first, second, *stream]) == 8 and len(compiled) == before
    finally:
        jax.monitoring.unregister_event_duration_listener(heard)


def test_bad_configurations_and_no_room_for_a_mask(rng):
    for options in (
        {"frames": -1},
        {"window": -2},
        {"bound": 0.0},
        {"drift": -1.0},
        {"every": 0},
        {"erosion": -1},
        {"reach": -1},
        {"older": -1},
    ):
        with pytest.raises(InputError, match="expected frames, window, reach, older, memory and erosion from 0 up"):
            Adaptation(**options)
    for options in ({"older": 1}, {"frames": 3, "older": 3}):
        with pytest.raises(InputError, match="expected fewer older frames than frames"):
            Adaptation(**options)
    frame, labels = rng.integers(0, 255, (*SIZE, 3), dtype=np.uint8), np.ones(SIZE, np.uint8)
    state = start(COLOR, frame, labels, preset=with_adaptation(frames=3, window=2))
    with pytest.raises(InputError, match="no room for another mask among 128 references"):
        step(COLOR, state, frame, labels)
    cosine = dataclasses.replace(with_adaptation(frames=3, window=2), metric="cosine")
    with pytest.raises(InputError, match="metric cosine: expected l2 with a window"):
        step(COLOR, start(COLOR, frame, labels, preset=cosine), frame)


def test_shapes_stay(rng):
    r = references(rng, 50, 24, 2)
    found = Found(Neighbours(np.zeros((24, 3), "f"), np.zeros((24, 3), "i")), np.zeros(24, "f"))
    given = (r, np.zeros((4, 6, 3), "f"), found, np.zeros((24, 2), "f"), np.int32(1))
    after = jax.eval_shape(lambda *given: adapt(*given, Adaptation(frames=2)), *given)
    assert [(a.shape, a.dtype) for a in after] == [(b.shape, b.dtype) for b in r]

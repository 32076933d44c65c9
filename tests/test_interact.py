"""Sessions: any sequence of inputs against a search from scratch in NumPy; what a cache may and may not do; what is refused."""

import copy
import dataclasses
import errno
import json
import os
import pickle
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pmljax
from pmljax import embedded, files
from pmljax.answers import Marked, clicks_weigh, updated, weighing_of, weights_of
from pmljax.config import ModelConfig
from pmljax.embedded import CHUNK, LENGTH, embed_video, quantise
from pmljax.errors import InputError
from pmljax.inputs import Edit, from_json, read_edits
from pmljax.interact import Session
from pmljax.labels import encode_labels
from pmljax.marks import no_marks, region, with_edit
from pmljax.model import create
from pmljax.presets import Preset, preset_of, session_vote
from pmljax.scribbles import davis_scribbles
from pmljax.segment import segment
from tests.filled import network

COLOR = create("color")
NET = network(ModelConfig("net", 10, 8, norm="group", taps=(2, 4), head=((1, 8),)))
SIZE = (41, 55)


class Video:
    """Frames in memory. Few colours, so that equal distances abound."""

    def __init__(self, count=CHUNK + 3, seed=0, size=SIZE):
        rng = np.random.default_rng(seed)
        coarse = rng.integers(0, 3, (count, size[0] // 8 + 1, size[1] // 8 + 1, 3)) * 90
        self.images = coarse.repeat(8, 1).repeat(8, 2)[:, : size[0], : size[1]].astype(np.uint8)
        self.size, self.decoded = size, 0

    def stamped(self):
        for i, image in enumerate(self.images):
            self.decoded += 1
            yield SimpleNamespace(image=image, number=i)

    def digest(self):
        import hashlib

        return hashlib.sha256(self.images.tobytes()).hexdigest()


VIDEO = Video()


def by_hand(session, frame):
    """(labels of the cells of `frame`, their k places) from nothing but the inputs that hold and the stored numbers."""
    marks, cells = {}, session.embedded.cells
    for edit in session.edits:
        if edit.op == "clear":
            marks = {}
        else:
            before = marks.get(edit.frame, no_marks(session.grid))
            marks[edit.frame] = with_edit(before, edit, session.grid)
    places = [(f * cells + c, int(m.cells[c])) for f, m in sorted(marks.items()) for c in np.flatnonzero(m.cells >= 0)]
    if not places:
        return np.zeros(cells, int), np.zeros((cells, 0), int)
    every = np.concatenate([np.asarray(session.embedded.chunk(i)) for i in range(session.embedded.chunks)]).astype(int)
    at, labels = (np.array(x) for x in zip(*places, strict=True))
    q = every[frame * cells : (frame + 1) * cells]
    distances = ((q[:, None] - every[at][None]) ** 2).sum(-1)
    order = np.argsort(distances, axis=1, kind="stable")[:, : session.k]  # `at` ascends: the lower place of equal ones
    ids = np.unique([0, *labels])
    found = np.take_along_axis(distances, order, 1)
    weights = np.full(found.shape, 2**16)
    if session.temperature is not None:
        unit = int(LENGTH**2 * session.temperature)
        step = 1  # the largest power of two of which at least 128 are a temperature
        while 256 * step <= unit:
            step *= 2
        further = (found - found[:, :1]) // step * step
        assert 128 * step <= unit or step == 1
        weights = np.round(2**16 * np.exp(-further / unit)).astype(int)
        weights[:, :1] += 1  # of two that share a step the nearest
        clicked = np.concatenate([m.clicked[m.cells >= 0] for _, m in sorted(marks.items())])
        weights *= np.where(clicked, session.k, 1)[order]  # a click as much as so many cells of a line
    votes = ((labels[order][..., None] == ids) * weights[..., None]).sum(1)
    assert votes.max() < 2**24
    return ids[votes.argmax(-1)], at[order]


def check(session, frames):
    for frame in frames:
        labels, places = by_hand(session, frame)
        chunk, f = divmod(frame, CHUNK)
        shares, ids = session.votes(frame)
        assert np.array_equal(ids[shares.argmax(-1)].ravel(), labels)
        found = np.asarray(session._answer(chunk).places)[f * len(labels) : (f + 1) * len(labels)]
        assert np.array_equal(found[:, : places.shape[1]], places)
    assert np.array_equal(session.grid_labels()[frames[0]].ravel(), by_hand(session, frames[0])[0])


points = st.tuples(st.integers(0, SIZE[0] - 1), st.integers(0, SIZE[1] - 1))
frame_numbers = st.integers(0, len(VIDEO.images) - 1)
label = st.sampled_from([0, 1, 2, 7])
line = st.lists(points, min_size=1, max_size=3).map(tuple)
# (op, frame, label, points, width, seed of a mask): made into edits in the test, as checking types draws random numbers.
described = st.one_of(
    st.tuples(st.just("click"), frame_numbers, label, st.tuples(points)),
    st.tuples(st.just("scribble"), frame_numbers, label, line, st.integers(1, 20)),
    st.tuples(st.just("box"), frame_numbers, label, st.tuples(points, points)),
    st.tuples(st.just("mask"), frame_numbers, st.integers(0, 1000)),
    st.tuples(st.just("erase"), frame_numbers, st.just(0), line, st.integers(1, 30)),
    st.tuples(st.sampled_from(["undo", "undo", "redo", "clear"])),
)


def made_edit(op, frame=0, *rest):
    if op != "mask":
        return Edit(op, frame, *rest)
    cells = np.random.default_rng(rest[0]).choice([0, 1, 7, 255], (6, 7))
    return Edit(op, frame, labels=cells.repeat(8, 0).repeat(8, 1)[:41, :55].astype(np.uint8))


@pytest.fixture(
    scope="module",
    params=[(COLOR, 1, None), (NET, 1, None), (COLOR, 4, None), (NET, None, None), (COLOR, 3, 0.001)],
    ids=["color", "net", "k 4", "net as it comes", "color weighed"],
)
def session(request):
    model, k, temperature = request.param
    return Session(model, VIDEO, k=k, temperature=temperature, cache=None)


@settings(max_examples=12)
@given(st.lists(st.tuples(described, st.booleans()), min_size=1, max_size=12), st.data())
def test_any_sequence_of_inputs_equals_a_search_from_scratch(session, sequence, data):
    session._become([], [], Edit("clear"), came=True)
    for description, looked_at in sequence:
        session.apply(made_edit(*description))
        if looked_at:  # some frames are up to date before the next input, others are not
            session.labels(data.draw(frame_numbers))
    check(session, [data.draw(frame_numbers), 0])


@settings(max_examples=12)
@given(st.lists(described, min_size=1, max_size=12))
def test_a_replay_is_what_was_said_one_after_the_other(session, sequence):
    session._become([], [], Edit("clear"), came=True)
    other, edits = session.snapshot(), [made_edit(*description) for description in sequence]
    for edit in edits:
        session.apply(edit)
    other.replay([("", edit) for edit in edits])
    assert [e.to_json() for e in other.edits] == [e.to_json() for e in session.edits]
    assert [e.to_json() for e in other.undone] == [e.to_json() for e in session.undone]
    assert all(np.array_equal(a, b) for a, b in zip(other.marked(), session.marked(), strict=True))
    for frame in {e.frame for e in edits}:
        assert all(np.array_equal(a, b) for a, b in zip(other.said(frame), session.said(frame), strict=True))


@pytest.mark.parametrize("kept", [1 << 28, 0])
def test_undo_comes_back_to_what_was_there(monkeypatch, kept):
    """Without a search where there is room for what was before; to the same where there is none."""
    monkeypatch.setattr("pmljax.held.KEPT", kept)
    session, searched = Session(NET, VIDEO, cache=None), []
    for i in range(14):  # more than vote
        session.click(i % 11, 3 * i, 4 * i, i % 3)
    before = session.grid_labels()
    session.scribble(5, [(2, 3), (39, 50)], 7, width=5)
    after = session.grid_labels()
    assert 7 in after and 7 not in before
    monkeypatch.setattr("pmljax.interact.updated", lambda *a: searched.append(0) or updated(*a))
    for change, expected in [(session.undo, before), (session.redo, after)] * 2:
        change()
        assert np.array_equal(session.grid_labels(), expected)
        check(session, [0, 10])
    assert len(session._held.now) == (session.embedded.chunks if kept else 1)
    assert not searched if kept else len(searched) >= 4 * session.embedded.chunks


def test_where_there_is_little_room_the_view_comes_first(monkeypatch):
    """What is asked for first after a change is what an undo is asked for first."""
    session, searched = Session(COLOR, Video(count=3 * CHUNK), k=3, cache=None), []
    session.click(0, 3, 3, 1)
    session.grid_labels()
    monkeypatch.setattr("pmljax.held.KEPT", 4 * session._held.now[0].bytes)  # of three chunks, and one of before
    monkeypatch.setattr("pmljax.interact.updated", lambda *a: searched.append(0) or updated(*a))
    for view in (17, 2):
        session.click(view, 20, 20, 2)
        for frame in (view, 9, 1, 23):
            session.labels(frame)
        assert list(session._held.earlier) == [view // CHUNK] and len(session._held.now) == 3
        searched.clear()
        session.undo()
        session.labels(view)
        assert not searched
        check(session, [view])


def test_another_label_for_the_same_cell_searches_nothing(monkeypatch):
    session, searched = Session(COLOR, VIDEO, k=3, cache=None), []
    for y in (5, 20, 35):
        session.click(0, y, y, 1)
        session.grid_labels()
    monkeypatch.setattr("pmljax.interact.updated", lambda *a: searched.append(0) or updated(*a))
    session.click(0, 35, 35, 2)
    assert session.labels(0)[35, 35] == 2
    for expected in (1, 0):
        session.undo()
        check(session, [0])
        assert np.count_nonzero(session.marked()[1] == 1) == 2 + expected
    assert not searched


@pytest.mark.parametrize("marks", [3, 10, 40])
@pytest.mark.parametrize("gone", [1, 2, 30])
def test_marks_that_come_and_go_equal_a_search_from_scratch(rng, marks, gone):
    """Of few marks each is taken out of the lists; of more the cells that had it are searched anew, or all."""
    cells, k = 300, 10
    embeddings = jnp.asarray(rng.integers(-3, 4, (cells, 6)), jnp.float16)  # many equal distances
    rows = rng.integers(-3, 4, (marks + 5, 6)).astype(np.float16)
    places = np.sort(rng.choice(10_000, marks + 5, replace=False)).astype(np.int32)

    def answer(before, chosen):
        return updated(before, cells, lambda: embeddings, places[chosen], rows[chosen], k)

    there = np.arange(marks + 5) >= 5
    then = there.copy()
    then[rng.choice(np.flatnonzero(there), min(gone, marks), replace=False)] = False
    then[:2] = True  # two come at the same time
    found, fresh = answer(answer(None, there), then), answer(None, then)
    assert np.array_equal(found.places, fresh.places) and np.array_equal(found.distances, fresh.distances)
    distances = ((np.asarray(embeddings, int)[:, None] - rows[then].astype(int)[None]) ** 2).sum(-1)
    order = np.argsort(distances, 1, kind="stable")[:, :k]
    assert np.array_equal(np.asarray(found.places)[:, : order.shape[1]], places[then][order])


def test_distances_are_whole_numbers_that_float32_adds_without_rounding(rng):
    e = rng.normal(size=(9, 11, 128)).astype("f")
    kept = np.asarray(quantise(e / np.linalg.norm(e, axis=-1, keepdims=True), np.float32(LENGTH)))
    assert np.array_equal(kept, np.round(kept)) and kept.dtype == np.float16
    assert (2 * np.linalg.norm(kept.astype(float), axis=-1).max()) ** 2 < 2**24
    long = np.asarray(quantise(100 * e, np.float32(LENGTH)))
    assert (2 * np.linalg.norm(long.astype(float), axis=-1).max()) ** 2 < 2**24


def test_the_nearer_neighbours_weigh_more():
    """In steps of less than a hundredth of the temperature, as whole numbers."""
    distances = jnp.array([[0.0, 1e5, 4e6, np.inf], [2e6, 2e6, 2e6, 8e6], [np.inf] * 4])
    line, click = (Marked(np.array([3], np.int32), np.array([1], np.int32), np.array([c])) for c in (False, True))
    places = np.full((3, 4), 3, np.int32)
    same, weighed = (np.asarray(weights_of(distances, places, weighing_of(t), line)[0]) for t in (None, 6e5))
    clicks = [np.asarray(weights_of(distances, places, weighing_of(t), click)[0]) for t in (None, 6e5)]
    assert np.array_equal(clicks[0], same) and np.array_equal(clicks[1], 4 * weighed)
    assert [clicks_weigh(k) for k in (1, 10, 15, 16, 50)] == [1, 10, 15, 15, 5]
    assert all(k * clicks_weigh(k) * (2**16 + 1) < 2**24 for k in range(1, 51))
    whole = 2**16
    assert np.array_equal(same, [[whole] * 3 + [0], [whole] * 4, [0] * 4])
    near = whole * np.exp(-np.array([1e5, 4e6, 6e6]) / 6e5)
    assert weighed[weighed > 0] == pytest.approx([whole, *near[:2], *[whole] * 3, near[2]], rel=0.012, abs=2)
    assert np.array_equal(weighed > 0, distances < np.inf) and np.array_equal(weighed, np.round(weighed))
    for temperature in (0.01, 1.0, 300.0, 6e5, 2e6, 1e12):
        step, table, *_ = weighing_of(temperature)
        assert step == 2 ** round(np.log2(step)) and (step == 1 or temperature / 256 < step <= temperature / 128)
        assert table[0] == whole and (table[-1] == 0 or len(table) * step >= 2**24)


def test_a_scribble_does_not_outvote_clicks_by_its_cells():
    """Three clicks say what three things are; a scribble within one of them takes nothing from the others."""
    colours = np.zeros((48, 96, 3), np.uint8)
    for i, colour in enumerate([(250, 30, 30), (30, 250, 30), (30, 30, 250)]):
        colours[:, 32 * i : 32 * i + 32] = colour
    video = Video(2, size=(48, 96))
    video.images = np.clip(colours + np.random.default_rng(0).integers(-25, 26, (2, *colours.shape)), 0, 255).astype(
        np.uint8
    )
    session = Session(COLOR, video, k=10, temperature=0.5, cache=None)
    for label, x in enumerate((16, 48, 80)):
        session.click(0, 24, x, label)
    before = session.grid_labels()
    assert {int(i) for i in before[0, 3, [2, 6, 10]]} == {0, 1, 2}
    session.scribble(0, [(4, 80), (44, 80)], 2, width=9)
    assert sum(session.marked_cells().values()) > session.k
    assert np.array_equal(session.grid_labels(), before)


def test_a_session_has_a_vote_of_its_own_where_lengths_are_one():
    assert (Session(NET, VIDEO, cache=None).k, Session(COLOR, VIDEO, cache=None).k) == (10, 1)
    assert session_vote(NET.config)[1] is not None and session_vote(COLOR.config) == (1, None)
    # Of two clicks the nearer decides, as alone.
    ten, one = Session(NET, VIDEO, cache=None), Session(NET, VIDEO, k=1, cache=None)
    for session in (ten, one):
        session.click(0, 10, 10, 1)
        session.click(2, 30, 40, 0)
    assert np.array_equal(ten.grid_labels(), one.grid_labels()) and len(np.unique(one.grid_labels())) == 2


@pytest.mark.parametrize("model", [COLOR, NET], ids=["color", "net"])
def test_a_mask_alone_is_plain_retrieval(model, made, tmp_path):
    """But for the rounding of what is kept, and without a mask's void; of the marked frame as it is, alone."""
    frames = pmljax.frames(made.folder)
    session = Session(model, frames, k=5, cache=tmp_path)
    session.mask(0, made.truth[0])
    plain = Preset(size=preset_of(model.config).size)
    expected = list(segment(model, list(made.frames), made.truth[0], preset=plain))
    assert np.array_equal(session.labels(0), made.truth[0])
    agree = [(session.labels(i) == expected[i]).mean() for i in range(1, len(expected))]
    assert min(agree) > 0.995


def test_inputs_keep_their_pixels(session):
    session._become([], [], Edit("clear"), came=True)
    assert not session.labels(3).any()
    session.click(3, 10, 10, 7)
    assert (session.labels(3) == 7).all() and (session.labels(10) == 7).all()  # nothing else is known
    session.scribble(3, [(30, 5), (30, 50)], 0, width=3)
    session.box(5, 0, 0, 7, 12, 2)
    labels = session.labels(3)
    assert labels[10, 10] == 7 and not labels[29:32, 5:51].any()
    assert (session.labels(5)[:8, :13] == 2).all()
    session.click(3, 10, 10, 0)
    assert session.labels(3)[10, 10] == 0
    assert session.undo() and session.labels(3)[10, 10] == 7
    session.clear()
    assert not session.labels(3).any() and session.undo() and session.labels(3)[10, 10] == 7
    assert session.redo() and not session.labels(3).any() and not session.redo()
    assert len(list(session.all_labels())) == len(VIDEO.images)


def test_region_against_a_loop():
    edit = Edit("scribble", 0, 1, ((5, 5), (5, 20), (30, 20)), 7)
    found = region(edit, SIZE)
    for y, x in np.ndindex(*SIZE):
        nearest = min(
            np.hypot(y - a, x - b) for a, b in [(5, b) for b in range(5, 21)] + [(a, 20) for a in range(5, 31)]
        )
        assert found[y, x] == (nearest <= 3)
    assert region(Edit("click", 0, 1, ((40, 54),)), SIZE).sum() == 1


@pytest.mark.parametrize("width", [1, 2, 3, 4, 8, 15, 40, 110])
def test_wide_lines_at_the_border(width):
    points = ((0, 3), (0, 3), (2, 50), (40, 54))
    found = region(Edit("scribble", 0, 1, points, width), SIZE)
    line = np.argwhere(region(Edit("scribble", 0, 1, points, 1), SIZE))
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    distances = ((line[:, 0, None, None] - y) ** 2 + (line[:, 1, None, None] - x) ** 2).min(0)
    assert np.array_equal(found, distances <= ((width - 1) / 2) ** 2)


def test_the_longest_and_widest_line_takes_little():
    rng = np.random.default_rng(0)
    points = tuple(zip(rng.integers(0, 480, 20_000).tolist(), rng.integers(0, 854, 20_000).tolist(), strict=True))
    assert region(Edit("scribble", 0, 1, points, 2 * 854), (480, 854)).all()


def test_thin_objects_and_void_in_a_mask(session):
    mask = np.full(SIZE, 255, np.uint8)
    mask[:, :30] = 0
    mask[10, 10] = 9  # fills no cell
    marks = with_edit(no_marks(session.grid), Edit("mask", 0, labels=mask), session.grid)
    assert (marks.cells == 9).sum() == 1 and (marks.pixels == -1).sum() == (mask == 255).sum()
    first = 5 * session.grid.seen[1] // SIZE[1]  # networks see small frames enlarged
    assert (marks.cells.reshape(session.grid.cells)[:, first:] == -1).all()  # more than half void


def test_no_object_of_a_mask_loses_its_last_cell(session):
    mask = np.zeros(SIZE, np.uint8)
    at = [int(8 * s / n) for s, n in zip(SIZE, session.grid.seen, strict=True)]  # pixels of a cell
    y, x = (2 * a for a in at)
    mask[y - at[0] // 2 : y + at[0] // 2 + 1, x - at[1] // 2 : x + at[1] // 2 + 1] = 1  # one cell
    mask[y + 1, x + 1] = 2  # in its middle
    before = list(session.edits)
    with pytest.raises(InputError, match="object 2 lies in cells that are all that another object has"):
        session.mask(3, mask)
    assert session.edits == before
    mask[y + 1, x + at[1]] = 2  # a pixel in the next cell is enough
    session.mask(3, mask)
    assert {1, 2} <= set(session.objects()) and {1, 2} <= set(np.unique(session.said(3).cells))


def test_what_is_forgotten_was_never_said():
    """Another object's marks beneath it come back, in masks too; what is said afterwards stays."""
    mask = np.ones(SIZE, np.uint8)
    mask[:, 30:] = 2
    one, two = (Session(COLOR, VIDEO, cache=None) for _ in range(2))
    one.click(0, 20, 20, 1)
    one.click(0, 20, 20, 2)
    one.mask(4, mask)
    one.box(5, 0, 0, 9, 9, 2)
    one.erase(4, [(0, 0), (0, 54)], 9)
    one.forget(2)
    two.click(0, 20, 20, 1)
    two.mask(4, np.where(mask == 2, 255, mask))
    two.erase(4, [(0, 0), (0, 54)], 9)
    for session in (one, two):
        session.click(7, 3, 3, 2)
    assert all(np.array_equal(a, b) for a, b in zip(one.marked(), two.marked(), strict=True))
    assert [e.op for e in one.inputs().values()] == ["click", "mask", "erase", "click"]
    assert np.array_equal(one.grid_labels(), two.grid_labels()) and one.objects() == [1, 2]
    one.undo()
    one.undo()
    assert one.inputs().keys() == set(range(5)) and 2 in one.marked()[1]


# The cache


def test_a_second_session_embeds_nothing(tmp_path):
    first = Session(COLOR, VIDEO, cache=tmp_path)
    decoded = VIDEO.decoded
    second = Session(COLOR, VIDEO, cache=tmp_path, memory=0)  # read from the file, chunk by chunk
    assert not first.reused and second.reused and VIDEO.decoded == decoded and second.embedded.held is None
    for s in (first, second):
        s.click(2, 20, 20, 1)
        s.scribble(9, [(3, 3), (30, 40)], 0, 5)
    assert np.array_equal(first.grid_labels(), second.grid_labels()) and second.grid_labels().any()
    second.click(0, 0, 0, 1)  # two sessions on one cache do not meet
    assert len(first.edits) == 2
    # Anything that changes an embedding has a file of its own.
    for model, video, size in ((NET, VIDEO, 480), (COLOR, Video(seed=1), 480), (COLOR, VIDEO, 24)):
        assert not Session(model, video, size=size, cache=tmp_path).reused
    assert len(list(tmp_path.glob("*.bin"))) == 4
    whole = next(tmp_path.glob("*.bin"))
    for path in tmp_path.glob("*.bin"):
        path.write_bytes(path.read_bytes()[:-2])  # cut short: never read
    assert not Session(COLOR, VIDEO, cache=tmp_path).reused
    assert whole.parent == tmp_path


def test_a_killed_embedding_leaves_nothing_that_is_read(tmp_path):
    code = """
        import os, signal, sys
        sys.path.insert(0, "tests")
        from pathlib import Path
        from test_interact import COLOR, Video, embed_video
        class Killed(Video):
            def stamped(self):
                for i, frame in enumerate(super().stamped()):
                    if i == 5:
                        os.kill(os.getpid(), signal.SIGKILL)
                    yield frame
        embed_video(COLOR, Killed(), cache=Path(sys.argv[1]))
    """
    ran = subprocess.run([sys.executable, "-c", textwrap.dedent(code), str(tmp_path)], capture_output=True, text=True)
    assert ran.returncode == -9, ran.stderr
    left = list(tmp_path.iterdir())
    assert [p.suffix for p in left] == [".part"]
    os.utime(left[0], (0, 0))
    assert not embed_video(COLOR, Video(), cache=tmp_path)[1] and embed_video(COLOR, Video(), cache=tmp_path)[1]
    assert not list(tmp_path.glob("*.part"))  # a day later it is swept away


def test_a_full_disk_is_one_clear_error(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(embedded.os, "fsync", full)
    with pytest.raises(InputError, match=r"cannot be written \(No space left on device\); expected a place with room"):
        Session(COLOR, VIDEO, cache=tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_without_a_cache_nothing_stays(monkeypatch, tmp_path):
    monkeypatch.setattr(embedded.tempfile, "gettempdir", lambda: str(tmp_path))
    session = Session(COLOR, VIDEO, cache=None, memory=0)
    session.click(1, 2, 3, 4)
    assert (session.labels(8) == 4).all() and len(list(tmp_path.iterdir())) == 1
    del session
    assert not list(tmp_path.iterdir())


def test_copies_of_a_session_without_a_cache(monkeypatch, tmp_path):
    """In memory it goes anywhere; its file goes with the last copy, and into no other process."""
    monkeypatch.setattr(embedded.tempfile, "gettempdir", lambda: str(tmp_path))
    small = Session(COLOR, VIDEO, cache=None)
    small.click(1, 2, 3, 4)
    again = pickle.loads(pickle.dumps(small))
    assert not list(tmp_path.iterdir()) and np.array_equal(again.labels(8), small.labels(8))
    long = Session(COLOR, VIDEO, cache=None, memory=0)
    long.click(1, 2, 3, 4)
    with pytest.raises(TypeError, match="give it a cache"):
        pickle.dumps(long)
    other = copy.deepcopy(long)
    del long
    assert (other.labels(8) == 4).all() and len(list(tmp_path.iterdir())) == 1
    del other
    assert not list(tmp_path.iterdir())


def test_where_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.delenv("PMLJAX_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert files.default_cache() == tmp_path / "x/pmljax"
    monkeypatch.setenv("PMLJAX_CACHE", str(tmp_path / "y"))
    assert files.default_cache() == tmp_path / "y"
    assert not Session(COLOR, VIDEO).reused and len(list((tmp_path / "y").iterdir())) == 2


# Files, and what is refused


def test_what_is_saved_comes_back(session, tmp_path):
    session._become([], [], Edit("clear"), came=True)
    session.click(0, 1, 2, 3)
    session.mask(4, np.where(np.arange(55)[None] > 20, 5, 0) * np.ones((41, 1), int))
    session.erase(4, [(0, 0), (40, 0)], 9)
    session.box(2, 1, 2, 3, 4, 0)
    session.scribble(7, [(1, 2), (30, 40)], 1, 4)
    expected = session.grid_labels()
    session.save(tmp_path / "inputs.jsonl")
    session.clear()
    session.load(tmp_path / "inputs.jsonl")
    assert np.array_equal(session.grid_labels(), expected) and len(session.edits) == 5
    other = Session(COLOR, Video(seed=5), cache=None)
    with pytest.raises(InputError, match="these inputs belong to another video"):
        other.load(tmp_path / "inputs.jsonl")
    # Without the first line they are anybody's; undo and redo count.
    lines = (tmp_path / "inputs.jsonl").read_text().splitlines()[1:]
    (tmp_path / "plain.jsonl").write_text("\n".join([*lines, '{"op": "undo"}']))
    other.load(tmp_path / "plain.jsonl")
    assert [e.op for e in other.edits] == ["click", "mask", "erase", "box"] and len(other.undone) == 1


def test_a_file_that_does_not_fit_changes_nothing(tmp_path):
    session, path = Session(COLOR, VIDEO, cache=None), tmp_path / "inputs.jsonl"
    session.click(0, 1, 2, 3)
    session.click(5, 20, 30, 0)
    session.undo()
    session.apply(Edit("name", label=3, name="dog"))
    before = session.grid_labels()
    path.write_text('{"op": "click", "frame": 1, "y": 1, "x": 1, "label": 9}\n{"op": "remove", "input": 5}')
    with pytest.raises(InputError, match=r"inputs\.jsonl: line 2: remove: found input 5"):
        session.load(path)
    assert [e.label for e in session.edits] == [3] and len(session.undone) == 1 and session.names == {3: "dog"}
    assert np.array_equal(session.grid_labels(), before)
    path.write_text('[{"op": "undo"}, {"op": "click", "frame": 11, "y": 1, "x": 1, "label": 9}]')
    with pytest.raises(InputError, match=r"inputs\.jsonl: entry 2: click on frame 11: expected a frame in 0…10"):
        session.load(path)
    assert np.array_equal(session.grid_labels(), before)
    # What the first line does not say is no other video's.
    path.write_text(json.dumps({"video": VIDEO.digest()}) + '\n{"op": "click", "frame": 1, "y": 1, "x": 1, "label": 9}')
    session.load(path)
    assert session.objects() == [9]


def test_davis_scribbles(tmp_path, made):
    path = tmp_path / "s.json"
    path.write_text(json.dumps({"scribbles": [[], [{"path": [[0, 0], [1, 1], [0.5, 0.25]], "object_id": 2}]]}))
    assert davis_scribbles(path, (41, 55)) == [Edit("scribble", 1, 2, ((0, 0), (40, 54), (10, 27)), 1)]
    frames = dataclasses.replace(pmljax.frames(made.folder), chosen=slice(1, None, 2), count=4)  # of 8
    assert [e.frame for e in davis_scribbles(path, (41, 55), place=frames.place)] == [0]
    assert [frames.place(i) for i in range(8)] == [None, 0, None, 1, None, 2, None, 3]
    path.write_text("[1, 2]")
    with pytest.raises(InputError, match="found no DAVIS scribbles"):
        davis_scribbles(path, (41, 55))
    line = {"path": [[0.5, 0.5], [1, 1]], "object_id": 1}
    path.write_text(json.dumps({"scribbles": [[], [], [line], []]}), encoding="utf-8-sig")
    assert [e.frame for e in davis_scribbles(path, (41, 55), count=3)] == [2]
    with pytest.raises(InputError, match="found scribbles on frame 2, expected 0…1: of another video"):
        davis_scribbles(path, (41, 55), count=2)
    path.write_text(json.dumps({"scribbles": [[line | {"object_id": 1.5}]]}))
    with pytest.raises(InputError, match="found no DAVIS scribbles"):
        davis_scribbles(path, (41, 55))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (Edit("click", 11, 1, ((0, 0),)), r"click on frame 11: expected a frame in 0…10"),
        (Edit("click", -1, 1, ((0, 0),)), r"expected a frame in 0…10"),
        (Edit("click", 0, 255, ((0, 0),)), r"found label 255, expected 0 \(background\) or an object's id"),
        (Edit("click", 0, 1, ((41, 0),)), r"found the point y 41, x 0, expected y in 0…40 and x in 0…54"),
        (Edit("scribble", 0, 1, (), 3), r"found no point"),
        (Edit("scribble", 0, 1, ((0, 0),), 0), r"found width 0"),
        (Edit("box", 0, 1, ((0, 0),)), r"of a box both corners"),
        (Edit("mask", 0, labels=np.zeros((3, 3), int)), r"mask on frame 0: the mask is 3×3, the frame 55×41"),
    ],
)
def test_what_does_not_fit_changes_nothing(session, edit, message):
    before = list(session.edits)
    with pytest.raises(InputError, match=message):
        session.apply(edit)
    assert session.edits == before


def test_a_video_that_fills_one_buffer_and_one_of_several_sizes():
    """Videos of the caller's own: a buffer that is filled again while the frame before is embedded; a frame of another size."""
    images = np.random.default_rng(0).integers(0, 256, (6, *SIZE, 3), np.uint8)

    class Camera(Video):
        def stamped(self):
            memory = np.empty(images[0].size + 64, np.uint8)
            begin = -memory.ctypes.data % 64
            buffer = memory[begin : begin + images[0].size].reshape(images[0].shape)
            for i, image in enumerate(images):
                buffer[:] = image
                yield SimpleNamespace(image=buffer, number=i)
                buffer[:] = 0

    camera, video = Camera(), Video()
    video.images = images
    embedded = [embed_video(NET, v)[0] for v in (camera, video)]
    places = np.arange(6 * embedded[0].cells)
    assert np.array_equal(*(e.rows(places) for e in embedded))
    video.images = [*images[:3], images[3][:33], *images[4:]]
    video.digest = lambda: "of several sizes"
    with pytest.raises(InputError, match="frame 3: found 55×33, expected the video's 55×41"):
        Session(NET, video, cache=None)


def test_sessions_compile_once():
    compiled = []

    def heard(event, seconds, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(event)

    def asked():
        session = Session(COLOR, VIDEO, cache=None)
        session.click(0, 3, 3, 1)
        return session.labels(2)

    first = asked()
    jax.monitoring.register_event_duration_secs_listener(heard)
    try:
        assert np.array_equal(asked(), first) and not compiled
    finally:
        jax.monitoring.unregister_event_duration_listener(heard)


def test_frames_that_are_not_there_and_k(session):
    with pytest.raises(InputError, match="frame 11: expected 0…10"):
        session.labels(11)
    with pytest.raises(InputError, match="k 0: expected 1…50"):
        Session(COLOR, VIDEO, k=0)
    with pytest.raises(InputError, match=r"temperature 0\.0: expected more"):
        Session(COLOR, VIDEO, k=2, temperature=0.0)
    with pytest.raises(InputError, match="temperature inf: expected more"):
        Session(COLOR, VIDEO, k=2, temperature=np.inf)
    with pytest.raises(InputError, match="found no k; expected both"):
        Session(COLOR, VIDEO, temperature=0.1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"op": "jump"}', "line 1: found op 'jump', expected one of click"),
        ('{"op": "click", "frame": 0, "y": 1, "label": 1}', "a click without x, expected frame, y, x, label"),
        ('{"op": "click", "frame": 0, "y": 1.5, "x": 2, "label": 1}', "expected whole numbers"),
        (
            '{"op": "mask", "frame": 0, "labels": "abc"}',
            r"line 1: found no image \(.*\) in labels, expected a PNG in base64",
        ),
        ("{", r"x\.jsonl: line 1: found no JSON \(Expecting property name.*, column 2\)"),
        ('{"op": "undo"}\n\n{"op" "undo"}', r"x\.jsonl: line 3: found no JSON"),
        ('[{"op": "undo"},', r"x\.jsonl: found no JSON"),
        ("7", "found op 7"),
    ],
)
def test_files_that_are_no_inputs(text, message, tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_edits(path)


def test_every_edit_survives_json():
    mask = np.array([[0, 1], [255, 9]], np.uint8)
    for edit in (
        Edit("click", 3, 1, ((4, 5),)),
        Edit("scribble", 3, 0, ((4, 5), (6, 7)), 3),
        Edit("box", 1, 2, ((1, 2), (3, 4))),
        Edit("erase", 1, 0, ((1, 2),), 9),
        Edit("clear"),
    ):
        assert from_json(edit.to_json()) == edit
    back = from_json(Edit("mask", 2, labels=mask).to_json())
    assert np.array_equal(back.labels, mask) and dataclasses.replace(back, labels=None) == Edit("mask", 2)
    assert len(encode_labels(mask)) > 0


def test_an_object_that_is_forgotten_takes_no_other_mask_along():
    """What is left of a mask may leave two objects one cell: the mask was taken, so it is still one."""
    session = Session(COLOR, Video(2, size=(96, 160)), cache=None)
    labels = np.full((96, 160), 3, np.uint8)
    labels[21:24, 21:36], labels[25:27, 21:28] = 1, 2
    session.mask(0, labels)
    session.forget(3)
    assert [e.op for e in session.edits] == ["mask", "forget"] and set(np.unique(session.said(0).pixels)) == {-1, 1, 2}
    assert session.undo() and (session.said(0).pixels == labels).all()
    with pytest.raises(InputError, match="object 2 lies in cells"):
        session.mask(1, np.where(labels == 3, 255, labels).astype(np.uint8))


def test_what_fails_changes_nothing(tmp_path):
    """Embeddings that can no longer be read, as when a cache is cleared, and can again."""
    session = Session(COLOR, VIDEO, cache=tmp_path, memory=0)
    session.click(0, 10, 10, 1)
    session.click(0, 30, 40, 0)
    labels, stored = session.labels(0), session.embedded.path
    stored.rename(tmp_path / "away")
    for what in (lambda: session.click(1, 5, 5, 2), lambda: session.mask(2, np.ones(SIZE, np.uint8))):
        with pytest.raises(InputError, match="cannot be read"):
            what()
        assert len(session.edits) == 2 and session.objects() == [1] and not session.undone
    (tmp_path / "away").rename(stored)
    assert (session.labels(0) == labels).all() and session.undo() and session.redo()
    session.click(1, 5, 5, 2)
    assert session.objects() == [1, 2]


@pytest.mark.parametrize(
    "wrong", [{"count": 4}, {"dimensions": 6}, {"grid": [6, 6]}, {"grid": [6, 7, 1]}, {"grid": 42}]
)
def test_a_record_that_does_not_fit_its_file_is_computed_anew(tmp_path, wrong):
    Session(COLOR, VIDEO, cache=tmp_path)
    record = next(tmp_path.glob("*.json"))
    assert Session(COLOR, VIDEO, cache=tmp_path).reused
    record.write_text(json.dumps(json.loads(record.read_text()) | wrong))
    assert not Session(COLOR, VIDEO, cache=tmp_path).reused and Session(COLOR, VIDEO, cache=tmp_path).reused


def test_numbers_of_numpy_are_numbers(tmp_path):
    """In a process of its own, without the tests' type checks, which know no number but Python's."""
    code = """
        import math, sys
        import numpy as np
        import pmljax
        from test_interact import COLOR, VIDEO, Session

        session, path = Session(COLOR, VIDEO, cache=None), sys.argv[1]
        y, x = np.argwhere(np.eye(9))[3]
        session.click(np.int64(1), y, x, label=np.uint8(2))
        session.box(0, *np.array([1.0, 2, 20, 30]), label=1)
        session.scribble(0, np.array([[3, 4], [5, 6]]), label=0, width=np.int32(3))
        session.save(path)
        other = Session(COLOR, VIDEO, cache=None)
        other.load(path)
        assert other.edits == session.edits and len(other.edits) == 3
        for wrong in ((10.5, 20, 1), (10, 20, 1.7), (10, 20, True), (10, "20", 1), (math.inf, 1, 1), (math.nan, 1, 1)):
            try:
                session.click(0, *wrong)
            except pmljax.InputError as error:
                assert "whole numbers" in str(error)
            else:
                raise AssertionError(wrong)
        assert len(session.edits) == 3
        print("all")
    """
    tests = str(Path(__file__).parent)
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "s.jsonl")]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": tests}, capture_output=True, text=True)
    assert done.stdout == "all\n", done.stderr


def test_white_on_black_is_no_mask_of_ids():
    session = Session(COLOR, VIDEO, cache=None)
    with pytest.raises(InputError, match="found 0 and 255 alone"):
        session.mask(0, np.where(np.arange(SIZE[1]) < 20, 255, 0).astype(np.uint8)[None].repeat(SIZE[0], 0))
    assert not session.edits


def test_inputs_that_no_file_could_hold_are_refused(made):
    """What is applied is what `save` writes and `load` reads."""
    session = pmljax.Session(pmljax.load("color"), pmljax.frames(made.folder), cache=None)
    for edit in (
        Edit("bogus"),
        Edit("click", 0, 1, ((0, 0), (30, 30))),
        Edit("box", 0, 1, ((0, 0), (5, 5), (6, 6))),
    ):
        with pytest.raises(InputError):
            session.apply(edit)
    assert not session.edits
    session.apply(Edit("click", 0, 1, ((10, 10),), width=9, ring=3))  # a click has neither
    assert session.edits[0] == Edit("click", 0, 1, ((10, 10),))

"""From references to labels: rows, vote, growth, late objects, one compilation, no transfers, memory that stays flat."""

import dataclasses
import subprocess
import sys
import textwrap
from functools import partial
from importlib.metadata import version

import jax
import numpy as np
import pytest
from PIL import Image

from pmljax.ahead import embed_frame
from pmljax.bilateral import solve
from pmljax.bilateral_grid import BilateralConfig
from pmljax.confidence import vote_confidence
from pmljax.config import ModelConfig
from pmljax.data.sources import open_frames
from pmljax.errors import InputError
from pmljax.labelling import grow, label_embedding, segment_frame
from pmljax.labels import VOID, grow_matrix, shrink_matrix
from pmljax.model import create, embed
from pmljax.preprocess import apply_axes
from pmljax.presets import PRESETS, Preset
from pmljax.references import reference_rows
from pmljax.segment import segment, start, step
from tests.filled import network

COLOR = create("color")


def rows_by_hand(labels, ids, stride=8):
    """Shares and validity of every cell, by areas: pixel p covers p ± ½, cell i is [8i − 4, 8i + 4]."""
    h, w = labels.shape
    out, valid = [], []
    for i in range((h + 1) // stride + 1):
        for j in range((w + 1) // stride + 1):
            area = dict.fromkeys([*ids, VOID], 0.0)
            for y in range(max(stride * i - 4, 0), min(stride * i + 5, h)):
                for x in range(max(stride * j - 4, 0), min(stride * j + 5, w)):
                    part = (0.5 if abs(y - stride * i) == 4 else 1) * (0.5 if abs(x - stride * j) == 4 else 1)
                    area[int(labels[y, x])] += part
            total = sum(area.values())
            valid.append(area[VOID] <= 0.5 * total)
            seen = total - area[VOID]
            out.append([area[k] / seen if seen else 0 for k in ids])
    return np.array(out), np.array(valid)


def blobs(rng, h, w, ids=(3, 9), void=True):
    labels = np.zeros((h, w), np.uint8)
    labels[5:25, 4:22] = ids[0]
    labels[10:37, 18:40] = ids[-1]
    colours = 80 * (labels == ids[0]) + 160 * (labels == ids[-1])
    frame = (colours[..., None] + rng.integers(0, 80, (h, w, 3))).astype(np.uint8)
    if void:
        labels[:, 24:27] = VOID
        labels[26:, :12] = VOID
    return labels, frame


def embedded(model, frame):
    return np.asarray(embed(model, frame[None], np.zeros(1, np.float32)))[0]


def rows_of(config, embedding, labels, ids, *options, **named):
    ids = np.array(ids, np.uint8)
    return jax.tree.map(np.asarray, reference_rows(config, embedding, labels, ids, *options, **named))


@pytest.mark.parametrize("size", [(39, 47), (40, 48)])  # 7 mod 8: a row of cells past the image
def test_reference_rows_by_areas(size, rng):
    labels, frame = blobs(rng, *size)
    embedding, ids = embedded(COLOR, frame), [0, 3, 9, VOID]
    rows = rows_of(COLOR.config, embedding, labels, ids, 4, hard=False)
    share, valid = rows_by_hand(labels, [0, 3, 9])
    assert np.array_equal(rows.valid, valid) and not valid.all()
    assert np.allclose(rows.share[:, :3], share, atol=1e-5) and not rows.share[:, 3].any()
    y, x = (size[0] + 1) // 8 + 1, (size[1] + 1) // 8 + 1
    assert rows.place.reshape(y, x, 3)[2, 3].tolist() == [4, 2, 3]
    assert np.array_equal(rows.embedding, embedding.reshape(-1, 5))
    hard = rows_of(COLOR.config, embedding, labels, ids, hard=True)
    assert np.array_equal(hard.share.argmax(-1), rows.share.argmax(-1)) and set(np.unique(hard.share)) == {
        0,
        1,
    }


def test_late_rows_are_objects_only(rng):
    labels, frame = blobs(rng, 39, 47, void=False)
    rows = rows_of(COLOR.config, embedded(COLOR, frame), labels, [0, 3, 9, VOID], late=True)
    assert np.array_equal(rows.valid, rows.share[:, 0] == 0) and rows.valid.any() and not rows.valid.all()


def labels_of_rows(state, size=(39, 47)):
    """The id of every cell among a state's references, −1 where it is not valid."""
    r, cells = state.references, int(state.filled)
    found = np.where(r.valid, np.array(r.ids)[np.array(r.share).argmax(-1)].astype(int), -1)
    return found[:cells].reshape((size[0] + 1) // 8 + 1, (size[1] + 1) // 8 + 1)


@pytest.mark.parametrize("hard", [True, False])
def test_thin_objects_keep_the_cell_they_fill_most(hard, rng):
    labels, frame = blobs(rng, 39, 47, void=False)
    labels[:, 44] = 5  # a line one pixel wide, and a single pixel
    labels[33, 9] = 7
    preset = Preset(k=1, hard=hard)
    cells = labels_of_rows(start(COLOR, frame, labels, preset=preset))
    assert np.argwhere(cells == 7).tolist() == [[4, 1]]  # the cell around pixel (32, 8)
    assert len(np.argwhere(cells == 5)) == 1 and np.argwhere(cells == 5)[0][1] in (5, 6)
    out = list(segment(COLOR, [frame] * 2, labels, preset=preset))[1]
    assert {5, 7} <= set(np.unique(out))


def test_no_object_loses_its_last_cell(rng):
    _, frame = blobs(rng, 39, 47)
    labels = np.zeros((39, 47), np.uint8)
    labels[12:21, 12:21] = 1  # one cell, around pixel (16, 16), and a pixel of another object in its corner
    labels[19, 19] = 2
    with pytest.raises(InputError, match="object 2 lies in cells that are all that another object has"):
        start(COLOR, frame, labels)
    labels[19, 21] = 2  # a pixel of it in the next cell is enough
    cells = labels_of_rows(start(COLOR, frame, labels))
    assert np.argwhere(cells == 1).tolist() == [[2, 2]] and np.argwhere(cells == 2).tolist() == [[2, 3]]
    labels[:] = 0
    labels[17, 17] = labels[15, 24] = 3
    labels[17, 18] = 4  # two single pixels in one cell, of which one has another to go to
    cells = labels_of_rows(start(COLOR, frame, labels))
    assert np.argwhere(cells == 3).tolist() in ([[2, 2]], [[2, 3]]) and (cells == 4).sum() == (cells == 3).sum() == 1


def test_an_object_within_void_keeps_a_cell(rng):
    labels, frame = blobs(rng, 39, 47, void=False)
    labels[2:14, 42:] = VOID
    labels[8, 46] = 6
    assert np.argwhere(labels_of_rows(start(COLOR, frame, labels)) == 6).tolist() == [[1, 6]]


@partial(jax.jit, static_argnames="size")
def grown(shares, ids, size):
    return grow(shares, ids, *(grow_matrix(c, n) for c, n in zip(shares.shape[:2], size, strict=True)))


def test_grow_by_interpolation_at_p_over_8(rng):
    shares = rng.dirichlet(np.ones(3), (6, 7)).astype(np.float32)
    found = np.asarray(grown(shares, np.uint8([0, 4, 9]), (39, 50)))
    wide = np.zeros((39, 50, 3))
    for y in range(39):
        for x in range(50):
            i, j = min(y / 8, 5), min(x / 8, 6)
            i0, j0 = min(int(i), 4), min(int(j), 5)
            a, b = i - i0, j - j0
            square = shares[i0 : i0 + 2, j0 : j0 + 2].astype(float)
            wide[y, x] = (1 - a) * ((1 - b) * square[0, 0] + b * square[0, 1]) + a * (
                (1 - b) * square[1, 0] + b * square[1, 1]
            )
    best = np.sort(wide, -1)
    clear = best[..., -1] - best[..., -2] > 1e-5
    assert clear.mean() > 0.99 and np.array_equal(found[clear], np.array([0, 4, 9])[wide.argmax(-1)][clear])


def test_equal_shares_take_the_lowest_id():
    shares, ids = np.full((3, 3, 4), 0.25, np.float32), np.uint8([0, 4, 9, VOID])
    assert not np.asarray(grown(shares, ids, (17, 17))).any()
    assert (np.asarray(grown(shares * np.float32([0, 1, 1, 0]), ids, (17, 17))) == 4).all()


@pytest.mark.parametrize(
    "preset", [Preset(), Preset(majority=True), Preset(k=1, hard=False), Preset(k=7, metric="cosine")]
)
def test_a_frame_step_by_step(preset, rng):
    """The compiled call against its parts in NumPy: all-pairs distances, a sort, a count."""
    labels, first = blobs(rng, 39, 47, void=False)
    second = np.clip(first.astype(int) + rng.integers(-20, 20, first.shape), 0, 255).astype(np.uint8)
    state = start(COLOR, first, labels, preset=preset)
    result = segment_frame(COLOR, state.references, second, 1, preset=preset)

    query = np.float64(embedded(COLOR, second).reshape(-1, 5))
    r = np.float64(state.references.embedding)[np.array(state.references.valid)]
    share = np.array(state.references.share)[np.array(state.references.valid)]
    if preset.metric == "cosine":
        query, r = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (query, r))
    order = np.argsort(((query[:, None] - r[None]) ** 2).sum(-1), -1, kind="stable")[:, : preset.k]
    votes = share[order].mean(1)
    if preset.majority:
        for q, labels in enumerate(share[order].argmax(-1).tolist()):
            most = max(map(labels.count, labels))
            votes[q] = np.eye(4)[next(a for a in labels if labels.count(a) == most)]
    distance = np.sort(((query[:, None] - r[None]) ** 2).sum(-1), -1)
    scale = (query**2).sum(-1) + (r**2).sum(-1).max()
    decided = (np.diff(distance[:, : preset.k + 1], axis=-1) > 1e-5 * scale[:, None]).all(-1)  # no near ties
    assert decided.mean() > 0.3
    assert np.allclose(np.array(result.shares).reshape(votes.shape)[decided], votes[decided], atol=1e-5)
    a_y, a_x = grow_matrix(6, 39), grow_matrix(7, 47)
    wide = np.einsum("yi,xj,ijo->yxo", a_y, a_x, np.array(result.shares, np.float64))
    clear = np.diff(np.sort(wide, -1)[..., -2:], axis=-1)[..., 0] > 1e-5
    assert np.array_equal(np.array(result.labels)[clear], np.array([0, 3, 9, VOID])[wide.argmax(-1)][clear])


def test_a_still_video_keeps_its_mask(rng):
    """Truth through the grid and back: with k 1 every cell finds itself."""
    labels, frame = blobs(rng, 95, 96, void=False)
    first, second = segment(COLOR, [frame] * 2, labels, preset=Preset(k=1, hard=False))
    assert np.array_equal(first, labels)
    a_y, a_x = shrink_matrix(95, 13), shrink_matrix(96, 13)
    grid = np.stack([a_y @ (labels == k) @ a_x.T for k in (0, 3, 9)], -1)
    wide = np.einsum("yi,xj,ijo->yxo", grow_matrix(13, 95), grow_matrix(13, 96), grid)
    clear = np.diff(np.sort(wide, -1)[..., -2:], axis=-1)[..., 0] > 1e-5
    assert np.array_equal(second[clear], np.array([0, 3, 9])[wide.argmax(-1)][clear])
    assert (second == labels).mean() > 0.95


def test_the_first_mask_comes_back_as_given_void_only_there(rng):
    labels, frame = blobs(rng, 39, 47)
    out = list(segment(COLOR, [frame] * 3, labels))
    assert np.array_equal(out[0], labels)
    assert all(set(np.unique(o)) <= {0, 3, 9} for o in out[1:]) and all(o.dtype == np.uint8 for o in out)


def test_a_video_of_one_frame(rng):
    labels, frame = blobs(rng, 39, 47)
    assert [np.array_equal(o, labels) for o in segment(COLOR, [frame], labels)] == [True]


def test_long_numbers_do_no_harm(rng):
    """As in IMG20240101123450.png."""
    labels, frame = blobs(rng, 39, 47)
    assert len(list(segment(COLOR, [(20240101123450, frame), (20240101123451, frame)], labels))) == 2


def test_ten_objects_and_ids_with_gaps(rng):
    labels = np.zeros((64, 320), np.uint8)
    ids = [2, 3, 5, 8, 13, 21, 34, 55, 89, 254]
    for n, k in enumerate(ids):
        labels[16:56, 32 * n : 32 * n + 28] = k
    frame = (labels[..., None] * np.array([1, 3, 7])[None, None] % 256).astype(np.uint8)
    out = list(segment(COLOR, [frame] * 2, labels, preset=Preset(k=1, hard=False)))[1]
    assert set(np.unique(out)) == {0, *ids} and (out == labels)[labels > 0].mean() > 0.9
    state = start(COLOR, frame, labels)
    assert state.references.ids.shape == (16,) and state.references.ids[:11].tolist() == [0, *ids]


# Streams


def stream(rng, n=5):
    labels, frame = blobs(rng, 39, 47, void=False)
    return labels, [np.clip(frame.astype(int) + 3 * t, 0, 255).astype(np.uint8) for t in range(n)]


def test_step_is_what_segment_does(rng):
    labels, frames = stream(rng)
    state, alone = start(COLOR, frames[0], labels), [labels]
    for frame in frames[1:]:
        state, out = step(COLOR, state, frame)
        alone.append(np.asarray(out))
    assert state.index == 5
    assert all(np.array_equal(a, b) for a, b in zip(alone, segment(COLOR, frames, labels), strict=True))


def test_an_object_introduced_late(rng):
    labels, frames = stream(rng)
    early, late = np.where(labels == 9, 9, 0), np.where(labels == 3, 3, 0)  # the late one has the lower id
    for frame in frames[:3]:  # where it is not to be seen yet
        frame[labels == 3] = rng.integers(0, 80, ((labels == 3).sum(), 3))
    preset = Preset(k=1, hard=False)
    out = list(segment(COLOR, frames, {1: early, 3: late}, preset=preset))
    assert not out[0].any()  # nothing known before the first mask
    assert np.array_equal(out[1], early)
    assert set(np.unique(out[2])) == {0, 9}
    assert ((out[3] == 3) == (late == 3)).all()  # the mark wins on its frame
    assert {3, 9} <= set(np.unique(out[4])) and ((out[4] == labels)[labels > 0]).mean() > 0.8
    # Where a late mask is 0 nothing is said: the frame's own labels stay.
    state = start(COLOR, frames[1], early, masks=2, preset=preset)
    state, _ = step(COLOR, state, frames[2])
    _, plain = step(COLOR, state, frames[3])
    assert np.array_equal(out[3][late == 0], np.asarray(plain)[late == 0])


def test_references_never_grow_and_are_never_overwritten(rng):
    labels, frames = stream(rng)
    state = start(COLOR, frames[0], labels, masks=2)
    shape = state.references.embedding.shape
    cells = int(state.filled)
    before = np.array(state.references.embedding)[:cells]
    state, _ = step(COLOR, state, frames[1], labels)
    assert state.references.embedding.shape == shape and shape[0] % 128 == 0
    assert np.array_equal(before, np.asarray(state.references.embedding)[:cells]) and state.filled == 2 * cells
    with pytest.raises(InputError, match="no room for another mask"):
        for frame in frames[2:]:
            state, _ = step(COLOR, state, frame, labels)


def test_numbers_reach_the_network(rng):
    config = ModelConfig("t", 10, 8, norm="group", head=((1, 12),), position="yxt")
    model = network(config)
    labels, frames = stream(rng, 3)
    state = start(model, frames[0], labels, number=10, preset=Preset())
    moved = start(model, frames[0], labels, number=60, preset=Preset())
    a, b = (np.asarray(s.references.embedding) for s in (state, moved))
    assert np.abs(a - b).max() > 1e-4
    pairs = list(segment(model, [(10, frames[0]), (60, frames[1])], labels, preset=Preset()))
    _, alone = step(model, state, frames[1], number=60)
    assert np.array_equal(pairs[1], alone)


def test_frames_before_a_failure_come_out(rng):
    labels, frames = stream(rng)

    def broken():
        yield from frames[:3]
        raise InputError("frame 3 is broken")

    out = []
    with pytest.raises(InputError, match="frame 3 is broken"):
        for o in segment(COLOR, broken(), labels):
            out.append(o)
    assert len(out) == 3
    for given, masks in (
        ([*frames[:3], frames[3][:20], frames[4]], labels),
        (frames, {0: labels, 3: labels[:20]}),
    ):
        out = []
        with pytest.raises(InputError, match=r"frame 3|frame 3: found"):
            for o in segment(COLOR, given, masks):
                out.append(o)
        assert len(out) == 3
        assert all(np.array_equal(x, y) for x, y in zip(out, segment(COLOR, frames[:3], labels), strict=True))


def test_stamped_frames_are_frames(rng, tmp_path):
    labels, frames = stream(rng)
    for i, frame in enumerate(frames):
        Image.fromarray(frame).save(tmp_path / f"{i:05d}.png")
    opened = open_frames(tmp_path)
    found, expected = segment(COLOR, opened.stamped(), labels), segment(COLOR, opened, labels)
    assert all(np.array_equal(x, y) for x, y in zip(found, expected, strict=True))


def test_references_of_another_stream_are_refused(rng):
    labels, frames = stream(rng)
    state = start(COLOR, frames[0], labels)
    ours = dataclasses.replace(PRESETS["default"], size=480)
    with pytest.raises(InputError, match=r"references: found \d+ rows of 5, expected more than \d+ of 5"):
        segment_frame(COLOR, state.references, frames[1], preset=ours)
    net = network(ModelConfig("net", 10, 8, norm="group", taps=(4,), head=((1, 8),)))
    with pytest.raises(InputError, match=r"references: found \d+ rows of 5, expected more than \d+ of 8"):
        segment_frame(net, state.references, frames[1], preset=PRESETS["plain"])


def test_skipped_frames_cost_nothing_and_change_nothing(rng):
    labels, frames = stream(rng)
    whole, part = list(segment(COLOR, frames, labels)), list(segment(COLOR, frames, labels, skip={1, 3}))
    assert [o is None for o in part] == [False, True, False, True, False]
    assert np.array_equal(part[2], whole[2]) and np.array_equal(part[4], whole[4])


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda f, m: (f, m[:-1]), "the mask is 47×38, the frame 47×39"),
        (lambda f, m: (f, m * 0), "no object"),
        (lambda f, m: (f, m.astype(np.int32) * 100), "label 900"),
        (lambda f, m: ([f[0], f[1][:-1]], m), "frame 1: found 47×38"),
        (lambda f, m: ([f[0] / 255.0], m), "uint8 RGB"),
        (lambda f, m: ([f[0][..., 0]], m), "uint8 RGB"),
        (lambda f, m: (f, {}), "no mask"),
        (lambda f, m: (f, {0: m, 9: m}), "mask for frame 9"),
        (lambda f, m: ([], m), "frames: found none"),
        (lambda f, m: ([f[0].astype(np.uint16), *f[1:]], {2: m}), "frame 0: found uint16"),
        (lambda f, m: ([f[0], f[1][:-1], *f[2:]], {2: m}), "frame 1: found"),
        (lambda f, m: (f, np.where(m > 0, 255, 0)), "255 alone is void"),
    ],
)
def test_bad_input_is_named(change, word, rng):
    labels, frames = stream(rng)
    frames, labels = change(frames, labels)
    with pytest.raises(InputError, match=word):
        list(segment(COLOR, frames, labels))


def test_what_callers_get_wrong_is_named_without_the_checks_of_the_tests(tmp_path):
    for name in ("00000.png", "00001.png"):
        Image.new("RGB", (47, 39)).save(tmp_path / name)
    script = """
import pathlib, sys, numpy as np, PIL.Image, pmljax
session = pmljax.Session(pmljax.load("color"), pmljax.frames(sys.argv[1]), cache=None)
frame, mask = np.zeros((9, 9, 3), np.uint8), np.ones((9, 9), np.uint8)
for call in (
    lambda: next(pmljax.segment("small", [frame], mask)),
    lambda: next(pmljax.segment(pmljax.load("color"), [frame], mask, preset="best")),
    lambda: next(pmljax.segment(pmljax.load("color"), pathlib.Path("a.mp4"), mask)),
    lambda: pmljax.start(pmljax.load("color"), PIL.Image.fromarray(frame[0]), mask),
    lambda: pmljax.nearest(np.ones((2, 3), "f"), np.ones((2, 4), "f")),
    lambda: pmljax.embed(pmljax.load("color"), np.zeros((1, 9, 9, 1), np.uint8), np.zeros(1)),
    lambda: pmljax.embed(pmljax.load("color"), [frame], [0]),
    lambda: pmljax.embed(pmljax.load("color"), frame[None], [0], 7.5),
    lambda: pmljax.Session(pmljax.load("color"), pmljax.frames(sys.argv[1]), cache=None, k=2.5),
    lambda: pmljax.Session(pmljax.load("color"), pmljax.frames(sys.argv[1]), cache=None, size="full"),
    *(lambda p=p: session.scribble(0, p, label=1) for p in ([(1, 2, 3)], [1, 2], None, "ab")),
    lambda: session.mask(0, None),
    lambda: pmljax.Session("color", pmljax.frames(sys.argv[1]), cache=None),
    lambda: session.labels(0.5),
    lambda: session.neighbours(2),
    lambda: session.said(-1),
    lambda: next(pmljax.segment(pmljax.load("color"), [(1, 2, frame)], mask)),
    lambda: next(pmljax.segment(pmljax.load("color"), [frame], {"00000": mask})),
    lambda: next(pmljax.segment(pmljax.load("color"), [frame], {0: mask, 2.5: mask})),
):
    try:
        call()
    except ValueError as error:
        print(error)
assert not session.edits
print(pmljax.nearest(np.arange(6).reshape(3, 2), np.arange(8).reshape(4, 2), k=1).rows.tolist(), pmljax.__version__)
"""
    told = subprocess.run(
        [sys.executable, "-c", script, tmp_path], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert told == [
        "model: found str, expected what pmljax.load(NAME) gives",
        "preset: found 'best', expected a Preset, such as pmljax.PRESETS[\"best\"]",
        "frames: found 'a.mp4', expected a stream, such as pmljax.frames(PATH)",
        "frame 0: found uint8 [9, 3], expected uint8 RGB [h, w, 3]",
        "queries: found 3 dimensions, the references have 4",
        "frames: found [1, 9, 9, 1], expected RGB [b, h, w, 3] of one frame at least",
        "frames: found list, expected an array of uint8, RGB 0…255, as decoded",
        "size 7.5: expected 8 pixels or more, two such numbers, or None",
        "k 2.5: expected 1…50",
        "size full: expected 8 pixels or more, two such numbers, or None",
        *(f"points: found {p}, expected pairs (y, x)" for p in ("[(1, 2, 3)]", "[1, 2]", "None", "ab")),
        "mask on frame 0: found object [], expected integer labels [h, w]",
        "model: found str, expected what pmljax.load(NAME) gives",
        "frame 0.5: expected 0…1",
        "frame 2: expected 0…1",
        "frame -1: expected 0…1",
        "frame 0: found 3 values, expected a frame, or its number and the frame",
        "labels: found masks for frames ['00000'], expected whole numbers, counted from 0",
        "labels: found masks for frames [0, 2.5], expected whole numbers, counted from 0",
        f"[[0], [1], [2]] {version('pmljax')}",
    ]


def test_large_frames_are_seen_small(rng):
    labels, frame = blobs(rng, 78, 94, void=False)
    preset = Preset(size=39, k=1, hard=False)
    state = start(COLOR, frame, labels, preset=preset)
    assert np.asarray(state.references.place)[: state.filled].max(0).tolist() == [0, 5, 6]  # the grid of 39 × 47
    _, second = segment(COLOR, [frame] * 2, labels, preset=preset)
    assert second.shape == (78, 94) and (second == labels).mean() > 0.9
    full = start(COLOR, frame, labels, preset=dataclasses.replace(preset, size=None))
    assert np.asarray(full.references.place)[: full.filled].max(0).tolist() == [0, 9, 11]


def test_half_pixel_configurations_grow_and_shrink_their_own_way(rng):
    config = ModelConfig("s", 10, 8, norm="group", head=((1, 12),), input_size=(40, 48), half_pixel=True)
    model = network(config)
    labels, frame = blobs(rng, 78, 94, void=False)
    rows = rows_of(config, embedded(model, frame), labels, [0, 3, 9, VOID])
    y, x = ((np.arange(n) + 0.5) * s / n for n, s in ((6, 78), (7, 94)))
    picked = labels[np.ix_(y.astype(int), x.astype(int))]
    assert np.array_equal(np.array([0, 3, 9])[rows.share[:, :3].argmax(-1)].reshape(6, 7), picked)


# What compiling costs


def test_one_compilation_and_no_transfer(rng):
    labels, frames = stream(rng, 4)
    state = start(COLOR, frames[0], labels)
    segment_frame.clear_cache()
    on_device = [jax.device_put(f) for f in frames]
    numbers = [jax.device_put(np.int32(i)) for i in range(4)]
    segment_frame(COLOR, state.references, on_device[1], numbers[1])
    assert segment_frame._cache_size() == 1
    with jax.transfer_guard("disallow"):
        for frame, number in zip(on_device[2:], numbers[2:], strict=True):
            jax.block_until_ready(segment_frame(COLOR, state.references, frame, number))
    assert segment_frame._cache_size() == 1
    text = segment_frame.lower(COLOR, state.references, on_device[1], numbers[1]).as_text()
    assert "callback" not in text and "infeed" not in text and "outfeed" not in text


@pytest.mark.parametrize("platforms", [("cpu",), ()])
def test_a_whole_stream_compiles_each_call_once(platforms, rng, monkeypatch):
    monkeypatch.setattr("pmljax.ahead.PLATFORMS", platforms)
    labels, frames = stream(rng, 5)
    calls = (embed_frame, label_embedding) if platforms else (embed_frame, segment_frame)
    every = (embed_frame, label_embedding, segment_frame, reference_rows)
    for call in every:
        call.clear_cache()
    list(segment(COLOR, frames, {0: labels, 2: labels}))
    assert {call.__name__: call._cache_size() for call in every} == {
        call.__name__: int(call in (*calls, reference_rows)) for call in every
    }


def test_memory_stays_flat_over_2000_frames():
    """Frames and labels of 1,800 frames would be 35 MB; what stays may not be a tenth of that."""
    code = """
        import numpy as np, pmljax
        rng = np.random.default_rng(0)
        base = rng.integers(0, 256, (60, 80, 3), np.uint8)
        labels = np.zeros((60, 80), np.uint8)
        labels[20:40, 25:50] = 1
        def resident():
            return int(open("/proc/self/statm").read().split()[1]) * 4096
        frames = (np.roll(base, i % 20, 1) for i in range(2000))
        for i, out in enumerate(pmljax.segment(pmljax.load("color"), frames, labels)):
            assert out.shape == (60, 80)
            if i == 199:
                before = resident()
        assert i == 1999
        print(resident() - before)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 3.4e6, f"{int(done.stdout) / 1e6:.0f} MB more after 2,000 frames"


@jax.jit
def solved_by_parts(frame, shares):
    """What the solver makes of the votes on a grid, its parts called one after the other."""
    grid, size = shares.shape[:2], frame.shape[:2]
    target = apply_axes(*(grow_matrix(c, n) for c, n in zip(grid, size, strict=True)), shares)
    return solve(frame, target, vote_confidence(target))


def test_the_solver_moves_labels_to_the_edges_of_the_image(rng):
    """A slanted edge between two even colours, which cells of 8 pixels cannot follow."""
    y, x = np.mgrid[:90, :123]
    labels = np.where(3 * x + y > 240, 9, np.where(y > 45, 4, 0)).astype(np.uint8)
    frame = (np.array([[40, 60, 50], [200, 90, 80], [90, 110, 210]])[np.searchsorted([0, 4, 9], labels)]).astype(
        np.uint8
    )
    frame += rng.integers(0, 4, frame.shape).astype(np.uint8)
    without = Preset(hard=False)
    wrong = {}
    for preset in (without, dataclasses.replace(without, solver=BilateralConfig())):
        state = start(COLOR, frame, labels, preset=preset)
        found = segment_frame(COLOR, state.references, frame, preset=preset)
        wrong[preset.solver is None] = (np.asarray(found.labels) != labels).mean()
    assert wrong[False] < 0.5 * wrong[True]
    # It is what the parts give one after the other.
    assert found.shares.shape[:2] == COLOR.config.grid(labels.shape)
    expected = np.asarray(solved_by_parts(frame, found.shares))
    assert (np.asarray(state.references.ids)[expected.argmax(-1)] == np.asarray(found.labels)).mean() > 0.999


def test_what_ties_between_two_objects_is_no_background(rng):
    """Halfway between two cells a hard majority ties, and the solver has no confidence there; nothing is background."""
    labels = ((np.mgrid[:90, :123] // 8).sum(0) % 2 + 1).astype(np.uint8)
    frame = rng.integers(0, 256, (90, 123, 3), np.uint8)
    preset = PRESETS["paper"]
    state = start(COLOR, frame, labels, preset=preset)
    found = segment_frame(COLOR, state.references, frame, preset=preset)
    solved = np.asarray(solved_by_parts(frame, found.shares))
    assert (solved <= 0).all(-1).any()  # there are such pixels
    assert set(np.unique(found.labels)) == {1, 2}


def test_a_callers_buffer_may_be_filled_again_at_once(rng, monkeypatch):
    """A frame of aligned memory is not copied to a CPU's device; labels are computed after `step` has returned."""
    frames = rng.integers(0, 256, (5, 39, 47, 3), np.uint8)
    labels = np.zeros((39, 47), np.uint8)
    labels[8:25, 10:30] = 1
    expected = list(segment(COLOR, frames, labels))
    memory = np.empty(frames[0].size + 64, np.uint8)
    begin = -memory.ctypes.data % 64
    buffer = memory[begin : begin + frames[0].size].reshape(frames[0].shape)
    buffer[:] = frames[0]
    module, shown = sys.modules[segment.__module__], []
    real = module.embed_frame

    def embed_frame(model, frame, *rest, **options):  # of so few pixels it is done before anything could change
        shown.append(frame)
        return real(model, frame, *rest, **options)

    monkeypatch.setattr(module, "embed_frame", embed_frame)
    state, found = start(COLOR, buffer, labels), []
    assert shown and not any(np.shares_memory(frame, buffer) for frame in shown)
    for frame in frames[1:]:
        buffer[:] = frame
        state, out = step(COLOR, state, buffer)
        buffer[:] = 0
        found.append(out)
    assert all(np.array_equal(a, b) for a, b in zip(found, expected[1:], strict=True))
    expected[3][:] = 7  # and what comes out may be written in


def test_masks_before_the_first_frame_are_refused():
    with pytest.raises(InputError, match="expected frames counted from 0"):
        next(segment(COLOR, [np.zeros((9, 9, 3), np.uint8)], {-1: np.ones((9, 9), np.uint8)}))

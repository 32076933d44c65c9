"""The first marked frame's other views: what they show, which of their cells are remembered, and that nothing else changes."""

import dataclasses

import numpy as np
import pytest
from filled import network

from pmljax.adaptation import Adaptation
from pmljax.ahead import embed_frame
from pmljax.augmented import VIEWS, View, seen_as
from pmljax.config import ModelConfig
from pmljax.errors import InputError
from pmljax.labelling import label_embedding
from pmljax.memory import AROUND, PRESENT, cells_kept
from pmljax.presets import Preset
from pmljax.segment import start, step

NET = network(ModelConfig("net", 10, 8, norm="group", taps=(2, 4), head=((1, 8),)))
SIZE = (71, 101)  # 7 modulo 8, and odd


def marked(rng, size=SIZE):
    """(a frame, its labels): two objects and a void, off the middle."""
    frame = rng.integers(0, 255, (*size, 3), dtype=np.uint8)
    labels = np.zeros(size, np.uint8)
    labels[20:44, 60:90], labels[30:50, 8:30], labels[44:47, 60:90] = 1, 7, 255
    return frame, labels


@pytest.mark.parametrize("view", [*VIEWS, View(False, 2.0), View(True, 8.0)])
def test_a_view_pixel_by_pixel(view, rng):
    frame, labels = marked(rng)
    seen, found = seen_as(view, frame, labels)
    assert seen.shape == frame.shape and found.shape == labels.shape and seen.dtype == found.dtype == np.uint8
    (h, w), z = SIZE, view.nearer
    # The middle of the objects, 20…49 and 8…89 (void is none), but no further than the frame goes.
    top, left = (np.clip(m - n / z / 2, 0, n - n / z) for m, n in zip(((20 + 50) / 2, (8 + 90) / 2), SIZE, strict=True))
    for i, j in [*np.ndindex(3, 3), (h // 2, w // 2), (40, 7), (h - 1, w - 1), (h - 2, 3)]:
        y, x = top + (i + 0.5) / z - 0.5, left + ((w - 1 - j if view.mirrored else j) + 0.5) / z - 0.5
        assert found[i, j] == labels[int(y + 0.5), int(x + 0.5)]
        y, x = np.clip(y, 0, h - 1), np.clip(x, 0, w - 1)
        y0, x0 = min(int(y), h - 2), min(int(x), w - 2)
        around = frame[y0 : y0 + 2, x0 : x0 + 2].astype(float)
        by = np.array([1 - (y - y0), y - y0])[:, None] * np.array([1 - (x - x0), x - x0])[None]
        assert np.abs((around * by[..., None]).sum((0, 1)) - seen[i, j]).max() <= 1.5


def preset_with(augmented, **options):
    rule = Adaptation(frames=2, window=2, memory=2, augmented=augmented, **options)
    return Preset(k=3, hard=False, size=None, adaptation=rule)


def test_what_is_remembered_of_a_view(rng):
    """Cells in and near the objects, with the view's embeddings and shares; none has a frame; the rest is as it was."""
    frame, labels = marked(rng)
    preset = preset_with(len(VIEWS))
    state = start(NET, frame, labels, preset=preset, index=5)
    y, x = NET.config.grid(SIZE)
    each = cells_kept(y * x)
    rows = [np.asarray(a) for a in state.references[:4]]
    begin = len(rows[2]) - preset.adaptation.rows(y * x) + 2 * each
    for n, view in enumerate(VIEWS):
        seen, mask = seen_as(view, frame, labels)
        embedding = np.asarray(embed_frame(NET, seen, np.float32(5), preset=preset)).reshape(y * x, -1)
        alone = start(NET, seen, mask, preset=dataclasses.replace(preset, adaptation=Adaptation()))
        share, counts = (np.asarray(a)[: y * x] for a in (alone.references.share, alone.references.valid))
        near = np.zeros((y, x), bool)
        for row, column in np.argwhere(share[:, 1:].max(-1).reshape(y, x) > PRESENT):
            near[max(row - AROUND, 0) : row + AROUND + 1, max(column - AROUND, 0) : column + AROUND + 1] = True
        expected = np.flatnonzero(near.ravel() & counts)
        here = slice(begin + n * each, begin + (n + 1) * each)
        kept = rows[2][here]
        assert kept.sum() == len(expected) and 0 < len(expected) < y * x
        found = [np.flatnonzero((np.abs(embedding - e) < 1e-6).all(-1)) for e in rows[0][here][kept]]
        assert sorted(int(f[0]) for f in found) == expected.tolist() and all(len(f) == 1 for f in found)
        assert np.allclose(rows[1][here][kept], share[[int(f[0]) for f in found]], atol=1e-6)
        assert (rows[3][here] == -1).all()
    without = start(NET, frame, labels, preset=preset_with(0), index=5).references
    assert all(
        np.array_equal(a[: begin - 2 * each], b[: begin - 2 * each]) for a, b in zip(rows, without[:4], strict=True)
    )


def test_they_stay_and_the_memory_goes_on_beside_them(rng):
    frame, labels = marked(rng)
    frames = rng.integers(0, 255, (24, *SIZE, 3), dtype=np.uint8)
    y, x = NET.config.grid(SIZE)
    each, states = cells_kept(y * x), []
    for augmented in (0, 3):
        state = start(NET, frame, labels, preset=preset_with(augmented))
        first = state.references
        for f in frames:
            state, _ = step(NET, state, f)
        states.append((first, state.references, state.preset.adaptation))
    (_, without, rule), (first, after, augmented) = states
    begin = len(after.valid) - augmented.rows(y * x)
    views = slice(begin + 2 * each, begin + 5 * each)
    assert all(np.array_equal(a[views], b[views]) for a, b in zip(first[:4], after[:4], strict=True))
    assert np.asarray(after.valid[views]).any()
    slots = len(without.valid) - rule.rows(y * x)
    frame_of = [np.asarray(r.place)[at : at + 2 * each : each, 0] for r, at in ((without, slots), (after, begin))]
    assert np.array_equal(*frame_of) and (frame_of[0] > 0).all()


def test_an_object_that_turned_and_came_nearer_is_known_by_its_view(rng):
    """A frame that is one of the views gets that view's labels; without the views it does not."""
    frame, labels = marked(rng)
    preset = dataclasses.replace(preset_with(3), k=1)
    state = start(NET, frame, labels, preset=preset)
    seen, mask = seen_as(View(True, 4 / 3), frame, labels)
    inside = np.zeros(SIZE, bool)
    inside[8:-8, 8:-8] = (mask[8:-8, 8:-8] > 0) & (mask[8:-8, 8:-8] < 255)
    right = [
        (np.asarray(step(NET, s, seen)[1]) == mask)[inside].mean()
        for s in (state, start(NET, frame, labels, preset=dataclasses.replace(preset_with(0), k=1)))
    ]
    assert right[0] > 0.9 > right[1]


@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_without_frames_views_are_as_near_as_what_was_marked(metric, rng):
    """As the preset `plain` has them: the k nearest of the marked cells and the views', whichever they are of."""
    frame, labels = marked(rng)
    preset = Preset(k=3, metric=metric, size=None, adaptation=Adaptation(augmented=3))
    state = start(NET, frame, labels, preset=preset)
    later = rng.integers(0, 255, (*SIZE, 3), dtype=np.uint8)
    embedding = np.asarray(embed_frame(NET, later, np.float32(1), preset=preset), np.float64)
    y, x, d = embedding.shape
    rows, share, valid = (np.asarray(a) for a in state.references[:3])
    assert valid[: y * x].any() and valid[-preset.adaptation.rows(y * x) :].any()
    rows, share = rows[valid].astype(np.float64), share[valid]
    each = np.zeros((y * x, share.shape[1]))
    for q, cell in enumerate(embedding.reshape(-1, d)):
        square = ((rows - cell) ** 2).sum(-1)
        far = square if metric == "l2" else square / 2  # of unit vectors
        each[q] = share[np.argsort(far, kind="stable")[:3]].mean(0)
    after, _ = step(NET, state, later)
    found = label_embedding(NET.config, state.references, embedding.astype(np.float32), later, 1, preset=preset).shares
    assert np.abs(np.asarray(found).reshape(y * x, -1) - each).max() < 1e-5
    assert all(np.array_equal(a, b) for a, b in zip(after.references, state.references, strict=True))


def test_networks_that_are_shown_no_views(rng):
    """Those that see a position: what there would be of views does not count."""
    placed = network(ModelConfig("placed", 10, 8, norm="group", taps=(4,), head=((1, 8),), position="yx"))
    preset, (y, x) = preset_with(3), placed.config.grid(SIZE)
    valid = np.asarray(start(placed, *marked(rng), preset=preset).references.valid)
    assert valid[: y * x].any() and not valid[len(valid) - preset.adaptation.rows(y * x) :].any()
    for wrong, words in (({"drift": 1.0}, "and no drift"), ({"augmented": 4}, "expected augmented 0…3")):
        with pytest.raises(InputError, match=words):
            Adaptation(**{"frames": 2, "augmented": 1, **wrong})

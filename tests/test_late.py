"""What a late mask takes back: the background that an object, or a part of it, was said to be."""

import dataclasses
import sys

import jax
import numpy as np
import pytest

from experiments import late_masks
from pmljax.late import ALIKE, taken_back
from pmljax.metrics import jaccard
from pmljax.model import Model, create
from pmljax.presets import PRESETS, Preset
from pmljax.references import References
from pmljax.segment import segment, start, step
from tests.test_batches import video

COLOURS = Model({}, dataclasses.replace(create("color").config, unit=True))
SIZE = (72, 104)
ONE, TWO = (slice(8, 32), slice(8, 40)), (slice(40, 64), slice(56, 88))


def unit(rng, *shape):
    x = rng.normal(size=shape).astype(np.float32)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def mask(**places):
    """one, two: where the objects 1 and 2 are."""
    labels = np.zeros(SIZE, np.uint8)
    for i, (_, place) in enumerate(sorted(places.items()), 1):
        labels[place] = i if "one" in places else 2
    return labels


def picture(rng):
    """Red and blue before grey."""
    frame = rng.integers(110, 131, (*SIZE, 3)).astype(np.uint8)
    frame[ONE], frame[TWO] = (230, 60, 60), (20, 80, 240)
    return frame


@pytest.mark.parametrize("seed", range(3))
def test_against_a_loop(seed):
    rng = np.random.default_rng(seed)
    cells, rows = unit(rng, 5, 7, 4), unit(rng, 128, 4)
    rows[:35] = cells.reshape(-1, 4)
    share = rng.random((128, 4)).astype(np.float32)
    valid, marked = rng.random(128) < 0.8, rng.random(35) < 0.4
    expected = valid.copy()
    for r in range(128):
        distances = ((rows[r].astype(np.float64) - cells.reshape(-1, 4)) ** 2).sum(-1)
        nearest = int(np.argmin(distances))
        if marked[nearest] and distances[nearest] <= ALIKE and share[r].argmax() == 0:
            expected[r] = False
    given = jax.device_put((rows, share, valid, np.zeros((128, 3), np.int32), np.arange(4, dtype=np.uint8)))
    found = taken_back(References(*given), *jax.device_put((cells, marked)))
    assert np.array_equal(found.valid, expected) and 0 < (valid & ~expected).sum() < valid.sum()
    assert all(np.array_equal(a, b) for a, b in zip(found[:2], given[:2], strict=True))


@pytest.mark.parametrize("name", ["plain", "default"])
def test_an_object_that_the_first_mask_forgot(rng, name):
    """In sight all the time, and 0 in the first mask: from its own mask on it is there as if it had been in the first."""
    frames, two = [picture(rng)] * 7, mask(two=TWO)
    out = list(segment(COLOURS, frames, {0: mask(one=ONE), 3: two}, preset=PRESETS[name]))
    right = list(segment(COLOURS, frames, mask(one=ONE, two=TWO), preset=PRESETS[name]))
    assert not any((o == 2).any() for o in out[:3]) and np.array_equal(out[3] == 2, two == 2)
    for o, r in zip(out[4:], right[4:], strict=True):
        assert all(jaccard(o == i, r == i) > 0.85 and (r == i).any() for i in (1, 2))


def test_a_part_that_the_first_mask_forgot(rng):
    frames, whole = [picture(rng)] * 6, mask(one=ONE)
    half = whole.copy()
    half[:, 24:] = 0
    out = list(segment(COLOURS, frames, {0: half, 2: whole}, preset=Preset()))
    assert jaccard(out[1] == 1, whole == 1) < 0.6
    right = list(segment(COLOURS, frames, whole, preset=Preset()))
    for o, r in zip(out[3:], right[3:], strict=True):
        assert jaccard(o == 1, r == 1) > 0.85 and (r == 1).any()


def test_what_a_later_mask_does_not_contradict_stays(rng):
    """One that says the same once more, and one of an object that nothing looked like before."""
    frame, changed, one = picture(rng), picture(rng), mask(one=ONE)
    changed[:32, 56:88] = (40, 220, 30)
    green = np.zeros(SIZE, np.uint8)
    green[:32, 56:88] = 2
    for late, shown in ((one, frame), (green, changed)):
        state = start(COLOURS, frame, one, masks=2, preset=Preset())
        before = np.asarray(state.references.valid)[: state.filled]
        after, _ = step(COLOURS, state, shown, late)
        assert np.array_equal(before, np.asarray(after.references.valid)[: state.filled])


def test_lengths_that_are_not_one_have_no_such_distance(rng):
    """With `color` the earlier word stays."""
    frame, one = picture(rng), mask(one=ONE)
    state = start(create("color"), frame, one, masks=2)
    after, _ = step(create("color"), state, frame, mask(two=TWO))
    assert np.asarray(after.references.valid)[: state.filled].all()


def test_the_experiment_asks_the_same_clip_twice(tmp_path, monkeypatch, capsys):
    """With `color`, which the rule is not for, both columns are the same; there is nothing behind the later mask to miss."""
    video(tmp_path, "a", range(13))
    (tmp_path / "ImageSets/2016").mkdir(parents=True)
    (tmp_path / "ImageSets/2016/dev.txt").write_text("a\n")
    given = ["late_masks", "--davis", str(tmp_path), "--model", "color", "--kinds", "part", "again"]
    monkeypatch.setattr(sys, "argv", given)
    assert late_masks.main() == 0
    rows = [line.split("|")[1:5] for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[:2] for row in rows] == [[f" {kind} ", f" {of} "] for kind in ("part", "again") for of in ("a", "mean")]
    scores = [[cell.strip(" *").split(",")[0].strip("*") for cell in row[2:]] for row in rows]
    assert all(a == b and 0 <= float(a) <= 1 for a, b in scores)

"""Embedding one frame ahead: the same labels, in the same order, with what went wrong in its place, and no thread left."""

import dataclasses
import sys
import threading
import time

import jax
import numpy as np
import pytest

from pmljax import ahead
from pmljax.adaptation import Adaptation
from pmljax.config import ModelConfig
from pmljax.errors import InputError
from pmljax.model import create
from pmljax.presets import PRESETS, Preset
from pmljax.segment import segment
from tests.filled import network

COLOR = create("color")
SMALL = ModelConfig("s", 10, 8, norm="group", taps=(2, 3), head=((1, 12),))
NETWORK = network(SMALL)


def moving(rng, count, size=(55, 71)):  # 7 mod 8
    """Labels of the first frame, and frames in which a bright box moves."""
    frames = rng.integers(0, 90, (count, *size, 3), dtype=np.uint8)
    for i, frame in enumerate(frames):
        frame[10:40, 8 + 2 * i : 36 + 2 * i] += 120
    labels = np.zeros(size, np.uint8)
    labels[10:40, 8:36] = 4
    return labels, list(frames)


def threads():
    return [t for t in threading.enumerate() if t.name.startswith("embed")]


@pytest.mark.parametrize(
    "name", ["plain", *(pytest.param(name, marks=pytest.mark.slow) for name in ("default", "best"))]
)
def test_labels_are_those_of_one_call_a_frame(name, rng, monkeypatch):
    labels, frames = moving(rng, 6)
    late = np.zeros_like(labels)
    late[44:52, 50:68] = 9
    found = {}
    for platforms in (("cpu",), ()):
        monkeypatch.setattr(ahead, "PLATFORMS", platforms)
        found[platforms] = np.stack(list(segment(NETWORK, frames, {0: labels, 3: late}, preset=PRESETS[name])))
    assert len(np.unique(found[()])) == 3
    # What rounding differs in the last bit, if any does.
    assert (found[()] != found["cpu",]).mean() < 1e-3


def test_a_thread_embeds_what_is_labelled_and_nothing_else(rng, monkeypatch):
    labels, frames = moving(rng, 7)
    by, real = {}, ahead.embed_frame

    def noted(model, frame, number, *, preset):
        by[int(number)] = threading.current_thread().name
        return real(model, frame, number, preset=preset)

    monkeypatch.setattr(ahead, "embed_frame", noted)
    list(segment(COLOR, frames, {2: labels}, preset=Preset(), skip={4}))
    assert by.keys() == {3, 5, 6} and all(name.startswith("embed") for name in by.values())
    by.clear()
    list(segment(COLOR, frames, {2: labels}, preset=Preset(adaptation=Adaptation(frames=2)), skip={4}))
    assert by.keys() == {3, 4, 5, 6}  # what adapts needs frame 4, too


def test_a_late_mask_takes_the_embedding_that_is_there(rng, monkeypatch):
    labels, frames = moving(rng, 5)
    asked, real = [], ahead.embed_frame

    def noted(model, frame, number, *, preset):
        asked.append(int(number))
        return real(model, frame, number, preset=preset)

    monkeypatch.setattr(sys.modules["pmljax.segment"], "embed_frame", noted)
    list(segment(COLOR, frames, {0: labels, 3: labels}))
    assert asked == [0]


def test_a_reader_may_fill_one_buffer_again_and_again(rng, monkeypatch):
    labels, frames = moving(rng, 6)
    buffer, real = np.empty_like(frames[0]), ahead.embed_frame

    def refilled():
        for frame in frames:
            buffer[:] = frame
            yield buffer

    def late(*arguments, **options):
        time.sleep(0.05)  # the next frame is read meanwhile
        return real(*arguments, **options)

    expected = list(segment(COLOR, frames, {1: labels}))
    monkeypatch.setattr(ahead, "embed_frame", late)
    assert np.array_equal(list(segment(COLOR, refilled(), {1: labels})), expected)


def test_the_thread_computes_as_its_caller_does(rng, monkeypatch):
    labels, frames = moving(rng, 4)
    with jax.enable_x64(True):
        double = network(dataclasses.replace(SMALL, dtype="float64"))
        found = list(segment(double, frames, labels, preset=Preset()))
        monkeypatch.setattr(ahead, "PLATFORMS", ())
        assert np.array_equal(found, list(segment(double, frames, labels, preset=Preset())))


def test_a_caller_who_computes_in_double_gets_the_same_labels(rng):
    """The network is of single precision, and so is all that is made of its embeddings."""
    labels, frames = moving(rng, 2)
    preset = dataclasses.replace(PRESETS["default"], size=None, solver=None)  # of which tests/test_bilateral.py
    single = list(segment(NETWORK, frames, labels, preset=preset))
    with jax.enable_x64(True):
        double = list(segment(NETWORK, frames, labels, preset=preset))
    assert all(np.array_equal(a, b) for a, b in zip(single, double, strict=True))


def test_the_next_frame_is_read_before_this_one_is_labelled(rng):
    labels, frames = moving(rng, 5)
    read = []

    def stream():
        for i, frame in enumerate(frames):
            read.append(i)
            yield frame

    seen = [len(read) for _ in segment(COLOR, stream(), labels)]
    assert seen == [3, 4, 5, 5, 5]


@pytest.mark.parametrize("after", [0, 1, 2, 4])
def test_a_broken_stream_gives_every_frame_before(after, rng):
    labels, frames = moving(rng, 5)

    def stream():
        yield from frames[:after]
        raise OSError("the disk")

    out = []
    with pytest.raises(OSError, match="the disk"):
        for found in segment(COLOR, stream(), labels):
            out.append(found)
    assert len(out) == after and not threads()


def test_what_goes_wrong_in_the_thread_is_raised(rng, monkeypatch):
    labels, frames = moving(rng, 5)
    real = ahead.embed_frame

    def full(model, frame, number, *, preset):
        if int(number) == 3:
            raise MemoryError("no room")
        return real(model, frame, number, preset=preset)

    monkeypatch.setattr(ahead, "embed_frame", full)
    with pytest.raises(MemoryError, match="no room"):
        list(segment(COLOR, frames, labels))
    assert not threads()


def test_an_error_does_not_wait_for_what_is_to_come(rng, monkeypatch):
    labels, frames = moving(rng, 6)
    done, real = [], ahead.embed_frame

    def slow(model, frame, number, *, preset):
        time.sleep(0.2)
        done.append(int(number))
        return real(model, frame, number, preset=preset)

    list(segment(COLOR, frames, labels))  # compiled
    monkeypatch.setattr(ahead, "embed_frame", slow)
    frames[2] = frames[2][:-8]
    with pytest.raises(InputError, match="frame 2: found 71×47, expected the first frame's 71×55"):
        list(segment(COLOR, frames, labels))
    assert 3 not in done and not threads()


def test_who_stops_early_leaves_no_thread(rng):
    labels, frames = moving(rng, 5)
    results = segment(COLOR, frames, labels)
    next(results)
    assert threads()
    results.close()
    assert not threads()

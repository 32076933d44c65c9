"""Clips of several objects made of sequences of one: each layer lies where it was told to, and the nearer hides the farther."""

import sys

import numpy as np
import pytest

from experiments import pasted_objects
from experiments.pasted_objects import Layer
from pmljax.data import davis
from pmljax.data.images import read_image
from pmljax.labels import read_labels
from tests.test_batches import box, video


@pytest.fixture
def root(tmp_path):
    """`a`: rows 20 to 34, columns 30 to 49, ten frames. `b`: a lone grey, the same place, eight frames."""
    root = tmp_path / "davis"
    video(root, "a", range(10))
    video(root, "b", range(8), image=np.full((*box().shape, 3), 200, np.uint8))
    return root


def test_layers_are_scaled_mirrored_moved_and_ordered(root):
    h, w = box().shape
    half = Layer("b", scale=0.5, down=10, right=5, light=0.5, start=2)
    turned = Layer("b", mirrored=True)
    frames = list(pasted_objects.clip(root, [Layer("a"), half, turned]))
    assert len(frames) == 6  # b from its frame 2 on
    frame, labels = frames[3]
    expected = box()
    expected[20:28, 20:30] = 2  # rows 20 to 34, halved, by 10 down; columns 30 to 49, halved, by 5
    expected[20:35, w - 50 : w - 30] = 3
    assert labels.shape == (h, w) and (labels != expected).mean() < 0.005
    inside = frame[23, 22].astype(int)
    assert abs(inside[0] - 100) <= 3 and inside[2] in (2, 3)  # half the light of b's frame 5, numbered in blue
    assert frame[5, 5].tolist() == [10, 10, 3]  # the base, its frame 3
    nearer = next(iter(pasted_objects.clip(root, [Layer("a"), turned, Layer("a", right=w - 80)])))
    assert nearer[1][25, w - 40] == 3 and nearer[0][25, w - 40, 0] == 50


def test_the_clips_are_a_davis_root(root, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(pasted_objects, "CLIPS", {"two": [Layer("a"), Layer("b", right=20)]})
    out = tmp_path / "out"
    monkeypatch.setattr(sys, "argv", ["pasted", "--davis", str(root), "--out", str(out)])
    assert pasted_objects.main() == 0
    assert davis.find_split(out, "dev") == (2017, ["two"])
    (_, picture, mask), *rest = davis.open_sequence(out, "two").annotated()
    assert len(rest) == 7 and set(np.unique(read_labels(mask))) == {0, 1, 2}
    pixels, expected = read_image(picture).astype(int), next(pasted_objects.clip(root, pasted_objects.CLIPS["two"]))[0]
    assert np.abs(pixels - expected).mean() < 5
    assert pasted_objects.main() == 2  # a shorter clip would leave frames of this one
    assert "out: found pictures in it; expected a new folder" in capsys.readouterr().err
    for clip, message in (([Layer("missing")], "missing"), ([Layer("a", start=10)], "a: found no frame from 10 on")):
        monkeypatch.setattr(pasted_objects, "CLIPS", {"one": [Layer("a")], "none": clip})
        monkeypatch.setattr(sys, "argv", ["pasted", "--davis", str(root), "--out", str(tmp_path / "other")])
        assert pasted_objects.main() == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "other").exists()

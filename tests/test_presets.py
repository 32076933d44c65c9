"""Which preset a network gets."""

import dataclasses

import pytest

from pmljax.config import NAMED
from pmljax.errors import InputError
from pmljax.presets import PRESETS, preset_of


def test_presets_fit_the_network():
    small = NAMED["small"]
    enlarged = {name: dataclasses.replace(p, size=(p.size, p.size)) for name, p in PRESETS.items()} | {
        "paper": PRESETS["paper"]
    }
    assert enlarged["default"].size == (480, 480) and enlarged["best"].size == (640, 640)
    assert all(preset_of(small, name) == enlarged[name] for name in PRESETS) and preset_of(small) == enlarged["default"]
    # Raw colours have no unit length, which temperatures and bounds are made for.
    color = NAMED["color"]
    assert (
        preset_of(color) == preset_of(color, "best") == PRESETS["plain"]
        and preset_of(color, "paper") == PRESETS["paper"]
    )
    best = preset_of(dataclasses.replace(small, position="yx"), "best")
    assert PRESETS["best"].flip and best == dataclasses.replace(enlarged["best"], flip=False)
    with pytest.raises(InputError, match="preset worst: expected one of plain, default, best, paper"):
        preset_of(small, "worst")


def test_the_papers_preset_is_the_papers():
    paper = PRESETS["paper"]
    assert (paper.k, paper.hard, paper.majority, paper.temperature, paper.flip, paper.stride) == (
        5, True, True, None, False, None,
    )  # fmt: skip
    assert paper.adaptation.rule == "unanimous" and paper.adaptation.window is None and paper.adaptation.frames > 0
    assert paper.solver is not None and (paper.solver.smoothness, paper.solver.steps) == (128.0, 25)

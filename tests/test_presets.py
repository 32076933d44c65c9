"""Which preset a network gets."""

import dataclasses
import subprocess
import sys
import textwrap

import pytest

from pmljax.config import NAMED
from pmljax.errors import InputError
from pmljax.presets import PRESETS, preset_of


def test_presets_fit_the_network():
    small = NAMED["small"]
    # A preset is the same whether it is named or taken from here and changed: small frames are enlarged in both.
    sizes = {name: preset.size for name, preset in PRESETS.items()}
    assert sizes == {"plain": (480, 480), "default": (480, 480), "best": (640, 640), "paper": 480}
    assert all(preset_of(small, name) == PRESETS[name] for name in PRESETS) and preset_of(small) == PRESETS["default"]
    # Raw colours have no unit length, which temperatures and bounds are made for.
    color = NAMED["color"]
    assert (
        preset_of(color) == preset_of(color, "best") == PRESETS["plain"]
        and preset_of(color, "paper") == PRESETS["paper"]
    )
    best = preset_of(dataclasses.replace(small, position="yx"), "best")
    assert PRESETS["best"].flip and best == dataclasses.replace(PRESETS["best"], flip=False)
    with pytest.raises(InputError, match="preset worst: expected one of plain, default, best, paper"):
        preset_of(small, "worst")


def test_the_papers_preset_is_the_papers():
    paper = PRESETS["paper"]
    assert (paper.k, paper.hard, paper.majority, paper.temperature, paper.flip, paper.stride) == (
        5, True, True, None, False, None,
    )  # fmt: skip
    assert paper.adaptation.rule == "unanimous" and paper.adaptation.window is None and paper.adaptation.frames > 0
    assert paper.solver is not None and (paper.solver.smoothness, paper.solver.steps) == (128.0, 25)


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ({"k": 0}, "k 0"),
        ({"temperature": 0.0}, "temperature 0.0"),
        ({"size": 0}, "size 0"),
        ({"size": (480, 4)}, "size"),
    ],
)
def test_presets_that_are_refused(wrong, word):
    with pytest.raises(InputError, match=word):
        dataclasses.replace(PRESETS["default"], **wrong)


def test_what_a_user_misspells():
    """In a process of its own, as the tests' type checks would refuse these before the functions do."""
    code = """
        import dataclasses
        import jax, numpy as np
        import pmljax

        model, x = pmljax.create("color"), np.zeros((9, 4), np.float32)
        labels = np.zeros(9, np.int32)
        for call in (
            lambda: pmljax.nearest(x, x, metric="Cosine"),
            lambda: pmljax.Preset(metric="L2"),
            lambda: pmljax.Preset(size="full"),
            lambda: pmljax.embed(model, np.zeros((1, 40, 40, 3), np.float32), np.zeros(1)),
            lambda: pmljax.Session(model, [np.zeros((40, 40, 3), np.uint8)]),
            lambda: pmljax.triplet_loss(x, labels, x, labels, hinge="x"),
            lambda: pmljax.triplet_loss(x, labels, x, labels, reduction="none"),
        ):
            try:
                call()
                print("taken")
            except (ValueError, pmljax.InputError) as error:
                print(error)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    words = [
        "metric: found Cosine",
        "metric L2",
        "size full",
        "found float32",
        "found list",
        "hinge x",
        "reduction none",
    ]
    lines = done.stdout.splitlines()
    assert len(lines) == len(words) and all(word in line for word, line in zip(words, lines, strict=True))

"""Which preset a network gets."""

import dataclasses
import subprocess
import sys
import textwrap

import pytest

from pmljax.bilateral_grid import BilateralConfig
from pmljax.config import NAMED
from pmljax.errors import InputError
from pmljax.presets import PRESETS, Preset, preset_of


def test_presets_fit_the_network():
    small = NAMED["small"]
    # A preset is the same whether it is named or taken from here and changed: small frames are enlarged in both.
    sizes = {name: preset.size for name, preset in PRESETS.items()}
    assert sizes == {"plain": (480, 480), "default": (480, 480), "best": (640, 640), "paper": 480}
    assert all(preset_of(small, name) == PRESETS[name] for name in PRESETS) and preset_of(small) == PRESETS["default"]
    # Raw colours have no unit length, which temperatures and bounds are made for.
    color = NAMED["color"]
    alone = Preset(size=(480, 480))  # of the first frame there are no views
    assert preset_of(color) == preset_of(color, "best") == preset_of(color, "plain") == alone
    assert preset_of(color, "paper") == PRESETS["paper"]
    placed = dataclasses.replace(small, position="yx")
    assert PRESETS["best"].flip and preset_of(placed, "best") == dataclasses.replace(PRESETS["best"], flip=False)
    assert preset_of(placed, "plain") == alone and PRESETS["default"].adaptation.augmented
    views = dataclasses.replace(PRESETS["default"].adaptation, augmented=0)
    assert preset_of(placed) == dataclasses.replace(PRESETS["default"], adaptation=views)
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
        ({"stretch": -1.0}, "stretch -1.0: expected 0 or more"),
        ({"stretch": float("nan")}, "stretch nan"),
    ],
)
def test_presets_that_are_refused(wrong, word):
    with pytest.raises(InputError, match=word):
        dataclasses.replace(PRESETS["default"], **wrong)


@pytest.mark.parametrize("name", ["smoothness", "tolerance"])
def test_solvers_that_are_refused(name):
    for wrong in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=f"{name}: found {wrong}, expected 0 or more"):
            BilateralConfig(**{name: wrong})


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
            lambda: pmljax.Preset(size=(480,)),
            lambda: pmljax.Preset(solver=True),
            lambda: pmljax.Preset(adaptation=None),
            lambda: pmljax.Preset(stretch="1"),
            lambda: pmljax.Preset(temperature="1"),
            lambda: pmljax.PRESETS["default"].adaptation.__class__(frames=2.5),
            lambda: pmljax.PRESETS["default"].adaptation.__class__(frames=2, rule="unanimos"),
            lambda: pmljax.create("small", 0),
            *(lambda n=n: pmljax.nearest(x, x, np.ones(n, bool)) for n in (8, 10, 200)),
            lambda: pmljax.nearest(x, x, where=np.ones(8, bool)),
            *(lambda n=n: pmljax.embed(model, np.zeros((2, 40, 40, 3), np.uint8), np.zeros(n)) for n in (1, 3)),
            lambda: pmljax.embed(model, np.zeros((2, 40, 40, 3), np.uint8), np.zeros(())),
            lambda: pmljax.ModelConfig("x", taps=4),
            lambda: pmljax.ModelConfig("x", head=(16,)),
            lambda: pmljax.ModelConfig("x", head=16),
            lambda: pmljax.ModelConfig("x", input_size=48),
        ):
            try:
                call()
                print("taken")
            except (ValueError, pmljax.InputError) as error:
                print(error)
        lists = pmljax.ModelConfig("x", taps=[2, 4], head=[[1, 16], [1, 8]], input_size=[40, 56])
        tuples = pmljax.ModelConfig("x", taps=(2, 4), head=((1, 16), (1, 8)), input_size=(40, 56))
        print(lists == tuples and hash(lists) == hash(tuples))
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
        "size (480,)",
        "solver True",
        "adaptation None",
        "stretch 1",
        "temperature 1",
        "expected whole numbers",
        "all or unanimous as rule",
        "key: found 0, expected jax.random.key(0)",
        *(f"valid: found [{n}], expected [9], one for each of the references" for n in (8, 10, 200)),
        "where: found [8], expected [9], one for each of the queries",
        *(f"numbers: found {n}, expected [2], one for each of the frames" for n in ("[1]", "[3]", "[]")),
        "taps 4",
        "head (16,)",
        "head 16",
        "input_size 48",
        "True",
    ]
    lines = done.stdout.splitlines()
    wrong = [(word, line) for word, line in zip(words, lines, strict=True) if word not in line]
    assert not wrong

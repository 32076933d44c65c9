"""How a frame is labelled once its pixels are embedded: the presets of inference.

`plain`: retrieval from the user's pixels alone, mirrored and nearer too.  `default`, `best`: chosen, as that, on training
sequences that no weights were fitted on (experiments/README.md, "Inference").  `paper`: the paper's (docs/sources.md), with its
adaptation and its solver.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np

from pmljax.adaptation import Adaptation
from pmljax.bilateral_grid import BilateralConfig
from pmljax.config import ModelConfig, ShortSide, check_short_side
from pmljax.errors import InputError
from pmljax.retrieval import Metric


@dataclass(frozen=True)
class Preset:
    """How a frame is labelled once its pixels are embedded."""

    k: int = 5
    """Neighbours of each pixel."""
    metric: Metric = "l2"
    hard: bool = True
    """Whether a reference carries its one largest label, instead of the share of each label in its cell."""
    majority: bool = False
    """Whether a grid cell takes the majority's label before growing, instead of the neighbours' mean shares."""
    temperature: float | None = None
    """Of a vote in which a neighbour weighs exp(−distance/temperature). None: all the same."""
    stretch: float = 0.0
    """By how much more distances to the user's pixels, and to those remembered (`memory`), count along what separates the
    user's labels (`separation`); 0: no more than along all else."""
    adaptation: Adaptation = field(default_factory=Adaptation)
    """Whether pixels of frames already labelled join the references."""
    solver: BilateralConfig | None = None
    """Whether the fast bilateral solver moves the grown shares to the image's edges, and how. None: it does not."""
    flip: bool = False
    """Whether embeddings are the mean of those of the frame and of its mirror image."""
    stride: int | None = None
    """Pixels a cell, finer than the network's own grid. None: its own."""
    size: ShortSide = 480
    """The frame's short side inside the compiled call; labels come back at full size. A longer one is scaled down to it (None:
    none is); of two numbers a shorter one is enlarged to the first, at most twice, but for `color`."""

    def __post_init__(self):
        if self.metric not in ("l2", "cosine"):
            raise InputError(f"metric {self.metric}: expected l2 or cosine")
        if not isinstance(self.k, int | np.integer) or not 1 <= self.k <= 50:
            raise InputError(f"k {self.k}: expected 1…50")
        if self.temperature is not None and not (_number(self.temperature) and 0 < self.temperature < math.inf):
            raise InputError(f"temperature {self.temperature}: expected more than 0, or None")
        if not (_number(self.stretch) and 0 <= self.stretch < math.inf):
            raise InputError(f"stretch {self.stretch}: expected 0 or more")
        if not isinstance(self.adaptation, Adaptation) or not isinstance(self.solver, BilateralConfig | None):
            found = f"adaptation {self.adaptation!r:.40}, solver {self.solver!r:.40}"
            raise InputError(f"{found}: expected an Adaptation, and a BilateralConfig or None")
        check_short_side(self.size)


def _number(x: object) -> bool:
    return isinstance(x, int | float | np.number) and not isinstance(x, bool)


_SOLVER = BilateralConfig(smoothness=8.0)
LINES = (480, 480)
_ADAPTED = Preset(
    size=LINES,
    k=10,
    hard=False,
    temperature=0.15,
    stretch=1.0,
    adaptation=Adaptation(frames=8, older=4, window=6, memory=13, augmented=3, bound=0.2, reach=9),
    # A tenth of the time of ten objects for a label in 8,000; the shares that are remembered are those before the solver.
    solver=replace(_SOLVER, tolerance=1e-3),
)
PRESETS = {
    "plain": Preset(size=LINES, adaptation=Adaptation(augmented=3)),
    "default": _ADAPTED,
    # 640 lines: finer cells, of which more are as far.
    "best": replace(
        _ADAPTED,
        adaptation=replace(_ADAPTED.adaptation, window=12, reach=12, augmented=0),
        solver=_SOLVER,
        flip=True,
        size=(640, 640),
    ),
    "paper": Preset(majority=True, adaptation=Adaptation(frames=5, rule="unanimous"), solver=BilateralConfig()),
}


def session_vote(config: ModelConfig) -> tuple[int, float | None]:
    """(k, temperature) of a `Session`, chosen as `default` was. Of embeddings without unit length the nearest alone votes."""
    return (10, 0.5) if config.unit else (1, None)


def preset_of(config: ModelConfig, name: str = "default") -> Preset:
    """The preset of a name for a network; InputError if there is none.

    `default` and `best` weigh distances between embeddings of unit length: for others they are `plain`. Networks that see a
    position, or frames at a size of their own, are not mirrored, nor shown any views of the first frame.
    """
    if name not in PRESETS:
        raise InputError(f"preset {name}: expected one of {', '.join(PRESETS)}")
    preset = PRESETS[name if config.unit or name not in ("default", "best") else "plain"]
    if config.mirrors:
        return preset
    return replace(preset, flip=False, adaptation=replace(preset.adaptation, augmented=0))

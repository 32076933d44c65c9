"""How a frame is labelled once its pixels are embedded: the presets of inference.

`plain`: retrieval from the user's pixels alone.  `default`, `best`: chosen on training sequences that no weights were fitted
on (experiments/README.md, "Inference").  `paper`: the paper's (docs/sources.md), with its adaptation and its solver.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from pmljax.adaptation import Adaptation
from pmljax.bilateral import BilateralConfig
from pmljax.config import ModelConfig, ShortSide
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
    """By how much more distances to the user's pixels count along what separates the user's labels (`separation`); 0: no
    more than along all else."""
    adaptation: Adaptation = field(default_factory=Adaptation)
    """Whether pixels of frames already labelled join the references."""
    solver: BilateralConfig | None = None
    """Whether the fast bilateral solver moves the grown shares to the image's edges, and how. None: it does not."""
    flip: bool = False
    """Whether embeddings are the mean of those of the frame and of its mirror image."""
    stride: int | None = None
    """Pixels a cell, finer than the network's own grid. None: its own."""
    size: ShortSide = 480
    """The frame's short side inside the compiled call; labels come back at full size."""


_SOLVER = BilateralConfig(smoothness=8.0)
_MEMORY = Preset(
    k=10,
    hard=False,
    temperature=0.15,
    stretch=1.0,
    adaptation=Adaptation(frames=8, older=4, window=6, bound=0.2, reach=9),
    # A tenth of the time of ten objects for a label in 8,000; the shares that are remembered are those before the solver.
    solver=replace(_SOLVER, tolerance=1e-3),
)
PRESETS = {
    "plain": Preset(),
    "default": _MEMORY,
    # 640 lines: finer cells, of which more are as far.
    "best": replace(
        _MEMORY, adaptation=replace(_MEMORY.adaptation, window=12, reach=12), solver=_SOLVER, flip=True, size=640
    ),
    "paper": Preset(majority=True, adaptation=Adaptation(frames=5, rule="unanimous"), solver=BilateralConfig()),
}


def session_vote(config: ModelConfig) -> tuple[int, float | None]:
    """(k, temperature) of a `Session`, chosen as `default` was. Of embeddings without unit length the nearest alone votes."""
    return (10, 0.5) if config.unit else (1, None)


def preset_of(config: ModelConfig, name: str = "default") -> Preset:
    """The preset of a name for a network; InputError if there is none.

    `default` and `best` weigh distances between embeddings of unit length: for others they are `plain`. Small frames are
    enlarged, but for the paper's preset and where there is no network. Networks that see a position, or frames at a size of
    their own, are not mirrored.
    """
    if name not in PRESETS:
        raise InputError(f"preset {name}: expected one of {', '.join(PRESETS)}")
    preset = PRESETS[name if config.unit or name not in ("default", "best") else "plain"]
    if config.depth and name != "paper" and isinstance(preset.size, int):
        preset = replace(preset, size=(preset.size, preset.size))
    mirrors = config.position in ("none", "zeros") and config.input_size is None
    return preset if mirrors else replace(preset, flip=False)

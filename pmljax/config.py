"""What a network is: a frozen configuration, and those that have names."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args, get_type_hints

import jax.numpy as jnp

from pmljax.errors import InputError
from pmljax.resnet import BLOCKS, GROUPS, Geometry, NormKind, grid_size

Scaling = Literal["imagenet", "bgr", "rgb", "standardise"]
Position = Literal["none", "yx", "yxt", "zeros", "ijn"]

POSITION_CHANNELS = {"none": 0, "yx": 2, "yxt": 3, "zeros": 2, "ijn": 3}


ENLARGED = 2  # how many times as large a small frame is shown to the network, at most
ShortSide = int | tuple[int, int | None] | None
"""Pixels of a frame's short side as the network sees it. A number: a longer one is scaled down to it. (least, most): a
shorter one is scaled up to the least, too, at most twice. None: as it is."""


def check_short_side(size: object) -> None:
    """InputError for what is no `ShortSide`, or less than a cell."""
    sides = size if isinstance(size, tuple) else (size, size)
    if len(sides) != 2 or not all(s is None or (isinstance(s, int) and s >= 8) for s in sides):
        raise InputError(f"size {size}: expected 8 pixels or more, two such numbers, or None")


def _tuples(x: Any) -> Any:
    return tuple(map(_tuples, x)) if isinstance(x, list | tuple) else x


@dataclass(frozen=True)
class ModelConfig:
    """What a network is. Everything that changes its output is here; a file of weights carries it."""

    name: str
    depth: int = 101
    """Of the ResNet: 10, 18, 34, 50, 101, 152. 0: no network; colour and place are the embedding."""
    width: int = 64
    """Channels of the stem."""
    geometry: Geometry = "deeplab"
    stride: int = 8
    """Pixels a cell: 4, 8 or 16."""
    trained_stride: int | None = None
    """The coarser stride that the weights were trained at (`model.at_stride`). None: they are of `stride`."""
    norm: NormKind = "batch"
    taps: tuple[int, ...] = (4,)
    """The stages whose outputs, concatenated, the head sees."""
    head: tuple[tuple[int, int], ...] = ((3, 512), (1, 128))
    """(kernel, channels) of each convolution, ReLU in between; the last is the embedding."""
    position: Position = "none"
    """Channels put beside the head's input. yx: 8i/H, 8j/W; yxt: and min(n/100, 1), n the frame's number; ijn: raw
    numbers (bf-vos); zeros: two channels of zeros, which is what sydney0zq's code really does."""
    unit: bool = True
    """Whether embeddings have unit length."""
    scaling: Scaling = "imagenet"
    input_size: tuple[int, int] | None = None
    """(h, w) to which every frame is resized (nearest, any aspect), as the reproductions do. None: the frame's own."""
    half_pixel: bool = False
    """Whether results grow by half-pixel interpolation, as in the reproductions, instead of from the cells' centres."""
    dtype: str = "float32"
    """Of the computation; parameters are float32."""

    def __post_init__(self):
        for name in ("taps", "head", "input_size"):  # lists, as JSON has them, are no part of what is compiled for
            object.__setattr__(self, name, _tuples(getattr(self, name)))
        if self.depth not in (0, *BLOCKS):
            raise InputError(f"depth {self.depth}: expected one of {', '.join(map(str, BLOCKS))} (or 0: colours)")
        if self.stride not in (4, 8, 16):
            raise InputError(f"stride {self.stride}: expected 4, 8 or 16")
        if self.dtype not in ("float32", "bfloat16", "float64"):
            raise InputError(f"dtype {self.dtype}: expected float32, bfloat16 or float64")
        if self.trained_stride is not None and (
            self.trained_stride not in (8, 16) or self.trained_stride <= self.stride
        ):
            raise InputError(
                f"trained stride {self.trained_stride}: expected 8 or 16, and more than stride {self.stride}"
            )
        kinds = {"geometry": Geometry, "norm": NormKind, "position": Position, "scaling": Scaling}
        for name, kind in kinds.items():
            if (found := getattr(self, name)) not in get_args(kind):
                raise InputError(f"{name} {found}: expected one of {', '.join(get_args(kind))}")
        sides = [] if self.input_size is None else [self.input_size]
        pairs = [*self.head, *sides] if isinstance(self.head, tuple) else [self.head]
        whole = all(isinstance(p, tuple) and len(p) == 2 and all(type(n) is int and n > 0 for n in p) for p in pairs)
        if not whole or not self.head or type(self.width) is not int or self.width < 1:
            found = f"width {self.width}, head {self.head}, input_size {self.input_size}"
            raise InputError(f"{found}: expected a whole number, pairs of such, (h, w) or None")
        if not all(kernel % 2 for kernel, _ in self.head):
            raise InputError(f"head {self.head}: expected odd kernels, which have a middle")
        if self.norm == "group" and self.depth and self.width % GROUPS:
            raise InputError(f"width {self.width} with group norm: expected a multiple of {GROUPS}")
        if not (isinstance(self.unit, bool) and isinstance(self.half_pixel, bool)):
            raise InputError(f"unit {self.unit}, half_pixel {self.half_pixel}: expected true or false")
        # Stages before the last stride lie on a finer grid.
        low = {4: 1, 8: 2, 16: 3}[self.stride]
        taps = self.taps if isinstance(self.taps, tuple) else ()
        if not taps or not all(type(tap) is int and low <= tap <= 4 for tap in taps):
            raise InputError(f"taps {self.taps}: expected stages {low}…4, which lie on the stride-{self.stride} grid")

    @property
    def precision(self) -> Any:
        """The dtype of preprocessed frames and of embeddings: distances need full precision even where the network does not."""
        return jnp.float64 if self.dtype == "float64" else jnp.float32

    @property
    def dimensions(self) -> int:
        """d: length of an embedding."""
        return self.head[-1][1] if self.depth else 5

    @property
    def mirrors(self) -> bool:
        """Whether it may be asked of a mirrored frame too: it has no position, and sees frames at their own aspect."""
        return self.depth > 0 and self.position in ("none", "zeros") and self.input_size is None

    def grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """(y, x) of the grid for a picture of `size` (h, w) as the network sees it."""
        return grid_size(size[0], self.geometry, self.stride), grid_size(size[1], self.geometry, self.stride)

    def seen(self, size: tuple[int, int], short_side: ShortSide) -> tuple[int, int]:
        """(h, w) as the network sees a frame of `size`."""
        if self.input_size:
            return self.input_size
        h, w = size
        short = min(h, w)
        least, most = short_side if isinstance(short_side, tuple) else (0, short_side)
        least = least if self.depth else 0  # without a network there is nothing to gain
        new = max(short, min(least, ENLARGED * short))
        new = new if most is None else min(new, most)
        if new == short:
            return size
        return (new, round(w * new / short)) if h <= w else (round(h * new / short), new)


NAMED = {
    config.name: config
    for config in (
        ModelConfig("color", depth=0, unit=False),
        # For a CPU.
        ModelConfig("small", 18, 32, norm="group", taps=(2, 3, 4), head=((1, 128), (1, 64))),
        ModelConfig("base", 50, 64, norm="group", taps=(2, 3, 4), head=((1, 256), (1, 128))),
        # Our reading of the paper; d, the depth of the head and the trunk are known (docs/sources.md), the 3×3 and its
        # 512 channels, the scaling of the position and the unit length are unconfirmed.
        ModelConfig("paper", 101, head=((3, 512), (1, 128)), position="yxt", scaling="bgr"),
        # The two PyTorch reproductions as they run (docs/sources.md). Their resizing was Pillow's default: nearest then.
        ModelConfig(
            "sydney0zq",
            101,
            head=((3, 128), (1, 128), (1, 128)),
            position="zeros",
            scaling="rgb",
            input_size=(480, 854),
            half_pixel=True,
        ),
        ModelConfig(
            "bfvos",
            101,
            head=((1, 128), (1, 128)),
            position="ijn",
            scaling="standardise",
            input_size=(256, 256),
            half_pixel=True,
        ),
    )
}


def named(config: ModelConfig | str) -> ModelConfig:
    """The configuration of a name; InputError if there is none."""
    if isinstance(config, ModelConfig):
        return config
    if config not in NAMED:
        raise InputError(f"model {config}: expected one of {', '.join(NAMED)}")
    return NAMED[config]


Config = TypeVar("Config")


def thaw(cls: type[Config], fields: dict[str, Any], where: str) -> Config:
    """A frozen dataclass from the JSON of its `dataclasses.asdict`; InputError, beginning with `where`, for what does not
    fit: fields that this version does not know, or lacks."""

    if not isinstance(fields, dict):
        raise InputError(f"{where}: found no configuration ({fields!r}); expected one written by pmljax")
    known = {f.name for f in dataclasses.fields(cls)}  # pyright: ignore
    if unknown := sorted(fields.keys() - known):
        raise InputError(
            f"{where}: found configuration {', '.join(unknown)}, which this pmljax does not know: update it"
        )
    kinds = get_type_hints(cls)
    values = {
        k: thaw(kinds[k], v, where) if dataclasses.is_dataclass(kinds[k]) and isinstance(v, dict) else _tuples(v)
        for k, v in fields.items()
    }
    try:
        return cls(**values)
    except TypeError as error:
        raise InputError(
            f"{where}: found no configuration of pmljax's ({error}); expected every field without a default"
        ) from None

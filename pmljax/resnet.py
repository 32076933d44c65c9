"""The trunk: dilated ResNet-18/34/50/101/152 in the two geometries found in public weights.

| | "deeplab" (DeepLab-v2 and its PyTorch ports) | "torchvision" |
|---|---|---|
| stem's max-pool | rounds up (ceil_mode) | rounds down |
| a bottleneck's stride | in its 1×1 `conv1` | in its 3×3 `conv2` |
| first block of a dilated stage | that stage's dilation | the previous stage's dilation |

Axes: `b` batch, `h w` image, `y x` grid. Layout NHWC. Variables are named `stem/conv1`, `stage3/block1/conv2`, …;
block numbers start at 1, and `shortcut` is the projection of a stage's first block.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pmljax.conv import Conv, max_pool
from pmljax.fusion import once
from pmljax.norm import GroupNorm

Geometry = Literal["deeplab", "torchvision"]
NormKind = Literal["batch", "group"]

# 10 is none of the published sizes: the smallest that has all stages, for tests and toys.
BLOCKS = {
    10: (1, 1, 1, 1),
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
GROUPS = 8  # of group normalisation: every width that is a multiple of 8 divides


def grid_size(size: int, geometry: Geometry, stride: int = 8) -> int:
    """Cells along an axis of `size` pixels. At stride 8: ⌊(size + 1)/8⌋ + 1 ("deeplab"), ⌈size/8⌉ ("torchvision")."""
    size = (size - 1) // 2 + 1
    size = (size if geometry == "deeplab" else size - 1) // 2 + 1
    while stride > 4:
        size = (size - 1) // 2 + 1
        stride //= 2
    return size


class Plan(NamedTuple):
    """Of a stage. stride: of the first block.  first, after: dilation of that block's convolution that strides, and of those
    behind it.  rest: dilation of the other blocks."""

    stride: int
    first: int
    after: int
    rest: int


def stage_plan(geometry: Geometry, stride: int, trained: int | None = None) -> list[Plan]:
    """The plan of stages 1…4.

    A stage that may not stride any more dilates instead: in DeepLab-v2 from its first block on; in torchvision the first
    block still has the dilation before.
    trained: the stride that the weights were trained at, where `stride` is finer. Every stride left out doubles all
    dilations behind it ("à trous"): each cell that both grids have is computed from the same cells.
    """
    plan, reached, dilation = [Plan(1, 1, 1, 1)], 4, 1
    for _ in range(3):
        if reached < (trained or stride):
            reached *= 2
            plan.append(Plan(2, dilation, dilation, dilation))
        else:
            before, dilation = dilation, dilation * 2
            first = dilation if geometry == "deeplab" else before
            plan.append(Plan(1, first, first, dilation))
    reached, wider, finer = 4, 1, []
    for p in plan:
        first, kept = p.first * wider, p.stride
        if p.stride == 2 and reached == stride:
            wider, kept = 2 * wider, 1
        reached *= kept
        finer.append(Plan(kept, first, p.after * wider, p.rest * wider))
    return finer


def normalise(kind: NormKind, train: bool, dtype: Any, axis_name: str | None) -> Callable[..., nn.Module]:
    """The norm layer of a network. Batch norm uses running statistics unless `train`; 0.9 is PyTorch's momentum 0.1."""
    if kind == "group":
        return partial(GroupNorm, GROUPS, dtype)
    return partial(
        nn.BatchNorm, use_running_average=not train, momentum=0.9, epsilon=1e-5, dtype=dtype, axis_name=axis_name
    )


class Block(nn.Module):
    """One residual block: bottleneck (1×1, 3×3, 1×1) or basic (3×3, 3×3)."""

    width: int
    bottleneck: bool
    geometry: Geometry
    stride: int
    dilation: int
    after: int
    """Dilation of the 3×3 convolutions behind the one that strides."""
    project: bool
    norm: NormKind
    dtype: Any
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b y x c2"]:
        conv = partial(Conv, use_bias=False, dtype=self.dtype)
        norm = normalise(self.norm, train, self.dtype, self.axis_name)
        wide, after = (
            partial(conv, kernel_size=(3, 3), padding=d, kernel_dilation=d) for d in (self.dilation, self.after)
        )
        out = self.width * (4 if self.bottleneck else 1)
        if self.bottleneck:
            first, second = (self.stride, 1) if self.geometry == "deeplab" else (1, self.stride)
            y = nn.relu(norm(name="norm1")(conv(self.width, (1, 1), first, name="conv1")(x)))
            wide = after if self.geometry == "deeplab" else wide
            y = nn.relu(norm(name="norm2")(wide(self.width, strides=second, name="conv2")(y)))
            y = norm(name="norm3")(conv(out, (1, 1), name="conv3")(y))
        else:
            # torchvision refuses to dilate basic blocks; here both convolutions take the block's dilation.
            y = nn.relu(norm(name="norm1")(wide(self.width, strides=self.stride, name="conv1")(x)))
            y = norm(name="norm2")(after(out, name="conv2")(y))
        if self.project:
            x = norm(name="shortcut_norm")(conv(out, (1, 1), self.stride, name="shortcut")(x))
        return once(nn.relu(x + y))


class Stem(nn.Module):
    """7×7 convolution of stride 2, norm, ReLU, max-pool: to a quarter of the size."""

    width: int
    geometry: Geometry
    norm: NormKind
    dtype: Any
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w 3"], train: bool) -> Float[Array, "b y x c"]:
        x = Conv(self.width, (7, 7), 2, padding=3, use_bias=False, dtype=self.dtype, name="conv1")(x)
        x = nn.relu(normalise(self.norm, train, self.dtype, self.axis_name)(name="norm1")(x))
        return max_pool(x, ceil=self.geometry == "deeplab")


class Stage(nn.Module):
    """Blocks of one resolution; the first may stride and, where the channels change, has a projection."""

    blocks: int
    width: int
    bottleneck: bool
    geometry: Geometry
    plan: Plan
    norm: NormKind
    dtype: Any
    axis_name: str | None = None
    remat: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b y x c2"]:
        stride, first, after, rest = self.plan
        channels = self.width * (4 if self.bottleneck else 1)
        # `train` is argument 2 of a call, the module itself 0.
        block = nn.remat(Block, static_argnums=(2,)) if self.remat else Block
        for i in range(self.blocks):
            begin = i == 0
            x = block(
                self.width,
                self.bottleneck,
                self.geometry,
                stride if begin else 1,
                first if begin else rest,
                after if begin else rest,
                # Without a stride (dilated stages too) equal channels keep the identity, as in torchvision's layer1.
                begin and (stride != 1 or x.shape[-1] != channels),
                self.norm,
                self.dtype,
                self.axis_name,
                name=f"block{i + 1}",
            )(x, train)
        return x


class ResNet(nn.Module):
    """The trunk. Returns {"stem", "stage1", …, "stage4"}: the activations, float `[b, y, x, c]`.

    width: channels of the stem (64 in the published networks); stage s has width·2^(s−1), times 4 for bottlenecks.
    stride: of the output, 4, 8 or 16.  trained: the coarser stride that the weights were trained at, if so.
    remat: whether a gradient computes the inside of every block again instead of keeping it.
    axis_name: the axis of a pmap over which batch statistics are taken in training.
    """

    depth: int
    width: int = 64
    geometry: Geometry = "deeplab"
    stride: int = 8
    norm: NormKind = "batch"
    dtype: Any = jnp.float32
    remat: bool = False
    axis_name: str | None = None
    trained: int | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w 3"], train: bool = False) -> dict[str, jax.Array]:
        x = Stem(self.width, self.geometry, self.norm, self.dtype, self.axis_name, name="stem")(x, train)
        out = {"stem": x}
        for i, (blocks, plan) in enumerate(
            zip(BLOCKS[self.depth], stage_plan(self.geometry, self.stride, self.trained), strict=True)
        ):
            name = f"stage{i + 1}"
            x = Stage(
                blocks,
                self.width * 2**i,
                self.depth >= 50,
                self.geometry,
                plan,
                self.norm,
                self.dtype,
                self.axis_name,
                self.remat,
                name=name,
            )(x, train)
            out[name] = x
        return out

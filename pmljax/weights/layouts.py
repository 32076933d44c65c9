"""The names that PyTorch files give to the weights of this network (docs/sources.md), and how to tell the layouts apart.

Two styles of name. R, torchvision's: `layer3.1.conv2.weight`, blocks from 0. K, kazuto1011's:
`layer4.block2.conv3x3.conv.weight`, blocks from 1 and the stem as layer 1. A layout is a style, a prefix, the names of the
head, and what may be left over.

The trap: a torchvision trunk and a DeepLab-v2 trunk of style R have the same names and the same shapes, but another
geometry and another input. Where no other name tells them apart, the user has to.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from pmljax.config import NAMED, ModelConfig, Scaling
from pmljax.errors import InputError
from pmljax.resnet import BLOCKS, Geometry

LayoutName = Literal[
    "sydney0zq",
    "bfvos",
    "bfvos-2018",
    "isht7",
    "speedinghzl",
    "kazuto1011",
    "kazuto1011-2018",
    "kazuto1011-coco",
    "torchvision",
    "deeplabv3",
]
COUNTER = "num_batches_tracked"  # a scalar of every batch norm that nothing here needs; absent before PyTorch 0.4.1
PYRAMID = r"layer5\.conv2d_list\.\d\.(weight|bias)"
LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
K_CONVS = {"conv1": "reduce", "conv2": "conv3x3", "conv3": "increase"}


@dataclass(frozen=True)
class Layout:
    """How one family of files names its tensors."""

    name: LayoutName
    style: Literal["R", "K"]
    prefix: str
    """Before every name of the trunk."""
    about: str
    shortcut: Literal["shortcut", "proj"] = "shortcut"
    """The projection, in style K."""
    head: tuple[str, ...] = ()
    """The head's convolutions. Empty: the file has a trunk and, maybe, a classifier."""
    model: str = "paper"
    """The named configuration that a file of this layout becomes, or whose head its trunk gets."""
    position: bool = True
    """Whether the head sees the model's position."""
    geometry: Geometry = "deeplab"
    scaling: Scaling = "bgr"
    left: str = r"(?!)"
    """A pattern of the names that may be left over: a classifier."""
    loose: tuple[str, ...] = ()
    """Names that may be absent: zeros then."""
    double: bool = False
    """Whether its tensors are float64."""


LAYOUTS: dict[str, Layout] = {
    layout.name: layout
    for layout in (
        Layout(
            "sydney0zq",
            "R",
            "base_extractor.",
            "sydney0zq/PML",
            head=("embedding_head.conv1", "embedding_head.conv2", "embedding_head.eh_layer"),
            model="sydney0zq",
        ),
        Layout(
            "bfvos",
            "K",
            "feature_extractor.fe_",
            "braindeadpool/bf-vos",
            shortcut="proj",
            head=("embedding_head.conv1", "embedding_head.eh_layer2"),
            model="bfvos",
            double=True,
        ),
        Layout(
            "bfvos-2018",
            "K",
            "fe_",
            "braindeadpool/bf-vos before 13 June 2018",
            shortcut="proj",
            head=("eh_layer1.conv1", "eh_layer2"),
            model="bfvos",
            position=False,
            # Of the head's biases the sources say nothing.
            loose=("eh_layer1.conv1.bias", "eh_layer2.bias"),
            double=True,
        ),
        Layout("isht7", "R", "Scale.", "isht7/pytorch-deeplab-resnet", left=r"Scale\." + PYRAMID),
        Layout("speedinghzl", "R", "", "speedinghzl/Pytorch-Deeplab, or a bare DeepLab-v2 trunk", left=PYRAMID),
        Layout("kazuto1011", "K", "base.", "kazuto1011/deeplab-pytorch", left=r"base\.aspp\.c\d\.(weight|bias)"),
        Layout(
            "kazuto1011-2018",
            "K",
            "scale.",
            "kazuto1011/deeplab-pytorch before February 2019",
            shortcut="proj",
            left=r"scale\.aspp\.stages\.c\d\.(weight|bias)",
        ),
        Layout(
            "kazuto1011-coco",
            "K",
            "",
            "kazuto1011's COCO initialisation",
            left=r"fc\.(weight|bias)|aspp\.c\d\.(weight|bias)",
        ),
        Layout(
            "torchvision",
            "R",
            "",
            "torchvision's ResNet",
            geometry="torchvision",
            scaling="imagenet",
            left=r"fc\.(weight|bias)",
        ),
        Layout(
            "deeplabv3",
            "R",
            "backbone.",
            "torchvision's deeplabv3_resnet50/101",
            geometry="torchvision",
            scaling="imagenet",
            left=r"(aux_)?classifier\..+",
        ),
    )
}


# Telling them apart


def recognise(shapes: Mapping[str, tuple[int, ...]]) -> Layout:
    """The layout of a state_dict, from its names (without `module.`) and shapes; InputError where they do not say."""

    def has(pattern: str) -> bool:
        return any(re.match(pattern, name) for name in shapes)

    signs = (
        (r"base_extractor\.", "sydney0zq"),
        (r"feature_extractor\.fe_", "bfvos"),
        (r"fe_layer\d", "bfvos-2018"),
        (r"Scale\.(layer|conv1|bn1)", "isht7"),
        (r"base\.layer\d", "kazuto1011"),
        (r"scale\.layer\d", "kazuto1011-2018"),
        (r"backbone\.", "deeplabv3"),
        (r"layer\d\.(block\d|conv1\.conv\.)", "kazuto1011-coco"),
        (PYRAMID, "speedinghzl"),
    )
    for pattern, name in signs:
        if has(pattern):
            return LAYOUTS[name]
    if has(r"fc\.") and len(shapes.get("fc.weight", (0, 0))) == 2:
        return LAYOUTS["torchvision"]
    if has(r"layer[1-4]\.\d+\.(conv|bn)\d\."):
        raise InputError(
            "found a bare ResNet trunk, whose names and shapes are the same in torchvision and in the DeepLab-v2 ports;"
            " but stride, dilation, max-pool and input differ, and the wrong choice gives wrong embeddings without an"
            " error; expected --layout torchvision (RGB/255) or --layout speedinghzl (DeepLab-v2, BGR 0–255): say which"
        )
    some = ", ".join(list(shapes)[:3]) or "no tensor"
    raise InputError(f"found {some}, …: no known layout; expected the names of one of {', '.join(LAYOUTS)}")


def measure(layout: Layout, shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, int]:
    """(depth, width of the stem) of a state_dict; InputError where it is no ResNet of a known depth."""
    start = re.escape(layout.prefix) + (r"layer(\d)\.(\d+)\." if layout.style == "R" else r"layer(\d)\.block(\d+)\.")
    first = 0 if layout.style == "R" else 1
    blocks: Counter[int] = Counter()
    for m in filter(None, (re.match(start, name) for name in shapes)):
        s, b = int(m[1]) - first, int(m[2]) + 1 - first
        blocks[s] = max(blocks[s], b)
    counts = tuple(blocks[s] for s in (1, 2, 3, 4))
    deep = layout.style == "K" or any(re.match(start + r"conv3\.", name) for name in shapes)
    depth = next((d for d, plan in BLOCKS.items() if plan == counts and (d >= 50) == deep), None)
    if depth is None:
        raise InputError(
            f"found {'-'.join(map(str, counts))} {'bottlenecks' if deep else 'basic blocks'} a stage, expected those of"
            f" ResNet-{', '.join(map(str, BLOCKS))} under {layout.prefix or 'no prefix'} (layout {layout.name})"
        )
    # The width that most of its witnesses give: one tensor of a wrong shape shall be named as such.
    witnesses = [p for p in places(depth) if p[0] == "stem" or p[:2] == ("stage1", "block1")]
    named = [f"{their_place(layout, p)}.weight" for p in witnesses if p[-1][-1] == "1"]
    widths = Counter(shapes[name][0] for name in named if shapes.get(name))
    return depth, widths.most_common(1)[0][0] if widths else 64


def model_config(layout: Layout, depth: int, width: int) -> ModelConfig:
    """What a file of this layout becomes: geometry, position and input as its code has them. A trunk alone gets the
    paper's head."""
    base = NAMED[layout.model]
    if layout.head:
        config = dataclasses.replace(base, depth=depth, width=width)
        return config if layout.position else dataclasses.replace(config, name=layout.name, position="none")
    return dataclasses.replace(
        base, name=layout.name, depth=depth, width=width, geometry=layout.geometry, scaling=layout.scaling
    )


# Names

Place = tuple[str, ...]


def places(depth: int) -> Iterator[Place]:
    """Every convolution and norm of the trunk, in the order of a state_dict: ("stage1", "block1", "conv1"), …"""
    yield from (("stem", "conv1"), ("stem", "norm1"))
    for s, blocks in enumerate(BLOCKS[depth], 1):
        for b in range(1, blocks + 1):
            at = (f"stage{s}", f"block{b}")
            for i in range(1, 4 if depth >= 50 else 3):
                yield from ((*at, f"conv{i}"), (*at, f"norm{i}"))
            if b == 1 and (depth >= 50 or s > 1):
                yield from ((*at, "shortcut"), (*at, "shortcut_norm"))


def their_place(layout: Layout, place: Place) -> str:
    """A convolution or norm of the trunk in a layout's words, without `.weight`."""
    norm = "norm" in place[-1]
    if layout.style == "R":
        short = {"shortcut": "downsample.0", "shortcut_norm": "downsample.1"}
        last = short.get(place[-1], place[-1].replace("norm", "bn"))
        if place[0] == "stem":
            return layout.prefix + last
        return f"{layout.prefix}layer{place[0][-1]}.{int(place[1].removeprefix('block')) - 1}.{last}"
    kind = "bn" if norm else "conv"
    if place[0] == "stem":
        return f"{layout.prefix}layer1.conv1.{kind}"
    last = place[-1].replace("norm", "conv")
    last = layout.shortcut if last.startswith("shortcut") else K_CONVS[last]
    return f"{layout.prefix}layer{int(place[0][-1]) + 1}.{place[1]}.{last}.{kind}"


def names(layout: Layout, depth: int) -> dict[str, str]:
    """Our variable → their tensor, of the trunk and, where the layout has one, the head, in the order of a state_dict."""
    if layout.style == "K" and depth < 50:
        raise InputError(f"depth {depth}: layout {layout.name} has bottlenecks only; expected 50, 101 or 152")
    found: dict[str, str] = {}
    for place in places(depth):
        ours, theirs = "/".join(place), their_place(layout, place)
        if "norm" in place[-1]:
            leaves = (("params", "scale"), ("params", "bias"), ("batch_stats", "mean"), ("batch_stats", "var"))
        else:
            leaves = (("params", "kernel"),)
        found |= {f"{kind}/trunk/{ours}/{leaf}": f"{theirs}.{LEAVES[leaf]}" for kind, leaf in leaves}
    for i, theirs in enumerate(layout.head, 1):
        found |= {f"params/head/conv{i}/{leaf}": f"{theirs}.{LEAVES[leaf]}" for leaf in ("kernel", "bias")}
    return found


def counters(layout: Layout, depth: int) -> list[str]:
    """The counters of the batch norms."""
    return [f"{their_place(layout, p)}.{COUNTER}" for p in places(depth) if "norm" in p[-1]]

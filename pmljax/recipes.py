"""Recipes of training: what `pmljax train --recipe NAME` does.

`small`: for two CPU cores, from random weights; 4,900 steps, an hour or so (experiments/README.md). Each value is part of
that one recipe, only their whole was measured. `small-gpu`: the same network on a GPU: larger crops of sharper frames,
three quarters with an object of another clip before them, half in turned colours; two and a half minutes of an H200.
`base`: that for a larger network; not trained yet. `paper`: the paper's training as far as it is known (docs/sources.md),
for a GPU.
"""

from __future__ import annotations

from dataclasses import replace

from pmljax.config import NAMED
from pmljax.errors import InputError
from pmljax.sampling import Augment
from pmljax.train import TrainConfig

_SMALL = TrainConfig(
    model=NAMED["small"],
    short_side=240,  # half of DAVIS at 480p
    canvas=(240, 428),
    augment=Augment(crop=192, scale=(0.6, 2.0), short_side=240, place="each", zoom=0.1, colour=0.25),
    steps=4900,
    batch=4,
    loss="soft",
    temperature=0.1,
    optimiser="adamw",
    schedule="cosine",
    rate=1e-3,
    head=1.0,
    warmup=50,
    decay=1e-4,
    clip=1.0,
    average=0.998,
)
_SMALL_GPU = replace(
    _SMALL,
    model=replace(NAMED["small"], dtype="bfloat16"),
    short_side=480,
    canvas=(480, 856),
    augment=Augment(
        crop=385,
        scale=(1.2, 2.6),
        short_side=240,
        place="each",
        zoom=0.3,
        aspect=0.25,
        colour=0.35,
        hue=0.5,
        paste=0.75,
    ),
    turns=True,
    steps=9161,  # what a lease had time for
    batch=8,
)
RECIPES = {
    "small": _SMALL,
    "small-gpu": _SMALL_GPU,
    "base": replace(_SMALL_GPU, model=replace(NAMED["base"], dtype="bfloat16"), steps=40_000, batch=16),
    "paper": TrainConfig(
        model=NAMED["paper"],
        short_side=480,
        canvas=(480, 854),
        # Scale, crop and flip are DeepLab-v2's, whose COCO weights the paper starts from. Half of t's range, so that the few
        # frame numbers of a clip are no names of its pictures; the paper says nothing of it.
        augment=Augment(crop=321, scale=(0.5, 1.5), colour=0.0, time=50.0),
        steps=20_000,  # DeepLab-v2's; the paper's own number is unknown
        batch=4,  # triplets, sydney0zq
        loss="triplet",
        margin=0.7,  # sydney0zq; bf-vos 1.0; the paper's is unknown
        anchors=512,  # 256 of the foreground and of the background, sydney0zq; the paper says 256
        optimiser="sgd",
        schedule="poly",  # (1 − step/steps)^0.9, DeepLab-v2
        rate=2.5e-4,  # DeepLab-v2; sydney0zq 2.5e-6 to 2.5e-4
        head=10.0,  # DeepLab-v2 and the authors' Caffe prototxt
        momentum=0.9,
        decay=5e-4,  # DeepLab-v2; sydney0zq 5e-3
        norm="frozen",  # DeepLab-v2's ports
    ),
}


def recipe(name: str) -> TrainConfig:
    """The recipe of a name; InputError if there is none."""
    if name not in RECIPES:
        raise InputError(f"recipe {name}: expected one of {', '.join(RECIPES)}")
    return RECIPES[name]

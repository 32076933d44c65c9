"""The paper's first stage: train the trunk on classes, then hand it to the embedding network.

    python -m experiments.pretrain_semantic --voc VOC2012 --validate val --out run --model paper
    python -m experiments.pretrain_semantic --coco train2017 instances_train2017.json --out run --model paper
    python -m experiments.pretrain_semantic --smoke --out run

`pmljax train --init run/embedding.safetensors` goes on from there. The recipe of the paper's network is DeepLab-v2's; that
of `small` is for two CPU cores: 123 pictures of CamVid took it seven minutes beside other work, `--smoke` takes half of one.
A run that was stopped is continued by the same command.
"""

from __future__ import annotations

import dataclasses
import io
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import jax
import numpy as np
import tyro

from pmljax.config import NAMED, ModelConfig
from pmljax.data.batches import Clips, batches
from pmljax.data.clip_sources import Cache
from pmljax.data.overlay import paint
from pmljax.data.semantic import CocoPictures, Pictures, VocPictures
from pmljax.device import Device, use_device
from pmljax.errors import InputError
from pmljax.files import write_file
from pmljax.fit import Every, fit
from pmljax.labels import encode_labels
from pmljax.model import Model
from pmljax.sampling import Augment, Clip
from pmljax.semantic import SemanticNet, create_variables, evaluate, score, semantic_objective
from pmljax.terminal import note, status, training_bar
from pmljax.train import TrainConfig
from pmljax.weights import bundled, load
from pmljax.weights.bundled import fingerprint
from pmljax.weights.carry import carry_into, carry_over, check_sight

RECIPES = {
    # Of the first values tried; not tuned.
    "small": TrainConfig(
        NAMED["small"],
        Augment(crop=192, scale=(0.7, 1.5)),
        steps=300,
        batch=8,
        short_side=240,
        canvas=(360, 360),
        optimiser="adamw",
        schedule="cosine",
        rate=1e-3,
        head=1.0,
        warmup=20,
        decay=1e-4,
        clip=1.0,
    ),
    "base": TrainConfig(
        NAMED["base"],
        Augment(crop=321, scale=(0.5, 1.5)),
        batch=16,
        canvas=(640, 640),
        optimiser="adamw",
        schedule="cosine",
        rate=5e-4,
        head=1.0,
        warmup=500,
        decay=1e-2,
        clip=1.0,
    ),
    # DeepLab-v2's: 20,000 steps of 10, poly from 2.5e-4, the classifier at ten times the rate.
    "paper": TrainConfig(
        NAMED["paper"],
        Augment(crop=321, scale=(0.5, 1.5), colour=0.0),
        steps=20_000,
        batch=10,
        canvas=(640, 640),
        optimiser="sgd",
        schedule="poly",
        rate=2.5e-4,
        head=10.0,
        momentum=0.9,
        decay=5e-4,
    ),
}
TINY = dataclasses.replace(
    RECIPES["small"],
    model=ModelConfig("tiny", 18, 8, norm="group", taps=(2, 3, 4), head=((1, 16),)),
    augment=Augment(crop=64, scale=(0.8, 1.25)),
    steps=40,
    rate=3e-3,
    warmup=5,
    canvas=(96, 128),
)
SHEET = 4  # rows of the picture of predictions: frame, truth, prediction


@dataclass(frozen=True)
class Pretrain:
    out: Path
    """The folder to write to."""
    voc: Path | None = None
    """A VOC root: JPEGImages, SegmentationClass, ImageSets/Segmentation."""
    split: str = "train"
    """Of --voc."""
    validate: str | None = None
    """A split of --voc to measure the mean IoU on."""
    classes: int = 21
    """Of --voc, background among them."""
    coco: tuple[Path, Path] | None = None
    """COCO: the folder of the pictures, and instances_train2017.json."""
    validate_coco: tuple[Path, Path] | None = None
    """The same of the pictures to measure the mean IoU on."""
    smoke: bool = False
    """A tiny network on made pictures, to see that it all works."""
    model: Literal["small", "base", "paper"] = "small"
    init: Path | None = None
    """Weights to start from; the classifier is new. DeepLab-v2 starts from ImageNet's."""
    norm: Literal["frozen", "synced"] | None = None
    """Batch normalisation; by default frozen with --init, as DeepLab-v2's, and trained from random weights."""
    steps: int | None = None
    batch: int | None = None
    rate: float | None = None
    crop: int | None = None
    seed: int = 0
    validate_every: int = 1000
    """Steps between validations; there is one at the end in any case."""
    validate_pictures: int = 100
    """Pictures of a validation, evenly spaced; 0: all."""
    save_every: int = 500
    workers: int = 0
    """Processes that read pictures; 0: threads of this one."""
    threads: int = 2
    device: Device = "auto"
    overwrite: bool = False

    def run(self) -> None:
        use_device(self.device)
        pictures, held_out = self._open()
        config = self._config(f"{pictures.name} ({len(pictures)} pictures, {pictures.classes} classes)")
        net = SemanticNet(config.model, pictures.classes)
        variables = create_variables(net, jax.random.key(config.seed))
        if self.init:
            given = load(self.init)
            check_sight(given.config, config.model, f"--init {self.init}", config.model.name)
            variables, report = carry_into(variables, given.variables)
            config = replace(config, init=fingerprint(given))
            print(report.text())
        validate = None
        if held_out:
            validate = on_pictures(net, held_out, self.validate_pictures, config.short_side)
            before = validate(Model(variables, config.model), None)
            print(", ".join(f"{name} {value:.3f}" for name, value in before.items()), "before the first step")
            print(
                f"mean IoU {commonest(held_out, self.validate_pictures):.3f} of the commonest class alone", flush=True
            )
        size = {"canvas": config.canvas, "short_side": config.short_side}
        stream = Clips([pictures], [1], seed=config.seed, **size, frames=1)

        def from_step(step: int) -> Iterator[Clip]:
            hosts = {"host": jax.process_index(), "hosts": jax.process_count()}
            for batch in batches(
                stream, batch=config.batch, start=step, **hosts, workers=self.workers, threads=self.threads
            ):
                yield Clip(**batch)

        with training_bar(f"pretrain {config.model.name}", config.steps) as report:
            model = fit(
                self.out,
                config,
                from_step,
                objective=semantic_objective(pictures.classes),
                variables=variables,
                every=Every(save=self.save_every, validate=self.validate_every if validate else 0),
                validate=validate,
                score="mean IoU",
                scores_of=f"{held_out.name}, {self.validate_pictures} pictures" if held_out else "",
                describe=stream.describe,
                overwrite=self.overwrite,
                report=report,
            )
        if validate:
            print(", ".join(f"{name} {value:.3f}" for name, value in validate(model, self.out).items()))
        carried, report = carry_over(model.variables, config.model, jax.random.key(config.seed))
        print(report.text())
        bundled.write(self.out / "embedding.safetensors", Model(carried, config.model))
        print(f"{self.out / 'embedding.safetensors'}: for pmljax train --init")

    def _open(self) -> tuple[Pictures, Pictures | None]:
        """(to train on, to validate on)."""
        if bool(self.voc) + bool(self.coco) + self.smoke != 1:
            raise InputError("expected one of --voc, --coco and --smoke")
        if (self.validate and not self.voc) or (self.validate_coco and not self.coco):
            raise InputError("--validate goes with --voc, --validate-coco with --coco")
        cache = Cache()
        if self.coco:
            return CocoPictures(*self.coco, cache=cache), self.validate_coco and CocoPictures(*self.validate_coco)
        if self.smoke:
            root = self.out / "made"
            make_pictures(root)
            return VocPictures(root, "train", 4, cache=cache), VocPictures(root, "val", 4)
        assert self.voc
        held_out = VocPictures(self.voc, self.validate, self.classes) if self.validate else None
        return VocPictures(self.voc, self.split, self.classes, cache=cache), held_out

    def _config(self, words: str) -> TrainConfig:
        config = TINY if self.smoke else RECIPES[self.model]
        changed = {k: v for k in ("steps", "batch", "rate", "seed") if (v := getattr(self, k)) is not None}
        norm = self.norm or ("frozen" if self.init else "synced")
        augment = config.augment if self.crop is None else dataclasses.replace(config.augment, crop=self.crop)
        return dataclasses.replace(config, **changed, norm=norm, augment=augment, data=words)


def _chosen(pictures: Pictures, most: int) -> list[int]:
    n = len(pictures)
    return list(range(n)) if not most or most >= n else [int(i) for i in np.linspace(0, n - 1, most).round()]


def on_pictures(
    net: SemanticNet, pictures: Pictures, most: int, short_side: int | None
) -> Callable[[Model, Path | None], dict[str, float]]:
    """A validation: (model, run) → scores; writes `run`/validation/pictures.jpg, some predictions beside the truth, and
    classes.txt, the IoU of every class."""
    chosen = _chosen(pictures, most)
    shown = {int(i) for i in np.linspace(0, len(chosen) - 1, SHEET).round()}

    def validate(model: Model, run: Path | None) -> dict[str, float]:
        rows = []

        def show(i: int, *row: np.ndarray) -> None:
            if i in shown:
                frame, truth, predicted = row
                rows.append(np.concatenate([frame, paint(frame, truth), paint(frame, predicted)], 1))

        scores = evaluate(net, model.variables, map(pictures.read, chosen), short_side, show)
        if run:
            (run / "validation").mkdir(parents=True, exist_ok=True)
            write_file(run / "validation" / "pictures.jpg", sheet(rows))
            lines = [f"{iou:.3f}  {name}\n" for name, iou in zip(pictures.names, scores.each, strict=True)]
            write_file(run / "validation" / "classes.txt", "".join(lines).encode())
        return {"mean IoU": scores.mean_iou, "pixels": scores.accuracy}

    return validate


def commonest(pictures: Pictures, most: int) -> float:
    """The mean IoU of one class everywhere, the commonest of the pictures themselves."""
    counts = np.zeros(pictures.classes, np.int64)
    for i in _chosen(pictures, most):
        counts += np.bincount(pictures.read(i)[1].ravel(), minlength=256)[: pictures.classes]
    pairs = np.zeros((pictures.classes, pictures.classes), np.int64)
    pairs[:, counts.argmax()] = counts
    return score(pairs).mean_iou


def sheet(rows: list[np.ndarray], width: int = 960) -> bytes:
    """Rows of pictures, one above the other, as JPEG."""
    from PIL import Image

    images = [Image.fromarray(row) for row in rows]
    scaled = [image.resize((width, round(image.height * width / image.width))) for image in images]
    whole = Image.fromarray(np.concatenate([np.asarray(image) for image in scaled]))
    buffer = io.BytesIO()
    whole.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def make_pictures(root: Path, count: int = 24) -> None:
    """A VOC folder of boxes on a grey ground: red, green and blue ones are the classes 1, 2, 3."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for i in range(count):
        labels = np.zeros((96, 128), np.uint8)
        for label in rng.permutation([1, 2, 3]):
            y, x, h, w = rng.integers((0, 0, 24, 24), (56, 88, 48, 56))
            labels[y : y + h, x : x + w] = label
        colours = np.array([[110, 110, 110], [190, 70, 60], [60, 170, 80], [60, 80, 190]], np.uint8)
        frame = colours[labels] + rng.integers(0, 60, (*labels.shape, 3)).astype(np.uint8)
        Image.fromarray(frame).save(root / "JPEGImages" / f"{i:03d}.png")
        (root / "SegmentationClass" / f"{i:03d}.png").write_bytes(encode_labels(labels))
    names = [f"{i:03d}\n" for i in range(count)]
    (root / "ImageSets/Segmentation/train.txt").write_text("".join(names[: count - 6]))
    (root / "ImageSets/Segmentation/val.txt").write_text("".join(names[count - 6 :]))


def main() -> int:
    try:
        return status(tyro.cli(Pretrain, description=__doc__).run)
    except KeyboardInterrupt:
        note("stopped; the same command continues")
        return 130


if __name__ == "__main__":
    sys.exit(main())

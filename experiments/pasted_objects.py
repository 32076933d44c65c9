"""Clips of several objects made from sequences of one: objects of some sequences, moving as they do there, before others.

    python -m experiments.pasted_objects --davis DAVIS --out pasted
    python -m experiments.ablation --davis pasted --split dev --year 2017 --model run --out ablation

DAVIS-2016 knows one object a sequence, so what happens between objects cannot be asked on `dev` as it is. OUT is a
DAVIS-2017-like root of `CLIPS`: each has a base, whose object is 1, and layers before it, whose objects are 2, 3, …, the later
the nearer. Look-alikes are the same object mirrored or at another time. Nothing is drawn by chance.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from pmljax.data import davis
from pmljax.data.images import read_image
from pmljax.errors import InputError
from pmljax.files import write_file
from pmljax.labels import VOID, encode_labels, read_labels
from pmljax.terminal import progress, status


@dataclass(frozen=True)
class Layer:
    """One sequence's object: from frame `start` of it on, at `scale`, moved by (down, right) pixels, mirrored, in `light`."""

    sequence: str
    scale: float = 1.0
    down: int = 0
    right: int = 0
    mirrored: bool = False
    light: float = 1.0
    start: int = 0


CLIPS = {
    "two-dogs": [Layer("dog-agility"), Layer("dog-agility", scale=0.8, down=90, right=-60, mirrored=True, light=0.7)],
    "cars": [
        Layer("drift-turn"),
        Layer("car-turn", scale=0.8, down=170, right=-380),
        Layer("car-turn", scale=0.7, down=180, right=-50, mirrored=True, start=30),
    ],
    "dancers": [
        Layer("dance-jump"),
        Layer("dance-jump", scale=0.8, down=100, right=-250, start=15),
        Layer("bmx-bumps", scale=0.9, down=20, right=100),
    ],
    "seven": [
        Layer("scooter-gray"),
        Layer("dance-jump", scale=0.6, down=60, right=-260),
        Layer("car-turn", scale=0.8, down=200, right=-200),
        Layer("dance-jump", scale=0.5, down=230, right=-40, mirrored=True, light=0.8, start=10),
        Layer("bmx-bumps", scale=0.7, down=170, right=-200),
        Layer("drift-turn", scale=0.6, down=20, right=150),
        Layer("scooter-gray", scale=0.6, down=130, right=60, mirrored=True, start=20),
    ],
}


def placed(picture: np.ndarray, mask: np.ndarray, layer: Layer, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """(uint8 `[h, w, 3]`, bool `[h, w]`) of a layer's picture and mask where the clip, of `size`, has them."""
    height, width = size
    if layer.mirrored:
        picture, mask = picture[:, ::-1], mask[:, ::-1]
    # What pixel of the layer a pixel of the clip shows: PIL asks for the inverse.
    inverse = (1 / layer.scale, 0, -layer.right / layer.scale, 0, 1 / layer.scale, -layer.down / layer.scale)

    def move(array: np.ndarray, how: Image.Resampling) -> np.ndarray:
        image = Image.fromarray(np.ascontiguousarray(array))
        return np.asarray(image.transform((width, height), Image.Transform.AFFINE, inverse, how))

    picture = move(np.clip(picture * layer.light, 0, 255).astype(np.uint8), Image.Resampling.BICUBIC)
    return picture, move(mask.astype(np.uint8), Image.Resampling.NEAREST) > 0


def objects(mask: Path) -> np.ndarray:
    """Whether a pixel is of any object."""
    labels = read_labels(mask)
    return (labels > 0) & (labels < VOID)


def files_of(root: Path, layers: list[Layer]) -> list[list[tuple[float, Path, Path]]]:
    """(number, picture, mask) of every frame of every layer. InputError for a layer that has none."""
    files = [davis.open_sequence(root, layer.sequence).annotated()[layer.start :] for layer in layers]
    for layer, found in zip(layers, files, strict=True):
        if not found:
            raise InputError(f"{layer.sequence}: found no frame from {layer.start} on that has a picture and a mask")
    return files


def clip(root: Path, layers: list[Layer]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(frame, labels) as long as every layer lasts."""
    for (_, picture, mask), *nearer in zip(*files_of(root, layers), strict=False):
        frame, labels = read_image(picture).astype(np.float32), objects(mask).astype(np.uint8)
        for i, (layer, (_, picture, mask)) in enumerate(zip(layers[1:], nearer, strict=True), 2):
            pixels, where = placed(read_image(picture), objects(mask), layer, labels.shape)
            soft = Image.fromarray(where.astype(np.uint8) * 255).filter(ImageFilter.GaussianBlur(1))
            alpha = np.asarray(soft, np.float32)[..., None] / 255
            frame, labels = frame * (1 - alpha) + pixels * alpha, np.where(where, np.uint8(i), labels)
        yield np.round(frame).astype(np.uint8), labels


def write(root: Path, out: Path) -> None:
    """Every clip of `CLIPS` below `out`, from the sequences of `root`. InputError if `out` has pictures already."""
    if any((out / "JPEGImages").glob("480p/*/*")):
        raise InputError(f"{out}: found pictures in it; expected a new folder")
    for layers in CLIPS.values():
        files_of(root, layers)  # what is missing is said before anything is written
    with progress("pasted objects", len(CLIPS)) as advance:
        for name, layers in CLIPS.items():
            pictures, masks = (out / part / "480p" / name for part in ("JPEGImages", "Annotations"))
            for folder in (pictures, masks):
                folder.mkdir(parents=True, exist_ok=True)
            for i, (frame, labels) in enumerate(clip(root, layers)):
                data = io.BytesIO()
                Image.fromarray(frame).save(data, "JPEG", quality=95)
                write_file(pictures / f"{i:05d}.jpg", data.getvalue())
                write_file(masks / f"{i:05d}.png", encode_labels(labels))
            advance()
    (out / "ImageSets/2017").mkdir(parents=True, exist_ok=True)
    write_file(out / "ImageSets/2017/dev.txt", ("\n".join(CLIPS) + "\n").encode())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--davis", type=Path, required=True, help="a DAVIS root with the sequences of the clips")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    return status(lambda: write(args.davis, args.out))


if __name__ == "__main__":
    sys.exit(main())

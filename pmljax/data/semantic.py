"""Pictures in which every pixel has a class: VOC folders and COCO's instances, read by number or drawn for training.

Labels are uint8 `[h, w]`: 0…classes − 1, and 255 void. For training they are a source of `data.batches.Clips`, with one frame
a clip. NumPy and Pillow.
Axes: `h w` picture, `y x` its rows and columns, `n` corners of a polygon.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt8

from pmljax.data.clip_sources import Cache, RawClip, hold_pair
from pmljax.data.images import read_image
from pmljax.errors import InputError
from pmljax.labels import VOID, refuse_deep_png


class Pictures:
    """A list of pictures with classes; a source of clips. `classes`: how many, background among them.  names: theirs."""

    most = 1000  # the same picture may be any number of a clip's frames

    def __init__(self, name: str, classes: int, files: Sequence[Path], cache: Cache | None):
        self.name, self.classes, self.files, self.cache = name, classes, list(files), cache
        self.names = [str(k) for k in range(classes)]

    def __len__(self) -> int:
        return len(self.files)

    def labels(self, i: int, size: tuple[int, int]) -> UInt8[np.ndarray, "h w"]:
        """The labels of picture i, whose size (h, w) is `size`; InputError if theirs is another."""
        raise NotImplementedError  # each layout has its own: VocPictures, CocoPictures

    def read(self, i: int) -> tuple[UInt8[np.ndarray, "h w 3"], UInt8[np.ndarray, "h w"]]:
        """Picture i and its labels, at full size."""
        image = read_image(self.files[i])
        return image, self.labels(i, image.shape[:2])

    def draw(self, rng: np.random.Generator, frames: int, short_side: int | None) -> RawClip:
        i = int(rng.integers(len(self)))
        image, labels = hold_pair((self.files[i], "classes"), lambda: self.read(i), short_side, self.cache)
        return RawClip([image] * frames, [labels] * frames, [0.0] * frames, self._name(i))

    def describe(self, rng: np.random.Generator, frames: int) -> str:
        return self._name(int(rng.integers(len(self))))

    def _name(self, i: int) -> str:
        return f"{self.name} {self.files[i].stem}"


# VOC


class VocPictures(Pictures):
    """A split of a VOC folder: `JPEGImages`, `SegmentationClass` (class ids), `ImageSets/Segmentation/SPLIT.txt`."""

    def __init__(self, root: str | Path, split: str, classes: int = 21, *, cache: Cache | None = None):
        root = Path(root)
        listed = root / "ImageSets" / "Segmentation" / f"{split}.txt"
        if not listed.is_file():
            there = ", ".join(sorted(p.stem for p in listed.parent.glob("*.txt"))) or "a VOC root"
            raise InputError(f"{listed}: no such split; expected one of {there}")
        names = [line.split()[0] for line in listed.read_text().splitlines() if line.strip()]
        if not names:
            raise InputError(f"{listed}: found an empty list; expected a name of a picture a line")
        files = []
        for name in names:
            pictures = [root / "JPEGImages" / f"{name}{suffix}" for suffix in (".jpg", ".jpeg", ".png")]
            files.append(next((p for p in pictures if p.is_file()), pictures[0]))
        super().__init__(f"voc {split}", _countable(classes, "classes"), files, cache)
        self.masks = [root / "SegmentationClass" / f"{name}.png" for name in names]
        for path in (*files, *self.masks):
            if not path.is_file():
                raise InputError(f"{path}: no such file; expected that of {path.stem}, which {listed.name} lists")

    def labels(self, i: int, size: tuple[int, int]) -> UInt8[np.ndarray, "h w"]:
        labels = read_classes(self.masks[i], self.classes)
        if labels.shape != tuple(size):
            raise InputError(
                f"{self.masks[i]}: found {labels.shape[1]}×{labels.shape[0]}, the picture is {size[1]}×{size[0]}"
                " (width×height); expected its size"
            )
        return labels


def read_classes(path: Path, classes: int) -> UInt8[np.ndarray, "h w"]:
    """A class image as it is, palette indices or grey values; unlike a mask's, a grey of 255 is always void."""
    from PIL import Image

    expected = "class ids in a PNG of 8 bits, palette or grey"
    try:
        refuse_deep_png(path, expected)
        with Image.open(path) as image:
            if image.format in ("JPEG", "MPO"):
                raise InputError(f"{path}: found a JPEG, whose compression changes ids; expected {expected}")
            # Pillow stretches greys of fewer bits to 0…255; of one bit the mode is "1".
            stretched = image.mode == "L" and image.format == "PNG" and path.read_bytes()[24] < 8
            if image.mode not in ("P", "L") or stretched:
                found = "greys of fewer bits" if stretched else f"pixels of mode {image.mode}"
                raise InputError(f"{path}: found {found}; expected {expected}")
            labels = np.array(image)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; expected {expected}") from None
    except InputError:
        raise
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise InputError(f"{path}: found no readable image ({error}); expected {expected}") from None
    foreign = labels[(labels >= classes) & (labels < VOID)]
    if foreign.size:
        raise InputError(f"{path}: found class {foreign.max()}, expected 0…{classes - 1}, or 255 (void)")
    return labels


# COCO


class CocoPictures(Pictures):
    """COCO's instances as classes: 0 background, 1… the categories in the order of their ids. Of instances that overlap
    the smaller lies on top; crowds are void where no instance lies over them."""

    def __init__(self, images: str | Path, annotations: str | Path, *, cache: Cache | None = None):
        """`images`: the folder of the pictures; `annotations`: such as `instances_train2017.json`."""
        self.annotations = Path(annotations)
        try:
            found = json.loads(self.annotations.read_text())
            categories = sorted(found["categories"], key=lambda c: c["id"])
            listed = sorted(found["images"], key=lambda image: image["id"])
            files = [Path(images) / image["file_name"] for image in listed]
            self.sizes = [(int(image["height"]), int(image["width"])) for image in listed]
            place = {image["id"]: i for i, image in enumerate(listed)}
            self.categories = {c["id"]: k + 1 for k, c in enumerate(categories)}
            self.instances: list[list[tuple[int, Any]]] = [[] for _ in listed]
            for each in found["annotations"]:
                label = VOID if each.get("iscrowd") else self.categories[each["category_id"]]
                shape = each["segmentation"]
                if not isinstance(shape, dict):  # as lists, those of train2017 would fill gigabytes
                    shape = [np.asarray(polygon, np.float32) for polygon in shape]
                self.instances[place[each["image_id"]]].append((label, shape))
        except FileNotFoundError:
            raise InputError(f"{self.annotations}: no such file; expected COCO's instances (JSON)") from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise InputError(f"{self.annotations}: found no instances of COCO ({reason}); expected its JSON") from None
        if not files:
            raise InputError(f"{self.annotations}: found no images; expected at least one")
        super().__init__("coco", _countable(1 + len(categories), str(self.annotations)), files, cache)
        self.names = ["background", *(str(c.get("name", c["id"])) for c in categories)]

    def labels(self, i: int, size: tuple[int, int]) -> UInt8[np.ndarray, "h w"]:
        if self.sizes[i] != tuple(size):
            h, w = self.sizes[i]
            raise InputError(
                f"{self.files[i]}: found {size[1]}×{size[0]}, {self.annotations.name} says {w}×{h} (width×height);"
                " expected the same"
            )
        try:
            masks = [(label, decode_mask(shape, size)) for label, shape in self.instances[i]]
        except (ValueError, TypeError, KeyError, IndexError) as error:
            raise InputError(
                f"{self.annotations}: {self.files[i].name}: found a segmentation that cannot be read ({error});"
                " expected polygons or run lengths"
            ) from None
        labels = np.zeros(size, np.uint8)
        # Crowds first, then instances, the largest first: what is painted later lies on top.
        for label, mask in sorted(masks, key=lambda m: (m[0] != VOID, -int(m[1].sum()))):
            labels[mask] = label
        return labels


def _countable(classes: int, where: str) -> int:
    if not 2 <= classes <= VOID:
        raise InputError(f"{where}: found {classes} classes, expected 2…{VOID}, background among them")
    return classes


def decode_mask(segmentation: Any, size: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    """One annotation's `segmentation`: a list of polygons [x, y, x, y, …], or {"counts", "size"} of run lengths, a list or
    COCO's string of them. ValueError for what is neither."""
    if isinstance(segmentation, dict):
        if tuple(segmentation["size"]) != tuple(size):
            raise ValueError(f"size {segmentation['size']}, the picture's is {list(size)}")
        counts = segmentation["counts"]
        counts = np.asarray(decode_counts(counts) if isinstance(counts, str) else counts, np.int64)
        if counts.sum() != size[0] * size[1] or (counts < 0).any():
            raise ValueError(f"run lengths of {counts.sum()} pixels, the picture has {size[0] * size[1]}")
        # Runs of 0 and 1 in turn, 0 first, down the columns.
        return np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(size[::-1]).T
    mask = np.zeros(size, bool)
    for numbers in segmentation:
        corners = np.asarray(numbers, float)
        if corners.ndim != 1 or corners.size < 6 or corners.size % 2:
            raise ValueError(f"a polygon of {corners.size} numbers, expected 6 or more, two a corner")
        mask |= fill_polygon(corners.reshape(-1, 2), size)
    return mask


def decode_counts(text: str) -> list[int]:
    """The run lengths in COCO's string.

    Each number is a chain of characters, 48 above six bits: five of the number, the lowest first, and 32 where another
    follows; 16 in the last is its sign. From the fourth number on the string holds differences to the one before last.
    """
    counts: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64:
            raise ValueError(f"run lengths with the character {character!r}")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value = shift = 0
    if shift:
        raise ValueError("run lengths that end within a number")
    return counts


def fill_polygon(corners: Float[np.ndarray, "n 2"], size: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    """The pixels whose centres lie inside (even-odd); corner (x, y), pixel p covers [p, p + 1].

    Pillow's polygons hold their outline as well: half a pixel too much on every side.
    """
    h, w = size
    (x, y), (x2, y2) = corners.T, np.roll(corners, -1, 0).T
    row = np.arange(h)[:, None] + 0.5
    edge, line = np.nonzero(((y <= row) != (y2 <= row)).T)
    crossing = x[edge] + (line + 0.5 - y[edge]) / (y2 - y)[edge] * (x2 - x)[edge]
    # From each crossing on, inside and outside change places.
    turns = np.zeros((h, w + 1), np.int32)
    np.add.at(turns, (line, np.clip(np.ceil(crossing - 0.5), 0, w).astype(int)), 1)
    return np.cumsum(turns, 1)[:, :w] % 2 == 1

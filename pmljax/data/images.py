"""Pictures on disk: folders of frames in natural order."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np

from pmljax.data.frames import RATE, Frames, Stamped, one_name_each
from pmljax.errors import InputError
from pmljax.pictures import UNREADABLE, orientation, refuse_deep_png, refuse_several, upright

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".jfif", ".jpe")
OTHERS = (".heic", ".heif", ".avif", ".jxl", ".jp2", ".dng", ".exr", ".tga")  # pictures too, which would be missing


def natural_key(name: str) -> list[tuple[int, int | str]]:
    """Sorts "frame2" before "frame10"."""
    return [(0, int(part)) if part.isdecimal() else (1, part.lower()) for part in re.findall(r"\d+|\D+", name)]


def list_images(folder: Path) -> list[Path]:
    """The pictures in `folder`, in natural order, without hidden files."""
    found = (p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
    return sorted((p for p in found if not p.is_dir()), key=lambda p: (natural_key(p.name), p.name))


def frame_number(stem: str, index: int) -> int:
    """The frame's own number: the last digits of its file name, or else its place in the stream."""
    digits = re.findall(r"\d+", stem)
    return int(digits[-1]) if digits else index


def read_image(path: Path) -> np.ndarray:
    """A picture as uint8 RGB `[h, w, 3]`, EXIF orientation applied; InputError if it is broken, truncated, a PNG of 16 bits a
    channel, or of one channel that is deeper."""
    from PIL import Image

    try:
        refuse_deep_png(path, "a picture of 8 bits a channel")
        with Image.open(path) as image:
            if image.mode.startswith(("I", "F")):
                raise InputError(f"{path}: found pixels of mode {image.mode}, expected a picture of 8 bits a channel")
            refuse_several(image, path)
            image.load()
            image = upright(image)
            # By way of RGBA, as Pillow warns of a palette's transparency otherwise; the colours are the same.
            return np.array((image.convert("RGBA") if "transparency" in image.info else image).convert("RGB"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; expected a picture") from None
    except InputError:
        raise
    except (*UNREADABLE, Image.DecompressionBombError) as error:
        raise InputError(f"{path}: broken or truncated picture ({error}); expected a whole one") from None


def image_size(path: Path) -> tuple[int, int]:
    """(h, w) from the header alone, EXIF orientation applied."""
    from PIL import Image

    try:
        refuse_deep_png(path, "a picture of 8 bits a channel")
        with Image.open(path) as image:
            refuse_several(image, path)
            w, h = image.size
            return (w, h) if orientation(image) >= 5 else (h, w)
    except InputError:
        raise
    except (*UNREADABLE, Image.DecompressionBombError) as error:
        raise InputError(f"{path}: found no readable picture ({error}); expected jpg or png") from None


def open_folder(folder: Path, chosen: slice = slice(None), without: Collection[Path] = ()) -> Frames:
    """The pictures of a folder as a stream; every header is looked at first, so that odd sizes fail before any work.

    without: files that are none of its frames, wherever they are.
    """
    left = {path.resolve() for path in without}
    files = [path for path in list_images(folder) if path.resolve() not in left]
    if not files:
        raise InputError(f"{folder}: found no pictures ({', '.join(SUFFIXES)}); expected a folder of frames")
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in OTHERS and not path.name.startswith("."):
            raise InputError(
                f"{path}: found a picture that is not read here, beside frames; expected {', '.join(SUFFIXES)}"
            )
    return open_files(folder, files, chosen)


def open_files(source: Path, files: list[Path], chosen: slice = slice(None)) -> Frames:
    """A list of pictures as a stream. `source` is what error messages call it."""
    names = one_name_each(source, (path.stem for path in files))
    every = list(enumerate(files))[chosen]
    if not every:
        raise InputError(f"{source}: no frames left of {len(files)}; expected --start below that")
    sizes = [image_size(path) for _, path in every]
    for (_, path), size in zip(every, sizes, strict=True):
        if 0 in size:
            raise InputError(f"{path}: found a picture of size zero, {size[1]}×{size[0]}; expected at least 1×1")
        if size != sizes[0]:
            raise InputError(
                f"{path}: found {size[1]}×{size[0]}, the first frame is {sizes[0][1]}×{sizes[0][0]} (width×height);"
                " expected frames of one size"
            )

    def read() -> Iterator[Stamped]:
        for index, path in every:
            yield Stamped(path.stem, frame_number(path.stem, index), index / RATE, read_image(path))

    return Frames(source, sizes[0], len(every), names, chosen, [path for _, path in every], read, len(files))

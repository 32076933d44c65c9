"""What a picture's file says beside its pixels: which way up it is, how many there are in it, how deep they are."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import UInt8

from pmljax.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

ORIENTATION = 0x0112  # of EXIF: 1 upright, 2…8 turned and mirrored; from 5 on it lies on its side
UNREADABLE = (OSError, SyntaxError, ValueError, TypeError, KeyError, EOFError, struct.error)
"""What Pillow raises for files that are broken."""


def orientation(image: Image) -> int:
    """1…8; 1 where the file says nothing, or nothing that makes sense. TIFFs are turned by Pillow."""
    # XMP may say it too. Without either, asking would decode a whole PNG.
    said = not {"exif", "xmp", "XML:com.adobe.xmp"}.isdisjoint(image.info) and image.format != "TIFF"
    try:
        found = image.getexif().get(ORIENTATION) if said else 1
    except UNREADABLE:
        return 1
    return found if type(found) is int and 1 <= found <= 8 else 1


def upright(image: Image) -> Image:
    """The picture as it is to be seen; its pixels alone, as Pillow's own way writes the rest of the EXIF anew, and fails where
    it is broken."""
    from PIL.Image import Transpose

    turns = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    turn = turns.get(orientation(image))
    return image if turn is None else image.transpose(turn)


def refuse_several(image: Image, path: str | Path) -> None:
    """InputError for a file of several pictures, of which others would see one. What cameras put beside a JPEG is none."""
    count = getattr(image, "n_frames", 1)
    if count > 1 and image.format in ("TIFF", "WEBP", "PNG", "GIF"):
        raise InputError(f"{path}: found {count} pictures in one file, expected one: save each as a file")


def refuse_deep_png(path: str | Path, expected: str, head: bytes | None = None) -> None:
    """InputError for a PNG of 16 bits a channel, which Pillow would read by dropping half of them.

    head: how the file begins, where it was read already.
    """
    if head is None:
        with open(path, "rb") as file:
            head = file.read(25)
    if head.startswith(b"\x89PNG\r\n") and head[24:] == b"\x10":
        raise InputError(f"{path}: found a PNG of 16 bits a channel, expected {expected}")


def unstretched(pixels: UInt8[np.ndarray, "h w"], data: bytes) -> UInt8[np.ndarray, "h w"]:
    """The values as a grey PNG has them: of 2 or 4 bits Pillow stretches them to 0…255. Black and white stay 0 and 255.

    data: the file.
    """
    step = {b"\x02\x00": 85, b"\x04\x00": 17}.get(data[24:26] if data.startswith(b"\x89PNG\r\n") else b"", 1)
    return pixels if set(np.unique(pixels)) <= {0, 255} else pixels // np.uint8(step)

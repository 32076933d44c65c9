"""A stream of frames, whatever it comes from.

A frame is uint8 `[h, w, 3]`, RGB, in decode order, the right way up (the video's rotation and the picture's EXIF
orientation applied). Nothing is held: each iteration opens the source anew and decodes one frame at a time.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from pmljax.errors import InputError

RATE = 24.0  # frames a second of sources that do not say (DAVIS is 24)


class Stamped(NamedTuple):
    """A frame and where it belongs: `name` of its output files, its own `number`, `seconds` from the start."""

    name: str
    number: int
    seconds: float
    image: UInt8[np.ndarray, "h w 3"]


@dataclass(frozen=True)
class Frames:
    """A stream of frames of one size. Iterating gives the images, `stamped()` the images with name, number and time.

    size: (h, w).  count: how many frames (of a video at most: its packets), None where only decoding would tell.
    names: of all frames of the source, None for videos, whose frames are named 00000, 00001, ….
    chosen: which of them make the stream.  files: what is read.  total: `count` of all, chosen or not.
    aspect: width of a pixel as it is to be shown, its height 1.
    """

    path: Path
    size: tuple[int, int]
    count: int | None
    names: list[str] | None
    chosen: slice
    files: list[Path]
    read: Callable[[], Iterator[Stamped]]
    total: int | None = None
    aspect: Fraction = Fraction(1)

    def __iter__(self) -> Iterator[np.ndarray]:
        return (frame.image for frame in self.stamped())

    def stamped(self) -> Iterator[Stamped]:
        for frame in self.read():
            if frame.image.shape[:2] != self.size:
                h, w = frame.image.shape[:2]
                raise InputError(
                    f"{self.path}: frame {frame.name} is {w}×{h}, the first frame {self.size[1]}×{self.size[0]}"
                    " (width×height); expected frames of one size"
                )
            yield frame

    def index(self, name: str) -> int | None:
        """Where in the source the frame called `name` is, chosen or not; None if nowhere."""
        if self.names is not None:
            return self.names.index(name) if name in self.names else None
        index = int(name) if name.isdecimal() and len(name) < 8 and name == f"{int(name):05d}" else None
        return index if index is None or self.total is None or index < self.total else None

    def position(self, name: str) -> int | None:
        """Where in the stream the frame called `name` is; None if it is not chosen."""
        index = self.index(name)
        return None if index is None else self.place(index)

    def place(self, index: int) -> int | None:
        """Where in the stream the source's frame `index` is; None if it is not chosen."""
        place, rest = divmod(index - (self.chosen.start or 0), self.chosen.step or 1)
        inside = place >= 0 and not rest and (self.chosen.stop is None or index < self.chosen.stop)
        return place if inside and (self.count is None or place < self.count) else None

    def source(self, place: int) -> int:
        """Which of the source's frames is the stream's frame `place`: the inverse of `place`."""
        return (self.chosen.start or 0) + place * (self.chosen.step or 1)

    def digest(self) -> str:
        """SHA-256 of the source (a folder's with its frames' names) and of what is chosen from it."""
        digest = hashlib.sha256(repr(self.chosen).encode())
        for path in self.files:
            digest.update(b"" if self.names is None else os.fsencode(path.name))
            with open(path, "rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()


def one_name_each(source: Path, names: Iterable[str]) -> list[str]:
    """`names` as a list; InputError if two are the same."""
    found = list(names)
    if len(set(found)) < len(found):
        twice = next(name for name in found if found.count(name) > 1)
        raise InputError(f"{source}: found two pictures named {twice}; expected one picture a frame")
    return found

"""Open whatever the user has: a video file or a folder of pictures."""

from __future__ import annotations

import sys
from collections.abc import Collection
from pathlib import Path

from pmljax.data.frames import Frames
from pmljax.data.images import image_size, open_folder
from pmljax.data.video import open_video
from pmljax.errors import InputError


def open_frames(
    path: str | Path, *, start: int = 0, end: int | None = None, every: int = 1, without: Collection[Path] = ()
) -> Frames:
    """Open a video file (anything PyAV decodes: mp4, mov, avi, mkv, webm, gif, …) or a folder of pictures.

    `start`, `end`, `every`: which frames, as in a slice of the decoded frames; names and numbers stay the frames' own.
    `without`: files that are no frames, though they lie in the folder: a mask, say.
    Raises InputError for what is missing, empty, unreadable, or of several sizes.
    """
    path = Path(path)
    if start < 0 or every < 1 or (end is not None and end <= start):
        asked = f"--start {start} --every {every}" + ("" if end is None else f" --end {end}")
        raise InputError(f"{asked}: expected 0 ≤ start < end and every ≥ 1")
    most = sys.maxsize  # beyond which iterators do not count
    chosen = slice(min(start, most), end if end is None else min(end, most), min(every, most))
    if path.is_dir():
        return open_folder(path, chosen, without)
    if not path.exists():
        raise InputError(f"{path}: no such file or folder; expected a video or a folder of frames")
    if not path.is_file():
        raise InputError(f"{path}: found a pipe or a device; expected a file, as a video is read more than once")
    if path.suffix.lower() in (".tif", ".tiff", ".webp"):
        image_size(path)  # of several pictures in one FFmpeg would see one, or none
    return open_video(path, chosen)

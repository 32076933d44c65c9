"""YouTube-VOS folders: `SPLIT/JPEGImages/VIDEO/NNNNN.jpg`, `SPLIT/Annotations/VIDEO/NNNNN.png`, `SPLIT/meta.json`.

Annotations are sparse: every fifth frame in `train`; in `valid` only the frames where an object first appears, which may
be later than the first frame.
"""

from __future__ import annotations

import json
from pathlib import Path

from pmljax.data.davis import Sequence
from pmljax.data.images import list_images
from pmljax.errors import InputError


def list_videos(root: str | Path) -> list[str]:
    """The videos of one split's folder (`root` is `…/train`, `…/valid` or `…/test`), from meta.json where it is there."""
    root = Path(root)
    meta, pictures = root / "meta.json", root / "JPEGImages"
    if meta.is_file():
        try:
            videos = json.loads(meta.read_text(encoding="utf-8-sig"))["videos"]
            return sorted({**videos})  # a list has no objects
        except (ValueError, KeyError, TypeError):  # ValueError: no JSON, or no text
            raise InputError(f'{meta}: expected JSON {{"videos": {{…}}}}') from None
    if not pictures.is_dir():
        raise InputError(f"{root}: found neither meta.json nor JPEGImages; expected a split of YouTube-VOS")
    return sorted(p.name for p in pictures.iterdir() if p.is_dir())


def open_video(root: str | Path, name: str) -> Sequence:
    """The files of one video; the annotations are those there are."""
    pictures, annotated = (Path(root) / kind / name for kind in ("JPEGImages", "Annotations"))
    if not pictures.is_dir():
        raise InputError(f"{pictures}: no such folder; expected the frames of {name}")
    masks = [p for p in list_images(annotated) if p.suffix.lower() == ".png"] if annotated.is_dir() else []
    return Sequence(name, list_images(pictures), {p.stem: p for p in masks})

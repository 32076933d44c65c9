"""What can be taken home: palette PNGs, an overlay video, COCO's JSON, DAVIS scribbles. Each is written to a file.

All of them read a snapshot of the session: they are of one state, whatever is said meanwhile. `going` is called before each
frame, and raises where nobody waits any more.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8

from pmljax.data.frames import Frames
from pmljax.data.overlay import paint
from pmljax.data.video import VideoWriter
from pmljax.interact import Session
from pmljax.labels import encode_labels, object_ids
from pmljax.scribbles import to_davis

Going = Callable[[], object]


def masks(path: Path, session: Session, frames: Frames, names: list[str], going: Going) -> None:
    """A ZIP of palette PNGs under the input's frame names."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, labels in zip(names, _labels(session, going), strict=True):
            archive.writestr(f"{name}.png", encode_labels(labels))


def overlay(path: Path, session: Session, frames: Frames, names: list[str], going: Going) -> None:
    """The video with the masks painted over it, at its own times."""
    begun = None
    with VideoWriter(path, aspect=frames.aspect) as video:
        for frame, labels in zip(frames.stamped(), _labels(session, going), strict=True):
            begun = frame.seconds if begun is None else begun
            video.write(paint(frame.image, labels), frame.seconds - begun)


def coco(path: Path, session: Session, frames: Frames, names: list[str], going: Going) -> None:
    """COCO's annotations: a mask a frame and object, run-length encoded. Files are the folder's own, a video's frames PNGs."""
    (h, w), annotations = session.size, []
    files = [p.name for p in frames.files] if frames.names is not None else [f"{name}.png" for name in names]
    for i, labels in enumerate(_labels(session, going)):
        annotations += [coco_mask(labels, label) | {"image_id": i + 1} for label in object_ids(labels)]
    for number, annotation in enumerate(annotations, 1):
        annotation["id"] = number
    used = sorted({*session.objects(), *(a["category_id"] for a in annotations)})
    record = {
        "images": [{"id": i + 1, "file_name": name, "height": h, "width": w} for i, name in enumerate(files)],
        "categories": [{"id": i, "name": session.names.get(i) or f"object {i}"} for i in used],
        "annotations": annotations,
    }
    path.write_text(json.dumps(record))


def scribbles(path: Path, session: Session, frames: Frames, names: list[str], going: Going) -> None:
    """The clicks, scribbles and boxes as a DAVIS scribble file."""
    # What was erased, or said otherwise since, is not said again. Frames are the source's, as readers take them.
    said = [e for e in session.inputs().values() if e.op != "mask" and session.shows(e)]
    said = [replace(e, frame=frames.source(e.frame)) for e in said]
    count = max(frames.total or 0, frames.source(session.embedded.count - 1) + 1)
    record = to_davis(frames.path.stem, count, said, session.size)
    path.write_text(json.dumps(record))


def _labels(session: Session, going: Going) -> Iterator[UInt8[np.ndarray, "h w"]]:
    for labels in session.all_labels():
        going()
        yield labels


EXPORTS: dict[str, Callable[[Path, Session, Frames, list[str], Going], None]] = {
    "masks.zip": masks,
    "overlay.mp4": overlay,
    "coco.json": coco,
    "scribbles.json": scribbles,
}


def coco_mask(labels: UInt8[np.ndarray, "h w"], label: int) -> dict[str, Any]:
    """An object of a frame as COCO says it: bbox is x, y, width, height."""
    mask = labels == label
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    top, left = int(rows[0]), int(columns[0])
    return {
        "category_id": label,
        "segmentation": {"size": list(labels.shape), "counts": coco_counts(mask)},
        "area": int(mask.sum()),
        "bbox": [left, top, int(columns[-1]) - left + 1, int(rows[-1]) - top + 1],
        "iscrowd": 0,
    }


def coco_counts(mask: Bool[np.ndarray, "h w"]) -> str:
    """Lengths of runs, column by column, background's first; from the fourth on the difference to the one two before; each
    five bits a character, the lowest first, the sixth bit saying that more follow, the fifth of the last being the sign."""
    flat = mask.T.ravel()
    ends = np.append(np.flatnonzero(flat[1:] != flat[:-1]) + 1, flat.size)
    lengths = np.diff(ends, prepend=0).tolist()
    if flat[0]:
        lengths.insert(0, 0)
    out = []
    for i, length in enumerate(lengths):
        x = length - lengths[i - 2] if i > 2 else length
        more = True
        while more:
            bits, x = x & 0x1F, x >> 5
            more = x != (-1 if bits & 0x10 else 0)
            out.append(chr((bits | 0x20 if more else bits) + 48))
    return "".join(out)

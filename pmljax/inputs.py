"""What a user says about a video: clicks, scribbles, boxes, masks and erasures; their checks and their files.

One schema for files of inputs, logs and sessions, JSON objects, one a line:

    {"op": "click", "frame": 0, "y": 10, "x": 20, "label": 1}
    {"op": "scribble", "frame": 0, "points": [[10, 20], [12, 40]], "width": 5, "label": 0}
    {"op": "box", "frame": 0, "top": 10, "left": 20, "bottom": 90, "right": 70, "label": 2, "ring": 16}
                                                          ring (0 if left out): so many pixels around are background
    {"op": "mask", "frame": 3, "labels": "…"}            a PNG in base64 whose values are ids, 255 says nothing
    {"op": "erase", "frame": 0, "points": [[10, 20]], "width": 9}
    {"op": "forget", "label": 2}                         what was said about an object is taken back, on all frames
    {"op": "remove", "input": 3}                         the fourth input is taken back, wherever it stands
    {"op": "name", "label": 2, "name": "dog"}            what the object is called; no input, not undone
    {"op": "clear"}   {"op": "undo"}   {"op": "redo"}

Coordinates are pixels (y, x), counted from 0; labels are 0 (background) … 254. Which pixels and cells they mark: `marks`.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pmljax.errors import InputError
from pmljax.labels import VOID, check_labels, encode_labels
from pmljax.pictures import UNREADABLE, unstretched

PLACED = ("click", "scribble", "box", "mask", "erase")  # what has a frame
LONGEST_NAME = 80  # characters


@dataclass(frozen=True)
class Edit:
    """One input. labels: of a mask, uint8 `[h, w]`, 255 where it says nothing.  points: (y, x) of a click, of the corners of
    a scribble or an erasure, or of a box's two corners, both inside.  width: of a scribble or an erasure, in pixels.
    ring: of background around a box, in pixels.  target: which input is removed, counted from 0.  name: of an object."""

    op: str
    frame: int = 0
    label: int = 0
    points: tuple[tuple[int, int], ...] = ()
    width: int = 1
    labels: np.ndarray | None = None
    ring: int = 0
    target: int = -1
    name: str = ""

    def to_json(self) -> dict[str, Any]:
        """The schema's object."""
        if self.op not in PLACED:
            every = {"label": self.label, "input": self.target, "name": self.name}
            return {"op": self.op} | {f: every[f] for f in FIELDS[self.op]}
        out: dict[str, Any] = {"op": self.op, "frame": self.frame}
        if self.op == "click":
            out |= dict(zip("yx", self.points[0], strict=True))
        elif self.op == "box":
            out |= dict(zip(("top", "left", "bottom", "right"), sum(self.points, ()), strict=True))
            out |= {"ring": self.ring} if self.ring else {}
        elif self.op == "mask":
            assert self.labels is not None
            return out | {"labels": base64.b64encode(encode_labels(self.labels)).decode()}
        else:
            out |= {"points": [list(p) for p in self.points], "width": self.width}
        return out if self.op == "erase" else out | {"label": self.label}


# Checks and files


def checked(edit: Edit, frames: int, size: tuple[int, int]) -> Edit:
    """The edit, its numbers Python's, its mask uint8; InputError where it does not fit a video of `frames` frames of `size`."""
    if not isinstance(edit, Edit):
        raise InputError(f"input: found {type(edit).__name__}, expected an Edit")
    try:
        numbers = {f: whole(getattr(edit, f)) for f in ("frame", "label", "width", "ring", "target")}
        points = tuple((whole(y), whole(x)) for y, x in edit.points)
    except (TypeError, ValueError, OverflowError):
        found = {f: v for f, v in vars(edit).items() if f not in ("labels", "name")}
        raise InputError(f"{edit.op}: found {str(found)[:160]}, expected whole numbers") from None
    if edit.op not in FIELDS:
        raise InputError(f"{edit.op}: expected one of {', '.join(FIELDS)}")
    # What its line in a file does not have is not the input's.
    numbers |= {f: getattr(Edit, f) for f in ("width", "ring") if f not in FIELDS[edit.op]}
    edit = replace(edit, points=points, **numbers)
    if edit.op in ("forget", "name") and not 1 <= edit.label < VOID:
        raise InputError(f"{edit.op}: found label {edit.label}, expected an object's id, 1…254")
    if edit.op == "name" and not (
        isinstance(edit.name, str) and edit.name.isprintable() and len(edit.name) <= LONGEST_NAME
    ):
        raise InputError(f"name of object {edit.label}: expected at most {LONGEST_NAME} characters that can be printed")
    if edit.op not in PLACED:
        return edit
    name = f"{edit.op} on frame {edit.frame}"
    if not 0 <= edit.frame < frames:
        raise InputError(f"{name}: expected a frame in 0…{frames - 1}")
    if not 0 <= edit.label < VOID:
        raise InputError(f"{name}: found label {edit.label}, expected 0 (background) or an object's id, 1…254")
    if edit.op == "mask":
        return Edit("mask", edit.frame, labels=check_labels(np.asarray(edit.labels), name, size))
    if not 1 <= edit.width <= 2 * max(size):
        raise InputError(f"{name}: found width {edit.width}, expected 1 or more pixels, up to {2 * max(size)}")
    if not 0 <= edit.ring <= max(size):
        raise InputError(f"{name}: found ring {edit.ring}, expected 0…{max(size)} pixels")
    for y, x in edit.points:
        if not (0 <= y < size[0] and 0 <= x < size[1]):
            raise InputError(
                f"{name}: found the point y {y}, x {x}, expected y in 0…{size[0] - 1} and x in 0…{size[1] - 1}"
            )
    if len(edit.points) < (2 if edit.op == "box" else 1):
        raise InputError(f"{name}: found no point, expected one at least (of a box both corners)")
    if len(edit.points) > {"click": 1, "box": 2}.get(edit.op, len(edit.points)):
        raise InputError(f"{name}: found {len(edit.points)} points, expected one (of a box both corners)")
    return edit


def from_json(item: Any, where: str = "input") -> Edit:
    """An edit from the schema's object ("undo" and "redo" come out as edits of that op); InputError beginning with `where`."""
    op = item.get("op") if isinstance(item, dict) else item
    if not isinstance(item, dict) or not isinstance(op, str) or op not in FIELDS:
        raise InputError(f"{where}: found op {op!r}, expected one of {', '.join(FIELDS)}")
    needed = FIELDS[op]
    missing = [f for f in needed if f not in item and f not in ("width", "ring")]
    if missing:
        raise InputError(f"{where}: found a {op} without {', '.join(missing)}, expected {', '.join(needed)}")
    try:
        numbers = {f: whole(item[f]) for f in needed if f not in ("points", "labels", "name") and f in item}
        if "points" in needed:
            points = tuple((whole(y), whole(x)) for y, x in item["points"])
        else:
            flat = [numbers.pop(f) for f in ("y", "x", "top", "left", "bottom", "right") if f in numbers]
            points = tuple(zip(flat[::2], flat[1::2], strict=True))
        if "name" in needed and not isinstance(item["name"], str):
            raise ValueError
    except (TypeError, ValueError, OverflowError, OSError):
        raise InputError(
            f"{where}: found {json.dumps(item)[:80]}, expected whole numbers in {', '.join(needed)}"
        ) from None
    numbers |= {"target": numbers.pop("input")} if "input" in numbers else {}
    mask = _mask_of(item["labels"], where) if "labels" in needed else None
    return Edit(op, points=points, labels=mask, name=item["name"] if "name" in needed else "", **numbers)


FIELDS: dict[str, tuple[str, ...]] = {
    "click": ("frame", "y", "x", "label"),
    "scribble": ("frame", "points", "width", "label"),
    "box": ("frame", "top", "left", "bottom", "right", "label", "ring"),
    "mask": ("frame", "labels"),
    "erase": ("frame", "points", "width"),
    "forget": ("label",),
    "remove": ("input",),
    "name": ("label", "name"),
    "clear": (),
    "undo": (),
    "redo": (),
}


def _mask_of(text: Any, where: str) -> np.ndarray:
    from PIL import Image, UnidentifiedImageError

    try:
        data = base64.b64decode(text, validate=True)
        with Image.open(io.BytesIO(data)) as image:
            if image.mode in ("P", "L"):
                return unstretched(np.array(image), data) if image.mode == "L" else np.array(image)
            what = f"an image of mode {image.mode}"
    except UnidentifiedImageError:
        what = "no image"
    except (*UNREADABLE, Image.DecompressionBombError) as error:
        what = f"no image ({error})"
    raise InputError(
        f"{where}: found {what} in labels, expected a PNG in base64, palette or grey, whose values are ids"
    )


def pairs(points: Any) -> tuple[tuple[Any, Any], ...]:
    """The points (y, x) of a line; InputError for what are none."""
    try:
        return tuple((y, x) for y, x in points)
    except (TypeError, ValueError):
        raise InputError(f"points: found {str(points)[:80]}, expected pairs (y, x)") from None


def whole(x: Any) -> int:
    """`x` as an integer; TypeError, ValueError or OverflowError for what is none."""
    if isinstance(x, bool | np.bool_) or int(x) != x:
        raise ValueError
    return int(x)


def read_edits(path: Path) -> tuple[dict[str, Any] | None, list[tuple[str, Edit]]]:
    """(the line that says which video they belong to, if there is one; the edits, each after where it stands, as errors name
    it) of a file of JSON lines or of one list."""
    try:
        text = path.read_text(encoding="utf-8-sig")  # as Windows writes it
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); expected inputs, a JSON object a line") from None
    if text.lstrip().startswith("["):
        items = [(f"{path}: entry {i}", item) for i, item in enumerate(_parsed(text, str(path)), 1)]
    else:
        lines = [(f"{path}: line {i}", line) for i, line in enumerate(text.splitlines(), 1) if line.strip()]
        items = [(where, _parsed(line, where)) for where, line in lines]
    header = items.pop(0)[1] if items and isinstance(items[0][1], dict) and "video" in items[0][1] else None
    return header, [(where, from_json(item, where)) for where, item in items]


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits too
        what = f"{error.msg}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else error
        raise InputError(f"{where}: found no JSON ({what}); expected inputs, a JSON object a line") from None


def to_lines(edits: Iterable[Edit]) -> str:
    """The edits as JSON lines."""
    return "".join(json.dumps(edit.to_json()) + "\n" for edit in edits)

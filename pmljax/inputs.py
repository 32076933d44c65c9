"""What a user says about a video: clicks, scribbles, boxes, masks and erasures, and which pixels and cells they mark.

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

Coordinates are pixels (y, x), counted from 0; labels are 0 (background) … 254. NumPy.
Axes: `h w` frame, `c` cell of its grid, `n` pixel.
"""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int16, UInt8

from pmljax.errors import InputError
from pmljax.labels import VOID, check_labels, encode_labels

NOTHING = -1  # of a pixel or a cell about which nothing was said
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


class Marks(NamedTuple):
    """What is said about one frame. pixels: the label of every pixel, NOTHING where none was given.  cells: of every cell
    of the grid, the reference's."""

    pixels: Int16[np.ndarray, "h w"]
    cells: Int16[np.ndarray, "c"]


class Grid(NamedTuple):
    """Where the cells of a frame lie. size: (h, w).  seen: that size as the network sees it.  cells: (y, x).  shrink: the way
    of a mask to the grid, a matrix an axis."""

    size: tuple[int, int]
    seen: tuple[int, int]
    cells: tuple[int, int]
    stride: int
    shrink: tuple[np.ndarray, np.ndarray]

    def cell_of(self, pixels: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        """The cell round(p/stride) of each pixel (y, x), nearest in range."""
        y, x = (
            np.clip(np.floor(((p + 0.5) * seen / size - 0.5) / self.stride + 0.5), 0, cells - 1).astype(int)
            for p, seen, size, cells in zip(pixels, self.seen, self.size, self.cells, strict=True)
        )
        return y * self.cells[1] + x

    def pixel_of(self, cell: int) -> tuple[int, int]:
        """The pixel (y, x) at the centre of a cell."""
        centre = (
            min(int((c * self.stride + 0.5) * size / seen), size - 1)
            for c, size, seen in zip(divmod(cell, self.cells[1]), self.size, self.seen, strict=True)
        )
        y, x = centre
        return y, x


# From inputs to marks


def no_marks(grid: Grid) -> Marks:
    """A frame about which nothing was said."""
    return Marks(np.full(grid.size, NOTHING, np.int16), np.full(math.prod(grid.cells), NOTHING, np.int16))


def with_edit(marks: Marks, edit: Edit, grid: Grid) -> Marks:
    """The marks after one more input on the frame: the last one on a pixel or a cell wins.

    The ring of a box is background only where nothing was said before.
    """
    pixels, cells = marks.pixels.copy(), marks.cells.copy()
    if edit.op == "forget":
        pixels[pixels == edit.label], cells[cells == edit.label] = NOTHING, NOTHING
        return Marks(pixels, cells)
    if edit.op == "mask":
        assert edit.labels is not None
        said = edit.labels != VOID
        pixels[said] = edit.labels[said]
        found = cells_of_mask(edit.labels, grid)
        cells[found != NOTHING] = found[found != NOTHING]
        return Marks(pixels, cells)
    if edit.ring:
        (top, bottom), (left, right) = (sorted(p[i] for p in edit.points) for i in (0, 1))
        wider = Edit("box", points=((top - edit.ring, left - edit.ring), (bottom + edit.ring, right + edit.ring)))
        around = region(wider, grid.size) & (pixels == NOTHING)
        pixels[around] = 0
        at = grid.cell_of(np.nonzero(around))  # pyright: ignore
        cells[at[cells[at] == NOTHING]] = 0
    where = np.nonzero(region(edit, grid.size))
    label = NOTHING if edit.op == "erase" else edit.label
    pixels[where] = label
    cells[grid.cell_of(where)] = label  # pyright: ignore
    return Marks(pixels, cells)


def cells_of_mask(labels: UInt8[np.ndarray, "h w"], grid: Grid) -> Int16[np.ndarray, "c"]:
    """The label with the largest area in each cell's box, of equal ones the lowest; NOTHING where more than half is void.

    An object that leads in no cell gets the one that it fills most.
    """
    ids = [int(i) for i in np.unique(labels) if i != VOID]
    out = np.full(math.prod(grid.cells), NOTHING, np.int16)
    if not ids:
        return out
    a_y, a_x = grid.shrink
    share = {i: (a_y @ (labels == i).astype(np.float32) @ a_x.T).ravel() for i in ids}
    stacked = np.stack(list(share.values()))
    known = stacked.sum(0) >= 0.5 - 1e-6
    out[known] = np.array(ids, np.int16)[stacked.argmax(0)][known]
    for i in ids:
        if i and not (out == i).any():
            out[int(share[i].argmax())] = i
    return out


def region(edit: Edit, size: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    """The pixels of a click, a scribble, a box or an erasure: within half the width of the line through the points."""
    out = np.zeros(size, bool)
    if edit.op == "box":
        (top, bottom), (left, right) = (sorted(max(p[i], 0) for p in edit.points) for i in (0, 1))
        out[top : bottom + 1, left : right + 1] = True
        return out
    for a, b in pairwise(np.array((*edit.points[:1], *edit.points), float)):
        steps = max(int(np.abs(b - a).max()), 1)
        y, x = np.floor(a + (b - a) * np.arange(steps + 1)[:, None] / steps + 0.5).astype(int).T
        out[y, x] = True
    return out if edit.width < 3 else widened(out, (edit.width - 1) / 2)


def widened(line: Bool[np.ndarray, "h w"], reach: float) -> Bool[np.ndarray, "h w"]:
    """The pixels whose centre is at most `reach` from one of the line's. Row by row of the disk, so that neither its size
    nor the line's length multiplies memory."""
    r, (h, w) = int(reach), line.shape
    rows, columns = (np.flatnonzero(line.any(axis)) for axis in (1, 0))
    top, left = rows[0], max(columns[0] - r, 0)
    right = min(columns[-1] + r, w - 1) + 1
    part = line[top : rows[-1] + 1, left:right]
    out = np.zeros((h + 2 * r, right - left), bool)  # r rows above and below the frame
    before = np.pad(np.cumsum(part, 1, dtype=np.int32), ((0, 0), (1, 0)))
    at = np.arange(part.shape[1])
    for dy in range(-r, r + 1):
        half = math.isqrt(math.floor(reach**2 - dy**2 + 1e-9))
        stop, start = np.minimum(at + half + 1, part.shape[1]), np.maximum(at - half, 0)
        out[r + top + dy : r + top + dy + len(part)] |= before[:, stop] > before[:, start]
    whole = np.zeros((h, w), bool)
    whole[:, left:right] = out[r : r + h]
    return whole


# Checks and files


def checked(edit: Edit, frames: int, size: tuple[int, int]) -> Edit:
    """The edit, its mask as uint8; InputError where it does not fit a video of `frames` frames of `size`."""
    if edit.op in ("forget", "name") and not 1 <= edit.label < VOID:
        raise InputError(f"{edit.op}: found label {edit.label}, expected an object's id, 1…254")
    if edit.op == "name" and not (edit.name.isprintable() and len(edit.name) <= LONGEST_NAME):
        raise InputError(f"name of object {edit.label}: expected at most {LONGEST_NAME} characters that can be printed")
    if edit.op not in PLACED:
        return edit
    name = f"{edit.op} on frame {edit.frame}"
    if not 0 <= edit.frame < frames:
        raise InputError(f"{name}: expected a frame in 0…{frames - 1}")
    if not 0 <= edit.label < VOID:
        raise InputError(f"{name}: found label {edit.label}, expected 0 (background) or an object's id, 1…254")
    if edit.op == "mask":
        assert edit.labels is not None
        return Edit("mask", edit.frame, labels=check_labels(edit.labels, name, size))
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
        numbers = {f: _whole(item[f]) for f in needed if f not in ("points", "labels", "name") and f in item}
        if "points" in needed:
            points = tuple((_whole(y), _whole(x)) for y, x in item["points"])
        else:
            flat = [numbers.pop(f) for f in ("y", "x", "top", "left", "bottom", "right") if f in numbers]
            points = tuple(zip(flat[::2], flat[1::2], strict=True))
        mask = _mask_of(item["labels"]) if "labels" in needed else None
        if "name" in needed and not isinstance(item["name"], str):
            raise ValueError
    except (TypeError, ValueError, OverflowError, OSError):
        raise InputError(
            f"{where}: found {json.dumps(item)[:80]}, expected whole numbers in {', '.join(needed)}"
        ) from None
    numbers |= {"target": numbers.pop("input")} if "input" in numbers else {}
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


def _mask_of(text: str) -> np.ndarray:
    from PIL import Image

    with Image.open(io.BytesIO(base64.b64decode(text, validate=True))) as image:
        if image.mode not in ("P", "L"):
            raise ValueError
        return np.array(image)


def _whole(x: Any) -> int:
    if isinstance(x, bool) or int(x) != x:
        raise ValueError
    return int(x)


def read_edits(path: Path) -> tuple[dict[str, Any] | None, list[Edit]]:
    """(the line that says which video they belong to, if there is one; the edits) of a file of JSON lines or of one list."""
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); expected inputs, a JSON object a line") from None
    try:
        if text.lstrip().startswith("["):
            items = [(f"{path}: entry {i}", item) for i, item in enumerate(json.loads(text), 1)]
        else:
            lines = [(i, line) for i, line in enumerate(text.splitlines(), 1) if line.strip()]
            items = [(f"{path}: line {i}", json.loads(line)) for i, line in lines]
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: found no JSON ({error}); expected inputs, a JSON object a line") from None
    header = items.pop(0)[1] if items and isinstance(items[0][1], dict) and "video" in items[0][1] else None
    return header, [from_json(item, where) for where, item in items]


def to_lines(edits: Iterable[Edit]) -> str:
    """The edits as JSON lines."""
    return "".join(json.dumps(edit.to_json()) + "\n" for edit in edits)

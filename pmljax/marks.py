"""Which pixels and which cells of the grid a user's inputs mark. NumPy.

Axes: `h w` frame, `c` cell of its grid, `n` pixel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int16, UInt8

from pmljax.errors import InputError
from pmljax.inputs import PLACED, Edit
from pmljax.labels import VOID, cells_of_thin

NOTHING = -1  # of a pixel or a cell about which nothing was said


class Marks(NamedTuple):
    """What is said about one frame. pixels: the label of every pixel, NOTHING where none was given.  cells: of every cell
    of the grid, the reference's.  clicked: whether it was a click that gave it."""

    pixels: Int16[np.ndarray, "h w"]
    cells: Int16[np.ndarray, "c"]
    clicked: Bool[np.ndarray, "c"]


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


# Which inputs hold


def holding(edits: Sequence[Edit]) -> list[int]:
    """Which of the inputs have a frame and hold: those since the last `clear` that were not removed."""
    cleared = max((i + 1 for i, e in enumerate(edits) if e.op == "clear"), default=0)
    gone = {e.target for e in edits[cleared:] if e.op == "remove"}
    return [i for i in range(cleared, len(edits)) if edits[i].op in PLACED and i not in gone]


def after(
    edits: Sequence[Edit],
    undone: Sequence[Edit],
    names: Mapping[int, str],
    said: Iterable[tuple[str, Edit]],
    check: Callable[[Edit, Sequence[Edit]], Edit],
) -> tuple[list[Edit], list[Edit], dict[int, str]]:
    """(the inputs, those taken back, the objects' names) once all that was `said` was taken, undo and redo too.

    said: (where it stands, edit).  check: the edit as it is taken after the inputs before it; its InputErrors begin with where
    it stands.
    """
    edits, undone, names = [*edits], [*undone], dict(names)
    for where, edit in said:
        if edit.op in ("undo", "redo"):
            out, into = (edits, undone) if edit.op == "undo" else (undone, edits)
            if out:
                into.append(out.pop())
            continue
        try:
            edit = check(edit, edits)
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
        if edit.op == "name":
            names[edit.label] = edit.name
        else:
            edits.append(edit)
            undone.clear()
    return edits, undone, names


def left_of(edits: Sequence[Edit]) -> dict[int, Edit]:
    """{its place: input} of those that hold, each without the objects that were forgotten after it: what the marks are made
    of."""
    forgotten = {e.label: i for i, e in enumerate(edits) if e.op == "forget"}
    left: dict[int, Edit] = {}
    for i in holding(edits):
        edit: Edit | None = edits[i]
        for label, since in forgotten.items():
            edit = _without(edit, label) if edit and i < since else edit
        left |= {i: edit} if edit else {}
    return left


def _without(edit: Edit, label: int) -> Edit | None:
    """What is left of an input once an object is forgotten: a mask without it; nothing of what marked it alone."""
    if edit.op == "mask" and edit.labels is not None:
        return replace(edit, labels=np.where(edit.labels == label, np.uint8(VOID), edit.labels))
    return edit if edit.op == "erase" or edit.label != label else None


# From inputs to marks


def no_marks(grid: Grid) -> Marks:
    """A frame about which nothing was said."""
    cells = np.full(math.prod(grid.cells), NOTHING, np.int16)
    return Marks(np.full(grid.size, NOTHING, np.int16), cells, np.zeros(len(cells), bool))


def with_edit(marks: Marks, edit: Edit, grid: Grid) -> Marks:
    """The marks after one more input on the frame: the last one on a pixel or a cell wins.

    The ring of a box is background only where nothing was said before.
    """
    pixels, cells, clicked = (x.copy() for x in marks)
    if edit.op == "mask":
        assert edit.labels is not None
        said = edit.labels != VOID
        pixels[said] = edit.labels[said]
        found = cells_of_mask(edit.labels, grid, each=False)  # asked when the mask came; objects may be forgotten since
        cells[found != NOTHING] = found[found != NOTHING]
        return Marks(pixels, cells, clicked & (found == NOTHING))
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
    at = grid.cell_of(where)  # pyright: ignore
    cells[at], clicked[at] = label, edit.op == "click"
    return Marks(pixels, cells, clicked)


def cells_of_mask(labels: UInt8[np.ndarray, "h w"], grid: Grid, *, each: bool = True) -> Int16[np.ndarray, "c"]:
    """The label with the largest area in each cell's box, of equal ones the lowest; NOTHING where more than half is void.

    An object that leads in no cell gets the free one that it fills most (`cells_of_thin`); where there is none, InputError, or
    no cell without `each`.
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
    areas = {i: share[i] for i in ids if i and not (out == i).any()}
    taken = cells_of_thin(out, areas)
    if each and (left := areas.keys() - set(taken.values())):
        raise InputError(
            f"mask: object {min(left)} lies in cells that are all that another object has; expected at least one cell"
            f" ({grid.stride}×{grid.stride} pixels) for each"
        )
    out[list(taken)] = list(taken.values())
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

"""Scribble files of the DAVIS interactive challenge, read and written."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path

from pmljax.errors import InputError
from pmljax.inputs import Edit, whole


def davis_scribbles(
    path: Path,
    size: tuple[int, int],
    width: int = 1,
    place: Callable[[int], int | None] = lambda frame: frame,
    count: int | None = None,
) -> list[Edit]:
    """The edits of a DAVIS scribble file: a list of paths a frame, x and y as shares of width − 1 and height − 1.

    place: of a frame of the file in the stream; None where it is not among those chosen, and its scribbles are left out.
    count: of the video's frames, chosen or not, where it is known. InputError for scribbles on others, and for points outside.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8-sig"))
        frames = data["scribbles"]
        edits = []
        for number, scribbles in enumerate(frames):
            if scribbles and count is not None and number >= count:
                raise InputError(
                    f"{path}: found scribbles on frame {number}, expected 0…{count - 1}: of another video?"
                )
            frame = place(number)
            for scribble in scribbles if frame is not None else ():
                points = [(int(y * (size[0] - 1)), int(x * (size[1] - 1))) for x, y in scribble["path"]]
                edits.append(Edit("scribble", frame or 0, whole(scribble["object_id"]), tuple(points), width))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); expected a DAVIS scribble file") from None
    except InputError:
        raise
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        raise InputError(
            f"{path}: found no DAVIS scribbles; expected an object whose scribbles are a list a frame of path (pairs of x"
            " and y) and object_id"
        ) from None
    return edits


def to_davis(sequence: str, count: int, edits: Iterable[Edit], size: tuple[int, int]) -> dict[str, object]:
    """The clicks and scribbles, in the form of a DAVIS scribble file of a sequence of `count` frames; `davis_scribbles` gives
    them back, but for their width. Boxes come as their outline; masks and erasures cannot be said there."""
    frames: list[list[dict[str, object]]] = [[] for _ in range(count)]
    h, w = size
    for edit in edits:
        points = edit.points
        if edit.op == "box":
            (top, left), (bottom, right) = points
            points = ((top, left), (top, right), (bottom, right), (bottom, left), (top, left))
        elif edit.op not in ("click", "scribble"):
            continue
        # Readers multiply with width − 1 and height − 1 and drop what is behind the point: half a pixel keeps it whole.
        path = [[min((x + 0.5) / max(w - 1, 1), 1), min((y + 0.5) / max(h - 1, 1), 1)] for y, x in points]
        frames[edit.frame].append({"path": path, "object_id": edit.label, "start_time": 0, "end_time": 0})
    return {"scribbles": frames, "sequence": sequence}

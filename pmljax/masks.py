"""The masks that come with a video: which frames they belong to, and what to say of how they were taken."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np

from pmljax.data.davis import Sequence
from pmljax.data.frames import Frames, one_name_each
from pmljax.data.images import list_images
from pmljax.errors import InputError
from pmljax.labels import VOID, check_labels, has_ids, inverted, object_ids, read_labels


def read_masks(paths: list[Path], frames: Frames) -> dict[int, np.ndarray]:
    """{index: labels} from `--mask`: one file for the first frame, or several (or a folder), each named by its frame."""
    if len(paths) == 1 and paths[0].is_dir():
        folder, paths = paths[0], list_images(paths[0])
        if not paths:
            raise InputError(f"{folder}: found no pictures; expected masks named by their frames")
    elif len(paths) == 1:
        return {0: check_labels(read_labels(paths[0]), str(paths[0]), frames.size, objects=True)}
    masks, ids = {}, any_ids(paths)
    for path, name in zip(paths, one_name_each(paths[0].parent, (p.stem for p in paths)), strict=True):
        if frames.index(name) is None:
            raise InputError(f"{path}: no frame is named {name} in {frames.path}; expected masks named by their frame")
        index = frames.position(name)
        if index is not None:  # a frame that is there, but not among the chosen ones, needs no mask
            labels = check_labels(read_labels(path, ids=ids), str(path), frames.size)
            if object_ids(labels):  # an empty one says nothing: annotations have them where objects are gone
                masks[index] = labels
    if not masks:
        raise InputError(f"{paths[0].parent}: found no object in a mask of a chosen frame; expected one at least")
    return masks


def any_ids(paths: list[Path]) -> bool:
    """Whether any of the masks has ids for certain (`has_ids`). One that cannot be read may not be asked for."""
    for path in paths:
        with suppress(InputError):
            if has_ids(path):
                return True
    return False


def left_out(paths: list[Path], frames: Frames, masks: Mapping[int, np.ndarray]) -> str:
    """What `read_masks` left out that a user may miss, in words, "" if nothing: objects that only masks of frames before the
    last chosen one have which are not chosen, or one mask that has another frame's name."""
    if len(paths) == 1 and not paths[0].is_dir():
        index, first = frames.index(paths[0].stem), frames.chosen.start or 0
        if index in (None, first):
            return ""
        return f"{paths[0]}: taken for the first frame; by its name only where it is one of several, or in a folder"
    known = {i for mask in masks.values() for i in object_ids(mask)}
    paths = list_images(paths[0]) if len(paths) == 1 else paths
    ids = any_ids(paths)
    for path in paths:
        index, end = frames.index(path.stem), frames.chosen.stop
        if index is None or frames.place(index) is not None or (end is not None and index >= end):
            continue
        try:
            lost = [i for i in object_ids(read_labels(path, ids=ids)) if i not in known]
        except InputError:  # of no use to anybody, and not asked for
            continue
        if lost:
            return f"{path}: object {lost[0]} is in no mask of a chosen frame, and is left out"
    return ""


def remarks(paths: list[Path], frames: Frames, masks: Mapping[int, np.ndarray]) -> list[str]:
    """What to say of how `read_masks` took the masks: what it left out, a palette that looks like something else, white that is
    void beside ids, and that there is no background."""
    files = list_images(paths[0]) if len(paths) == 1 and paths[0].is_dir() else paths
    palette = next(filter(None, map(inverted, files)), None)
    marked = {i for mask in masks.values() for i in object_ids(mask)}
    alone = f"object {min(marked)} alone is marked, so everything is it: leave the background of the first mask at 0"
    background = not masks or (masks[min(masks)] == 0).any()
    void = next((f for f in files if len(files) > 1 and _void_alone(f, frames, any_ids(files))), None)
    white = (
        f"{void}: white is void beside masks with ids, so that it marks nothing: give its object an id" if void else ""
    )
    alone = "" if background or len(marked) > 1 else alone
    return [said for said in (palette, white, alone, left_out(paths, frames, masks)) if said]


def _void_alone(path: Path, frames: Frames, ids: bool) -> bool:
    """Whether the mask of a chosen frame is void and background."""
    if frames.position(path.stem) is None:
        return False
    labels = read_labels(path, ids=ids)
    return bool((labels == VOID).any()) and not object_ids(labels)


def first_mask(sequence: Sequence, frames: Frames, year: int) -> dict[int, np.ndarray]:
    """{0: labels} from a DAVIS sequence's first annotation; 2016: its objects as one."""
    name, path = next(iter(sequence.annotations.items()))
    if frames.position(name) != 0:
        raise InputError(
            f"{path}: the first annotation is not the first frame's; expected the annotation of that frame"
        )
    labels = check_labels(read_labels(path), str(path), frames.size, objects=True)
    return {0: np.where((labels > 0) & (labels < VOID), 1, labels).astype(np.uint8) if year == 2016 else labels}

"""How good a model is on videos with truth: plain retrieval from the first annotation, J and F, and a picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from pmljax import metrics
from pmljax.data import davis
from pmljax.data.overlay import ContactSheet, paint
from pmljax.files import write_file
from pmljax.labels import VOID, has_ids, object_ids, read_labels
from pmljax.masks import first_mask
from pmljax.model import Model
from pmljax.presets import Preset
from pmljax.segment import segment

# Small frames are not enlarged, as training's are not; and it is the embedding that is judged, not the first frame's views.
AS_THEY_ARE = Preset(size=480)


def on_davis(
    root: str | Path, split: str, *, year: int | None = None, frames: int = 0, preset: Preset = AS_THEY_ARE
) -> Callable[[Model, Path], dict[str, float]]:
    """A validation on a DAVIS split: (model, run) → {"J&F", "J", "F"}, means over objects.

    frames: of each sequence, evenly spaced, the first among them; 0: all. Fewer frames are farther apart in time for
    methods that follow an object; plain retrieval sees each by itself. Writes `run`/validation/SEQUENCE.jpg.
    """
    year, names = davis.find_split(root, split, year)
    sequences = [davis.open_sequence(root, name) for name in names]
    for sequence in sequences:  # all is looked at before training begins
        first_mask(sequence, sequence.scored(), year)

    def validate(model: Model, run: Path) -> dict[str, float]:
        scores = {}
        for sequence in sequences:
            scores |= score_sequence(model, sequence, year, frames, preset, run / "validation" / f"{sequence.name}.jpg")
        means = metrics.table(scores)["Global"]
        return {"J&F": means["J&F-Mean"], "J": means["J-Mean"], "F": means["F-Mean"]}

    return validate


def score_sequence(
    model: Model, sequence: davis.Sequence, year: int, frames: int, preset: Preset, picture: Path | None = None
) -> dict[str, np.ndarray]:
    """{"SEQ_k": (J, F) `[t, 2]`} of up to `frames` frames of one sequence, the first and the last left out."""
    counted = sequence.counted()
    chosen = _spaced(len(counted), frames)
    wanted = [next(iter(sequence.annotations)), *(counted[i][0] for i in chosen)]
    mask = first_mask(sequence, sequence.frames(), year)
    stream = [frame for frame in sequence.frames().stamped() if frame.name in wanted]
    ids = object_ids(mask[0])
    results = list(segment(model, ((f.number, f.image) for f in stream), mask, preset=preset))
    with_ids = has_ids(sequence.annotations[wanted[0]])
    truths = [_truth(counted[i][1], year, with_ids) for i in chosen]
    scores = np.stack([metrics.frame_scores(r, t, ids) for r, t in zip(results[1:], truths, strict=True)])  # pyright: ignore
    if picture:
        sheet = ContactSheet()
        for frame, labels in zip(stream, results, strict=True):
            sheet.add(frame.name, paint(frame.image, labels))  # pyright: ignore
        picture.parent.mkdir(parents=True, exist_ok=True)
        write_file(picture, sheet.jpeg())
    return {f"{sequence.name}_{k}": scores[:, i] for i, k in enumerate(ids)}


def _spaced(count: int, frames: int) -> Sequence[int]:
    if not frames or frames >= count:
        return range(count)
    return [int(i) for i in np.linspace(0, count - 1, frames).round()]


def _truth(path: Path, year: int, ids: bool) -> np.ndarray:
    labels = read_labels(path, ids=ids)
    labels = np.where(labels == VOID, 0, labels).astype(np.uint8)
    return (labels > 0).astype(np.uint8) if year == 2016 else labels

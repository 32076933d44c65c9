"""Scoring a folder of results on a DAVIS root: the semi-supervised protocol of 2016 (one object) and 2017 (several)."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from pmljax.data import davis
from pmljax.errors import InputError
from pmljax.labels import VOID, has_ids, inverted, object_ids, read_labels, read_result
from pmljax.metrics import frame_scores


def score_results(
    root: str | Path,
    results: str | Path,
    names: Sequence[str],
    year: int,
    advance: Callable[[], object] = lambda: None,
) -> dict[str, np.ndarray]:
    """{"SEQ_k": (J, F) `[t, 2]` of every frame but the first and the last} for `results`/SEQ/NNNNN.png.

    `year` 2016: everything that is not 0 is one object; 2017: the objects of the first frame's annotation, void counted
    as background. `advance` is called after each sequence. Raises InputError for a missing PNG of a frame that counts,
    another size, an id beyond the annotation's, white on black where there are several objects, or none.
    """
    for name in names:
        if not Path(results, name).is_dir():
            raise InputError(f"{Path(results, name)}: no such folder; expected the results of {name}, NNNNN.png")
    scores: dict[str, np.ndarray] = {}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for name in names:
            sequence = davis.open_sequence(root, name)
            counted = sequence.counted()
            first = next(iter(sequence.annotations.values()))
            ids = has_ids(first)
            objects = object_ids(read_labels(first))
            if not objects:
                raise InputError(f"{first}: found no object; expected ids 1…K in the first annotation")
            objects = [1] if year == 2016 else objects  # those that are there: an id left out would score 1

            def one(
                item: tuple[str, Path], name: str = name, objects: list[int] = objects, ids: bool = ids
            ) -> np.ndarray:
                truth = read_labels(item[1], ids=ids)
                return _score_frame(truth, Path(results, name, f"{item[0]}.png"), objects, year)

            frames = np.stack(list(pool.map(one, counted)))
            scores |= {f"{name}_{k}": frames[:, i] for i, k in enumerate(objects)}
            advance()
    return scores


def remarks(root: str | Path, results: str | Path, names: Sequence[str]) -> list[str]:
    """What to say of the masks that were scored: the first, of either side, that looks like the opposite of what it is."""
    found = []
    for folder in (Path(root, "Annotations/480p"), Path(results)):
        firsts = filter(None, (min((folder / name).glob("*.png"), default=None) for name in names))
        found.append(next(filter(None, map(inverted, firsts)), None))
    return [said for said in found if said]


def _score_frame(truth: UInt8[np.ndarray, "h w"], result: Path, objects: list[int], year: int) -> np.ndarray:
    """(J, F) of each of `objects`, ids ascending, in one frame, `[o, 2]`."""
    largest = objects[-1]
    prediction = read_result(result, largest)
    if prediction.shape != truth.shape:
        found, expected = prediction.shape[::-1], truth.shape[::-1]
        raise InputError(
            f"{result}: found {found[0]}×{found[1]}, expected the annotation's {expected[0]}×{expected[1]}"
        )
    truth = np.where(truth == VOID, 0, truth)
    if year == 2016:
        truth, prediction = (truth > 0).astype(np.uint8), (prediction > 0).astype(np.uint8)
    elif largest > 1 and prediction.max() == VOID:
        raise InputError(f"{result}: found 255, expected ids 1…{largest}; --year 2016 scores all objects as one")
    elif prediction.max() > largest:
        raise InputError(
            f"{result}: found object {prediction.max()}, expected at most {largest}, as in the first annotation"
        )
    return frame_scores(prediction, truth, objects)

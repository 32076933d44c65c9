"""The DAVIS measures: region similarity J, contour accuracy F, their mean, recall and decay, and tables of them.

Written from the definition of the public tools (docs/sources.md): J = |G∩M| / |G∪M|; F from boundaries matched within a disk;
the first and the last frame are left out in the semi-supervised setting, which `sequence_scores` leaves to its caller.
Means over the data set are over objects, not over sequences.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

COLUMNS = ("J&F-Mean", "J-Mean", "J-Recall", "J-Decay", "F-Mean", "F-Recall", "F-Decay")


class Statistics(NamedTuple):
    """Of one measure over the frames of one object: fractions."""

    mean: float
    recall: float
    decay: float


def jaccard(prediction: Bool[np.ndarray, "h w"], truth: Bool[np.ndarray, "h w"]) -> float:
    """J: intersection over union, 1 if both are empty."""
    union = np.count_nonzero(prediction | truth)
    return np.count_nonzero(prediction & truth) / union if union else 1.0


def boundary(mask: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """The pixels that differ from their right, lower or lower-right neighbour (the tool's `seg2bmap`)."""
    edge = np.zeros_like(mask)
    edge[:, :-1] |= mask[:, :-1] != mask[:, 1:]
    edge[:-1] |= mask[:-1] != mask[1:]
    edge[:-1, :-1] |= mask[:-1, :-1] != mask[1:, 1:]
    return edge


def dilate(mask: Bool[np.ndarray, "h w"], radius: int) -> Bool[np.ndarray, "h w"]:
    """Dilation by the disk dx² + dy² ≤ radius²: one row of the disk after the other, each widening the one before."""
    h, w = mask.shape
    padded = np.zeros((h + 2 * radius, w + 2 * radius), bool)
    padded[radius : radius + h, radius : radius + w] = mask
    out = np.zeros_like(padded)
    wide = padded[:, radius : radius + w].copy()
    reach = 0
    for dy in range(radius, -1, -1):
        half = math.isqrt(radius**2 - dy**2)
        for dx in range(reach + 1, half + 1):
            wide |= padded[:, radius - dx : radius - dx + w]
            wide |= padded[:, radius + dx : radius + dx + w]
        reach = half
        out[radius : radius + h, radius : radius + w] |= wide[radius - dy : radius - dy + h]
        out[radius : radius + h, radius : radius + w] |= wide[radius + dy : radius + dy + h]
    return out[radius : radius + h, radius : radius + w]


def contour_f(prediction: Bool[np.ndarray, "h w"], truth: Bool[np.ndarray, "h w"], tolerance: float = 0.008) -> float:
    """F: harmonic mean of the boundaries' precision and recall.

    `tolerance`: the matching distance as a share of the picture's diagonal (rounded up to pixels), or in pixels if ≥ 1.
    """
    radius = int(tolerance) if tolerance >= 1 else math.ceil(tolerance * math.hypot(*truth.shape))
    b_prediction, b_truth = boundary(prediction), boundary(truth)
    n_prediction, n_truth = np.count_nonzero(b_prediction), np.count_nonzero(b_truth)
    if not n_prediction or not n_truth:
        return float(n_prediction == n_truth)
    # All of both boundaries and of their dilations lie in this window: the rest of the frame need not be looked at.
    ys, xs = (np.flatnonzero((b_prediction | b_truth).any(axis)) for axis in (1, 0))
    window = np.s_[ys[0] : ys[-1] + 1, xs[0] : xs[-1] + 1]
    b_prediction, b_truth = b_prediction[window], b_truth[window]
    precision = np.count_nonzero(b_prediction & dilate(b_truth, radius)) / n_prediction
    recall = np.count_nonzero(b_truth & dilate(b_prediction, radius)) / n_truth
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def frame_scores(prediction: np.ndarray, truth: np.ndarray, objects: Sequence[int]) -> Float[np.ndarray, "o 2"]:
    """(J, F) of every object id in `objects` in one frame of labels `[h, w]`."""
    if prediction.shape != truth.shape:
        raise ValueError(f"prediction {list(prediction.shape)} and truth {list(truth.shape)}: expected one size")
    return np.array(
        [(jaccard(prediction == k, truth == k), contour_f(prediction == k, truth == k)) for k in objects]
    ).reshape(-1, 2)


def statistics(values: Sequence[float] | np.ndarray) -> Statistics:
    """Mean, recall (share over .5) and decay (first quarter's mean minus the last's) of one object's per-frame values.

    The quarters share their end frames, as in the tool. `nan` frames do not count in the means.
    """
    values = np.asarray(values, float)
    n = len(values)
    if not n:
        return Statistics(math.nan, math.nan, math.nan)
    # The tool's rounding: halves go up. It stores these numbers in 8 bits and fails over 256 frames; this does not.
    ends = np.round(np.linspace(1, n, 5) + 1e-10).astype(int) - 1
    quarters = [values[a : b + 1] for a, b in pairwise(ends)]
    return Statistics(
        float(np.nanmean(values)),
        float(np.mean(values > 0.5)),
        float(np.nanmean(quarters[0]) - np.nanmean(quarters[3])),
    )


def table(scores: Mapping[str, Float[np.ndarray, "t 2"]]) -> dict[str, dict[str, float]]:
    """One row of COLUMNS an entry of `scores` ({"dog_1": (J, F) per frame}), and the row "Global": their plain mean."""
    rows: dict[str, dict[str, float]] = {}
    for name, values in scores.items():
        j, f = statistics(values[:, 0]), statistics(values[:, 1])
        row = ((j.mean + f.mean) / 2, *j, *f)
        rows[name] = dict(zip(COLUMNS, row, strict=True))
    if rows:
        rows["Global"] = {c: float(np.mean([row[c] for row in rows.values()])) for c in COLUMNS}
    return rows


def csv_table(rows: Mapping[str, Mapping[str, float]]) -> str:
    """`rows` of `table` as CSV: `Sequence,J&F-Mean,…`, three decimals, fractions, the last row `Global`."""
    return _csv(("Sequence", *COLUMNS), ((name, *(f"{row[c]:.3f}" for c in COLUMNS)) for name, row in rows.items()))


def official_csv(rows: Mapping[str, Mapping[str, float]]) -> tuple[str, str]:
    """The two files of the DAVIS-2017 tool: `global_results-SET.csv` and `per-sequence_results-SET.csv`."""
    own = ((name, f"{row['J-Mean']:.3f}", f"{row['F-Mean']:.3f}") for name, row in rows.items() if name != "Global")
    totals = _csv(COLUMNS, [[f"{rows['Global'][c]:.3f}" for c in COLUMNS]])
    return totals, _csv(("Sequence", "J-Mean", "F-Mean"), own)


def _csv(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    return text.getvalue()

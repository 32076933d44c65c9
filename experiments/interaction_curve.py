"""Curves of the simulated user's runs (`experiments.interactive`): J and F against interactions and against seconds.

A record is one run: its model, sequence, seed, seconds of embedding, and `steps`, one an interaction, with the frame it was
in, the J and F of every object, mean over the frames, and its seconds. Axes: `i` point of a curve.
"""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Num

AT = 60.0  # seconds at which DAVIS interactive reads the curve
COLUMNS = ("model", "sequence", "seed", "interaction", "frame", "J", "F", "seconds", "frame_seconds")


def rows(record: dict[str, Any], interactions: int) -> list[tuple[Any, ...]]:
    """COLUMNS of each interaction of a run, J and F over its objects; missing ones repeat the last at no cost."""
    out, total = [], 0.0
    for i in range(interactions):
        step = record["steps"][min(i, len(record["steps"]) - 1)]
        there = i < len(record["steps"])
        total += step["seconds"] if there else 0
        j, f = float(np.mean(step["J"])), float(np.mean(step["F"]))
        who = record["model"], record["sequence"], record["seed"]
        out.append((*who, i + 1, step["frame"], j, f, total, step["frame_seconds"] if there else 0.0))
    return out


def area(values: Num[np.ndarray, "i"], at: Num[np.ndarray, "i"]) -> float:
    """Under the curve from (0, 0) through `values` at `at`, ascending, as a share of the axis: 1 would be perfect at once."""
    at = np.r_[0.0, at]
    return float(np.trapezoid(np.r_[0.0, values], at) / at[-1]) if at[-1] else 0.0


def summary(records: list[dict[str, Any]], interactions: int) -> dict[str, Any]:
    """Of one model's runs: means after each interaction, areas, J&F at AT seconds."""
    table = np.array(
        [[row[5:] for row in rows(record, interactions)] for record in records]
    )  # [run, interaction, column]
    j, f, seconds, _ = table.mean(0).T
    both = (j + f) / 2
    # The time axis ends where the slowest interaction, as often as there are interactions, would: no run is longer.
    longest = interactions * max(step["seconds"] for record in records for step in record["steps"])
    time, reached = np.r_[seconds, longest], np.r_[both, both[-1]]
    waits = [step["frame_seconds"] for record in records for step in record["steps"]]
    return {
        "J": j.tolist(),
        "F": f.tolist(),
        "J&F": both.tolist(),
        "seconds": seconds.tolist(),
        "area": {"interactions": area(both, np.arange(1, interactions + 1.0)), "seconds": area(reached, time)},
        f"J&F at {AT:.0f} s": float(np.interp(AT, np.r_[0, time], np.r_[0, reached])),
        "median frame_seconds": float(np.median(waits)),
        "median embed": float(np.median([record["embed"] for record in records])),
        "runs": len(records),
    }


def csv_curve(records: list[dict[str, Any]], interactions: int) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for record in records:
        writer.writerows([f"{x:.4f}" if isinstance(x, float) else x for x in row] for row in rows(record, interactions))
    return text.getvalue()


def draw(summaries: dict[str, dict[str, Any]]) -> bytes:
    """A PNG: J and J&F against interactions and against seconds, one line a model."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 2, figsize=(11, 8), sharey="row", squeeze=False)
    for line, measure in zip(axes, ("J", "J&F"), strict=True):
        for axis, what in zip(line, ("interactions", "seconds"), strict=True):
            for name, found in summaries.items():
                at = found["seconds"] if what == "seconds" else range(1, len(found[measure]) + 1)
                axis.plot([0, *at], [0, *found[measure]], marker=".", label=Path(name).name)
            axis.set(xlabel=what, ylabel=measure, ylim=(0, 1), xlim=(0, None))
            axis.grid(alpha=0.3)
    axes[0, 0].legend(loc="lower right")
    figure.tight_layout()
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=110)
    pyplot.close(figure)
    return buffer.getvalue()


def table(summaries: dict[str, dict[str, Any]]) -> str:
    """Markdown: J / F after some interactions, areas, time."""
    count = len(next(iter(summaries.values()))["J"])
    shown = [i for i in (1, 2, 3, 5, 10, 20, 50) if i < count] + [count]
    lines = [
        f"| model | {' | '.join(f'J / F after {i}' for i in shown)} | area | J&F at {AT:.0f} s | s an interaction |"
    ]
    lines += ["|---|" + "---|" * (len(shown) + 3)]
    for name, found in summaries.items():
        cells = [f"{found['J'][i - 1]:.3f} / {found['F'][i - 1]:.3f}" for i in shown]
        cells += [f"{found['area']['interactions']:.3f}", f"{found[f'J&F at {AT:.0f} s']:.3f}"]
        lines.append(f"| {name} | {' | '.join(cells)} | {found['seconds'][-1] / count:.3f} |")
    return "\n".join(lines) + "\n"

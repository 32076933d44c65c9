"""The benchmark's record as a table and as pictures."""

from __future__ import annotations

import io
from typing import Any

from experiments.side_by_side import Row, Spread, from_json


def table(record: dict[str, Any]) -> str:
    """Markdown: what it was measured on, the rows of all groups, and what is missing."""
    groups: dict[str, Any] = record["groups"]
    rows = [from_json(r) for group in groups.values() for r in group["rows"]]
    lines = []
    for about in dict.fromkeys(about_group(group) for group in groups.values()):
        which = [name for name, group in groups.items() if about_group(group) == about]
        lines.append(f"{', '.join(which)}: {about}" if len(groups) > len(which) else about)
    busy = {name: group.get("busy") or 0 for name, group in groups.items()}
    if any(cores > 0.25 for cores in busy.values()):
        cores = ", ".join(f"{name} {cores:.1f}" for name, cores in busy.items() if cores > 0.25)
        lines.append(f"**The machine did other work when these began (cores that were busy: {cores}).**")
    if any(group["settings"]["quick"] for group in groups.values()):
        lines.append("**--quick: the sizes are too small for the numbers to mean anything.**")
    titles = (
        "what",
        "precision",
        "pmljax, ms (10 %…90 %)",
        "peers, ms (10 %…90 %)",
        "ours / best peer",
        "floor, ms",
        "of the floor",
        "memory, MiB",
        "compiling, s",
        "note",
    )
    lines += ["", f"| {' | '.join(titles)} |", "|" + "---|" * len(titles)]
    lines += [f"| {' | '.join(cells(row))} |" for row in rows]
    missing = {f"{name}: {why}" for row in rows for name, why in row.peers.items() if isinstance(why, str)}
    if missing:
        lines += ["", f"– : {'; '.join(sorted(missing))}."]
    wrong = [row.name for row in rows if not row.exact]
    if wrong:
        lines += ["", f"**Not exact: {'; '.join(wrong)}.**"]
    unfinished = [name for name, group in groups.items() if not group["finished"]]
    if unfinished:
        lines += ["", f"**Not finished: {', '.join(unfinished)}.**"]
    return "\n".join(lines)


def about_group(group: dict[str, Any]) -> str:
    """Device, versions, commit and limits in a line."""
    here, limits = group["machine"], group["limits"]
    devices = f"{len(here['devices'])} × {here['devices'][0]}"
    versions = ", ".join(f"{n} {v}" for n, v in {**here["versions"], **here["peers"]}.items() if n != "pmljax")
    peaks = ", ".join(
        f"{max(rates.values()) / 1e9:,.0f} GFLOP/s {kind} ({max(rates, key=lambda n: rates[n])})"
        for kind, rates in limits["operations a second"].items()
    )
    return (
        f"{devices}; {here['processor']}, {here['cores']} cores; Python {here['python']}, {versions}; commit"
        f" {here['commit']}. Measured limits: {peaks}; copy {limits['bytes a second'] / 1e9:,.1f} GB/s."
    )


def cells(row: Row) -> list[str]:
    """A row's cells, in the order of the titles."""
    peers = [f"{name} {times(p) if not isinstance(p, str) else '–'}" for name, p in row.peers.items()]
    floor = "–" if row.floor is None else f"{number(row.floor.ms)} ({row.floor.bound})"
    memory = "–" if row.memory is None else f"{row.memory / 2**20:,.1f} {row.memory_of}"
    return [
        row.name,
        row.precision,
        times(row.ours),
        "<br>".join(peers) or "–",
        "–" if row.ratio is None else f"{row.ratio:.2f} ({row.best})",
        floor,
        "–" if row.reached is None else f"{row.reached:.0%}",
        memory,
        "–" if row.compile is None else f"{row.compile:.1f}",
        row.note or "–",
    ]


def times(spread: Spread) -> str:
    if spread.low is None or spread.high is None:
        return f"{number(spread.median)} (slowest {number(spread.slowest or spread.median)})"
    return f"{number(spread.median)} ({number(spread.low)}…{number(spread.high)})"


def number(ms: float) -> str:
    """Three digits."""
    return f"{ms:,.0f}" if ms >= 100 else f"{ms:.{1 if ms >= 10 else 2 if ms >= 1 else 3}f}"


def plots(record: dict[str, Any]) -> bytes | None:
    """PNG: time and memory against what grows; None without points or without matplotlib."""
    points = [r for r in map(from_json, record["groups"].get("growth", {"rows": []})["rows"]) if r.axis]
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        return None
    if not points:
        return None
    panels = list(dict.fromkeys(str(r.axis).split(", ")[0] for r in points))
    figure = Figure(figsize=(3.4 * len(panels), 6), layout="constrained")
    axes = figure.subplots(2, len(panels), squeeze=False)
    for column, panel in enumerate(panels):
        time_axes, memory_axes = axes[:, column]
        for series in dict.fromkeys(r.axis for r in points if str(r.axis).split(", ")[0] == panel):
            here = [r for r in points if r.axis == series]
            at, name = [r.at for r in here], str(series).partition(", ")[2]
            median, low, high = ([getattr(r.ours, q) for r in here] for q in ("median", "low", "high"))
            line = time_axes.plot(at, median, "o-", label=name or "pmljax")[0]
            time_axes.fill_between(at, low, high, color=line.get_color(), alpha=0.2)
            if all(r.floor for r in here):
                time_axes.plot(at, [r.floor.ms for r in here if r.floor], ":", color=line.get_color(), label="floor")
            held = [(r.at, r.memory / 2**20) for r in here if r.memory is not None]
            if held:
                memory_axes.plot(*zip(*held, strict=True), "o-", color=line.get_color(), label=name)
            memory_axes.set(ylabel=f"MiB, {here[0].memory_of}")
        memory_axes.set(ylim=(0, None))
        if panel == "references":  # over two decades
            time_axes.set(yscale="log")
        for each in (time_axes, memory_axes):
            each.set(xlabel=panel, **({"xscale": "log"} if panel == "references" else {"xlim": (0, None)}))
        time_axes.set(ylabel="ms", **({} if panel == "references" else {"ylim": (0, None)}))
        time_axes.legend(frameon=False)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=110)
    return picture.getvalue()

"""What the commands show: results, tables, progress bars, and errors in one line."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from pmljax.metrics import COLUMNS


def text_table(rows: Mapping[str, Mapping[str, float]]) -> str:
    """The table of `metrics.table` for reading."""
    width = max(map(len, ["Sequence", *rows]))
    lines = [" ".join([f"{'Sequence':{width}}", *(f"{c:>8}" for c in COLUMNS)])]
    lines += [" ".join([f"{name:{width}}", *(f"{row[c]:8.3f}" for c in COLUMNS)]) for name, row in rows.items()]
    return "\n".join(lines)


def show(result: object) -> None:
    """Print a text as it is, anything else as JSON."""
    print(result if isinstance(result, str) else json.dumps(result, indent=1))


@contextmanager
def progress(what: str, total: int | None) -> Iterator[Callable[[], None]]:
    """A bar on standard error while the block runs, if that is a terminal; gives the function that advances it."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda: bar.advance(task)


def fail(message: str) -> int:
    """Print an error as one line on standard error; returns exit status 2."""
    print("pmljax: " + " ".join(message.split()), file=sys.stderr)
    return 2

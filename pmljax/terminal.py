"""What the commands show: results, tables, progress bars, and errors in one line."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pmljax.errors import DamageWarning, InputError
from pmljax.metrics import COLUMNS

SCORES = ("J&F", "mean IoU")  # of a validation during training
HURRY = 1.0  # seconds in which a second Ctrl-C is the same one: a shell's, and a program's between that hands it on


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


@contextmanager
def training_bar(what: str, total: int) -> Iterator[Callable[[int, Mapping[str, float]], None]]:
    """A bar with the loss, the rate, images a second and the time left, if standard error is a terminal; else a line every
    half minute. Gives the function that takes (step, numbers)."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    text = TextColumn("{task.description}"), TextColumn("{task.fields[numbers]}")
    columns = (text[0], BarColumn(), MofNCompleteColumn(), text[1], TimeRemainingColumn())
    shown, told = {}, time.monotonic()
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=total, numbers="")

        def report(step: int, numbers: Mapping[str, float]) -> None:
            nonlocal told, total
            shown.update(numbers)
            total = int(shown.get("steps", total))  # of a run whose pace says how many
            names = [n for n in ("loss", "rate", "images a second") if n in shown]
            names += [n for n in SCORES if n in numbers or (console.is_terminal and n in shown)]  # those of this step
            line = "  ".join(f"{name} {shown[name]:.3g}" for name in names)
            bar.update(task, total=total, completed=step, numbers=line)
            if not console.is_terminal and (
                time.monotonic() - told > 30 or step == total or set(SCORES) & numbers.keys()
            ):
                told = time.monotonic()
                print(f"{what}: step {step} of {total}  {line}", file=sys.stderr, flush=True)

        yield report


@contextmanager
def ends_when_told() -> Iterator[Callable[[], None]]:
    """Within the block SIGTERM ends the command as an exception does, so that the processes that it began end with it and
    what they share is freed. Gives what is to be called now and then: an exception that a signal raises within a library's
    callback is lost."""
    told = False

    def end(*_: object) -> None:
        nonlocal told
        told = True
        sys.exit(128 + signal.SIGTERM)

    def check() -> None:
        if told:
            sys.exit(128 + signal.SIGTERM)

    if threading.current_thread() is not threading.main_thread():  # which alone gets signals
        yield check
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield check
    finally:
        signal.signal(signal.SIGTERM, before)


def interrupted_once() -> None:
    """From here on Ctrl-C is a KeyboardInterrupt once: what ends for it is not disturbed by the next. After HURRY seconds
    another ends the process at once. For a process of our own; where Ctrl-C is ignored or taken already, nothing happens.

    Twice, it cut off what waits for threads, and those still inside of compiled code took the process down.
    """

    def first(*_: object) -> None:
        begin = time.monotonic()
        # Nothing acknowledged is lost, as by any kill.
        signal.signal(signal.SIGINT, lambda *_: os._exit(130) if time.monotonic() - begin > HURRY else None)
        raise KeyboardInterrupt

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, first)


def note(message: str) -> None:
    """Print what a user may want to know as one line on standard error."""
    print("pmljax: " + " ".join(message.split()), file=sys.stderr)


def notes_damage() -> None:
    """From here on a `DamageWarning` is a note; other warnings are shown as they were."""
    shown = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
        note(str(message)) if issubclass(category, DamageWarning) else shown(message, category, *place, **more)

    warnings.showwarning = show


def fail(message: str) -> int:
    """Print an error as one line on standard error; returns exit status 2."""
    note(message)
    return 2


def status(run: Callable[[], object]) -> int:
    """The exit status of `run()`: bad input, and a file that cannot be read or written, are one line and 2. Where nobody reads
    on what is printed (`| head`), the rest is not."""
    try:
        try:
            run()
        except SystemExit:  # after help
            sys.stdout.flush()
            raise
        sys.stdout.flush()
    except (InputError, DamageWarning) as error:  # the latter where Python is told that warnings are errors
        return fail(str(error))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what Python prints when it ends
        return 1
    except OSError as error:
        what = f"cannot be read or written ({error.strerror or error})"
        return fail(f"{error.filename or 'a file'}: {what}; expected a place with room and rights")
    return 0

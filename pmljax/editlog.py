"""The edit log: every input on the disk before it is acknowledged, whatever happens to the process, the page or the disk.

OUT/edits.jsonl, only ever appended to. Its first line says which video and which model it belongs to, every other one is an
input in the schema of `pmljax.inputs`, undo and redo included: read again, the log gives the same inputs and the same history.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from pmljax.errors import InputError
from pmljax.files import lock
from pmljax.inputs import Edit, from_json

FORMAT = 1
NAME = "edits.jsonl"


class LogFull(Exception):
    """An input could not be written. Everything before it is kept."""


def header_of(
    video: str, weights: str, size: tuple[int, int], *, vote: tuple[int, float | None], seen: tuple[int, int]
) -> dict[str, Any]:
    """The first line of a log. video, weights: hashes.  size: (h, w).  vote, seen: k and temperature as in `Session`, (h, w) as
    the network sees frames."""
    k, temperature = vote
    numbers = {"size": list(size), "k": k, "temperature": temperature, "seen": list(seen)}
    return {"video": video, "weights": weights, **numbers, "format": FORMAT}


def vote_of(path: Path) -> tuple[int, float | None] | None:
    """k and temperature of the log at `path`, by its first line; None where there is none that says so."""
    try:
        with open(path, "rb") as file:
            found = json.loads(file.readline())
    except (OSError, ValueError, RecursionError):
        return None
    k, temperature = (found.get(key) if isinstance(found, dict) else None for key in ("k", "temperature"))
    if type(k) is not int or not 1 <= k <= 50 or not (temperature is None or type(temperature) in (int, float)):
        return None
    return k, temperature if temperature is None else float(temperature)


def parse(data: bytes, path: Path, header: dict[str, Any]) -> tuple[list[Edit], int, str]:
    """(the edits, how many bytes are whole lines, a notice or "") of a log. InputError where it is another video's or model's,
    no edit log, or broken before its last line. A last line that is whole but for its end, as editors leave it, counts."""
    *lines, last = data.split(b"\n")
    whole, notice, items = len(data), "", []
    if last.rstrip().endswith(b"}") and _is_json(last):
        lines.append(last)
    elif last and (lines or json.dumps(header).encode().startswith(last)):
        whole, notice = whole - len(last), f"{path.name}: its last line was cut off and is left out"
    elif last:
        raise _no_log(path)
    for i, line in enumerate(lines, 1):
        try:
            items.append(json.loads(line))
        except (ValueError, RecursionError):
            raise InputError(
                f"{path}: line {i}: found no JSON; expected an edit log with nothing broken but its last line"
            ) from None
    if not items:
        return [], 0, notice
    found = items[0] if isinstance(items[0], dict) else {}
    wrong = next((key for key in header if found.get(key) != header[key]), None)
    if wrong and "video" not in found:
        raise _no_log(path)
    if wrong:
        what = {
            "video": "another video, or of other frames of it (--start, --end, --every)",
            "weights": "another model (--model)",
            "seen": "frames of another size (--size)",
        }.get(wrong, f"another {wrong}")
        same = "no --neighbours, so that it goes on with its own," if wrong in ("k", "temperature") else "the same,"
        raise InputError(
            f"{path}: this log is of {what} ({wrong}: found {json.dumps(found.get(wrong))[:80]}, now"
            f" {json.dumps(header[wrong])}); expected {same} or another --out of `pmljax annotate`"
        )
    return [from_json(item, f"{path}: line {i}") for i, item in enumerate(items[1:], 2)], whole, notice


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _no_log(path: Path) -> InputError:
    return InputError(
        f"{path}: found no edit log, whose first line says of which video it is; expected edits.jsonl of `pmljax"
        " annotate`; a file of clicks goes with --clicks of `pmljax segment`"
    )


def with_lines(edits: list[Edit], path: Path) -> list[tuple[str, Edit]]:
    """(where it stands, edit) of every edit of the log at `path`, as `Session.replay` takes them."""
    return [(f"{path}: line {line}", edit) for line, edit in enumerate(edits, 2)]


def read_log(path: Path, header: dict[str, Any]) -> tuple[list[Edit], str]:
    """(the edits of a log, a notice or ""), as `parse`; a torn last line is left out."""
    try:
        edits, _, notice = parse(path.read_bytes(), path, header)
        return edits, notice
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); expected an edit log") from None


class EditLog:
    """A log that is open for writing. edits: those that were there.  notice: what was dropped, "" if nothing was."""

    def __init__(self, folder: Path, header: dict[str, Any]):
        self.path = folder / NAME
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o644)
        except OSError as error:
            raise InputError(
                f"{self.path}: cannot be opened ({error.strerror}); expected a folder to write to"
            ) from None
        try:
            if not lock(self._file):
                raise InputError(f"{self.path}: another pmljax has it open; expected it closed, or another --out")
            data = self.path.read_bytes()
            self.edits, self.length, self.notice = parse(data, self.path, header)
            os.ftruncate(self._file, self.length)
            if not self.length:
                self._write(json.dumps(header).encode() + b"\n")
                _sync_folder(folder)
            elif data[self.length - 1 : self.length] != b"\n":
                self._write(b"\n")
        except LogFull as error:
            self.close()
            raise InputError(f"{self.path}: {error}; expected a disk with room") from None
        except BaseException:
            self.close()
            raise

    def append(self, edit: Edit) -> None:
        """Write one input; when this returns, it is on the disk. LogFull: it is not, and the log is as it was."""
        self._write(json.dumps(edit.to_json()).encode() + b"\n")

    def _write(self, line: bytes) -> None:
        try:
            # First drop what an append that failed may have left.
            os.ftruncate(self._file, self.length)
            os.lseek(self._file, self.length, os.SEEK_SET)
            left = memoryview(line)
            while left:
                left = left[os.write(self._file, left) :]
            os.fsync(self._file)
        except OSError as error:
            with suppress(OSError):
                os.ftruncate(self._file, self.length)
            raise LogFull(f"the input could not be written ({error.strerror or error})") from None
        self.length += len(line)

    def close(self) -> None:
        os.close(self._file)


def _sync_folder(folder: Path) -> None:
    """The file's name on the disk too."""
    with suppress(OSError):  # where folders cannot be opened, as on Windows
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

"""Writes that are whole or not there at all, whenever the process is killed; and where things are kept between runs."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pmljax.errors import InputError

try:
    import fcntl
except ImportError:  # Windows: nothing keeps two processes from one file
    fcntl = None


def asked_file(path: Path) -> Path:
    """Where a file that the user named is written: what a link leads to. Writing replaces what is there, so that InputError
    comes for a device or a pipe as for a folder, for the file that what is printed goes to (/dev/stdout is a link to it), and
    for a name in a folder that is not there."""
    if (path.exists() and not path.is_file()) or not path.absolute().parent.is_dir():
        raise InputError(f"{path}: expected the name of a file in a folder that is there")
    for stream in (1, 2):
        with suppress(OSError):  # closed, or no such file yet
            if os.path.samestat(os.fstat(stream), path.stat()):
                raise InputError(f"{path}: found the file that output is printed to; expected another file")
    return path.resolve() if path.is_symlink() else path


def write_file(path: Path, data: bytes) -> None:
    """Write `data` so that `path` holds all of it or does not change: temporary name, flush to disk, rename."""
    temporary = path.with_name(f".{path.stem}.part-{os.getpid()}-{threading.get_ident()}{path.suffix}")  # nobody else's
    try:
        with open(temporary, "wb") as file:
            file.write(data)
        publish(temporary, path)
    except OSError as error:  # name the file that was asked for
        raise OSError(error.errno, error.strerror or str(error), str(path)) from None
    finally:
        with suppress(OSError):  # a name too long for the disk has none to remove
            temporary.unlink(missing_ok=True)


def temporary_name(path: Path) -> Path:
    """Where `path` is written before it is whole; the same suffix, hidden."""
    return path.with_name(f".{path.stem}.part{path.suffix}")


def publish(temporary: Path, path: Path) -> None:
    """Flush a finished temporary file to the disk and give it its name."""
    with open(temporary, "r+b") as file:  # for writing, as Windows flushes no other
        os.fsync(file.fileno())
    os.replace(temporary, path)


def lock(file: int) -> bool:
    """Take an open file or folder for this process until it is closed; False where another has it. Where there are no locks
    (Windows, some file systems) everybody may."""
    try:
        if fcntl:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system that knows none
        pass
    return True


@contextmanager
def alone(folder: Path, doing: str) -> Iterator[None]:
    """No other process that asks is in the folder while the block runs. InputError, with what it is `doing`, where one is."""
    if fcntl is None:  # nor can a folder be opened there
        yield
        return
    held = os.open(folder, os.O_RDONLY)
    try:
        if not lock(held):
            raise InputError(f"{folder}: another process {doing}; expected it to have ended, or another --out")
        yield
    finally:
        with suppress(OSError):  # closed alone, a process forked meanwhile would keep it
            fcntl.flock(held, fcntl.LOCK_UN)
        os.close(held)


def default_cache() -> Path:
    """$PMLJAX_CACHE, else $XDG_CACHE_HOME/pmljax, else ~/.cache/pmljax; InputError where there is no ~ (some containers)."""
    given, base = os.environ.get("PMLJAX_CACHE"), os.environ.get("XDG_CACHE_HOME")
    if given:
        return Path(given)
    try:
        return Path(base or Path.home() / ".cache") / "pmljax"
    except RuntimeError:
        raise InputError("found no home folder to keep a cache in; set PMLJAX_CACHE to a folder") from None

"""What the command `pmljax` runs first. It stands outside the package, whose import takes a second, to start anew before that.

A compiled call gets its temporary memory from the system and gives it back: tens of thousands of page faults a frame, a
twentieth to a seventh of its time (experiments/README.md, "Speed of the bilateral solver"). In pages of 2 MiB they are
hundreds, but a process cannot ask glibc for such pages once it runs.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
TUNABLES, SETTING = "GLIBC_TUNABLES", "glibc.malloc.hugetlb"
# As an option of `python -X`: once only, also where the setting is taken away, as from a Python with capabilities.
ANEW = "pmljax-anew"


def main() -> int:
    """Run one command, with huge pages where they are given to those who ask; returns the exit status."""
    if ANEW in sys._xoptions:
        _as_before()
    elif _is_script() and (environment := asking(os.environ)) is not None:
        with suppress(OSError):  # where it may not, it goes on: slower, and otherwise the same
            os.execve(sys.executable, [sys.executable, "-X", ANEW, *sys.orig_argv[1:]], environment)
    from pmljax.cli import main

    return main()


def asking(environment: Mapping[str, str]) -> dict[str, str] | None:
    """The environment of a process that gets huge pages; None where nobody need ask, or the user has said it."""
    tunables = environment.get(TUNABLES, "")
    if SETTING in tunables or not _to_be_asked():
        return None
    return {**environment, TUNABLES: f"{tunables}:{SETTING}=1" if tunables else f"{SETTING}=1"}


def _to_be_asked() -> bool:
    """Linux with glibc 2.35 or newer, and neither "always" nor "never"."""
    try:
        name, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").split()
        return name == "glibc" and tuple(map(int, version.split("."))) >= (2, 35) and "[madvise]" in PAGES.read_text()
    except (AttributeError, ValueError, OSError):  # other systems
        return False


def _is_script() -> bool:
    """Whether this process is `python SCRIPT …`, which can be read again: a pipe cannot, and a debugger would begin anew."""
    before, given = sys.orig_argv[: -len(sys.argv)], sys.orig_argv[-len(sys.argv) :]
    return bool(sys.executable) and given == sys.argv and "-m" not in before and Path(sys.argv[0]).is_file()


def _as_before() -> None:
    """The process has its name again, and what it starts in turn, such as a browser, the environment that was given."""
    with suppress(OSError):
        Path("/proc/self/comm").write_text(Path(sys.argv[0]).name)
    before = os.environ.pop(TUNABLES, "").removesuffix(f"{SETTING}=1").removesuffix(":")
    if before:
        os.environ[TUNABLES] = before

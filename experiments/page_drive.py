"""The page's server as a process of its own, and a browser that looks at it: for tests and for measurements."""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
# As root, and without a word to anybody outside.
ARGUMENTS = [
    "--no-sandbox",
    "--disable-background-networking",
    "--disable-sync",
    "--disable-component-update",
    "--disable-dev-shm-usage",
]


class Served(NamedTuple):
    address: str
    process: subprocess.Popen[str]


@contextmanager
def served(*arguments: object, cache: Path | None = None, wait: float = 120) -> Iterator[Served]:
    """`pmljax annotate` with these arguments, until the block ends."""
    code = "import sys; from pmljax.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "annotate", "--no-open", *map(str, arguments)]
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = dict(os.environ) | {"PYTHONPATH": os.pathsep.join(paths)}
    environment |= {"PMLJAX_CACHE": str(cache)} if cache else {}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stdout and process.stderr
        readable, _, _ = select.select([process.stdout], [], [], wait)
        address = process.stdout.readline().strip() if readable else ""
        if not address.startswith("http"):
            process.kill()
            raise RuntimeError(process.stderr.read() or "the server said nothing")
        yield Served(address, process)
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for pipe in (process.stdout, process.stderr):
            if pipe:
                pipe.close()


def chromium() -> str | None:
    """Where the browser is."""
    return os.environ.get("PMLJAX_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")


@contextmanager
def browser() -> Iterator[Any]:
    """Playwright's browser, with a user-data folder of its own."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium(), args=ARGUMENTS)
        try:
            yield opened
        finally:
            opened.close()


def resident(process: int, what: str = "VmHWM") -> float:
    """GiB of a process's resident memory: the most it had, or (VmRSS) what it has."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith(what):
            return int(line.split()[1]) / 2**20
    return float("nan")


def until(true: Any, seconds: float = 60.0) -> Any:
    """What `true()` gives once it is not falsy."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := true():
            return found
        time.sleep(0.05)
    raise TimeoutError

"""Processes that read for a training end with it, even where it is killed and can tell them nothing."""

from __future__ import annotations

import multiprocessing
import os
import threading
from functools import cache
from multiprocessing.connection import wait


@cache  # one thread of a process is enough
def end_with_parent() -> None:
    """In a process that `multiprocessing` began: let it end when the one that began it has. Elsewhere nothing.

    A reader waits for a queue whose other end it holds itself, so that it would wait for ever; and what it shares is freed
    (by multiprocessing's resource tracker) only once everyone that knows of it has ended.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)  # as `sys.exit` ends but a thread

    threading.Thread(target=watch, name="end with parent", daemon=True).start()

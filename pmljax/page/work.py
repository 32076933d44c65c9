"""One thread that computes, the most urgent first: an input overtakes whatever waits, the frame in view the others."""

from __future__ import annotations

import asyncio
import itertools
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")

INPUT, VIEW, OTHERS, SOME_TIME, LAST = 0, 1, 2, 3, 4
"""How urgent: an input; the frame in view; the other frames; what nobody waits for; the end."""
PATIENCE = 5.0
"""Seconds."""


class Worker:
    """Calls are made one after the other, in the thread: a session is never in two hands."""

    def __init__(self):
        self._waiting: queue.PriorityQueue[tuple[int, int, Future[Any], Callable[[], Any] | None]] = (
            queue.PriorityQueue()
        )
        self._order = itertools.count()
        self._thread = threading.Thread(target=self._run, name="pmljax-page", daemon=True)
        self._thread.start()

    def submit(self, urgency: int, call: Callable[[], T]) -> Future[T]:
        future: Future[T] = Future()
        self._waiting.put((urgency, next(self._order), future, call))
        return future

    async def do(self, urgency: int, call: Callable[[], T]) -> T:
        """The call's result, or what it raised."""
        return await asyncio.wrap_future(self.submit(urgency, call))

    def stop(self) -> None:
        """The thread ends after the calls that wait; returns once it has, or after PATIENCE.

        A thread that is inside of compiled code when the interpreter ends can take the process down with it.
        """
        self._waiting.put((LAST, next(self._order), Future(), None))
        self._thread.join(PATIENCE)

    def _run(self) -> None:
        while True:
            _, _, future, call = self._waiting.get()
            if call is None:
                return
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(call())
            except BaseException as error:  # the thread outlives whatever a call raises
                future.set_exception(error)

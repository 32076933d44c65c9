"""The answers that a session holds: a chunk's neighbours among what is marked now, and among what was marked before.

An input changes what is marked, and an undo changes it back: with both at hand neither is searched for anew.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Int32

from pmljax.answers import Answer

KEPT = 320 << 20  # bytes of neighbours: 640 frames of 480p; of longer videos those asked for last


class Held:
    """now: {chunk: answer}, the one asked for last at the end.  earlier: {chunk: its answer to what was marked before}, of as
    many as there is room for."""

    def __init__(self):
        self.now: dict[int, Answer] = {}
        self.earlier: dict[int, Answer] = {}

    def copy(self) -> Held:
        """The same answers, which are never written to, in an order and a choice of its own."""
        other = Held()
        other.now, other.earlier = dict(self.now), dict(self.earlier)
        return other

    def of(self, chunk: int, marked: Int32[np.ndarray, "m"], update: Callable[[Answer | None], Answer]) -> Answer:
        """The chunk's answer to `marked`; if it is not held, `update` of the last one that was (None: none was)."""
        before, earlier = self.now.pop(chunk, None), self.earlier.get(chunk)
        if before is not None and np.array_equal(before.marked, marked):  # labels may have changed, or nothing
            self.now[chunk] = before  # the last one asked for
            return before
        there = earlier if earlier is not None and np.array_equal(earlier.marked, marked) else None
        now = self.now[chunk] = there or update(before)
        self._keep(chunk, before, KEPT // now.bytes)
        return now

    def _keep(self, chunk: int, before: Answer | None, room: int) -> None:
        """Make room for what there is now, and keep the chunk's answer from before if there is some for it."""
        self.earlier.pop(chunk, None)
        while len(self.now) > max(room, 1):
            del self.now[next(iter(self.now))]
        if before is None:
            return
        # What is asked for first, as the frame in view is, has the room; but those of an older change make some.
        older = [j for j, answer in self.earlier.items() if not np.array_equal(answer.marked, before.marked)]
        for j in older[: max(len(self.now) + len(self.earlier) + 1 - room, 0)]:
            del self.earlier[j]
        if len(self.now) + len(self.earlier) < room:
            self.earlier[chunk] = before

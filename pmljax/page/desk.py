"""What the page knows: the session and its log, in one thread's hands, and the state of which every tab is told.

A state has a number, `revision`: how many lines of inputs the log holds. Whatever is answered says which revision it is of.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

import numpy as np
from jaxtyping import UInt8

from pmljax.data.frames import Frames
from pmljax.editlog import EditLog, with_lines
from pmljax.errors import InputError
from pmljax.inputs import PLACED, Edit
from pmljax.interact import Session
from pmljax.labels import VOID
from pmljax.page.film import Film
from pmljax.page.warming import COARSE, warm, warmer
from pmljax.page.wire import packet, runs
from pmljax.page.work import INPUT, SOME_TIME, VIEW, Worker
from pmljax.views import Basis, colours, margins, principal, why

PING = 15.0  # seconds after which a quiet line is shown to be alive
QUIET = 0.3  # seconds without a question after which what nobody waits for is computed

T = TypeVar("T")
Opening = Callable[[Callable[[], object]], Session]


class Outdated(Exception):
    """What is asked for is of a state before."""


class NotReady(Exception):
    """The video is still being embedded, or could not be."""


class Desk:
    """opening: makes the session, calling what it is given after each frame; replays `log` into it.  failed: called where that
    cannot be."""

    def __init__(
        self, frames: Frames, model: str, opening: Opening, log: EditLog, failed: Callable[[], object] = lambda: None
    ):
        self.frames, self.model, self.log = frames, model, log
        self.revision = 0
        self.phase, self.message, self.notice = "embedding", "", log.notice
        self.embedded = 0
        self.film = Film(frames.stamped, self._tell)
        self.worker = Worker()
        self.view = 0
        self._sure: list[tuple[int, int]] = []  # of each frame: (the revision, thousandths)
        self._spare: list[Callable[[], object]] = []
        self._basis: Basis | None = None
        self._opening, self._failed = opening, failed
        self._session: Session | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tick = asyncio.Event()
        self._asked = 0.0
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Begin to decode and to embed; inside of the event loop."""
        self._loop = asyncio.get_running_loop()
        self.film.start()
        self.worker.submit(INPUT, self._open)
        self._tasks.add(asyncio.create_task(self._spare_time()))

    def leave(self) -> None:
        """Every tab is told that this is the end, and what listens to changes ends. From any thread."""
        if self.phase != "failed":
            self.phase, self.message = "stopped", "nothing is lost: the same command goes on"
        self._tell()

    def stop(self) -> None:
        """What is waited for is still answered; nothing may be asked after it."""
        for task in self._tasks:
            task.cancel()
        self.leave()
        self._ring()
        self.worker.stop()
        self.film.close()

    # In the worker's thread

    def _open(self) -> None:
        def advance() -> None:
            if self.phase == "stopped":
                raise InputError("stopped")
            self.embedded += 1
            self._tell()

        try:
            session = self._opening(advance)
            warm(session)
            session.replay(with_lines(self.log.edits, self.log.path))
            self.revision = len(self.log.edits)
            self._sure = [(-1, -1)] * session.embedded.count
            self._session = session
            if self.phase != "stopped":
                self.phase = "ready"
            self._spare = warmer(session.snapshot())
        except Exception as error:
            if self.phase == "stopped":
                raise
            self.phase = "failed"
            self.message = str(error) if isinstance(error, InputError) else f"an error of ours: {error!r}"
            self._failed()
            raise
        finally:
            self._tell()

    def session(self) -> Session:
        if self._session is None:
            raise NotReady(self.message or "the video is still being embedded")
        return self._session

    def edit(self, edit: Edit, view: int, seen: int | None = None) -> bytes:
        """Take one input: try it, write it down, then believe it. The packet of frame `view` after it, with the state.

        seen: the revision of which the page speaks; of an input that is removed, whose number is another's by now.
        """
        session = self.session()
        self.check_frame(view)
        if edit.op == "remove" and seen not in (None, self.revision):
            raise Outdated("another tab was quicker: the marks are others now")
        idle = {"undo": not session.edits, "redo": not session.undone}.get(edit.op, False)
        if not idle:
            after = session.snapshot()
            after.apply(edit)  # what fails here is neither written down nor believed
            self.log.append(edit)
            self._session = after
            self.revision += 1
            self._tell()
        self.view = view
        return self.frame(view, state=self.state())

    def as_object(self, frame: int, labels: UInt8[np.ndarray, "h w"], label: int) -> UInt8[np.ndarray, "h w"]:
        """A mask of one object that does not say which as that of the object `label`. What is not it stays another object's
        where that was marked, so that masks of several objects may come one by one."""
        if not 0 < label < VOID:
            raise InputError(f"label: found {label}, expected an object, 1…{VOID - 1}")
        self.check_frame(frame)
        said = self.session().said(frame).pixels
        others = np.where((said > 0) & (said != label), VOID, 0)
        return np.where(labels > 0, label, others).astype(np.uint8)

    def frame(self, index: int, **more: Any) -> bytes:
        """The packet of one frame: its labels and the inputs on it."""
        session = self.session()
        self.check_frame(index)
        self._asked = time.monotonic()
        inputs = [
            {"input": i} | {k: v for k, v in e.to_json().items() if k != "labels"}
            for i, e in session.inputs().items()
            if e.frame == index
        ]
        about = {"frame": index, "revision": self.revision, "inputs": inputs}
        return packet(about | more, runs(session.labels(index)))

    def check_frame(self, index: int) -> None:
        count = self.session().embedded.count
        if not 0 <= index < count:
            raise InputError(f"frame {index}: expected 0…{count - 1}")

    def margins(self, index: int) -> bytes:
        """The packet of how sure a frame's cells are: uint8 `[y, x]`."""
        self.check_frame(index)
        found = (margins(self.session(), index) * 255).round().astype(np.uint8)
        return packet({"frame": index, "revision": self.revision} | self._lie(), found.tobytes())

    def colours(self, index: int) -> bytes:
        """The packet of a frame's embedding as colours: uint8 `[y, x, 3]`."""
        session = self.session()
        self.check_frame(index)
        self._basis = self._basis or principal(session.embedded)
        found = colours(session.embedded, index, self._basis)
        return packet({"frame": index, "revision": self.revision} | self._lie(), found.tobytes())

    def _lie(self) -> dict[str, Any]:
        """Where the cells lie in the frame, (y, x) in pixels: their pitch, and the corner of the first."""
        grid = self.session().grid
        scale = [size / seen for size, seen in zip(grid.size, grid.seen, strict=True)]
        return {
            "grid": list(grid.cells),
            "cell": [grid.stride * s for s in scale],
            "origin": [(0.5 - grid.stride / 2) * s for s in scale],
        }

    def why(self, index: int, y: int, x: int) -> dict[str, Any]:
        """Who decided a pixel."""
        session = self.session()
        self.check_frame(index)
        if not (0 <= y < session.size[0] and 0 <= x < session.size[1]):
            raise InputError(f"y {y}, x {x}: expected a pixel of {session.size[1]}×{session.size[0]} (width×height)")
        found = why(session, index, y, x)
        return found._asdict() | {
            "references": [r._asdict() for r in found.references],
            "frame": index,
            "revision": self.revision,
        }

    # What every tab is told

    def state(self) -> dict[str, Any]:
        """The state, as JSON."""
        session = self._session
        count = session.embedded.count if session else self.frames.count or len(self.film)
        about: dict[str, Any] = {
            "revision": self.revision,
            "phase": self.phase,
            "message": self.message,
            "notice": self.notice,
            "embedded": self.embedded,
            "decoded": len(self.film),
            "film_error": self.film.error,
            "count": count,
            "width": self.frames.size[1],
            "height": self.frames.size[0],
            "rate": self.film.rate,
            "title": self.frames.path.name,
            "model": self.model,
            "objects": [],
            "undo": "",
            "redo": "",
            "references": {},
        }
        if session:
            objects = session.objects()
            used = {e.label for e in session.edits} | set(session.names) | set(objects)
            about |= {
                "objects": [{"label": i, "name": session.names.get(i, "")} for i in objects],
                "used": sorted(used),
                "undo": _told(session.edits),
                "redo": _told(session.undone),
                "references": session.marked_cells(),
                "inputs": len(session.inputs()),
                "background": bool((session.marked()[1] == 0).any()),
            }
        return about

    async def changes(self) -> AsyncIterator[str]:
        """Server-sent events: `state` whenever it is another, `sure` whenever more is known; the newest only."""
        sent, sure = "", ""
        while True:
            waiting, last = self._tick, self.phase in ("stopped", "failed")
            state = json.dumps(await self.in_turn(self.state))
            if state != sent:
                yield f"event: state\ndata: {state}\n\n"
                sent = state
            now = json.dumps({"revision": self.revision, "sure": [s for _, s in self._sure]})
            if now != sure:
                yield f"event: sure\ndata: {now}\n\n"
                sure = now
            if last:  # and told
                return
            try:
                await asyncio.wait_for(waiting.wait(), PING)
            except TimeoutError:
                yield ": still here\n\n"

    async def in_turn(self, call: Callable[[], Any]) -> Any:
        """Called where nothing else touches the session: by the worker, or at once while there is none, or at the end, when
        nobody waits for what the worker is at."""
        at_once = self._session is None or self.phase in ("stopped", "failed")
        return call() if at_once else await self.worker.do(VIEW, call)

    def _tell(self) -> None:
        if self._loop and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._ring)

    def _ring(self) -> None:
        tick, self._tick = self._tick, asyncio.Event()
        tick.set()

    async def _spare_time(self) -> None:
        """What nobody waits for, whenever nobody asks for anything: find out how sure each frame is, nearest to the view first;
        compile what later inputs will need."""
        told = 0.0
        while True:
            behind = [i for i, (r, _) in enumerate(self._sure) if r != self.revision]
            if self._session is None or time.monotonic() - self._asked < QUIET or not (behind or self._spare):
                await asyncio.sleep(QUIET / 3)
                continue
            if not behind:
                await self._unasked(self._spare.pop(0))
                continue
            nearest = min(behind, key=lambda i: abs(i - self.view))
            found = await self._unasked(lambda i=nearest: self._sureness(i))
            self._sure[nearest] = found or (self.revision, -1)
            if len(behind) == 1 or time.monotonic() - told > QUIET:
                told = time.monotonic()
                self._ring()

    async def _unasked(self, call: Callable[[], T]) -> T | None:
        """What the call gives. What it raises is told in the terminal, as nobody waits for it; the rest goes on."""
        try:
            return await self.worker.do(SOME_TIME, call)
        except Exception as error:
            print(f"pmljax: an error of ours, in the background: {error!r}", file=sys.stderr)
            return None

    def _sureness(self, index: int) -> tuple[int, int]:
        return self.revision, round(1000 * float(margins(self.session(), index, COARSE).mean()))


def _told(edits: list[Edit]) -> str:
    """What the last of them is, for a button's tooltip; "" where there is none."""
    if not edits:
        return ""
    last = edits[-1]
    if last.op in PLACED:
        return f"{last.op} on frame {last.frame}"
    words = {
        "remove": "removing a mark",
        "forget": f"deleting object {last.label}",
        "name": f"naming object {last.label}",
    }
    return words.get(last.op, last.op)

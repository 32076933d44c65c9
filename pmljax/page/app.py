"""The server: a Starlette application over a `Desk`, and uvicorn around it. Nothing of a path reaches the file system."""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from pmljax.editlog import LogFull
from pmljax.errors import InputError
from pmljax.inputs import Edit, from_json
from pmljax.labels import decode_labels, white_on_black
from pmljax.page.desk import Desk, NotReady, Outdated
from pmljax.page.exports import EXPORTS
from pmljax.page.guard import Guard, TooLarge, body_of
from pmljax.page.work import INPUT, OTHERS, VIEW

EDIT = 256 << 10  # bytes of an input
MASK = 32 << 20  # bytes of a mask's PNG
MEGAPIXELS = 64  # of a mask
BATCH = 64  # frames that are asked for at once
TABS = 32  # that listen at once
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


def make_app(desk: Desk, token: str, host: str = "127.0.0.1") -> Guard:
    """The whole application, behind its token and its checks."""
    page = {p.name: p.read_bytes() for p in (files("pmljax.page") / "static").iterdir() if p.is_file()}
    listening, exporting = [0], asyncio.Semaphore(1)

    async def static(request: Request) -> Response:
        name = request.path_params.get("name", "index.html")
        if name not in page:
            return _error(404, "not found")
        return Response(page[name], media_type=TYPES.get(Path(name).suffix), headers={"cache-control": "no-cache"})

    async def picture(request: Request) -> Response:
        i = request.path_params["frame"]
        while len(desk.film) <= i and not desk.film.done.is_set():
            await asyncio.sleep(0.03)
        if i >= len(desk.film):
            return _error(404, desk.film.error or f"frame {i}: expected 0…{len(desk.film) - 1}")
        data = await asyncio.to_thread(desk.film.picture, i)
        return Response(data, media_type="image/jpeg", headers={"cache-control": "private, max-age=86400, immutable"})

    async def state(request: Request) -> Response:
        return JSONResponse(await desk.in_turn(desk.state))

    async def changes(request: Request) -> Response:
        if listening[0] >= TABS:
            return _error(429, f"found {listening[0]} tabs, expected {TABS} at most")

        async def told() -> AsyncIterator[str]:
            listening[0] += 1
            try:
                async for event in desk.changes():
                    yield event
            finally:
                listening[0] -= 1

        return StreamingResponse(told(), media_type="text/event-stream")

    async def edit(request: Request) -> Response:
        view = _number(request, "view")
        try:
            item = json.loads(await body_of(request, EDIT))
        except (ValueError, RecursionError):
            raise InputError("input: found no JSON; expected one input") from None
        if isinstance(item, dict) and item.get("op") == "mask":
            raise InputError("input: found a mask; expected its PNG, sent to mask")
        edit, seen = from_json(item), item.get("revision")
        if type(seen) not in (int, type(None)):
            raise InputError(f"revision: found {seen!r:.40}, expected a whole number")
        return await _input(lambda: desk.edit(edit, view, seen))

    async def mask(request: Request) -> Response:
        frame, view = _number(request, "frame"), _number(request, "view")
        data = await body_of(request, MASK)
        session = desk.session()
        _check_picture(data, session.size)
        labels = await asyncio.to_thread(decode_labels, data)
        label = _number(request, "label") if "label" in request.query_params else 1
        if not await asyncio.to_thread(white_on_black, data):
            return await _input(lambda: desk.edit(Edit("mask", frame, labels=labels), view))
        return await _input(lambda: desk.edit(Edit("mask", frame, labels=desk.as_object(frame, labels, label)), view))

    async def _input(take: Callable[[], bytes]) -> Response:
        # Shielded: an input that is being written is finished, whether its page is still there or not.
        return _packet(await asyncio.shield(desk.worker.do(INPUT, take)))

    async def frames(request: Request) -> Response:
        asked = request.query_params.get("frames", "").split(",")
        if not (0 < len(asked) <= BATCH and all(i.isdecimal() and len(i) < 9 for i in asked)):
            raise InputError(f"frames: expected up to {BATCH} numbers with commas between")
        desk.session()
        wanted = [int(i) for i in asked]
        desk.view = wanted[0] if "view" in request.query_params else desk.view
        first = await desk.worker.do(VIEW if len(wanted) == 1 else OTHERS, lambda: desk.frame(wanted[0]))

        async def rest() -> AsyncIterator[bytes]:
            yield first
            for i in wanted[1:]:  # each in its turn: an input that comes between is answered first
                yield await desk.worker.do(OTHERS, lambda i=i: desk.frame(i))

        for i in wanted[1:]:
            desk.check_frame(i)
        return StreamingResponse(rest(), media_type="application/octet-stream")

    async def margins(request: Request) -> Response:
        i = _number(request, "frame")
        return _packet(await desk.worker.do(VIEW, lambda: desk.margins(i)))

    async def colours(request: Request) -> Response:
        i = _number(request, "frame")
        return _packet(await desk.worker.do(VIEW, lambda: desk.colours(i)))

    async def why(request: Request) -> Response:
        i, y, x = (_number(request, name) for name in ("frame", "y", "x"))
        return JSONResponse(await desk.worker.do(VIEW, lambda: desk.why(i, y, x)))

    async def export(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in EXPORTS:
            return _error(404, "not found")
        desk.session()
        if not desk.film.done.is_set():
            raise NotReady("the video is still being decoded")
        folder, given_up = tempfile.mkdtemp(prefix="pmljax-"), threading.Event()
        path = Path(folder) / name

        def written() -> None:
            try:
                EXPORTS[name](path, session, desk.frames, desk.film.names, going)
            finally:
                if given_up.is_set():
                    shutil.rmtree(folder, ignore_errors=True)

        def going() -> None:
            if given_up.is_set():
                raise InputError("given up")

        try:
            async with exporting:
                session = await desk.worker.do(INPUT, lambda: desk.session().snapshot())
                await asyncio.to_thread(written)
        except BaseException as error:
            given_up.set()  # a thread cannot be cancelled: it looks before every frame
            shutil.rmtree(folder, ignore_errors=True)
            if isinstance(error, asyncio.CancelledError):
                return _error(503, "stopped")
            raise
        stem = "".join(c if c.isalnum() or c in "-_." else "_" for c in desk.frames.path.stem)
        return FileResponse(path, filename=f"{stem}-{name}", background=BackgroundTask(shutil.rmtree, folder, True))

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        desk.start()
        yield
        desk.stop()

    routes = [
        Route("/", static),
        Route("/static/{name}", static),
        Route("/picture/{frame:int}.jpg", picture),
        Route("/state", state),
        Route("/changes", changes),
        Route("/edit", edit, methods=["POST"]),
        Route("/mask", mask, methods=["POST"]),
        Route("/frames", frames),
        Route("/margins", margins),
        Route("/colours", colours),
        Route("/why", why),
        Route("/export/{name}", export),
    ]
    handlers: dict[Any, Any] = {
        InputError: lambda _, error: _error(400, str(error)),
        NotReady: lambda _, error: _error(409, str(error)),
        Outdated: lambda _, error: _error(409, str(error)),
        TooLarge: lambda _, error: _error(413, "found more than is taken", close=True),
        LogFull: lambda _, error: _error(507, f"{error}. Nothing before it is lost: make room and try again"),
        ClientDisconnect: lambda _, error: _error(400, "the rest never came"),
        OSError: lambda _, error: _error(507, f"cannot be written ({error.strerror or 'unknown'})"),
        404: lambda _, error: _error(404, "not found"),
        405: lambda _, error: _error(405, "not so"),
        500: lambda _, error: _error(500, "an error of ours; nothing acknowledged is lost"),
    }
    return Guard(Starlette(routes=routes, exception_handlers=handlers, lifespan=lifespan), token, host)


def _error(status: int, message: str, *, close: bool = False) -> Response:
    return JSONResponse({"error": message}, status, {"connection": "close"} if close else None)


def _packet(data: bytes) -> Response:
    return Response(data, media_type="application/octet-stream")


def _number(request: Request, name: str) -> int:
    text = request.query_params.get(name, "")
    if not (text.isdecimal() and text.isascii() and len(text) < 9):
        raise InputError(f"{name}: found {text[:20]!r}, expected a whole number")
    return int(text)


def _check_picture(data: bytes, size: tuple[int, int]) -> None:
    """Refuse by its header what would be large once decoded, before anything is decoded."""
    if data[:8] != b"\x89PNG\r\n\x1a\n" or data[12:16] != b"IHDR" or len(data) < 33:
        raise InputError("mask: found no PNG; expected a PNG mask")
    w, h = int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    if w * h > MEGAPIXELS * 10**6:
        raise TooLarge
    if (h, w) != size:
        raise InputError(
            f"mask: the mask is {w}×{h}, the frame {size[1]}×{size[0]} (width×height); expected the frame's size"
        )

"""Who may ask, and for how much: a token in the path, Host and Origin checked, bodies limited, nothing shared or framed.

The token is a part of the path and not a cookie: cookies of 127.0.0.1 are the same for every port, and a browser sends them
along whoever asks.
"""

from __future__ import annotations

import hmac
import ipaddress
import socket
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self';"
        " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


class TooLarge(Exception):
    """A body longer than is taken."""


class Guard:
    """An application behind its token: `/TOKEN/…`. Everything else is refused before it is looked at.

    host: where the server listens; on loopback its names alone are answered to.
    """

    def __init__(self, app: ASGIApp, token: str, host: str):
        self.app, self.token, self.host = app, token, host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":
            return await send({"type": "websocket.close"})
        headers = Headers(scope=scope)
        refusal = self._refusal(scope, headers)
        if refusal is None:
            scope = dict(scope) | {"path": scope["path"][len(self.token) + 1 :], "root_path": ""}
            return await self.app(scope, receive, _with_headers(send))
        refusal.headers["connection"] = "close"
        await refusal(scope, receive, _with_headers(send))

    def _refusal(self, scope: Scope, headers: Headers) -> PlainTextResponse | None:
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not answers_to(hosts[0], self.host):
            return PlainTextResponse("this address is not the page's: open the one that was printed\n", 403)
        origin, site = headers.get("origin"), headers.get("sec-fetch-site")
        if origin is not None and origin.lower() != f"http://{hosts[0].lower()}":
            return PlainTextResponse("another page may not ask here\n", 403)
        # Following a link from elsewhere to the page itself is allowed, asking from elsewhere is not.
        if site not in (None, "same-origin", "none") and headers.get("sec-fetch-mode") != "navigate":
            return PlainTextResponse("another page may not ask here\n", 403)
        given = scope["path"].split("/", 2)
        right = len(given) == 3 and hmac.compare_digest(given[1].encode("utf-8", "replace"), self.token.encode())
        return None if right else PlainTextResponse("not found\n", 404)


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers[name] = value
            headers.setdefault("cache-control", "no-store")
        await send(message)

    return sending


def answers_to(asked: str, listening: str) -> bool:
    """Whether a request's Host is one that a server at `listening` goes by: no name that a stranger's DNS could point here."""
    name = asked.rsplit(":", 1)[0] if asked.rpartition(":")[2].isdecimal() else asked
    name = name.strip("[]").lower().rstrip(".")
    if is_loopback(listening):
        return name in (listening.lower(), "127.0.0.1", "::1", "localhost")
    if name in (listening.lower(), "localhost", socket.gethostname().lower()):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


async def body_of(request: Request, limit: int) -> bytes:
    """The body; TooLarge as soon as it is known to be longer than `limit` bytes."""
    announced: Any = request.headers.get("content-length", "0")
    if not announced.isdecimal() or int(announced) > limit:
        raise TooLarge
    out = bytearray()
    async for part in request.stream():
        out += part
        if len(out) > limit:
            raise TooLarge
    return bytes(out)

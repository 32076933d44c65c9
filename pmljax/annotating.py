"""`pmljax annotate`: the page on which a video is segmented by hand."""

from __future__ import annotations

import secrets
import signal
import socket
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from pmljax.errors import InputError
from pmljax.segmenting import Computing, vote_rule
from pmljax.terminal import progress

FAREWELL = 2.0  # seconds in which a page hears why its video could not be opened


@dataclass(frozen=True)
class Annotate:
    """Click on a video in the browser and see every frame change at once.

    pmljax annotate clip.mp4

    Embeds the video once (or opens its cache) and serves one page on this machine. Every input is on the disk in
    OUT/edits.jsonl before it is answered; the same command goes on where it was, and `pmljax segment INPUT --edits
    OUT/edits.jsonl` gives the same masks without a page. Needs the extra `app`: pip install 'pmljax[app]'.
    """

    input: Annotated[Positional[Path], arg(metavar="INPUT")]
    """A video (mp4, mov, avi, mkv, webm, gif) or a folder of pictures (jpg, png, webp, …)."""
    out: Path | None = None
    """The folder of the edit log; by default INPUT's name with -edits, here."""
    computing: Annotated[Computing, arg(name="")] = Computing()
    neighbours: int | None = None
    """So many of the nearest marked pixels vote, all the same. By default as the edit log says, else ten, the nearer the more
    (with `color` one)."""
    port: int = 0
    """Where to serve; 0: wherever there is room."""
    host: str = "127.0.0.1"
    """Another address lets other machines ask: whoever knows the address may edit, unencrypted."""
    no_open: bool = False
    """Do not open the browser."""
    start: int = 0
    """First frame, counted from 0."""
    end: int | None = None
    """Stop before this frame."""
    every: int = 1
    """Take every n-th frame."""

    def run(self) -> None:
        try:
            import starlette  # noqa: F401
            import uvicorn
        except ImportError as error:
            raise InputError(f"annotate needs {error.name}; expected: pip install 'pmljax[app]'") from None
        from pmljax.data.sources import open_frames
        from pmljax.editlog import NAME, EditLog, header_of
        from pmljax.interact import Session
        from pmljax.page.app import make_app
        from pmljax.page.desk import Desk
        from pmljax.page.guard import is_loopback
        from pmljax.weights.bundled import fingerprint

        frames = open_frames(self.input, start=self.start, end=self.end, every=self.every)
        model, preset = self.computing.prepare()
        out = self.out or Path(f"{self.input.resolve().stem}-edits")
        if out.resolve() in (self.input.resolve(), self.input.resolve().parent):
            raise InputError(f"{out}: this is where the input {self.input} is; expected another folder to write to")
        seen = model.config.seen(frames.size, preset.size)
        vote = vote_rule(self.neighbours, out / NAME, model.config)
        header = header_of(frames.digest(), fingerprint(model), frames.size, vote=vote, seen=seen)

        with bind(self.host, self.port) as listening:
            log = EditLog(out, header)

            servers: list[uvicorn.Server] = []

            def opening(advance):
                def told() -> None:
                    bar()
                    advance()

                with progress(f"embed {self.input.name}", frames.count) as bar:
                    k, temperature = vote
                    options: Any = {"size": preset.size, "advance": told}
                    return Session(model, frames, k=k, temperature=temperature, **options)

            def failed() -> None:  # the page says why, then the command does
                threading.Timer(FAREWELL, lambda: [setattr(s, "should_exit", True) for s in servers]).start()

            signals: list[int] = []

            class Server(uvicorn.Server):
                def handle_exit(self, sig: int, frame: Any) -> None:
                    if signals:  # it ends, within seconds; hurried, uvicorn would leave the worker in compiled code
                        return
                    signals.append(sig)
                    desk.leave()  # before uvicorn waits for what listens to it
                    super().handle_exit(sig, frame)

            desk = Desk(frames, Path(self.computing.model).name, opening, log, failed)
            token = secrets.token_urlsafe(24)
            app = make_app(desk, token, self.host)
            address = f"http://{_shown(self.host)}:{listening.getsockname()[1]}/{token}/"
            if not is_loopback(self.host):
                print(f"pmljax: warning: --host {self.host} lets other machines ask, unencrypted", file=sys.stderr)
            if log.notice:
                print(f"pmljax: {log.notice}", file=sys.stderr)
            print(f"{address}\nedits in {log.path}; stop with Ctrl-C", flush=True)
            if not self.no_open:
                import webbrowser

                threading.Timer(0.5, webbrowser.open, [address]).start()
            config = uvicorn.Config(
                app,
                log_level="warning",
                access_log=False,  # it would show the token
                server_header=False,
                http="h11",
                ws="none",
                timeout_graceful_shutdown=1,
            )
            servers.append(Server(config))
            servers[0].run(sockets=[listening])
            # uvicorn raises it again, which Python loses in the midst of collecting garbage.
            if signal.SIGINT in signals:
                raise KeyboardInterrupt
            if desk.phase == "failed":
                raise InputError(desk.message)


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens; InputError where that cannot be."""
    if not 0 <= port < 1 << 16:
        raise InputError(f"--port {port}: expected 0…65535")
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise InputError(f"--host {host}: cannot be used ({error.strerror or error}); expected an address") from None
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(64)
    except (OSError, OverflowError) as error:
        listening.close()
        raise InputError(f"--host {host} --port {port}: cannot be used ({error}); expected a free port") from None
    return listening


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host

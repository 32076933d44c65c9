"""The frames as JPEGs in a file without a name: any of them at once, whatever the video's codec thinks of seeking."""

from __future__ import annotations

import io
import os
import tempfile
import threading
from collections.abc import Callable, Iterable
from typing import Protocol, runtime_checkable

import numpy as np

from pmljax.errors import InputError

QUALITY = 90


@runtime_checkable
class Stamp(Protocol):
    """As `data.frames.Stamped`."""

    @property
    def name(self) -> str: ...
    @property
    def seconds(self) -> float: ...
    @property
    def image(self) -> np.ndarray: ...


class Film:
    """names, seconds: of the frames that are there; more come while `done` is not set.  error: why no more come."""

    def __init__(self, frames: Callable[[], Iterable[Stamp]], tell: Callable[[], object] = lambda: None):
        self.names: list[str] = []
        self.seconds: list[float] = []
        self.error = ""
        self.done = threading.Event()
        self._frames, self._tell = frames, tell
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 (`close` closes it)
        self._ends = [0]
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Decode in a thread."""
        self._thread = threading.Thread(target=self._run, name="pmljax-film", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Decode no further than the frame at hand, and give the file back; no picture is asked for from here on."""
        self._closing.set()
        if self._thread:
            self._thread.join()
        self._file.close()

    def _run(self) -> None:
        from PIL import Image

        try:
            for frame in self._frames():
                if self._closing.is_set():
                    break
                buffer = io.BytesIO()
                Image.fromarray(frame.image).save(buffer, "JPEG", quality=QUALITY)
                self._file.write(buffer.getvalue())
                self._file.flush()
                self._ends.append(self._ends[-1] + buffer.tell())
                self.seconds.append(frame.seconds)
                self.names.append(frame.name)
                self._tell()
        except InputError as error:
            self.error = str(error)
        except OSError as error:
            self.error = f"{tempfile.gettempdir()}: the pictures cannot be written ({error.strerror or error})"
        self.done.set()
        self._tell()

    def __len__(self) -> int:
        return len(self.names)

    def picture(self, i: int) -> bytes:
        """Frame i, which must be there, as JPEG."""
        return os.pread(self._file.fileno(), self._ends[i + 1] - self._ends[i], self._ends[i])

    @property
    def rate(self) -> float:
        """Frames a second, from those that are there."""
        passed = self.seconds[-1] - self.seconds[0] if len(self.seconds) > 1 else 0
        return (len(self.seconds) - 1) / passed if passed > 0 else 24.0

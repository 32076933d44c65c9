"""Video files through PyAV: decoding as a stream, and a writer for mp4 and gif that keeps the input's timestamps."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from itertools import islice, pairwise
from pathlib import Path
from statistics import median_low
from types import TracebackType
from typing import Any

import numpy as np
from jaxtyping import Num, UInt8

from pmljax.data.frames import RATE, Frames, Stamped
from pmljax.data.whole import cut_off
from pmljax.errors import DamageWarning, InputError
from pmljax.files import publish, temporary_name


def open_video(path: Path, chosen: slice = slice(None)) -> Frames:
    """A video file as a stream. The first frame is decoded here, for its size; InputError if there is none."""
    first = next(_decode(path), None)
    if first is None:
        raise InputError(f"{path}: found no frames; expected a video with at least one")
    if chosen.start and next(islice(_decode(path), chosen.start, None), None) is None:
        raise InputError(f"{path}: no frames left; expected --start below the number of frames")

    def read() -> Iterator[Stamped]:
        return islice(_decode(path), chosen.start, chosen.stop, chosen.step)

    total = _count(path)
    count = None if total is None else len(range(*chosen.indices(total)))
    size = (first.image.shape[0], first.image.shape[1])
    return Frames(path, size, count, None, chosen, [path], read, total, _aspect(path, size))


# What FFmpeg opens besides. A playlist's files are others, which may change or be anywhere.
NO_VIDEO = {"tty": "a text", "concat": "a playlist", "hls": "a playlist", "dash": "a playlist", "sdp": "a playlist"}


@contextmanager
def _open(path: Path) -> Iterator[tuple[Any, Any]]:
    """(the container, its video stream) while the block runs."""
    import av
    from av.error import FFmpegError
    from av.stream import Disposition

    try:
        container = av.open(str(path.absolute()))  # "10:20.mp4" would be a protocol
    except (FFmpegError, OSError, ValueError) as error:
        what = getattr(error, "strerror", None) or error
        raise InputError(
            f"{path}: found no readable video ({what}); expected mp4, mov, avi, mkv, webm or gif"
        ) from None
    with container:
        if container.format.name in NO_VIDEO:
            raise InputError(
                f"{path}: found {NO_VIDEO[container.format.name]}; expected mp4, mov, avi, mkv, webm or gif"
            )
        stream = container.streams.best("video")
        if stream is None or stream.disposition & Disposition.attached_pic:  # the cover of a piece of music
            raise InputError(f"{path}: found no video stream; expected mp4, mov, avi, mkv, webm or gif")
        yield container, stream


def _aspect(path: Path, size: tuple[int, int]) -> Fraction:
    """Of a pixel of a frame of `size` as it is decoded, turned."""
    with _open(path) as (_, stream):
        told = stream.sample_aspect_ratio  # of PyAV's own kind, from 19 on
        aspect = Fraction(told.numerator, told.denominator) if told and told.numerator else Fraction(1)
        return aspect if size == (stream.height, stream.width) else 1 / aspect


def _count(path: Path) -> int | None:
    """How many frames there are at most, by the packets: what headers say of fragmented and trimmed files is not so.

    Of avi, which has no times but counts its frames, shown or skipped: a DamageWarning where some are missing.
    """
    from av.error import FFmpegError

    try:
        with _open(path) as (container, stream):
            times = [packet.pts for packet in container.demux(stream) if packet.size and not packet.is_discard]
            if container.format.name == "avi" and (lost := _missing(times, stream.frames)) and not cut_off(path):
                _warn(
                    f"{path}: its header says {lost} frames more than were found; where they are missing before the end, what"
                    " follows is numbered too low"
                )
            return len(times) or None
    except (FFmpegError, OSError):  # decoding comes to it, and says where
        return None


def _missing(found: list[int | None], ticks: int) -> int:
    """Frames that an avi of so many ticks has beyond those at the ticks `found`. Some have several ticks a frame; skipped
    frames are ticks."""
    times = sorted({time for time in found if time is not None})
    if not times:
        return 0
    frame = median_low(b - a for a, b in pairwise(times)) if times[1:] else 1
    return max(ticks - (times[-1] + frame), 0) // frame


def _warn(message: str) -> None:
    warnings.warn(message, DamageWarning, stacklevel=2)


def _decode(path: Path) -> Iterator[Stamped]:
    from av.error import FFmpegError
    from av.video.reformatter import Interpolation as Scaler

    # The default turns YUV to RGB a level too dark on average; this does not, for 2 ms more a frame of 480×854.
    exact = Scaler.BICUBIC | Scaler.ACCURATE_RND | Scaler.FULL_CHR_H_INT
    with _open(path) as (container, stream):
        stream.thread_type = "AUTO"
        rate = float(stream.average_rate or RATE)
        index, origin, whole = 0, None, True
        try:
            for frame in container.decode(stream):
                origin = frame.time if origin is None else origin
                seconds = index / rate if frame.time is None else frame.time - (origin or 0.0)
                if whole and frame.is_corrupt:
                    whole = False
                    _warn(f"{path}: frame {index:05d} is damaged; what it and those after it show may be made up")
                image = frame.to_ndarray(format="rgb24", interpolation=exact)
                yield Stamped(f"{index:05d}", index, seconds, _turned(frame, image))
                index += 1
        except (FFmpegError, OSError, ValueError) as error:
            what = getattr(error, "strerror", None) or error
            raise InputError(f"{path}: frame {index:05d} cannot be decoded ({what}); expected a whole video") from None
    if cut_off(path):
        raise InputError(
            f"{path}: the file is cut off, frame {index:05d} and later are missing; expected a whole video"
        )


def _turned(frame: Any, image: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h2 w2 3"]:
    try:
        matrix = frame.side_data.get("DISPLAYMATRIX")
    except (
        ValueError
    ):  # beside it something whose kind PyAV does not know, as a JPEG's EXIF; a turn it tells, a mirror not
        return np.ascontiguousarray(np.rot90(image, frame.rotation // 90))
    return image if matrix is None else upright(image, np.frombuffer(matrix, np.int32)[:9].reshape(3, 3))


def upright(image: UInt8[np.ndarray, "h w 3"], matrix: Num[np.ndarray, "3 3"]) -> UInt8[np.ndarray, "h2 w2 3"]:
    """A picture turned and mirrored as its display matrix says: (x, y, 1) times the matrix is where a pixel is shown.

    Quarter turns and mirrors, as cameras and players write them; of any other matrix the nearest.
    """
    (a, b), (c, d) = matrix[0, :2], matrix[1, :2]
    if abs(a) + abs(d) < abs(b) + abs(c):  # what lay along x is along y
        image, a, d = image.swapaxes(0, 1), c, b
    return np.ascontiguousarray(image[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])


class VideoWriter:
    """Write RGB frames to `path` (.mp4 or .gif) one by one; the file appears under its name when all is written.

    A context manager: leaving it by an error removes the unfinished file.
    threads: of the mp4's encoder; 0: as many as it likes. With a number given, the same frames make the same file each time.
    aspect: as `Frames.aspect`; of an mp4.
    """

    def __init__(self, path: Path, *, threads: int = 0, aspect: Fraction = Fraction(1)):
        self.path, self.threads, self.aspect = path, threads, aspect
        self.temporary = temporary_name(path)
        self.gif = path.suffix.lower() == ".gif"
        self.clock = 100 if self.gif else 90_000  # ticks a second: what the formats store
        self.container: Any = None
        self.last = -1

    def __enter__(self) -> VideoWriter:
        return self

    def _start(self, h: int, w: int) -> Any:
        import av

        self.container = av.open(str(self.temporary.absolute()), "w")
        if self.gif:
            self.stream = self.container.add_stream("gif", rate=round(RATE))
            self.stream.pix_fmt = "pal8"
        else:
            # Without cpu-independent x264's files differ from run to run, even of one thread.
            options = {"crf": "20", "preset": "veryfast", "x264-params": "cpu-independent=1"}
            options |= {"threads": str(self.threads)} if self.threads else {}
            self.stream = self.container.add_stream("libx264", rate=round(RATE), options=options)
            self.stream.pix_fmt = "yuv420p"
            if self.aspect != 1:
                self.stream.sample_aspect_ratio = self.aspect
            context = self.stream.codec_context  # players guess where nothing says it, and for high frames wrongly
            context.colorspace = context.color_primaries = context.color_trc = 6  # BT.601, as PyAV converts
            context.color_range = 1  # 16…235
            h, w = h + h % 2, w + w % 2
        self.stream.height, self.stream.width = h, w
        self.stream.codec_context.time_base = Fraction(1, self.clock)
        return self.container

    def write(self, image: UInt8[np.ndarray, "h w 3"], seconds: float) -> None:
        """Add a frame that is shown `seconds` from the start on. InputError where the encoder takes no such frames."""
        from av.error import FFmpegError

        try:
            self._write(image, seconds)
        except FFmpegError as error:
            if isinstance(error, OSError):  # no room, no right
                raise
            h, w = image.shape[:2]
            raise InputError(
                f"{self.path}: frames of {w}×{h} cannot be encoded ({error.strerror or error}); expected at most 16384 pixels"
                " a side, --overlay gif or --overlay none"
            ) from None

    def _write(self, image: UInt8[np.ndarray, "h w 3"], seconds: float) -> None:
        import av
        from PIL import Image

        h, w = image.shape[:2]
        container = self.container or self._start(h, w)
        if self.gif:
            quantised = Image.fromarray(image).quantize(256)
            colours = np.array(quantised.getpalette("RGB"), np.uint8).reshape(-1, 3)
            table = np.full((256, 4), 255, np.uint8)  # A, R, G, B
            table[: len(colours), 1:] = colours
            frame = av.VideoFrame.from_ndarray((np.array(quantised), table), format="pal8")  # pyright: ignore
        else:  # 4:2:0 needs even sizes: repeat the last row and column
            frame = av.VideoFrame.from_ndarray(np.pad(image, ((0, h % 2), (0, w % 2), (0, 0)), "edge"), format="rgb24")
        # Timestamps must rise, whatever the input's were.
        now = max(round(seconds * self.clock), self.last + 1)
        shown = now - self.last if self.last >= 0 else round(self.clock / RATE)
        frame.pts, frame.time_base, self.last = now, Fraction(1, self.clock), now
        for packet in self.stream.encode(frame):
            if self.gif:  # which would show its last frame for the stream's rate: as long as the one before it
                packet.duration = shown
            container.mux(packet)

    def __exit__(self, kind: type | None, value: BaseException | None, trace: TracebackType | None) -> None:
        if self.container is None:
            return
        try:
            if kind is None:
                self.container.mux(self.stream.encode())
            self.container.close()
            if kind is None:
                publish(self.temporary, self.path)
        finally:
            self.temporary.unlink(missing_ok=True)

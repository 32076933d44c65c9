"""Whether a video's file is whole. Decoders take one that is cut off for a shorter video, so the containers are asked: most
say where they end."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

BOXES = b"moov mdat moof mfra free skip wide uuid meta sidx styp udta pdin".split()


def cut_off(path: Path) -> bool:
    """Whether a file ends before it says so itself. What is appended to it is none of its own. Of containers that do not say
    (mpg, ts, raw streams): no."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        head = file.read(64)
        if head[4:8] == b"ftyp":
            return _boxes_end(file, size) > size
        if head[:4] == b"\x89PNG":
            return not _png_ends(file)
        if head[:4] == b"GIF8":
            return not _gif_ends(file)
    if head[:4] == b"RIFF":  # avi
        length = int.from_bytes(head[4:8], "little")
        # All ones where its writer could not come back to say; some count these 8 bytes too.
        return length != 0xFFFFFFFF and length > size
    if head[:4] == b"\x1a\x45\xdf\xa3":  # mkv, webm: a header, then one segment with all else
        header, at = _ebml_size(head, 4)
        segment = at + (header or 0)
        length, begin = _ebml_size(head, segment + 4)
        return head[segment : segment + 4] == b"\x18\x53\x80\x67" and begin + (length or 0) > size
    return False


def _boxes_end(file: BinaryIO, size: int) -> int:
    """Where the last of the outer boxes of an mp4 or mov ends. What cameras append behind that is no box."""
    start = 0
    while start + 8 <= size:
        file.seek(start)
        head = file.read(16)
        length = int.from_bytes(head[:4], "big")
        if length == 1:  # a length of 64 bits follows
            length = int.from_bytes(head[8:16], "big")
        if length < 8 or (head[4:8] not in BOXES and start):  # 0: to the end of the file
            return start
        start += length
    return start


def _ebml_size(data: bytes, at: int) -> tuple[int | None, int]:
    """(a length as EBML writes it, None where it is left open, and where what has it begins)."""
    first = data[at] if at < len(data) else 0
    octets = 9 - first.bit_length()  # as many as the leading zeros say
    value = int.from_bytes(data[at : at + octets], "big") & ((1 << 7 * octets) - 1)
    return (None if octets > 8 or value == (1 << 7 * octets) - 1 else value), at + octets


def _png_ends(file: BinaryIO) -> bool:
    """Whether the chunks of a PNG go on to its IEND."""
    file.seek(8)
    while len(head := file.read(8)) == 8:
        if head[4:] == b"IEND":
            return True
        file.seek(int.from_bytes(head[:4], "big") + 4, 1)
    return False


def _gif_ends(file: BinaryIO) -> bool:
    """Whether the blocks of a gif go on to its trailer (GIF89a, appendix A)."""

    def colours(flags: int) -> int:
        """Bytes of the table of colours that the flags announce."""
        return 3 << (flags & 7) + 1 if flags & 0x80 else 0

    file.seek(10)
    flags = file.read(3)[:1]
    file.seek(colours(flags[0]) if flags else 0, 1)
    while kind := file.read(1):
        if kind == b"\x3b":
            return True
        if kind == b"\x2c":  # a picture: place and size, its own colours, how many bits a code has
            flags = file.read(9)[8:]
            file.seek((colours(flags[0]) if flags else 0) + 1, 1)
        elif kind == b"\x21":  # an extension and its label
            file.seek(1, 1)
        else:
            return True  # no block: what a decoder makes of it is not ours to judge
        while length := file.read(1):
            if length == b"\0":
                break
            file.seek(length[0], 1)
        else:
            return False
    return False

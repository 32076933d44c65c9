"""What goes over the wire besides JSON: packets, and label images as runs.

A packet is two little-endian uint32, the lengths of its two parts; then JSON; then bytes. Packets follow each other without
anything between. What belongs to one frame, its labels and its marks, is one packet, so that it is of one state.
"""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
from jaxtyping import UInt8


def packet(about: dict[str, Any], body: bytes = b"") -> bytes:
    text = json.dumps(about, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)  # what follows lies where a page can read whole numbers in place
    body += b"\0" * (-len(body) % 4)
    return struct.pack("<II", len(text), len(body)) + text + body


def packets(data: bytes) -> list[tuple[dict[str, Any], bytes]]:
    """What `packet` made, one after the other, apart again."""
    out, at = [], 0
    while at < len(data):
        text, body = struct.unpack_from("<II", data, at)
        at += 8
        out.append((json.loads(data[at : at + text]), data[at + text : at + text + body]))
        at += text + body
    return out


def runs(labels: UInt8[np.ndarray, "h w"]) -> bytes:
    """Row by row: how many runs there are (uint32), the pixel behind each one's last (uint32), its label (uint8)."""
    flat = labels.ravel()
    ends = np.append(np.flatnonzero(flat[1:] != flat[:-1]) + 1, flat.size).astype("<u4")
    return struct.pack("<I", len(ends)) + ends.tobytes() + flat[ends - 1].tobytes()


def labels_of(data: bytes, size: tuple[int, int]) -> UInt8[np.ndarray, "h w"]:
    """The label image of `runs`."""
    (count,) = struct.unpack_from("<I", data)
    ends = np.frombuffer(data, "<u4", count, 4)
    values = np.frombuffer(data, np.uint8, count, 4 + 4 * count)
    return np.repeat(values, np.diff(ends, prepend=0)).reshape(size)

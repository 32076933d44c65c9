"""Pictures of results: labels painted over frames, and the contact sheet of a video."""

from __future__ import annotations

import io

import numpy as np
from jaxtyping import UInt8

from pmljax.labels import palette

ROWS, COLUMNS = 3, 4  # of a contact sheet
HELD = 4  # times as many pictures as fit are held before every second one is dropped: the spacing stays even
TALLEST = 4000  # pixels of a picture: rows of them stay within what a JPEG holds
WIDTH = 320  # pixels of each of its pictures


def paint(frame: UInt8[np.ndarray, "h w 3"], labels: UInt8[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """`labels` over `frame`: each object half in its colour of the palette, with a bright outline."""
    out, there = frame.copy(), labels > 0
    rows, columns = (np.flatnonzero(there.any(axis)) for axis in (1, 0))
    if not len(rows):
        return out
    # Only where objects are, which is mostly a small part; a pixel more around it, for what lies beside them.
    (top, bottom), (left, right) = ((max(n[0] - 1, 0), n[-1] + 2) for n in (rows, columns))
    labels, there = (x[top:bottom, left:right] for x in (labels, there))
    part, colours = out[top:bottom, left:right], palette()[labels]
    around = np.pad(labels, 1, "edge")
    beside = (around[:-2, 1:-1], around[2:, 1:-1], around[1:-1, :-2], around[1:-1, 2:])
    edge = there & np.logical_or.reduce([labels != b for b in beside])
    bright = np.minimum(colours, 255 - 96) + np.uint8(96)
    np.copyto(part, part // 2 + colours // 2, where=there[..., None])
    np.copyto(part, bright, where=edge[..., None])
    return out


class ContactSheet:
    """Up to ROWS × COLUMNS pictures, evenly spaced over a stream whose length need not be known.

    Keeps every n-th picture, and doubles n whenever too many are held.
    """

    def __init__(self):
        self.held: list[tuple[str, np.ndarray]] = []
        self.every = 1
        self.seen = 0

    def add(self, name: str, picture: UInt8[np.ndarray, "h w 3"]) -> None:
        """Consider the next frame's picture."""
        from PIL import Image

        if self.seen % self.every == 0:
            h, w = picture.shape[:2]
            small = Image.fromarray(picture).resize(
                (WIDTH, min(max(round(h * WIDTH / w), 1), TALLEST)), Image.Resampling.BOX
            )
            self.held.append((name, np.array(small)))
            if len(self.held) >= 2 * HELD * ROWS * COLUMNS:
                self.held, self.every = self.held[::2], self.every * 2
        self.seen += 1

    def jpeg(self) -> bytes:
        """The sheet, with each frame's name in its corner."""
        from PIL import Image, ImageDraw

        count = min(len(self.held), ROWS * COLUMNS)
        chosen = [self.held[i] for i in np.linspace(0, len(self.held) - 1, count).round().astype(int)]
        h, w = chosen[0][1].shape[:2]
        columns = min(COLUMNS, count)
        sheet = Image.new("RGB", (columns * w, -(-count // columns) * h))
        draw = ImageDraw.Draw(sheet)
        for i, (name, picture) in enumerate(chosen):
            x, y = i % columns * w, i // columns * h
            sheet.paste(Image.fromarray(picture), (x, y))
            draw.text((x + 4, y + 2), name, fill="white", stroke_width=2, stroke_fill="black")
        buffer = io.BytesIO()
        sheet.save(buffer, "JPEG", quality=88)
        return buffer.getvalue()

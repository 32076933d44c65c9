"""The first marked frame once more, mirrored and nearer, as the object may look later: it turns, and it comes closer.

What the user marked is known without doubt in these views too, so that cells in and around the objects join what is remembered
(`memory`). Each view has the frame's own size: nothing more is compiled for it, and a frame costs what it did.
Axes: `h w` image, `y x` grid, `d` embedding, `o` label column.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, UInt8

from pmljax.labels import VOID
from pmljax.memory import choose


class View(NamedTuple):
    """mirrored: left is right.  nearer: by how much larger things are; 1: as they are."""

    mirrored: bool
    nearer: float


VIEWS = (View(True, 1.0), View(False, 4 / 3), View(True, 4 / 3))


def seen_as(
    view: View, frame: UInt8[np.ndarray, "h w 3"], labels: UInt8[np.ndarray, "h w"]
) -> tuple[UInt8[np.ndarray, "h w 3"], UInt8[np.ndarray, "h w"]]:
    """A frame and its labels in a view of it: a part of the frame around the middle of the objects, as large as the frame."""
    from PIL import Image

    h, w = labels.shape
    box = []
    for axis, size in ((1, w), (0, h)):
        there = np.flatnonzero(((labels > 0) & (labels < VOID)).any(1 - axis))
        part = size / view.nearer
        begin = float(np.clip((there[0] + there[-1] + 1 - part) / 2, 0, size - part))
        box.append((begin, begin + part))
    (left, right), (top, bottom) = box

    def near(picture: np.ndarray, how: Image.Resampling) -> np.ndarray:
        if view.nearer != 1:
            picture = np.asarray(Image.fromarray(picture).resize((w, h), how, (left, top, right, bottom)))
        return np.ascontiguousarray(picture[:, ::-1] if view.mirrored else picture)

    return near(frame, Image.Resampling.BILINEAR), near(labels, Image.Resampling.NEAREST)


@jax.jit
def kept(embedding: Float[Array, "y x d"], share: Float[Array, "q o"], valid: Bool[Array, "q"]) -> dict[str, jax.Array]:
    """The rows that are kept of a view, chosen as those of any frame (`memory.choose`)."""
    y, x, d = embedding.shape
    cell, there = choose(share.reshape(y, x, -1), valid, jnp.int32(0))
    nowhere = jnp.full((len(cell), 3), -1, jnp.int32)  # no frame has them, so that none takes them back or is near them
    return {"embedding": embedding.reshape(-1, d)[cell], "share": share[cell], "valid": there, "place": nowhere}

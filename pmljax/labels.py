"""Label images: object ids, the DAVIS palette, the forms in which masks are found, and the way to the grid and back.

A label image is uint8 `[h, w]`: 0 background, 1…254 objects (not necessarily contiguous), 255 void.

The grid. Cell i of the stride-s grid is centred on pixel s·i of the picture that the network sees (each stride of 2
centres output i on input 2i; neither half-pixel resizing nor align_corners does this). With pixel p covering p ± ½:
*shrink* gives a cell the mean over [s·i − s/2, s·i + s/2], clipped to the picture and renormalised;
*grow* reads pixel p by linear interpolation at p/s, clamped to the last cell.
Both are matrices of one axis, applied as A_y · x · A_xᵀ.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Array, Float, Float32, Integer, UInt8

from pmljax.errors import InputError
from pmljax.files import write_file
from pmljax.pictures import UNREADABLE, refuse_deep_png, refuse_several, unstretched, upright

VOID = 255
MAX_OBJECTS = 254
FEW = 20  # greys that are ids where none is lighter
SOFT = 64  # greys of a result, from which on they are shares and not ids


def palette() -> UInt8[np.ndarray, "256 3"]:
    """The colours of ids 0…255 on PASCAL VOC and DAVIS: the bits of the id, dealt to R, G, B from the highest bit down."""
    ids = np.arange(256)
    colours = np.zeros((256, 3), np.uint8)
    for j in range(8):
        for channel in range(3):
            colours[:, channel] |= (((ids >> (3 * j + channel)) & 1) << (7 - j)).astype(np.uint8)
    return colours


def check_labels(
    labels: np.ndarray,
    name: str = "labels",
    size: tuple[int, int] | None = None,
    *,
    objects: bool = False,
) -> UInt8[np.ndarray, "h w"]:
    """`labels`, integers `[h, w]`, as uint8; or an InputError in which `name` says what is wrong.

    `size` (h, w): the size that the frame has. `objects`: at least one pixel must belong to an object.
    """
    labels = np.asarray(labels)
    if labels.ndim != 2 or labels.dtype.kind not in "uib":
        raise InputError(f"{name}: found {labels.dtype} {list(labels.shape)}, expected integer labels [h, w]")
    if 0 in labels.shape:
        raise InputError(f"{name}: found an image of size zero, {labels.shape[1]}×{labels.shape[0]}, expected labels")
    if size is not None and labels.shape != tuple(size):
        found, expected = labels.shape[::-1], tuple(size)[::-1]
        raise InputError(
            f"{name}: the mask is {found[0]}×{found[1]}, the frame {expected[0]}×{expected[1]} (width×height);"
            " expected the frame's size: make the mask on the frame itself, do not resize it"
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high > VOID:
        wrong = low if low < 0 else high
        raise InputError(f"{name}: found label {wrong}, expected 0 (background), 1…{MAX_OBJECTS} (objects), 255 (void)")
    if objects and not ((labels > 0) & (labels < VOID)).any():
        what = "nothing but void" if high == VOID else "no object, every pixel is 0"
        if 0 == low < high:
            what += (
                " and background (255 alone is void in arrays and palettes: mark objects by ids, such as labels > 0)"
            )
        raise InputError(f"{name}: found {what}; expected at least one pixel with an object's id (1…{MAX_OBJECTS})")
    return labels.astype(np.uint8)


def object_ids(labels: Integer[np.ndarray, "h w"]) -> list[int]:
    """The ids of the objects in `labels`, ascending, without background and void."""
    return [int(i) for i in np.flatnonzero(np.bincount(labels.ravel(), minlength=256)) if 0 < i < VOID]


# Reading and writing


def read_labels(path: str | Path, *, ids: bool = False) -> UInt8[np.ndarray, "h w"]:
    """Read a mask in any form found in practice.

    Palette: the index is the id, 255 void. 1-bit: object 1. Grey (alpha ignored) with values 0 and 255 only: 255 is
    object 1, or void with `ids`, as in files beside it that have ids (`has_ids`); otherwise the values are ids and 255 is
    void. RGB: black and white, or colours of the palette.
    Raises InputError for what would be guesswork: JPEG, antialiased or 16-bit masks, colours outside the palette.
    """
    return decode_labels(_bytes_of(path), str(path), ids=ids)


def white_on_black(data: bytes, path: str = "mask") -> bool:
    """Whether a mask's file shows one object without saying which: white on black, grey, of one bit or RGB."""
    mode, pixels = _decode(data, path)
    return mode != "P" and (mode == "1" or bool(((pixels == 0) | (pixels == 255)).all() and pixels.any()))


def has_ids(path: str | Path) -> bool:
    """Whether a mask has ids for certain: other grey values than 0 and 255, other indices or colours of a palette than 0, 1 and
    255. What belongs with it has ids too."""
    mode, pixels = _decode(_bytes_of(path), str(path))
    pixels = _from_colours(pixels, path) if mode == "RGB" else pixels
    return mode != "1" and not set(np.unique(pixels)) <= ({0, VOID} if mode == "L" else {0, 1, VOID})


def decode_labels(data: bytes, path: str = "mask", *, ids: bool = False) -> UInt8[np.ndarray, "h w"]:
    """`read_labels` of a file's bytes; `path` is what errors call it."""
    mode, pixels = _decode(data, path)
    if mode == "P":
        return pixels
    if mode == "1":
        return pixels.astype(np.uint8)
    if mode == "L":
        return pixels if ids and set(np.unique(pixels)) <= {0, VOID} else _from_grey(pixels, path)
    return _from_colours(pixels, path)


def read_result(path: str | Path, objects: int = 1) -> UInt8[np.ndarray, "h w"]:
    """Read a method's result for scoring: as `read_labels`, but 255 is no void: a lone 255, and one colour on black that is
    no id's, mean object 1. Where there are several `objects`, neither says which, and white stays 255."""
    mode, pixels = _decode(_bytes_of(path), str(path))
    if mode == "L":
        values = np.unique(pixels)
        if set(values) <= {0, 255}:
            return pixels if objects > 1 else (pixels > 0).astype(np.uint8)
        # Ids that are only specks look like a smoothed edge; what is no map of ids has 255 beside them, or many greys.
        return _from_grey(pixels, path) if values[-1] == VOID or len(values) > SOFT else pixels
    if mode == "P" and objects == 1 and set(np.unique(pixels)) == {0, VOID}:
        return (pixels > 0).astype(np.uint8)
    if mode in "P1":
        return pixels.astype(np.uint8)
    if objects > 1 and _black_and_white(pixels):
        return pixels[..., 0]
    return _from_colours(pixels, path, lone=objects == 1)


def _bytes_of(path: str | Path) -> bytes:
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; expected a mask (PNG)") from None
    except OSError as error:
        raise InputError(f"{path}: found no readable image ({error}); expected a PNG mask") from None


def inverted(path: str | Path) -> str | None:
    """What to say of a mask that looks like something else than it is read as: its palette shows another index than 0, the
    background, as black, as programs write it that count a picture's colours."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            colours = np.array(image.getpalette() or [0, 0, 0], np.uint8).reshape(-1, 3)
            if image.mode != "P" or not colours[0].any():
                return None
            used = np.unique(np.array(image))
    except (*UNREADABLE, Image.DecompressionBombError):
        return None
    others = used[(used > 0) & (used < len(colours))]
    black = [int(i) for i in others if not colours[i].any()]
    if not black:
        return None
    shown = "white" if (colours[0] == 255).all() else f"{tuple(map(int, colours[0]))}-coloured"
    what = "the object" if len(others) == 1 else f"object {black[0]}"
    return f"{path}: the {shown} part, index 0 of the palette, is background, the black one {what}"


def _decode(data: bytes, path: str) -> tuple[str, np.ndarray]:
    """("P" | "1" | "L" | "RGB", pixels) of an image that can hold exact labels."""
    from PIL import Image, UnidentifiedImageError

    try:
        refuse_deep_png(path, "a mask of 8 bits: palette, grey, 1-bit or RGB", data[:25])
        with Image.open(io.BytesIO(data)) as image:
            refuse_several(image, path)
            if image.format in ("JPEG", "MPO"):
                raise InputError(f"{path}: found a JPEG, whose compression changes ids; expected a PNG mask")
            mode, pixels = image.mode, np.array(upright(image))
            if mode in ("P", "1", "L"):
                return mode, unstretched(pixels, data) if mode == "L" else pixels
            if mode == "RGB":
                return mode, pixels
            if mode in ("LA", "La", "PA", "RGBA"):
                if _flat(pixels[..., :-1]) and not _flat(pixels[..., -1:]):
                    raise InputError(f"{path}: found a shape in the alpha channel alone, expected it in the colours")
                return (mode[0], pixels[..., 0]) if mode != "RGBA" else ("RGB", pixels[..., :3])
    except InputError:
        raise
    except UnidentifiedImageError:
        raise InputError(f"{path}: found no readable image; expected a PNG mask") from None
    except (*UNREADABLE, Image.DecompressionBombError) as error:
        raise InputError(f"{path}: found no readable image ({error}); expected a PNG mask") from None
    raise InputError(f"{path}: found pixels of mode {mode}, expected a mask of 8 bits: palette, grey, 1-bit or RGB")


def _flat(pixels: UInt8[np.ndarray, "h w c"]) -> bool:
    return bool((pixels == pixels[:1, :1]).all())


def _from_grey(pixels: UInt8[np.ndarray, "h w"], path: str | Path) -> UInt8[np.ndarray, "h w"]:
    counts = np.bincount(pixels.ravel(), minlength=256)
    between = np.flatnonzero(counts[1:VOID]) + 1
    if not len(between):
        return (pixels > 0).astype(np.uint8)
    if not counts[VOID] and between[-1] <= FEW:  # as thin as they may be: a smoothed edge goes up to white
        return pixels
    # Ids fill regions, each with pixels whose four neighbours are the same; the greys of a smoothed edge, of
    # compression or of a photograph do not, or hardly.
    edge = np.pad(pixels.astype(np.int16), 1, "edge")
    beside = [edge[:-2, 1:-1], edge[2:, 1:-1], edge[1:-1, :-2], edge[1:-1, 2:]]
    inside = (pixels > 0) & (pixels < VOID)
    flat = inside & np.logical_and.reduce([b == pixels for b in beside])
    solid = np.count_nonzero(np.bincount(pixels[flat], minlength=256))
    smooth = len(between) >= 6 and (solid < len(between) / 2 or flat.sum() < 0.3 * inside.sum())
    # The smoothed edge of an upright box has few greys, but they lie between 255 and 0, or keep these two apart.
    by_none, by_full = (np.logical_or.reduce([b == value for b in beside]) for value in (0, VOID))
    apart = counts[VOID] > 0 and not flat.any() and not ((pixels == VOID) & by_none).any()
    smooth |= apart or (inside & by_none & by_full).sum() > 0.8 * inside.sum()
    # A black and white JPEG of the best quality: specks of nearly black and nearly white.
    near = (between <= 8) | (between >= VOID - 8)
    smooth |= counts[VOID] > 0 and near.all() and between[-1] > 8 and flat.sum() < 0.3 * inside.sum()
    if smooth:
        raise InputError(
            f"{path}: found an antialiased or photographic mask ({len(between)} grey levels between 0 and 255);"
            " expected 0 and 255 alone, or ids: save it without smoothing (nearest neighbour)"
        )
    return pixels


def _from_colours(
    pixels: UInt8[np.ndarray, "h w 3"], path: str | Path, *, lone: bool = False
) -> UInt8[np.ndarray, "h w"]:
    """lone: whether one colour on black that is no id's is object 1."""
    if _black_and_white(pixels):
        return (pixels[..., 0] > 0).astype(np.uint8)
    code = pixels.astype(np.int32) @ np.array([1 << 16, 1 << 8, 1], np.int32)
    known = palette().astype(np.int32) @ np.array([1 << 16, 1 << 8, 1], np.int32)
    order = np.argsort(known)
    place = np.minimum(np.searchsorted(known, code, sorter=order), 255)
    ids = order[place]
    wrong = np.argwhere(known[ids] != code)
    if lone and len(wrong) and len({0, *np.unique(code).tolist()}) == 2:
        return (code > 0).astype(np.uint8)
    if len(wrong):
        y, x = wrong[0]
        count = len(np.unique(code))
        found = f"{count} colours in all" + (f", at most {MAX_OBJECTS} objects" if count > MAX_OBJECTS else "")
        raise InputError(
            f"{path}: found colour {tuple(int(c) for c in pixels[y, x])} at row {y}, column {x}, which is no id's"
            f" ({found}); expected white on black, grey ids in one channel, or the DAVIS palette"
        )
    return ids.astype(np.uint8)


def _black_and_white(pixels: UInt8[np.ndarray, "h w 3"]) -> bool:
    return bool((((pixels == 0) | (pixels == 255)) & (pixels == pixels[..., :1])).all())


def encode_labels(labels: UInt8[np.ndarray, "h w"]) -> bytes:
    """A palette PNG (mode P, 256 DAVIS colours) of `labels`."""
    from PIL import Image

    image = Image.fromarray(labels, "L")
    image.putpalette(palette().tobytes())
    buffer = io.BytesIO()
    image.save(buffer, "PNG", bits=8)
    return buffer.getvalue()


def save_labels(path: str | Path, labels: Integer[Array | np.ndarray, "h w"]) -> None:
    """Write labels as a palette PNG, whole or not at all: what `labels` reads, and DAVIS's own tools.

    Raises InputError for what are no labels and names that are no PNG's, OSError where the file cannot be written.
    """
    if Path(path).suffix.lower() != ".png":
        raise InputError(f"{path}: expected a name that ends in .png, as labels are kept")
    write_file(Path(path), encode_labels(check_labels(np.asarray(labels), str(path))))


# To the grid and back


def _box_matrix(start: np.ndarray, stop: np.ndarray, size: int) -> Float32[np.ndarray, "n size"]:
    """Row i: the share of each pixel in the interval [start[i], stop[i]] (pixel p covers [p, p + 1]), rows summing to 1."""
    pixel = np.arange(size)
    overlap = np.minimum(stop[:, None], pixel + 1) - np.maximum(start[:, None], pixel)
    overlap = np.maximum(overlap, 0.0)
    return (overlap / overlap.sum(1, keepdims=True)).astype(np.float32)


def shrink_matrix(
    size: int, cells: int, stride: int = 8, seen: int | None = None, *, half_pixel: bool = False
) -> Float32[np.ndarray, "cells size"]:
    """One axis of the way to the grid: mean over each cell's box, `[cells, size]`.

    `seen`: the number of pixels the network sees along this axis, where it is not `size` (frames scaled down first).
    `half_pixel`: what both PyTorch reproductions do instead: the one pixel ⌊(i + ½)·size/cells⌋ (nearest neighbour).
    """
    if half_pixel:
        return np.eye(size, dtype=np.float32)[((np.arange(cells) + 0.5) * size / cells).astype(int)]
    scale = size / (seen or size)
    centre = (stride * np.arange(cells) + 0.5) * scale
    return _box_matrix(centre - stride / 2 * scale, centre + stride / 2 * scale, size)


def grow_matrix(
    cells: int, size: int, stride: int = 8, seen: int | None = None, *, half_pixel: bool = False
) -> Float32[np.ndarray, "size cells"]:
    """One axis of the way back: linear interpolation at p/stride, clamped to the last cell, `[size, cells]`.

    `half_pixel`: the convention of OpenCV and Pillow instead, (p + ½)·cells/size − ½, which both PyTorch
    reproductions use; only their configurations ask for it.
    """
    pixel = np.arange(size) + 0.5
    place = pixel * cells / size - 0.5 if half_pixel else (pixel * (seen or size) / size - 0.5) / stride
    place = np.clip(place, 0, cells - 1)
    low = np.minimum(np.floor(place).astype(int), max(cells - 2, 0))
    high = np.minimum(low + 1, cells - 1)
    matrix = np.zeros((size, cells))
    np.add.at(matrix, (np.arange(size), low), 1 - (place - low))
    np.add.at(matrix, (np.arange(size), high), place - low)
    return matrix.astype(np.float32)


def cells_of_thin(labels: Integer[np.ndarray, "c"], areas: Mapping[int, np.ndarray]) -> dict[int, int]:
    """{cell: label} for objects that lead in no cell: each gets the free cell that it fills most.

    labels: of the cells, 0 and less where there is no object.  areas: {label: its area in every cell} of those objects.
    A cell is free unless it is all that another object has; objects with fewer cells choose first. An object without a
    free cell is missing from what is returned.
    """
    labels, taken = labels.copy(), {}
    for label, area in sorted(areas.items(), key=lambda item: np.count_nonzero(item[1])):
        fullest = (int(c) for c in np.argsort(-area, kind="stable") if area[c] > 0)
        cell = next((c for c in fullest if labels[c] <= 0 or (labels == labels[c]).sum() > 1), None)
        if cell is not None:
            labels[cell] = taken[cell] = label
    return taken


def area_matrix(size: int, new: int) -> Float[np.ndarray, "new size"]:
    """One axis of scaling `size` pixels down to `new` by the mean over each new pixel's box."""
    edge = np.arange(new + 1) * (size / new)
    return _box_matrix(edge[:-1], edge[1:], size)

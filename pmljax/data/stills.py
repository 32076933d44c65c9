"""Clips from still pictures with masks (VOC layout: `JPEGImages`, `SegmentationObject`, `ImageSets/Segmentation`).

Each frame of a clip is a view of the same picture under a motion of its own. In a picture with background (id 0) the
objects move as one layer over the background; what they hid there is not known and is void. In a picture without, where
every pixel belongs to a segment, all of it moves together. NumPy and Pillow.
Axes: `h w` picture, `y x` vertices of the mesh that carries the motion.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from pmljax.data.clip_sources import Cache, RawClip, read_pair
from pmljax.data.davis import lines_of
from pmljax.errors import InputError
from pmljax.labels import VOID

SUFFIXES = [case for x in (".jpg", ".jpeg", ".png", ".webp") for case in (x, x.upper())]  # of pictures
CELLS = 8  # of the mesh, along each side; the motion is bilinear in each
WAVES = 3  # of the elastic motion
MARGIN = 0.3  # of the picture's size: how far it is mirrored beyond its edge


@dataclass(frozen=True)
class Motion:
    """How far each view is from the picture itself; every number is drawn evenly from −x … x, the scale's logarithm."""

    rotation: float = 20.0
    """Degrees."""
    scale: tuple[float, float] = (0.8, 1.25)
    """Smallest and largest factor."""
    shift: float = 0.15
    """Of the picture's height and width."""
    shear: float = 0.1
    elastic: float = 0.015
    """Largest smooth displacement, of the short side."""
    background: float = 0.5
    """All of these times this for the background behind objects: a camera moves less than what it follows."""


class StillSource:
    """Clips made from the pictures of one split."""

    def __init__(
        self,
        root: str | Path,
        split: str,
        *,
        motion: Motion | None = None,
        merge: float = 0.0,
        name: str | None = None,
        cache: Cache | None = None,
    ):
        """`merge`: how often all objects of a picture with background are made one, id 1: parts, or the whole."""
        self.name, self.motion, self.merge, self.cache = name or split, motion or Motion(), merge, cache
        self.most = 1000  # of one picture there may be any number of views
        self.pairs = list_stills(Path(root), split)

    @property
    def reels(self) -> int:
        return len(self.pairs)

    def draw(self, rng: np.random.Generator, frames: int, short_side: int | None) -> RawClip:
        return self.reel(int(rng.integers(len(self.pairs))), rng, frames, short_side)

    def reel(self, index: int, rng: np.random.Generator, views: int, short_side: int | None) -> RawClip:
        picture, mask = self.pairs[index]
        image, labels = read_pair(picture, mask, short_side, self.cache)
        if (labels == 0).any() and rng.random() < self.merge:
            labels = np.where((labels > 0) & (labels < VOID), np.uint8(1), labels)
        made = make_views(rng, image, labels, views, self.motion)
        numbers = [float(t) for t in range(views)]
        return RawClip([v[0] for v in made], [v[1] for v in made], numbers, self._name(picture))

    def describe(self, rng: np.random.Generator, frames: int) -> str:
        return self._name(self.pairs[int(rng.integers(len(self.pairs)))][0])

    def _name(self, picture: Path) -> str:
        return f"{self.name} {picture.stem}"


def list_stills(root: Path, split: str) -> list[tuple[Path, Path]]:
    """(picture, mask) of every name in `ImageSets/Segmentation/SPLIT.txt`; InputError if one of the files is missing."""
    listed = root / "ImageSets" / "Segmentation" / f"{split}.txt"
    if not listed.is_file():
        there = ", ".join(sorted(p.stem for p in listed.parent.glob("*.txt"))) or "a VOC root"
        raise InputError(f"{listed}: no such split; expected one of {there}")
    names = [line.split()[0] for line in lines_of(listed)]
    if not names:
        raise InputError(f"{listed}: found an empty list; expected a name of a picture a line")
    pairs = []
    for name in names:
        pictures = [root / "JPEGImages" / f"{name}{suffix}" for suffix in SUFFIXES]
        picture = next((p for p in pictures if p.is_file()), pictures[0])
        pairs.append((picture, root / "SegmentationObject" / f"{name}.png"))
        for path in pairs[-1]:
            if not path.is_file():
                raise InputError(f"{path}: no such file; expected that of {name}, which {listed.name} lists")
    return pairs


def make_views(
    rng: np.random.Generator,
    image: UInt8[np.ndarray, "h w 3"],
    labels: UInt8[np.ndarray, "h w"],
    frames: int,
    motion: Motion,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """(frame, labels) of `frames` views of a picture, each of the picture's size."""
    h, w = labels.shape
    # Beyond its edge the picture goes on mirrored, so that void is not told by its look; its labels do not.
    margin = (int(MARGIN * h), int(MARGIN * w))
    wide = Image.fromarray(np.pad(image, (*((m, m) for m in margin), (0, 0)), "symmetric"))
    inside = (labels > 0) & (labels < VOID)
    layered = bool(inside.any() and (labels == 0).any())
    thing = labels > 0  # void around an object moves with it
    under = Image.fromarray(np.where(thing, np.uint8(VOID), labels) if layered else labels)
    over = Image.fromarray(labels)
    matte = Image.fromarray(np.where(thing, np.uint8(255), np.uint8(0)))
    middle = np.array([h, w]) / 2
    centre = np.argwhere(inside).mean(0) + 0.5 if layered else middle

    views = []
    for _ in range(frames):
        mesh = _mesh(rng, (h, w), middle, motion, motion.background if layered else 1.0)
        frame, found = _warp(wide, mesh, margin, 0), np.asarray(_warp(under, mesh, (0, 0), VOID))
        if layered:
            mesh = _mesh(rng, (h, w), centre, motion, 1.0)
            frame = Image.composite(_warp(wide, mesh, margin, 0), frame, _warp(matte, mesh, (0, 0), 0, smooth=True))
            moved = np.asarray(_warp(over, mesh, (0, 0), 0))
            found = np.where(moved > 0, moved, found)
        views.append((np.array(frame), np.array(found)))
    return views


def _mesh(
    rng: np.random.Generator, size: tuple[int, int], centre: np.ndarray, motion: Motion, strength: float
) -> Float[np.ndarray, "y x 2"]:
    """Where each vertex of the view's mesh lies in the picture, (y, x) in pixels from its corner."""
    spread = np.array(size, float)
    turn, *shear = strength * rng.uniform(-1, 1, 3) * [np.deg2rad(motion.rotation), motion.shear, motion.shear]
    grow = np.exp(strength * rng.uniform(*np.log(motion.scale)))
    shift = strength * motion.shift * rng.uniform(-1, 1, 2) * spread
    turned = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    back = np.linalg.inv(grow * turned @ np.array([[1, shear[0]], [shear[1], 1]]))
    corner = [np.linspace(0, n, CELLS + 1).round() for n in size]
    vertex = np.stack(np.meshgrid(*corner, indexing="ij"), -1)
    place = (vertex - centre - shift) @ back.T + centre
    # Waves no shorter than two thirds of the picture, so that the mesh follows them and nothing folds.
    waves, phases = rng.uniform(-1.5, 1.5, (WAVES, 2)), rng.uniform(0, 2 * np.pi, WAVES)
    swell = rng.uniform(-1, 1, (WAVES, 2)) * strength * motion.elastic * spread.min() / WAVES
    return place + np.sin(2 * np.pi * (vertex / spread) @ waves.T + phases) @ swell


def _warp(
    picture: Image.Image, mesh: Float[np.ndarray, "y x 2"], margin: tuple[int, int], fill: int, smooth: bool = False
) -> Image.Image:
    """The picture under the mesh: RGB and `smooth` by interpolation, labels as they are; `fill` beyond its edge.

    `margin`: how far the picture goes on beyond the (0, 0) of the mesh.
    """
    size = (picture.width - 2 * margin[1], picture.height - 2 * margin[0])
    y, x = (np.linspace(0, n, CELLS + 1).round().astype(int).tolist() for n in size[::-1])
    at = (mesh + np.array(margin))[..., ::-1]  # Pillow's order: x, y
    # A cell's corners in Pillow's order: upper left, lower left, lower right, upper right.
    quads = np.concatenate([at[:-1, :-1], at[1:, :-1], at[1:, 1:], at[:-1, 1:]], -1).tolist()
    cells = [
        ((x[j], y[i], x[j + 1], y[i + 1]), quads[i][j])
        for i in range(CELLS)
        for j in range(CELLS)
        if x[j] < x[j + 1] and y[i] < y[i + 1]
    ]
    how = Image.Resampling.BILINEAR if smooth or picture.mode == "RGB" else Image.Resampling.NEAREST
    colour = (fill,) * 3 if picture.mode == "RGB" else fill
    return picture.transform(size, Image.Transform.MESH, cells, how, fillcolor=colour)

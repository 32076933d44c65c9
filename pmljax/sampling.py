"""What a training step sees of a clip: a crop of each frame, the label of every cell, and the anchors.

Pure functions of (key, clip), on the device: the same key gives the same crops for any number of workers, devices and
hosts. Crops are two small matrices, A_y · frame · A_xᵀ, as everywhere here; the place of every crop's pixel in the
original frame goes with it, so that the position input stays that of the original frame.
Axes: `t` frame of the clip, `h w` canvas, `c` side of the crop, `y x` grid, `q` cell, `a` anchor.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Integer, PRNGKeyArray, UInt8, UInt32

from pmljax.errors import InputError
from pmljax.labels import VOID

SMALLEST = 8  # side of a crop: a cell of the grid
PASTED = 254  # the label of a pasted object
SHARE = (0.002, 0.3)  # of the picture that a pasted object covers where it comes from
SIZE = (0.6, 1.5)  # factor of its size, beside that of the two pictures' short sides


class Clip(NamedTuple):
    """One clip as it comes from the disk; the first frame is the anchors'.

    frames: uint8 `[t, h, w, 3]` on a canvas of one size, the content at the top left.  labels: uint8 `[t, h, w]`, void
    beyond the content.  numbers: each frame's own, `[t]`.  window: `[t, 4]` (top, left, height, width): where the canvas
    begins in the whole frame, and that frame's size, in pixels of the canvas.  extent: (h, w) of the content.
    number: of the clip, from which everything drawn for it follows.
    """

    frames: UInt8[Array, "t h w 3"]
    labels: UInt8[Array, "t h w"]
    numbers: Float[Array, "t"]
    window: Float[Array, "t 4"]
    extent: Integer[Array, "2"]
    number: UInt32[Array, ""]


class Views(NamedTuple):
    """The crops of one clip: frames uint8 `[t, c, c, 3]`, labels uint8 `[t, c, c]`, numbers `[t]`.

    Pixel p of a crop lies on pixel origin + p·step of the whole frame, each `[t, 2]` (y, x); size `[t, 2]`: the whole
    frame's (h, w).
    """

    frames: UInt8[Array, "t c c 3"]
    labels: UInt8[Array, "t c c"]
    numbers: Float[Array, "t"]
    origin: Float[Array, "t 2"]
    step: Float[Array, "t 2"]
    size: Float[Array, "t 2"]


@dataclass(frozen=True)
class Augment:
    """How a clip is varied. One scale, one flip and, where `place` says so, one crop for all its frames."""

    crop: int = 321
    """Side of the crops, in pixels."""
    scale: tuple[float, float] = (0.5, 1.5)
    """Smallest and largest factor; its logarithm is drawn evenly."""
    short_side: int | None = None
    """The whole frame's short side at a factor of 1, however many pixels it was read with: sharp where it is shown large.
    None: its own."""
    flip: bool = True
    """Whether half the clips are mirrored."""
    place: Literal["shared", "each"] = "shared"
    """shared: one crop for the clip, on an object of the first frame. each: every frame's own, on an object of that frame;
    between frames far apart the object may have crossed the picture."""
    zoom: float = 0.0
    """Each frame's own factor beside the clip's scale: exp(±zoom)."""
    aspect: float = 0.0
    """Each clip's own factor between height and width: exp(±aspect)."""
    colour: float = 0.2
    """Largest relative change of each frame's brightness, contrast and saturation."""
    hue: float = 0.0
    """How often a clip's colours are turned about grey, by any angle, the same in all its frames."""
    time: float = 0.0
    """Largest offset added to the frames' numbers, one for the clip."""
    paste: float = 0.0
    """How often an object of another clip lies before a clip's frames (`paste`); drawn by `resident`."""

    def __post_init__(self):
        if self.crop < SMALLEST:
            raise InputError(f"crop {self.crop}: expected {SMALLEST} pixels or more")
        if not 0 < self.scale[0] <= self.scale[1] < np.inf:
            raise InputError(
                f"scale {self.scale[0]:g} {self.scale[1]:g}: expected two numbers above 0, the smaller first"
            )
        if self.place not in ("shared", "each"):
            raise InputError(f"place {self.place}: expected shared or each")
        for name in ("paste", "hue"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} {getattr(self, name)}: expected 0…1")
        for name in ("zoom", "aspect", "colour", "time"):
            if not 0 <= getattr(self, name) < np.inf:
                raise InputError(f"{name} {getattr(self, name)}: expected 0 or more")


def augment(key: PRNGKeyArray, clip: Clip, config: Augment) -> Views:
    """The crops of a clip. `key` is the run's; what is drawn depends on it and on the clip's number alone."""
    key = jax.random.fold_in(key, clip.number)
    keys = jax.random.split(key, 6)
    of_clip = jax.random.split(jax.random.fold_in(key, 6))
    frames = clip.frames.shape[0]
    low, high = np.log(config.scale)
    scale = jnp.exp(jax.random.uniform(keys[0], (), minval=low, maxval=high))
    scale = scale * jnp.exp(jax.random.uniform(keys[1], (frames,), minval=-config.zoom, maxval=config.zoom))
    if config.short_side is not None:
        scale = scale * (config.short_side / clip.window[:, 2:].min(-1))
    stretch = jnp.exp(jax.random.uniform(of_clip[0], (), minval=-config.aspect, maxval=config.aspect) / 2)
    scale = scale[:, None] * jnp.stack([stretch, 1 / stretch])[None]  # [t, 2]
    flip = jax.random.bernoulli(keys[2]) & config.flip
    if config.place == "each":
        places = jax.random.split(keys[3], frames)
        offset = jax.vmap(_place, (0, 0, None, 0, None))(places, clip.labels, clip.extent, scale, config.crop)
    else:
        offset = jnp.broadcast_to(_place(keys[3], clip.labels[0], clip.extent, scale[0], config.crop), (frames, 2))

    # Pixel p of the crop reads the canvas at begin + p·stride (index coordinates; pixel centres stay centres).
    stride = (1 / scale).at[:, 1].multiply(jnp.where(flip, -1, 1))
    begin = (offset + 0.5) / scale - 0.5
    begin = begin.at[:, 1].add(jnp.where(flip, (config.crop - 1) / scale[:, 1], 0))
    square = (config.crop, config.crop)
    pictures = jax.vmap(_crop, (0, 0, 0, None, None))(clip.frames, begin, stride, clip.extent, square)
    labels = jax.vmap(_crop_labels, (0, 0, 0, None, None))(clip.labels, begin, stride, clip.extent, square)
    if config.hue:
        whether, angle = jax.random.uniform(of_clip[1], (2,))
        pictures = _turned(pictures, jnp.where(whether < config.hue, 2 * np.pi * angle, 0))
    pictures = jax.vmap(_recolour, (0, 0, None))(jax.random.split(keys[4], frames), pictures, config.colour)
    later = jax.random.uniform(keys[5], (), maxval=config.time) if config.time else 0.0
    top_left, size = clip.window[:, :2], clip.window[:, 2:]
    return Views(
        jnp.round(jnp.clip(pictures, 0, 255)).astype(jnp.uint8),
        labels,
        clip.numbers + later,
        top_left + begin,
        stride,
        size,
    )


def _place(
    key: PRNGKeyArray,
    labels: UInt8[Array, "h w"],
    extent: Integer[Array, "2"],
    scale: Float[Array, "2"],
    crop: int,
) -> Float[Array, "2"]:
    """Where the crop begins (y, x) in the scaled picture: even among the places that hold one pixel of an object, itself
    even among all; without an object, any labelled pixel. A picture smaller than the crop lies anywhere inside."""
    keys = jax.random.split(key, 3)
    chosen = (labels > 0) & (labels < VOID)
    chosen = jnp.where(chosen.any(), chosen, labels < VOID)
    chosen = chosen | ~chosen.any()  # nothing but void: any pixel
    row = jax.random.categorical(keys[0], jnp.log(chosen.sum(1, dtype=jnp.float32)))
    column = jax.random.categorical(keys[1], jnp.where(chosen[row], 0.0, -jnp.inf))
    point = (jnp.stack([row, column]).astype(jnp.float32) + 0.5) * scale
    room = extent.astype(jnp.float32) * scale - crop
    low = jnp.maximum(jnp.minimum(room, 0), point - crop)
    high = jnp.minimum(jnp.maximum(room, 0), point)
    return low + jax.random.uniform(keys[2], (2,)) * jnp.maximum(high - low, 0)


def _taps(begin: Float[Array, ""], stride: Float[Array, ""], extent: Integer[Array, ""], crop: int, size: int):
    """One axis of the crop: weights `[crop, size]`, linear interpolation, a wider tent where the picture gets smaller
    (against aliasing); a row of zeros where the picture ends."""
    at = begin + jnp.arange(crop, dtype=jnp.float32) * stride
    column = jnp.arange(size, dtype=jnp.float32)
    reach = jnp.maximum(jnp.abs(stride), 1)
    edge = extent.astype(jnp.float32)
    weight = jnp.maximum(1 - jnp.abs(column[None] - at[:, None]) / reach, 0)
    weight = jnp.where(column[None] < edge, weight, 0)
    inside = (at > -0.5) & (at < edge - 0.5)
    return jnp.where(inside[:, None], weight / jnp.maximum(weight.sum(1, keepdims=True), 1e-6), 0)


def _crop(frame: UInt8[Array, "h w 3"], begin, stride, extent, size: tuple[int, int]) -> Float[Array, "y x 3"]:
    a_y, a_x = (_taps(begin[k], stride[k], extent[k], size[k], frame.shape[k]) for k in range(2))
    # TF32 on a GPU, which is off by less than half a grey level: the result is rounded to whole ones.
    return jnp.einsum("yh,hwc,xw->yxc", a_y, frame.astype(jnp.float32), a_x, precision="high")


def _crop_labels(labels: UInt8[Array, "h w"], begin, stride, extent, size: tuple[int, int]) -> UInt8[Array, "y x"]:
    def axis(k: int):
        at = jnp.round(begin[k] + jnp.arange(size[k], dtype=jnp.float32) * stride[k]).astype(jnp.int32)
        inside = (at >= 0) & (at < extent[k])
        return jnp.clip(at, 0, labels.shape[k] - 1), inside

    (rows, in_y), (columns, in_x) = axis(0), axis(1)
    return jnp.where(in_y[:, None] & in_x[None], labels[rows][:, columns], jnp.uint8(VOID))


def _turned(pictures: Float[Array, "t c c 3"], angle: Float[Array, ""]) -> Float[Array, "t c c 3"]:
    """Colours turned about the axis of the greys, which stay: the mean of red, green and blue does too."""
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    across = jnp.roll(pictures, 1, -1) - jnp.roll(pictures, -1, -1)  # the axis (1, 1, 1) × the colour
    return cos * pictures + (1 - cos) * pictures.mean(-1, keepdims=True) + sin / np.sqrt(3) * across


def _recolour(key: PRNGKeyArray, picture: Float[Array, "c c 3"], amount: float) -> Float[Array, "c c 3"]:
    """Contrast about the picture's mean, brightness, then saturation, each changed by up to ±amount."""
    contrast, brightness, saturation = jax.random.uniform(key, (3,), minval=1 - amount, maxval=1 + amount)
    mean = picture.mean()
    picture = (picture - mean) * contrast + mean * brightness
    grey = picture.mean(-1, keepdims=True)
    return (picture - grey) * saturation + grey


# Occlusion


def paste(key: PRNGKeyArray, clip: Clip, other: Clip) -> Clip:
    """`clip` with an object of `other` before it in every frame, which takes the label PASTED there.

    The object is any that has a share of SHARE of the other's first frame, evenly; without one, `clip` comes back. It keeps
    its motion, half of them mirrored, SIZE times as large; in the first frame its middle lies anywhere in the picture.
    Both clips are on a canvas of one size.
    """
    keys = jax.random.split(key, 4)
    few = other.labels[0, ::4, ::4]  # enough to know sizes and places
    share = jnp.zeros(256, jnp.float32).at[few].add(16 / other.extent.astype(jnp.float32).prod())
    fits = ((share >= SHARE[0]) & (share <= SHARE[1])).at[0].set(False).at[VOID].set(False)
    label = jax.random.categorical(keys[0], jnp.where(fits, 0.0, -jnp.inf)).astype(jnp.uint8)
    there = (few == label).astype(jnp.float32)
    middle = [
        (there * at).sum() / jnp.maximum(there.sum(), 1) for at in jnp.meshgrid(*_every_fourth(few), indexing="ij")
    ]
    size = jnp.exp(jax.random.uniform(keys[1], (), minval=np.log(SIZE[0]), maxval=np.log(SIZE[1])))
    size = size * (clip.extent.min() / other.extent.min())
    mirrored = jnp.where(jax.random.bernoulli(keys[2]), -1.0, 1.0)
    stride = jnp.stack([jnp.ones(()), mirrored]) / size
    place = jax.random.uniform(keys[3], (2,)) * clip.extent.astype(jnp.float32)
    begin = jnp.stack(middle) - place * stride
    given = (begin, stride, other.extent, (clip.labels.shape[1], clip.labels.shape[2]))
    pictures = jax.vmap(lambda x: _crop(x, *given))(other.frames)
    labels = jax.vmap(lambda x: _crop_labels(x, *given))(other.labels)
    rows, columns = (jnp.arange(n, dtype=jnp.int32) < m for n, m in zip(labels.shape[1:], clip.extent, strict=True))
    before = (labels == label) & (fits.any() & rows[:, None] & columns[None])[None]
    frames = jnp.where(before[..., None], jnp.round(jnp.clip(pictures, 0, 255)).astype(jnp.uint8), clip.frames)
    return clip._replace(frames=frames, labels=jnp.where(before, jnp.uint8(PASTED), clip.labels))


def _every_fourth(few: Array) -> list[Array]:
    return [4 * jnp.arange(n, dtype=jnp.float32) for n in few.shape]


# The grid


def cell_labels(
    labels: UInt8[Array, "h w"], grid: tuple[int, int], stride: int = 8, agreed: float = 0.75
) -> UInt8[Array, "y x"]:
    """The label of every cell: that which fills at least `agreed` (> ½) of its box [s·i − s/2, s·i + s/2], else void.

    The boxes are those of `shrink_matrix`. A label that fills more than half of a box is found from its bits: each has the
    value that more than half of the box's pixels have.
    """
    half = stride // 2
    weights = [_box_weights(n, cells, stride) for n, cells in zip(labels.shape, grid, strict=True)]
    index = [np.clip(stride * np.arange(c)[:, None] + np.arange(-half, half + 1), 0, n - 1)
             for n, c in zip(labels.shape, grid, strict=True)]  # fmt: skip
    boxes = labels[index[0]][:, :, index[1]]  # [y, s + 1, x, s + 1]

    def share(flags: Array) -> Array:
        return jnp.einsum(
            "yixj,yi,xj->yx", flags.astype(jnp.float32), jnp.asarray(weights[0]), jnp.asarray(weights[1]),
            precision="highest",
        )  # fmt: skip

    # One bit after the other in a loop, compiled once.
    bits = jax.lax.map(lambda bit: share((boxes >> bit) & jnp.uint8(1)) > 0.5, jnp.arange(8, dtype=jnp.uint8))
    major = jnp.packbits(bits, 0, "little")[0]
    enough = share(boxes == major[:, None, :, None]) >= agreed - 1e-6
    return jnp.where(enough, major, jnp.uint8(VOID))


def _box_weights(size: int, cells: int, stride: int) -> np.ndarray:
    """The share of each of the s + 1 pixels around a cell's centre in its box, `[cells, s + 1]`: the outer two by half,
    none beyond the picture."""
    pixel = stride * np.arange(cells)[:, None] + np.arange(-(stride // 2), stride // 2 + 1)
    weight = np.where((pixel >= 0) & (pixel < size), 1.0, 0.0)
    weight[:, [0, -1]] /= 2
    return (weight / weight.sum(1, keepdims=True)).astype(np.float32)


def draw_anchors(
    key: PRNGKeyArray, labels: UInt8[Array, "q"], count: int
) -> tuple[Integer[Array, "a"], UInt8[Array, "a"]]:
    """(cells, their labels) of `count` anchors, drawn with replacement: each label equally often, to one.

    Of two labels that is count/2 each, as in sydney0zq (256 and 256). Void cells are never drawn; where all are, the
    anchors' labels are void.
    """
    sizes = jnp.zeros(256, jnp.int32).at[labels].add(1).at[VOID].set(0)
    starts = jnp.cumsum(sizes) - sizes  # of each label among the cells sorted by label
    order = jnp.argsort(labels)  # stable; void is the highest and comes last
    present = jnp.argsort(sizes == 0)  # stable: the labels there are, ascending
    label = present[jnp.arange(count, dtype=jnp.int32) % jnp.maximum((sizes > 0).sum(dtype=jnp.int32), 1)]
    drawn = jax.random.randint(key, (count,), 0, jnp.maximum(sizes[label], 1))
    cell = order[starts[label] + drawn]
    return cell, labels[cell]


def root_weights(labels: UInt8[Array, "q"]) -> Float[Array, "q"]:
    """A weight for every cell as anchor: 1/√(cells of its label), 0 for void; they sum to 1, or to 0 if all is void."""
    sizes = jnp.zeros(256, jnp.float32).at[labels].add(1)
    weight = jnp.where(labels < VOID, jax.lax.rsqrt(sizes[labels]), 0)
    return weight / jnp.maximum(weight.sum(), 1e-6)

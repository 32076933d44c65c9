"""From a frame to what the network sees: size, colours, and the place of every cell.

All of it belongs to the configuration and happens inside the compiled call: frames cross the bus as uint8.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num, UInt8

from pmljax.config import ModelConfig, ShortSide
from pmljax.labels import area_matrix, grow_matrix

# Caffe's BGR mean, as DeepLab-v2 uses it; sydney0zq subtracts its own rounding of it in RGB order.
BGR_MEAN = (104.00698793, 116.66876762, 122.67891434)
RGB_MEAN = (122.675, 116.669, 104.008)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def preprocess(
    config: ModelConfig, frames: UInt8[Array | np.ndarray, "b h w 3"], short_side: ShortSide = None
) -> Float[Array, "b h2 w2 3"]:
    """Frames as the network sees them: scaled to `short_side` or to the configuration's own size, then
    shifted and scaled as its weights expect."""
    size = (frames.shape[1], frames.shape[2])
    new = config.seen(size, short_side)
    x = jnp.asarray(frames)
    if new != size and config.input_size:
        rows, columns = (np.floor((np.arange(n) + 0.5) * s / n).astype(int) for n, s in zip(new, size, strict=True))
        x = x[:, rows][:, :, columns]
    elif new != size:
        x = _scale(_scale(x, new[0], 1, config.precision), new[1], 2, config.precision)
    x = x.astype(config.precision)
    if not config.depth:
        return x
    if config.scaling == "bgr":
        return x[..., ::-1] - _channels(BGR_MEAN, x)
    if config.scaling == "rgb":
        return x - _channels(RGB_MEAN, x)
    if config.scaling == "standardise":
        mean, std = x.mean((1, 2, 3), keepdims=True), x.std((1, 2, 3), keepdims=True)
        return (x - mean) / jnp.where(std > 0, std, 1)
    return (x / 255 - _channels(IMAGENET_MEAN, x)) / _channels(IMAGENET_STD, x)


def _scale(x: jax.Array, new: int, axis: int, dtype: Any) -> jax.Array:
    """One axis to `new` pixels: down by area, up by linear interpolation, pixels' corners staying corners. By the few non-zero
    columns of the matrix (1080 to 480 rows and so on: 6 ms; dense: 183 ms)."""
    size = x.shape[axis]
    matrix = area_matrix(size, new) if new <= size else grow_matrix(size, new, half_pixel=True)
    taps = int((matrix > 0).sum(1).max())
    first = np.minimum((matrix > 0).argmax(1), x.shape[axis] - taps)
    out = jnp.zeros((), dtype)
    for tap in range(taps):
        weight = matrix[np.arange(new), first + tap].astype(dtype)
        picked = jnp.take(x, first + tap, axis=axis).astype(dtype)
        out = out + picked * weight.reshape([new if i == axis else 1 for i in range(x.ndim)])
    return out


def _channels(values: tuple[float, ...], like: jax.Array) -> jax.Array:
    """One value a channel, of the dtype and rank of `like`."""
    return jnp.array(values, like.dtype).reshape((1,) * (like.ndim - 1) + (-1,))


def apply_axes(a_y: np.ndarray, a_x: np.ndarray, x: Float[Array, "... h w c"]) -> Float[Array, "... y x c"]:
    """A_y · x · A_xᵀ on the two axes before the last, in full precision."""
    x = jnp.einsum("yh,...hwc->...ywc", a_y.astype(x.dtype), x, precision="highest")
    return jnp.einsum("xw,...ywc->...yxc", a_x.astype(x.dtype), x, precision="highest")


def position(config: ModelConfig, size: tuple[int, int], number: Num[Array, ""]) -> Float[Array, "y x p"]:
    """The position channels of a whole frame. `size` (h, w) as the network sees it, `number` the frame's own number."""
    whole = jnp.array(size, jnp.float32)
    return position_of_crop(config, size, jnp.zeros(2), jnp.ones(2), whole, jnp.asarray(number, jnp.float32))


def position_of_crop(
    config: ModelConfig,
    size: tuple[int, int],
    origin: Float[Array, "2"],
    step: Float[Array, "2"],
    whole: Float[Array, "2"],
    number: Float[Array, ""],
) -> Float[Array, "y x p"]:
    """The position channels of a crop of `size` (h, w): where its cells lie in the original frame.

    Pixel p of the crop lies on pixel origin + p·step of the original, whose size is `whole`, all (y, x).
    """
    grid = config.grid(size)
    origin, step, whole, number = (x.astype(config.precision) for x in (origin, step, whole, number))
    i, j = (origin[k] + step[k] * config.stride * cell.astype(config.precision) for k, cell in enumerate(cells(grid)))
    n = jnp.broadcast_to(number, grid)
    channels = {
        "none": [],
        "yx": [i / whole[0], j / whole[1]],
        "yxt": [i / whole[0], j / whole[1], jnp.minimum(n / 100, 1)],
        "zeros": [jnp.zeros(grid), jnp.zeros(grid)],
        "ijn": [i / (config.trained_stride or config.stride), j / (config.trained_stride or config.stride), n],
    }[config.position]
    return jnp.stack(channels, -1) if channels else jnp.zeros((*grid, 0))


def cells(grid: tuple[int, int]) -> tuple[Float[Array, "y x"], Float[Array, "y x"]]:
    """(row, column) of every cell."""
    i, j = jnp.meshgrid(jnp.arange(grid[0], dtype=jnp.float32), jnp.arange(grid[1], dtype=jnp.float32), indexing="ij")
    return i, j

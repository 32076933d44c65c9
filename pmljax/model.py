"""The network that embeds every pixel: trunk, position, head, unit length.

A frame goes in as uint8 `[h, w, 3]` RGB, and out comes `[y, x, d]` on the stride-8 grid, cell i centred on pixel 8i.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import cached_property, partial
from typing import Any, NamedTuple

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num, PRNGKeyArray, UInt8

from pmljax.config import POSITION_CHANNELS, ModelConfig, ShortSide, check_short_side, named
from pmljax.conv import Conv
from pmljax.errors import InputError
from pmljax.jitted import jitted
from pmljax.labels import shrink_matrix
from pmljax.preprocess import apply_axes, cells, position, preprocess
from pmljax.resnet import ResNet


@flax.struct.dataclass
class Model:
    """A configuration (static) with its variables {"params", "batch_stats"}: one pytree, passed whole to jitted calls."""

    variables: dict[str, Any]
    config: ModelConfig = flax.struct.field(pytree_node=False)


def unit_length(x: Float[Array, "... d"]) -> Float[Array, "... d"]:
    """x/‖x‖ over the last axis; zero, with zero gradient, where x is zero; NaN stays NaN."""
    square = jnp.sum(x * x, -1, keepdims=True)
    zero = square == 0
    return jnp.where(zero, 0, x * jax.lax.rsqrt(jnp.where(zero, 1, square)))


class Head(nn.Module):
    """The embedding head: convolutions with bias, ReLU in between."""

    layers: tuple[tuple[int, int], ...]
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "b y x c"]) -> Float[Array, "b y x d"]:
        for i, (kernel, channels) in enumerate(self.layers):
            x = nn.relu(x) if i else x
            x = Conv(
                channels,
                (kernel, kernel),
                padding=kernel // 2,
                dtype=self.dtype,
                kernel_init=nn.initializers.he_normal(),
                name=f"conv{i + 1}",
            )(x)
        return x


class EmbeddingNet(nn.Module):
    """Trunk, position, head, unit length.

    Call with preprocessed images float `[b, h, w, 3]` and positions `[b, y, x, p]`; returns the embedding
    `[b, y, x, d]` float32 (float64 if computed so) and a dict with every stage's activations.

    remat, axis_name: as in ResNet, for training.
    """

    config: ModelConfig
    remat: bool = False
    axis_name: str | None = None

    @cached_property
    def _dtype(self) -> Any:
        return jnp.dtype(self.config.dtype)

    @nn.compact
    def __call__(
        self, images: Float[Array, "b h w 3"], places: Float[Array, "b y x p"], train: bool = False
    ) -> tuple[Float[Array, "b y x d"], dict[str, jax.Array]]:
        c = self.config
        options = {"remat": self.remat, "axis_name": self.axis_name, "trained": c.trained_stride, "name": "trunk"}
        out = ResNet(c.depth, c.width, c.geometry, c.stride, c.norm, self._dtype, **options)(images, train)
        x = jnp.concatenate([out[f"stage{tap}"] for tap in c.taps] + [places.astype(self._dtype)], -1)
        x = Head(c.head, self._dtype, name="head")(x)
        out["head"] = x
        x = x.astype(c.precision)
        out["embedding"] = unit_length(x) if c.unit else x
        return out["embedding"], out


def create(config: ModelConfig | str, key: PRNGKeyArray | None = None) -> Model:
    """A model with random weights. `config`: a ModelConfig or a name of NAMED; `key`: `jax.random.key(0)` by default."""
    config = named(config)
    if not config.depth:
        return Model({}, config)
    if key is not None and not jnp.issubdtype(jnp.asarray(key).dtype, jax.dtypes.prng_key):
        raise InputError(f"key: found {key!r:.40}, expected jax.random.key(0), say")
    # Runs once: most of its seconds would go into optimising the code.
    options = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    init = jax.jit(partial(_init, config), compiler_options=options)
    return Model(init(jax.random.key(0) if key is None else key), config)


def abstract(config: ModelConfig | str) -> Model:
    """The model's names, shapes and dtypes, without numbers (`jax.ShapeDtypeStruct`)."""
    config = named(config)
    return Model(
        jax.eval_shape(partial(_init, config), jax.eval_shape(jax.random.key, 0)) if config.depth else {}, config
    )


def _init(config: ModelConfig, key: PRNGKeyArray) -> dict[str, Any]:
    size = (33, 33)  # any
    places = jnp.zeros((1, *config.grid(size), POSITION_CHANNELS[config.position]))
    return EmbeddingNet(config).init(key, jnp.zeros((1, *size, 3)), places)  # pyright: ignore


def parameter_count(model: Model) -> int:
    """Trainable numbers, without running statistics."""
    return sum(x.size for x in jax.tree.leaves(model.variables.get("params", {})))


class Embedding(NamedTuple):
    """What `embed_stages` returns: `embedding` `[b, y, x, d]`, and every stage's activations by name."""

    embedding: jax.Array
    stages: dict[str, jax.Array]


# Inlined, so that a compiled call around it stays one.
@jitted(static_argnames="short_side", inline=True)
def embed_stages(
    model: Model,
    frames: UInt8[Array | np.ndarray, "b h w 3"],
    numbers: Num[Array | np.ndarray, "b"] | Sequence[Any],
    short_side: ShortSide = None,
) -> Embedding:
    """`embed`, together with the activations of the stem, the four stages and the head."""
    config = model.config
    if getattr(frames, "dtype", None) != np.uint8:
        found = getattr(frames, "dtype", type(frames).__name__)
        raise InputError(f"frames: found {found}, expected an array of uint8, RGB 0…255, as decoded")
    check_short_side(short_side)
    numbers = jnp.asarray(numbers)
    if len(frames.shape) != 4 or frames.shape[3] != 3 or 0 in frames.shape:
        raise InputError(f"frames: found {list(frames.shape)}, expected RGB [b, h, w, 3] of one frame at least")
    if jnp.shape(numbers) != frames.shape[:1]:
        raise InputError(
            f"numbers: found {list(jnp.shape(numbers))}, expected [{len(frames)}], one for each of the frames"
        )
    images = preprocess(config, frames, short_side)
    size = (images.shape[1], images.shape[2])
    if not config.depth:
        y, x = config.grid(size)
        a_y, a_x = shrink_matrix(size[0], y, config.stride), shrink_matrix(size[1], x, config.stride)
        colour = apply_axes(a_y, a_x, images)
        place = jnp.broadcast_to(jnp.stack(cells((y, x)), -1)[None].astype(colour.dtype), (*colour.shape[:3], 2))
        return Embedding(jnp.concatenate([colour, place], -1), {})
    places = jax.vmap(lambda n: position(config, size, n))(numbers)
    return Embedding(*EmbeddingNet(config).apply(model.variables, images, places))  # pyright: ignore


@jitted(owned=True, static_argnames=("short_side", "flip"), inline=True)
def embed(
    model: Model,
    frames: UInt8[Array | np.ndarray, "b h w 3"],
    numbers: Num[Array | np.ndarray, "b"] | Sequence[Any],
    short_side: ShortSide = None,
    *,
    flip: bool = False,
) -> Float[Array, "b y x d"]:
    """Embed frames: float `[b, y, x, d]` on the grid, whose cell i is centred on pixel 8i (`ModelConfig.grid`: 240 rows are 31
    cells).

    frames: uint8 RGB as decoded.  numbers: each frame's own number (used where the configuration has time in its
    position).  short_side: as `Preset.size`; None: as the frames are.  flip: the mean with the embedding of
    the mirrored frame, at unit length again where the configuration says so.  Compiled once for each size and number
    of frames.  InputError for frames that are no array of uint8 RGB, another
    number of numbers, and sizes below 8.
    """
    embedding = embed_stages(model, frames, numbers, short_side).embedding
    if not flip:
        return embedding
    config = model.config
    if not config.mirrors:
        raise InputError(
            f"flip with {config.name}: expected a network without position and with frames at their own size"
        )
    images = preprocess(config, frames, short_side)
    # A mirrored cell lies on a cell only where one is centred on the last column, so the edge goes on up to that.
    columns = embedding.shape[2]
    width = config.stride * (columns - 1) + 1
    images = (
        images[:, :, :width]
        if images.shape[2] >= width
        else jnp.pad(images, ((0, 0), (0, 0), (0, width - images.shape[2]), (0, 0)), "edge")
    )
    places = jnp.zeros((*embedding.shape[:3], POSITION_CHANNELS[config.position]))
    mirrored, _ = EmbeddingNet(config).apply(model.variables, images[:, :, ::-1], places)  # pyright: ignore
    both = (embedding + mirrored[:, :, ::-1]) / 2
    return unit_length(both) if config.unit else both


def at_stride(model: Model, stride: int | None) -> Model:
    """The same weights on a finer grid (None: their own): the strides left out dilate what lies behind them instead."""
    config = model.config
    if stride in (None, config.stride):
        return model
    if stride > config.stride:
        raise InputError(f"stride {stride}: expected at most {config.stride}, at which {config.name} was trained")
    return dataclasses.replace(
        model,
        config=dataclasses.replace(config, stride=stride, trained_stride=config.trained_stride or config.stride),
    )


def with_dtype(model: Model, dtype: str) -> Model:
    """The same model, computing in `dtype`; InputError for float64 where JAX has none."""
    if dtype == "float64" and not jax.config.jax_enable_x64:  # pyright: ignore
        raise InputError("dtype float64: found JAX without jax_enable_x64; expected it set, or float32 or bfloat16")
    return dataclasses.replace(model, config=dataclasses.replace(model.config, dtype=dtype))

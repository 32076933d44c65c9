"""The convolutions of a network, with the same results as XLA's own, in forms that are fast on a CPU.

| kernel | forward, to the input | to the kernel |
|---|---|---|
| 3×3 of stride 1, from 32 channels to 32 or more | Winograd's F(2×2, 3×3) | the same in reverse |
| 1×1 | one matrix product | one matrix product |
| all else (the 7×7 of the stem, 3×3 of stride 2), other platforms, 16 bits | XLA | XLA |

Winograd: 4 outputs of a 3×3 convolution take 16 products instead of 36. Each tile of 4×4 inputs `d` and the kernel `k`
are transformed, multiplied place by place (a matrix product over the channels for each of the 16 places), and the
product is transformed back to 2×2 outputs: Aᵀ[(G k Gᵀ) ⊙ (Bᵀ d B)]A. Tiles overlap by half. A dilated tile takes every
dilation-th pixel, so that 2·dilation pixels in a row belong to `dilation` tiles, one beside the other.

Axes: `b` batch, `h w` image, `y x` grid, `i` channels in, `o` channels out; of tiles `t` down, `u` across, with their
phases of a dilation `p`, `q`. Layout NHWC, kernels HWIO.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

# Of either side. With 32 to 32 channels on 48×48 the forward took 2.7 ms instead of XLA's 5.2, with 256 on 24×24 23
# instead of 46 (batches of 12, two threads); below, the transforms cost more than the products saved.
WINOGRAD_CHANNELS = 32

# What a barrier keeps apart, XLA would fuse and so compute several times: without them a 3×3 takes 1.3 times as long.
_apart = lax.optimization_barrier


class Shape(NamedTuple):
    """What a convolution is, apart from its numbers; `padding` on every side."""

    stride: int
    padding: int
    dilation: int


def conv(
    x: Float[Array, "b h w i"],
    kernel: Float[Array, "k k i o"],
    *,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
) -> Float[Array, "b y x o"]:
    """The convolution of `lax.conv_general_dilated`, zeros around. Differentiable once, in reverse."""
    shape = Shape(stride, padding, dilation)
    size, channels = kernel.shape[0], kernel.shape[2:]
    if x.dtype not in (jnp.float32, jnp.float64) or kernel.dtype != x.dtype:
        return _plain(x, kernel, shape)
    if size == 1 and padding == 0:
        return _chosen(_PRODUCT, shape, x, kernel)
    if size == 3 and stride == 1 and padding == dilation and min(channels) >= WINOGRAD_CHANNELS:
        return _chosen(_WINOGRAD, shape, x, kernel)
    return _plain(x, kernel, shape)


class Conv(nn.Module):
    """`nn.Conv` of `conv`: two axes, square in everything, no groups. The same variables, from the same keys."""

    features: int
    kernel_size: tuple[int, int]
    strides: int = 1
    padding: int = 0
    kernel_dilation: int = 1
    use_bias: bool = True
    dtype: Any = jnp.float32
    kernel_init: Callable[..., Any] = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, x: Float[Array, "b h w i"]) -> Float[Array, "b y x o"]:
        kernel = self.param("kernel", self.kernel_init, (*self.kernel_size, x.shape[-1], self.features))
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        x = conv(x, kernel, stride=self.strides, padding=self.padding, dilation=self.kernel_dilation)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros_init(), (self.features,))
            x = x + bias.astype(self.dtype).reshape(1, 1, 1, -1)
        return x


class _Form(NamedTuple):
    """A way to compute a convolution: the output, and the gradients to the input and to the kernel."""

    forward: Callable[..., jax.Array]
    to_input: Callable[..., jax.Array]
    to_kernel: Callable[..., jax.Array]


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _chosen(form: _Form, shape: Shape, x: jax.Array, kernel: jax.Array) -> jax.Array:
    return lax.platform_dependent(
        x, kernel, cpu=partial(form.forward, shape=shape), default=partial(_plain, shape=shape)
    )


def _chosen_forward(form: _Form, shape: Shape, x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, Any]:
    return _chosen(form, shape, x, kernel), (x, kernel)


def _chosen_backward(form: _Form, shape: Shape, saved: Any, g: jax.Array) -> tuple[jax.Array, jax.Array]:
    # Two choices rather than one, so that the gradient to a picture, which nobody takes, is not computed.
    def plain(x: jax.Array, kernel: jax.Array, g: jax.Array, which: int) -> jax.Array:
        return jax.vjp(partial(_plain, shape=shape), x, kernel)[1](g)[which]

    return (
        lax.platform_dependent(*saved, g, cpu=partial(form.to_input, shape=shape), default=partial(plain, which=0)),
        lax.platform_dependent(*saved, g, cpu=partial(form.to_kernel, shape=shape), default=partial(plain, which=1)),
    )


_chosen.defvjp(_chosen_forward, _chosen_backward)


def _plain(x: jax.Array, kernel: jax.Array, shape: Shape) -> jax.Array:
    return lax.conv_general_dilated(
        x,
        kernel,
        (shape.stride, shape.stride),
        [(shape.padding, shape.padding)] * 2,
        rhs_dilation=(shape.dilation, shape.dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def max_pool(x: Float[Array, "b h w c"], ceil: bool) -> Float[Array, "b y x c"]:
    """3×3 max-pool of stride 2 with padding 1, rounding the size up (`ceil`) or down as PyTorch does.

    The gradient goes to the first maximum of a window, row by row.
    """
    return _plain_max_pool(x, ceil)


def _plain_max_pool(x: jax.Array, ceil: bool) -> jax.Array:
    padding = [(1, 2 if ceil and n % 2 == 0 else 1) for n in x.shape[1:3]]
    return nn.max_pool(x, (3, 3), (2, 2), padding)  # pyright: ignore


def _max_pool_forward(x: jax.Array, ceil: bool) -> tuple[jax.Array, Any]:
    y = _plain_max_pool(x, ceil)
    return y, (x, y)


def _max_pool_backward(ceil: bool, saved: Any, g: jax.Array) -> tuple[jax.Array]:
    def plain(x: jax.Array, y: jax.Array, g: jax.Array) -> jax.Array:
        return jax.vjp(lambda x: _plain_max_pool(x, ceil), x)[1](g)[0]

    return (lax.platform_dependent(*saved, g, cpu=_max_pool_to_input, default=plain),)


def _max_pool_to_input(x: jax.Array, y: jax.Array, g: jax.Array) -> jax.Array:
    """Every window names its place; then every pixel asks the windows it lies in. XLA's select-and-scatter took 75 ms
    where this takes 5 (12 × 96 × 96 × 32)."""
    (b, h, w, c), (t, u) = x.shape, y.shape[1:3]
    # Padding with NaN, which equals nothing: a window of −∞ must not choose it.
    x = jnp.pad(x, ((0, 0), (1, 2 * t + 1 - h), (1, 2 * u + 1 - w), (0, 0)), constant_values=jnp.nan)
    x = _apart(x).reshape(b, t + 1, 2, u + 1, 2, c)
    place = jnp.full(y.shape, 9, jnp.uint8)
    for a, e in reversed([(a, e) for a in range(3) for e in range(3)]):
        seen = x[:, a // 2 : t + a // 2, a % 2, e // 2 : u + e // 2, e % 2]
        place = jnp.where(seen == y, jnp.uint8(3 * a + e), place)
    rim = ((0, 0), (1, 1), (1, 1), (0, 0))
    place, g = _apart((jnp.pad(place, rim, constant_values=9), jnp.pad(g, rim)))

    def given(rows: tuple[int, ...], columns: tuple[int, ...]) -> jax.Array:
        dx = jnp.zeros((b, t + 1, u + 1, c), g.dtype)
        for a in rows:
            for e in columns:
                at = (slice(None), slice(1 - a // 2, t + 2 - a // 2), slice(1 - e // 2, u + 2 - e // 2))
                dx += jnp.where(place[at] == 3 * a + e, g[at], 0)
        return dx

    even, odd = (0, 2), (1,)
    dx = _apart([[given(rows, columns) for columns in (even, odd)] for rows in (even, odd)])
    dx = jnp.stack([jnp.stack(row, 3) for row in dx], 2)
    return dx.reshape(b, 2 * t + 2, 2 * u + 2, c)[:, 1 : h + 1, 1 : w + 1]


max_pool.defvjp(_max_pool_forward, _max_pool_backward)


# 1×1: a matrix product


def _product(x: jax.Array, kernel: jax.Array, shape: Shape) -> jax.Array:
    return _thin(x, shape.stride) @ kernel[0, 0]


def _product_to_input(x: jax.Array, kernel: jax.Array, g: jax.Array, shape: Shape) -> jax.Array:
    dx = lax.dot_general(g, kernel[0, 0], (((3,), (1,)), ((), ())))
    s = shape.stride
    rest = [(0, n - ((m - 1) * s + 1), s - 1) for n, m in zip(x.shape[1:3], g.shape[1:3], strict=True)]
    return lax.pad(dx, jnp.zeros((), dx.dtype), [(0, 0, 0), *rest, (0, 0, 0)])


def _product_to_kernel(x: jax.Array, kernel: jax.Array, g: jax.Array, shape: Shape) -> jax.Array:
    x = _thin(x, shape.stride)
    x, g = (z.reshape(-1, z.shape[-1]) for z in (x, g))
    # A product along the rows of both is slow (43 ms; 1,024 to 256 channels, 5,043 rows) unless the smaller is turned
    # first (25 ms, of which 1 for the turning), which XLA would undo if it saw it.
    if x.shape[1] <= g.shape[1]:
        return (_apart(x.T) @ g)[None, None]
    return _apart(_apart(g.T) @ x).T[None, None]


def _thin(x: jax.Array, stride: int) -> jax.Array:
    return x[:, ::stride, ::stride] if stride > 1 else x


def _outer(x: jax.Array, g: jax.Array) -> jax.Array:
    """Σ x gᵀ over all places: `[i, o]`."""
    x, g = (z.reshape(-1, z.shape[-1]) for z in (x, g))
    return lax.dot_general(x, g, (((0,), (0,)), ((), ())))


# 3×3: Winograd. B, G and A as functions of lists, one axis at a time; the numbers are 0, ±1 and ½.


def _b(z: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
    return z[0] - z[2], z[1] + z[2], z[2] - z[1], z[1] - z[3]


def _g(k: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
    even, odd = (k[0] + k[2]) * 0.5, k[1] * 0.5
    return k[0], even + odd, even - odd, k[2]


def _g_reverse(u: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
    even, odd = (u[1] + u[2]) * 0.5, (u[1] - u[2]) * 0.5
    return u[0] + even, odd, even + u[3]


def _a(m: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
    return m[0] + m[1] + m[2], m[1] - m[2] - m[3]


def _a_reverse(y: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
    return y[0], y[0] + y[1], y[0] - y[1], -y[1]


def _both(f: Callable[..., tuple[jax.Array, ...]], z: list[tuple[jax.Array, ...]]) -> list[tuple[jax.Array, ...]]:
    """`f` along the columns of a matrix of arrays, then along its rows."""
    down = _apart(list(zip(*(f(column) for column in zip(*z, strict=True)), strict=True)))
    return [f(row) for row in down]


def _winograd(x: jax.Array, kernel: jax.Array, shape: Shape) -> jax.Array:
    (h, w), d = x.shape[1:3], shape.dilation
    tiles = _input_tiles(x, d)
    kernels = _apart(_both(_g, [tuple(kernel[a, b] for b in range(3)) for a in range(3)]))
    y = _apart(_both(_a, [tuple(t @ k for t, k in zip(*row, strict=True)) for row in zip(tiles, kernels, strict=True)]))
    y = jnp.stack([jnp.stack(row, 4) for row in y], 2)  # [b, t, 2, p, u, 2, q, o]
    b, t, _, _, u, _, _, o = y.shape
    return y.reshape(b, 2 * d * t, 2 * d * u, o)[:, :h, :w]


def _winograd_to_input(x: jax.Array, kernel: jax.Array, g: jax.Array, shape: Shape) -> jax.Array:
    return _winograd(g, kernel[::-1, ::-1].swapaxes(2, 3), shape)


def _winograd_to_kernel(x: jax.Array, kernel: jax.Array, g: jax.Array, shape: Shape) -> jax.Array:
    pairs = zip(_input_tiles(x, shape.dilation), _output_tiles(g, shape.dilation), strict=True)
    found = _apart([tuple(_outer(a, b) for a, b in zip(*row, strict=True)) for row in pairs])
    return jnp.stack([jnp.stack(row) for row in _both(_g_reverse, found)])


def _input_tiles(x: jax.Array, d: int) -> list[tuple[jax.Array, ...]]:
    """Bᵀ d B of every tile: 4×4 arrays `[b, t, p, u, q, i]`."""
    b, h, w, c = x.shape
    t, u = -(-h // (2 * d)), -(-w // (2 * d))
    x = _apart(jnp.pad(x, ((0, 0), (d, 2 * d * t + d - h), (d, 2 * d * u + d - w), (0, 0))))
    x = x.reshape(b, t + 1, 2, d, u + 1, 2, d, c)
    rows = _apart(_b((x[:, :-1, 0], x[:, :-1, 1], x[:, 1:, 0], x[:, 1:, 1])))
    return [_b((r[:, :, :, :-1, 0], r[:, :, :, :-1, 1], r[:, :, :, 1:, 0], r[:, :, :, 1:, 1])) for r in rows]


def _output_tiles(g: jax.Array, d: int) -> list[tuple[jax.Array, ...]]:
    """A g Aᵀ of every tile: 4×4 arrays `[b, t, p, u, q, o]`."""
    b, h, w, c = g.shape
    t, u = -(-h // (2 * d)), -(-w // (2 * d))
    g = jnp.pad(g, ((0, 0), (0, 2 * d * t - h), (0, 2 * d * u - w), (0, 0))).reshape(b, t, 2, d, u, 2, d, c)
    return _both(_a_reverse, [tuple(g[:, :, i, :, :, j] for j in range(2)) for i in range(2)])


_PRODUCT = _Form(_product, _product_to_input, _product_to_kernel)
_WINOGRAD = _Form(_winograd, _winograd_to_input, _winograd_to_kernel)

"""The convolutions of a network, with the same results as XLA's own, in forms that are fast on a CPU.

A 1×1 kernel is one matrix product, forward and in both gradients; 3×3 kernels of many channels are Winograd's algorithm
(`winograd`); max-pool's gradient asks each pixel for its windows instead of scattering. On other platforms the gradient to a
dilated kernel is one without dilation over more and smaller pictures. All else is XLA's own.

Axes: `b` batch, `h w` image, `y x` grid, `i` channels in, `o` channels out; of pooling `t` windows down, `u` across.
Layout NHWC, kernels HWIO.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from pmljax import winograd
from pmljax.fusion import apart, once


def conv(
    x: Float[Array, "b h w i"],
    kernel: Float[Array, "k k i o"],
    *,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
) -> Float[Array, "b y x o"]:
    """The convolution of `lax.conv_general_dilated`, zeros around. Differentiable once, in reverse."""
    if x.dtype == kernel.dtype and x.dtype in (jnp.float32, jnp.float64):
        if kernel.shape[0] == 1 and padding == 0:
            return _product(stride, x, kernel)
        same = kernel.shape[0] == 3 and stride == 1 and padding == dilation
        # Where the grid is much smaller than a whole number of tiles, nothing is gained.
        if same and min(kernel.shape[2:]) >= WIDE and winograd.share(x.shape[1:3], dilation) < 0.6:
            return _wide(dilation, x, kernel)
        if x.shape[3] < FEW and ROUND // 2 <= kernel.shape[3] < ROUND:
            return _padded((stride, padding, dilation), x, kernel)
    if kernel.shape[0] == 3 and stride == 1 and padding == dilation > 1:
        return _dilated(dilation, x, kernel)
    return _plain(x, kernel, stride, padding, dilation)


def _plain(x: jax.Array, kernel: jax.Array, stride: int, padding: int = 0, dilation: int = 1) -> jax.Array:
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        [(padding, padding)] * 2,
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


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
        kernel = self.param("kernel", self.kernel_init, (*self.kernel_size, x.shape[-1], self.features), jnp.float32)
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        x = conv(x, kernel, stride=self.strides, padding=self.padding, dilation=self.kernel_dilation)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros_init(), (self.features,), jnp.float32)
            x = x + bias.astype(self.dtype).reshape(1, 1, 1, -1)
        return x


# 1×1: a matrix product. XLA's convolution reaches 13–45 GFLOP/s in the gradient to such a kernel, a product 150.


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _product(stride: int, x: jax.Array, kernel: jax.Array) -> jax.Array:
    def product(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return _thin(x, stride) @ kernel[0, 0]

    return lax.platform_dependent(x, kernel, cpu=product, default=partial(_plain, stride=stride))


def _product_forward(stride: int, x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, Any]:
    x = once(x)  # for this product and, turned, for the gradient's; not its norm and ReLU again, column by column
    return _product(stride, x, kernel), (x, kernel)


def _product_backward(stride: int, saved: Any, g: jax.Array) -> tuple[jax.Array, jax.Array]:
    def plain(x: jax.Array, kernel: jax.Array, g: jax.Array, which: int) -> jax.Array:
        return jax.vjp(partial(_plain, stride=stride), x, kernel)[1](g)[which]

    g = once(g)
    # Two choices rather than one, so that a gradient that nobody takes is not computed.
    to_x, to_kernel = partial(_product_to_input, stride=stride), partial(_product_to_kernel, stride=stride)
    return (
        lax.platform_dependent(*saved, g, cpu=to_x, default=partial(plain, which=0)),
        lax.platform_dependent(*saved, g, cpu=to_kernel, default=partial(plain, which=1)),
    )


_product.defvjp(_product_forward, _product_backward)


def _product_to_input(x: jax.Array, kernel: jax.Array, g: jax.Array, stride: int) -> jax.Array:
    dx = lax.dot_general(g, kernel[0, 0], (((3,), (1,)), ((), ())))
    rest = [(0, n - ((m - 1) * stride + 1), stride - 1) for n, m in zip(x.shape[1:3], g.shape[1:3], strict=True)]
    return lax.pad(dx, jnp.zeros((), dx.dtype), [(0, 0, 0), *rest, (0, 0, 0)])


def _product_to_kernel(x: jax.Array, kernel: jax.Array, g: jax.Array, stride: int) -> jax.Array:
    x, g = (z.reshape(-1, z.shape[-1]) for z in (_thin(x, stride), g))
    # A product along the rows of both is slow (43 ms; 1,024 to 256 channels, 5,043 rows) unless the smaller is turned
    # first (25 ms, of which 1 for the turning), which XLA would undo if it saw it.
    if x.shape[1] <= g.shape[1]:
        return (apart(x.T) @ g)[None, None]
    return apart(apart(g.T) @ x).T[None, None]


def _thin(x: jax.Array, stride: int) -> jax.Array:
    return x[:, ::stride, ::stride] if stride > 1 else x


# 3×3 with many channels: Winograd's algorithm, forward and in both gradients. Against XLA's convolutions (the gradient to the
# kernel as nine products, which is faster than its own) half the time: 3 × 41 × 41 with 512 channels 391 ms and 187.
WIDE = 128


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _wide(dilation: int, x: jax.Array, kernel: jax.Array) -> jax.Array:
    fast = partial(winograd.convolve, dilation=dilation)
    return lax.platform_dependent(x, kernel, cpu=fast, default=partial(_plain, **_same(dilation)))


def _wide_forward(dilation: int, x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, Any]:
    x = once(x)
    return _wide(dilation, x, kernel), (x, kernel)


def _wide_backward(dilation: int, saved: Any, g: jax.Array) -> tuple[jax.Array, jax.Array]:
    def to_x(x: jax.Array, kernel: jax.Array, g: jax.Array) -> jax.Array:
        return winograd.to_input(g, kernel, dilation)

    def to_kernel(x: jax.Array, kernel: jax.Array, g: jax.Array) -> jax.Array:
        return winograd.to_kernel(x, g, dilation)

    g = once(g)
    return (
        lax.platform_dependent(*saved, g, cpu=to_x, default=partial(_plain_gradient, dilation, 0)),
        lax.platform_dependent(*saved, g, cpu=to_kernel, default=partial(to_kernel_by_phases, dilation)),
    )


_wide.defvjp(_wide_forward, _wide_backward)


def _same(dilation: int) -> dict[str, int]:
    """Options of a 3×3 convolution that keeps the size."""
    return {"stride": 1, "padding": dilation, "dilation": dilation}


def _plain_gradient(dilation: int, which: int, x: jax.Array, kernel: jax.Array, g: jax.Array) -> jax.Array:
    return jax.vjp(partial(_plain, **_same(dilation)), x, kernel)[1](g)[which]


# 3×3 and dilated, not on a CPU: XLA writes the gradient to the kernel as a convolution by a window as large as the grid, for
# which cuDNN has nothing fast (H200, bfloat16: 24 × 49 × 49 with 256 channels 1.1 ms, with 128 .65; undilated .03). A dilation
# d is a convolution without one over d·d pictures, each of every d-th row and column.


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _dilated(dilation: int, x: jax.Array, kernel: jax.Array) -> jax.Array:
    return _plain(x, kernel, **_same(dilation))


def _dilated_forward(dilation: int, x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, Any]:
    return _dilated(dilation, x, kernel), (x, kernel)


def _dilated_backward(dilation: int, saved: Any, g: jax.Array) -> tuple[jax.Array, jax.Array]:
    (x, kernel), by_phases = saved, partial(to_kernel_by_phases, dilation)
    return (
        _plain_gradient(dilation, 0, x, kernel, g),
        lax.platform_dependent(*saved, g, cpu=partial(_plain_gradient, dilation, 1), default=by_phases),
    )


_dilated.defvjp(_dilated_forward, _dilated_backward)


def to_kernel_by_phases(
    dilation: int, x: Float[Array, "b h w i"], kernel: Float[Array, "3 3 i o"], g: Float[Array, "b h w o"]
) -> Float[Array, "3 3 i o"]:
    """The gradient to the kernel of a 3×3 convolution that keeps the size, `g` that to its result."""

    def phases(x: jax.Array) -> jax.Array:
        (b, h, w, c), d = x.shape, dilation
        p, q = -(-h // d), -(-w // d)
        x = jnp.pad(x, ((0, 0), (0, p * d - h), (0, q * d - w), (0, 0)))
        return x.reshape(b, p, d, q, d, c).transpose(0, 2, 4, 1, 3, 5).reshape(b * d * d, p, q, c)

    return _plain_gradient(1, 1, phases(x), kernel, phases(g))


# Few channels in and 32 to 63 out, the stem of `small`: XLA's convolution to 32 channels takes twice the time of one to 64.
FEW, ROUND = 8, 64


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _padded(options: tuple[int, int, int], x: jax.Array, kernel: jax.Array) -> jax.Array:
    def padded(x: jax.Array, kernel: jax.Array) -> jax.Array:
        o = kernel.shape[3]
        return _plain(x, jnp.pad(kernel, ((0, 0), (0, 0), (0, 0), (0, ROUND - o))), *options)[..., :o]

    return lax.platform_dependent(x, kernel, cpu=padded, default=lambda x, kernel: _plain(x, kernel, *options))


def _padded_forward(options: tuple[int, int, int], x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, Any]:
    return _padded(options, x, kernel), (x, kernel)


def _padded_backward(options: tuple[int, int, int], saved: Any, g: jax.Array) -> tuple[jax.Array, jax.Array]:
    # As it is: the gradients to more channels would take as much longer.
    return jax.vjp(lambda x, kernel: _plain(x, kernel, *options), *saved)[1](g)


_padded.defvjp(_padded_forward, _padded_backward)


# Max-pool


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
    x = apart(x).reshape(b, t + 1, 2, u + 1, 2, c)
    place = jnp.full(y.shape, 9, jnp.uint8)
    for a, e in reversed([(a, e) for a in range(3) for e in range(3)]):
        seen = x[:, a // 2 : t + a // 2, a % 2, e // 2 : u + e // 2, e % 2]
        place = jnp.where(seen == y, jnp.uint8(3 * a + e), place)
    rim = ((0, 0), (1, 1), (1, 1), (0, 0))
    place, g = apart((jnp.pad(place, rim, constant_values=9), jnp.pad(g, rim)))

    def given(rows: tuple[int, ...], columns: tuple[int, ...]) -> jax.Array:
        dx = jnp.zeros((b, t + 1, u + 1, c), g.dtype)
        for a in rows:
            for e in columns:
                at = (slice(None), slice(1 - a // 2, t + 2 - a // 2), slice(1 - e // 2, u + 2 - e // 2))
                dx += jnp.where(place[at] == 3 * a + e, g[at], 0)
        return dx

    even, odd = (0, 2), (1,)
    dx = apart([[given(rows, columns) for columns in (even, odd)] for rows in (even, odd)])
    dx = jnp.stack([jnp.stack(row, 3) for row in dx], 2)
    return dx.reshape(b, 2 * t + 2, 2 * u + 2, c)[:, 1 : h + 1, 1 : w + 1]


max_pool.defvjp(_max_pool_forward, _max_pool_backward)

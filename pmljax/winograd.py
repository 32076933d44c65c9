"""3×3 convolutions with a quarter of the multiplications: Winograd's F(4×4, 3×3), as matrix products.

Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (CVPR 2016), equation 8: of a 6×6 tile x and a kernel k,
the 4×4 outputs are Aᵀ[(G k Gᵀ) ⊙ (Bᵀ x B)]A, summed over the channels. Here each of the 36 places of a tile is one product
over the channels of all tiles, and the transforms are products with small matrices: few and simple calls, which a CPU does
near its best and XLA compiles in a fifth of a second.

A dilation d splits rows and columns into d phases, which a reshape to `[…, blocks, d, …]` gives without moving anything.

Axes: `b` batch, `y x` grid, `i` channels in, `o` channels out; `v u` the place in a tile along y and x; `t` tiles of all
images and phases. Grids keep their size: zeros around, as many as the dilation.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from pmljax.fusion import once

OUT, TILE = 4, 6  # outputs of a tile along an axis, and inputs: OUT + 3 − 1
# Where the tile's polynomials are evaluated (and at ∞). Of ±a, ±1/a these err least: half as much as 0, ±1, ±2 (the root
# mean square error in float32 is .8e-6 of the outputs', where a sum over all places has .15e-6).
POINTS = (0, 2 / 3, -2 / 3, 3 / 2, -3 / 2)


def matrices() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Aᵀ `[OUT, TILE]`, G `[TILE, 3]`, Bᵀ `[TILE, TILE]` of Toom and Cook's algorithm for POINTS and ∞, in float64."""
    a, g, b = np.zeros((OUT, TILE)), np.zeros((TILE, 3)), np.zeros((TILE, TILE))
    for n, p in enumerate(POINTS):
        others = [q for q in POINTS if q != p]
        a[:, n] = np.power(p, np.arange(OUT))
        g[n] = np.power(p, np.arange(3)) / np.prod([p - q for q in others])
        b[n, : TILE - 1] = np.poly(others)[::-1]
    a[-1, -1] = g[-1, -1] = 1
    b[-1] = np.poly(POINTS)[::-1]
    return a, g, b


_A, _G, _B = matrices()
# Of both axes at once, places in order (v, u).
_AA, _GG = np.kron(_A, _A), np.kron(_G, _G)


def share(size: tuple[int, ...], dilation: int) -> float:
    """Multiplications of a grid of this size `(y, x)` as a share of those of a sum over the nine places."""
    p, q = _blocks(size, dilation)
    return p * q * (TILE * dilation) ** 2 / (9 * size[0] * size[1])


def convolve(
    x: Float[Array, "b y x i"],
    kernel: Float[Array, "3 3 i o"],
    dilation: int,
) -> Float[Array, "b y x o"]:
    """The convolution of equal size."""
    summed = lax.dot_general(_tiles(x, dilation), _kernels(kernel), (((2,), (1,)), ((0,), (0,))))
    (b, h, w, _), o, (p, q), d = x.shape, kernel.shape[3], _blocks(x.shape[1:3], dilation), dilation
    y = _transform(_AA, summed).reshape(OUT, OUT, b, p, d, q, d, o)
    return y.transpose(2, 3, 0, 4, 5, 1, 6, 7).reshape(b, p * OUT * d, q * OUT * d, o)[:, :h, :w]


def to_input(
    g: Float[Array, "b y x o"],
    kernel: Float[Array, "3 3 i o"],
    dilation: int,
) -> Float[Array, "b y x i"]:
    """The gradient to the input: the convolution with the kernel turned round."""
    return convolve(g, kernel[::-1, ::-1].swapaxes(2, 3), dilation)


def to_kernel(x: Float[Array, "b y x i"], g: Float[Array, "b y x o"], dilation: int) -> Float[Array, "3 3 i o"]:
    """The gradient to the kernel: every transform's own transpose, from the outputs back."""
    (b, h, w, o), (p, q), d = g.shape, _blocks(g.shape[1:3], dilation), dilation
    g = jnp.pad(g, ((0, 0), (0, p * OUT * d - h), (0, q * OUT * d - w), (0, 0)))
    g = once(g.reshape(b, p, OUT, d, q, OUT, d, o).transpose(2, 5, 0, 1, 3, 4, 6, 7))
    outputs = _transform(_AA.T, g.reshape(OUT * OUT, -1, o))
    places = lax.dot_general(_tiles(x, dilation), outputs, (((1,), (1,)), ((0,), (0,))))
    return _transform(_GG.T, places).reshape(3, 3, x.shape[3], o)


def _blocks(size: tuple[int, ...], dilation: int) -> tuple[int, int]:
    """Rows and columns of tiles."""
    return -(-size[0] // (OUT * dilation)), -(-size[1] // (OUT * dilation))


def _transform(matrix: np.ndarray, x: jax.Array) -> jax.Array:
    """`matrix` applied along the first axis."""
    return (jnp.asarray(matrix, x.dtype) @ x.reshape(len(x), -1)).reshape(-1, *x.shape[1:])


def _kernels(kernel: jax.Array) -> jax.Array:
    """G k Gᵀ: `[v u, i, o]`."""
    return _transform(_GG, kernel.reshape(9, *kernel.shape[2:]))


def _tiles(x: jax.Array, dilation: int) -> jax.Array:
    """Bᵀ x B: `[v u, t, i]`."""
    (b, h, w, i), (p, q), d = x.shape, _blocks(x.shape[1:3], dilation), dilation
    x = jnp.pad(x, ((0, 0), (d, (p * OUT + 1) * d - h), (d, (q * OUT + 1) * d - w), (0, 0)))
    x = x.reshape(b, p * OUT + 2, d, q * OUT + 2, d, i)

    def along(x: jax.Array, axis: int, blocks: int) -> jax.Array:
        """The n-th entry of every tile along `axis` for each n, first, then transformed."""
        each = [lax.slice_in_dim(x, n, n + OUT * (blocks - 1) + 1, OUT, axis) for n in range(TILE)]
        return _transform(_B, once(jnp.stack(each)))

    # Columns first, so that rows come out before them.
    return along(along(x, 3, q), 2, p).reshape(TILE * TILE, -1, i)

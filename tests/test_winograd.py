"""Winograd's algorithm against the sum over the nine places, in float64, where only the algebra can differ; its price."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pmljax import winograd


def places(x, kernel, dilation):
    """The convolution of equal size: every place of the kernel moves the whole grid."""
    h, w = x.shape[1:3]
    x = jnp.pad(x, ((0, 0), (dilation, dilation), (dilation, dilation), (0, 0)))
    moved = [
        x[:, v * dilation : v * dilation + h, u * dilation : u * dilation + w] @ kernel[v, u]
        for v in range(3)
        for u in range(3)
    ]
    return sum(moved)


@partial(jax.jit, static_argnums=3)
def both(x, kernel, g, dilation):
    """(convolution, gradient to the input, gradient to the kernel): Winograd's, then the oracle's."""
    expected, back = jax.vjp(lambda x, kernel: places(x, kernel, dilation), x, kernel)
    got = (
        winograd.convolve(x, kernel, dilation),
        winograd.to_input(g, kernel, dilation),
        winograd.to_kernel(x, g, dilation),
    )
    return got, (expected, *back(g))


@pytest.mark.parametrize("dilation", [1, 2, 4])
@pytest.mark.parametrize(
    "size", [(1, 1), (5, 3), (13, 18), *(pytest.param(size, marks=pytest.mark.slow) for size in ((4, 8), (3, 33)))]
)
def test_the_convolution_and_its_gradients(size, dilation, rng):
    with jax.enable_x64(True):
        x, kernel, g = (jnp.asarray(rng.normal(size=s)) for s in ((2, *size, 3), (3, 3, 3, 5), (2, *size, 5)))
        for a, b in zip(*both(x, kernel, g, dilation), strict=True):
            assert a.dtype == jnp.float64 and a.shape == b.shape and np.allclose(a, b, atol=1e-11)


def test_every_place_of_a_tile_has_its_own_say():
    """A kernel that takes one neighbour moves the picture by one, whichever neighbour it is."""
    picture = jnp.float32(np.arange(1, 41).reshape(1, 5, 8, 1))
    for v, u in np.ndindex(3, 3):
        kernel = jnp.zeros((3, 3, 1, 1)).at[v, u].set(1)
        moved = jnp.pad(picture[0, :, :, 0], 1)[v : v + 5, u : u + 8]
        assert np.allclose(winograd.convolve(picture, kernel, 1)[0, :, :, 0], moved, atol=2e-4)


def test_rounding_in_single_precision(rng):
    """A few units in the last place of the largest output."""
    x, kernel = np.maximum(rng.normal(size=(1, 61, 107, 64)), 0), rng.normal(size=(3, 3, 64, 8)) / 24
    got = winograd.convolve(jnp.float32(x), jnp.float32(kernel), 4)
    with jax.enable_x64(True):
        expected = places(jnp.asarray(x), jnp.asarray(kernel), 4)
    assert np.abs(got - np.float32(expected)).max() < 2e-5
    assert np.sqrt(np.mean((got - np.float32(expected)) ** 2)) < 2e-6


def test_its_share_of_the_multiplications():
    assert winograd.share((8, 12), 1) == winograd.share((8, 8), 2) == 0.25
    assert winograd.share((1, 1), 1) == 4
    assert 0.25 < winograd.share((61, 107), 4) < 0.28

"""Winograd's algorithm against the sum over the nine places, in float64, where only the algebra can differ; its price."""

from functools import partial

import jax
import numpy as np
import pytest

from pmljax import winograd


def padded(x, dilation):
    return np.pad(x, ((0, 0), (dilation, dilation), (dilation, dilation), (0, 0)))


def moved(padded, dilation):
    """(place of the kernel, what of the padded grid it multiplies) nine times: every place moves the whole grid."""
    h, w = (n - 2 * dilation for n in padded.shape[1:3])
    for v, u in np.ndindex(3, 3):
        yield (v, u), padded[:, v * dilation : v * dilation + h, u * dilation : u * dilation + w]


def convolution(x, kernel, dilation):
    """Of equal size."""
    return sum(part @ kernel[place] for place, part in moved(padded(x, dilation), dilation))


def by_places(x, kernel, g, dilation):
    """(convolution, gradient to the input, gradient to the kernel), place by place."""
    x, to_kernel = padded(x, dilation), np.zeros_like(kernel)
    y, to_x = np.zeros_like(g), np.zeros_like(x)
    for (place, part), (_, to_part) in zip(moved(x, dilation), moved(to_x, dilation), strict=True):
        y += part @ kernel[place]
        to_part += g @ kernel[place].T
        to_kernel[place] = np.einsum("byxi,byxo->io", part, g)
    return y, to_x[:, dilation:-dilation, dilation:-dilation], to_kernel


convolve = jax.jit(winograd.convolve, static_argnums=2)


@partial(jax.jit, static_argnums=3)
def all_three(x, kernel, g, dilation):
    """The same three by Winograd's algorithm."""
    return (
        winograd.convolve(x, kernel, dilation),
        winograd.to_input(g, kernel, dilation),
        winograd.to_kernel(x, g, dilation),
    )


@pytest.mark.parametrize("dilation", [1, 2, 4])
@pytest.mark.parametrize(
    "size", [(1, 1), (5, 3), (13, 18), *(pytest.param(size, marks=pytest.mark.slow) for size in ((4, 8), (3, 33)))]
)
def test_the_convolution_and_its_gradients(size, dilation, rng):
    with jax.enable_x64(True):
        x, kernel, g = (rng.normal(size=s) for s in ((2, *size, 3), (3, 3, 3, 5), (2, *size, 5)))
        for a, b in zip(all_three(x, kernel, g, dilation), by_places(x, kernel, g, dilation), strict=True):
            assert a.dtype == np.float64 and a.shape == b.shape and np.allclose(a, b, atol=1e-11)


def test_every_place_of_a_tile_has_its_own_say():
    """A kernel that takes one neighbour moves the picture by one, whichever neighbour it is."""
    picture = np.float32(np.arange(1, 41).reshape(1, 5, 8, 1))
    for v, u in np.ndindex(3, 3):
        kernel = np.zeros((3, 3, 1, 1), np.float32)
        kernel[v, u] = 1
        shifted = np.pad(picture[0, :, :, 0], 1)[v : v + 5, u : u + 8]
        assert np.allclose(np.asarray(convolve(picture, kernel, 1))[0, :, :, 0], shifted, atol=2e-4)


def test_rounding_in_single_precision(rng):
    """A few units in the last place of the largest output."""
    x, kernel = np.maximum(rng.normal(size=(1, 61, 107, 64)), 0), rng.normal(size=(3, 3, 64, 8)) / 24
    got = np.asarray(convolve(np.float32(x), np.float32(kernel), 4))
    expected = convolution(x, kernel, 4)
    assert np.abs(got - np.float32(expected)).max() < 2e-5
    assert np.sqrt(np.mean((got - np.float32(expected)) ** 2)) < 2e-6


def test_its_share_of_the_multiplications():
    assert winograd.share((8, 12), 1) == winograd.share((8, 8), 2) == 0.25
    assert winograd.share((1, 1), 1) == 4
    assert 0.25 < winograd.share((61, 107), 4) < 0.28

"""Group normalisation against flax's: variables, values and gradients; against the formula in float64."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from pmljax.norm import EPSILON, GroupNorm


def test_the_same_variables_numbers_and_gradients_as_flax(rng):
    x = np.float32(rng.normal(size=(2, 5, 7, 24)) + 1)
    ours, theirs = GroupNorm(8), nn.GroupNorm(8, epsilon=EPSILON)
    first, second = jax.jit(lambda key, x: [norm.init(key, x) for norm in (ours, theirs)])(jax.random.key(0), x)
    assert jax.tree.all(jax.tree.map(np.array_equal, first, second))
    variables = {"params": {"scale": np.float32(rng.normal(size=24)), "bias": np.float32(rng.normal(size=24))}}

    def value_and_gradients(norm, variables, x):
        y, back = jax.vjp(norm.apply, variables, x)
        return y, back(jnp.sin(y))

    got, expected = jax.jit(lambda *given: [value_and_gradients(norm, *given) for norm in (ours, theirs)])(variables, x)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert np.allclose(a, b, atol=2e-5)


def test_the_formula(rng):
    x = rng.normal(size=(2, 4, 3, 6)) * [1, 2, 3, 1, 5, 7] + [0, 0, 0, 1, 2, 3]
    grouped = x.reshape(2, 12, 2, 3)
    centre, spread = grouped.mean((1, 3), keepdims=True), grouped.var((1, 3), keepdims=True)
    expected = ((grouped - centre) / np.sqrt(spread + EPSILON)).reshape(x.shape)
    got, _ = jax.jit(GroupNorm(2).init_with_output)(jax.random.key(0), np.float32(x))
    assert np.allclose(got, expected, atol=1e-5)


def test_half_precision_is_summed_in_single(rng):
    """4,096 values near 300: their squares would not be told apart in bfloat16."""
    x = (300 + 10 * rng.normal(size=(1, 64, 64, 8))).astype(jnp.bfloat16)
    got, _ = jax.jit(GroupNorm(8, jnp.bfloat16).init_with_output)(jax.random.key(0), x)
    assert got.dtype == jnp.bfloat16 and abs(np.std(np.float32(got)) - 1) < 0.02

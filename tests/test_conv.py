"""Convolutions and max-pool against plain loops in float64, values and gradients; the same variables as flax's."""

import contextlib
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pmljax import conv as conv_module
from pmljax.conv import WIDE, Conv, conv, max_pool
from pmljax.fusion import once

WINOGRADS = [
    (3, 1, 1, 1, WIDE + 2, WIDE, (5, 4)),
    (3, 1, 4, 4, WIDE, WIDE + 2, (13, 14)),
    (3, 1, 1, 1, WIDE + 2, WIDE, (7, 8)),
]
CASES = [
    # kernel, stride, padding, dilation, channels in and out, size
    (1, 1, 0, 1, 5, 3, (7, 6)),
    (1, 1, 0, 1, 3, 5, (7, 6)),
    (1, 2, 0, 1, 4, 6, (7, 8)),
    (1, 2, 0, 1, 6, 4, (8, 7)),
    (3, 1, 2, 2, 3, 4, (7, 9)),
    (3, 2, 1, 1, 2, 3, (6, 7)),
    (7, 2, 3, 1, 3, 2, (9, 8)),
    (7, 2, 3, 1, 3, 40, (8, 9)),  # to more channels than it has
    *WINOGRADS,
    (3, 1, 4, 4, WIDE, WIDE, (6, 9)),  # too small for it
    (3, 1, 0, 1, WIDE, WIDE, (7, 8)),  # another size comes out
]


def by_hand(x, kernel, g, stride, padding, dilation):
    """(output, gradient to x, gradient to the kernel) in float64, one place of the kernel after the other."""
    x, kernel, g = np.float64(x), np.float64(kernel), np.float64(g)
    padded = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    size = [(n - dilation * (kernel.shape[0] - 1) - 1) // stride + 1 for n in padded.shape[1:3]]
    y, to_x, to_kernel = np.zeros((len(x), *size, kernel.shape[3])), np.zeros_like(padded), np.zeros_like(kernel)
    for i, j in np.ndindex(*kernel.shape[:2]):
        at = (
            slice(None),
            *(
                slice(k * dilation, k * dilation + (n - 1) * stride + 1, stride)
                for k, n in zip((i, j), size, strict=True)
            ),
        )
        y += padded[at] @ kernel[i, j]
        to_x[at] += g @ kernel[i, j].T
        to_kernel[i, j] = np.einsum("byxi,byxo->io", padded[at], g)
    h, w = x.shape[1:3]
    return y, to_x[:, padding : padding + h, padding : padding + w], to_kernel


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c[0]}x{c[0]} s{c[1]} d{c[3]} {c[4]}-{c[5]}")
def test_against_a_loop(case, rng):
    k, stride, padding, dilation, i, o, size = case
    x, kernel = rng.normal(size=(2, *size, i)).astype("f"), rng.normal(size=(k, k, i, o)).astype("f")
    run = partial(conv, stride=stride, padding=padding, dilation=dilation)
    shape = jax.eval_shape(run, x, kernel).shape
    g = rng.normal(size=shape).astype("f")

    def all_three(x, kernel, g):
        y, back = jax.vjp(run, x, kernel)
        return y, *back(g)

    got = map(np.asarray, jax.jit(all_three)(x, kernel, g))
    bound = (
        4e-6 if case in WINOGRADS[1:] else 2e-6
    )  # of larger grids its transforms round five times as much (tests/test_winograd.py)
    for a, b in zip(got, by_hand(x, kernel, g, stride, padding, dilation), strict=True):
        assert a.shape == b.shape and np.abs(a - b).max() <= bound * np.abs(b).max()


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c[0]}x{c[0]} s{c[1]} d{c[3]} {c[4]}-{c[5]}")
def test_which_are_winograds(case, monkeypatch):
    k, stride, padding, dilation, i, o, size = case
    asked = []
    monkeypatch.setattr(conv_module.winograd, "convolve", lambda x, kernel, **_: asked.append(1) or x[..., :1] + 0 * x)
    run = partial(conv, stride=stride, padding=padding, dilation=dilation)
    with contextlib.suppress(TypeError):  # of branches that give different shapes: what is counted has been asked
        jax.eval_shape(run, *(jax.ShapeDtypeStruct(s, np.float32) for s in ((1, *size, i), (k, k, i, o))))
    assert bool(asked) == (case in WINOGRADS)


@pytest.mark.parametrize("dilation, size", [(1, (5, 4)), (2, (7, 8)), (4, (13, 9)), (4, (3, 2))])
def test_gradient_to_a_dilated_kernel_elsewhere(dilation, size, rng):
    x, kernel, g = (rng.normal(size=n).astype("f") for n in ((2, *size, 3), (3, 3, 3, 5), (2, *size, 5)))
    got = np.asarray(jax.jit(partial(conv_module.to_kernel_by_phases, dilation))(x, kernel, g))
    expected = by_hand(x, kernel, g, 1, dilation, dilation)[2]
    assert got.shape == expected.shape and np.abs(got - expected).max() <= 2e-6 * np.abs(expected).max()


@pytest.mark.parametrize("dtype, channels", [("bfloat16", 8), ("float32", 8), ("float32", WIDE)])
def test_which_gradient_to_a_dilated_kernel(dtype, channels):
    """Without the dilation on a GPU, over four pictures of a quarter of the size; not on a CPU."""
    x, kernel = (jax.ShapeDtypeStruct(s, dtype) for s in ((1, 16, 16, channels), (3, 3, channels, channels)))
    gradient = jax.jit(jax.grad(lambda kernel, x: conv(x, kernel, padding=2, dilation=2).sum()))
    short = {"float32": "f32", "bfloat16": "bf16"}[dtype]
    for platform in ("cuda", "cpu"):
        text = gradient.trace(kernel, x).lower(lowering_platforms=(platform,)).as_text()
        assert (f"tensor<4x8x8x{channels}x{short}>" in text) == (platform == "cuda")


def test_other_precisions_and_many_at_once(rng):
    x, kernel = (np.float32(rng.normal(size=size)) for size in ((3, 2, 5, 4, 6), (1, 1, 6, 2)))
    run = jax.jit(conv)
    many = np.asarray(jax.jit(jax.vmap(run, (0, None)))(x, kernel))
    assert all(np.allclose(many[n], run(x[n], kernel), atol=1e-6) for n in range(3))
    assert np.allclose(jax.pmap(conv, in_axes=(0, None))(x, kernel), many, atol=1e-6)
    half = np.asarray(run(x[0].astype(jnp.bfloat16), kernel.astype(jnp.bfloat16)))
    assert half.dtype == jnp.bfloat16 and np.allclose(half.astype("f"), many[0], atol=0.1)


@pytest.mark.parametrize(
    "options", [{"use_bias": True}, {"use_bias": False, "kernel_init": nn.initializers.he_normal()}]
)
def test_the_same_variables_and_numbers_as_flax(options, rng):
    x = np.float32(rng.normal(size=(1, 9, 7, 4)))
    for size, stride, padding, dilation in ((1, 2, 0, 1), (3, 1, 2, 2)):
        ours = Conv(6, (size, size), stride, padding, dilation, **options)
        theirs = nn.Conv(6, (size, size), stride, padding=padding, kernel_dilation=dilation, **options)

        def both(key, x, ours=ours, theirs=theirs):
            variables = ours.init(key, x)
            return variables, theirs.init(key, x), ours.apply(variables, x), theirs.apply(variables, x)

        variables, other, a, b = jax.jit(both)(jax.random.key(1), x)
        assert jax.tree.all(jax.tree.map(np.array_equal, variables, other)) and np.allclose(a, b, atol=1e-5)


def test_variables_are_of_single_precision_whatever_computes():
    init, x = jax.jit(Conv(4, (3, 3)).init), np.zeros((1, 5, 5, 3), np.float32)
    single = init(jax.random.key(0), x)
    with jax.enable_x64(True):
        double = init(jax.random.key(0), x)
    for a, b in zip(jax.tree.leaves(single), jax.tree.leaves(double), strict=True):
        assert a.dtype == b.dtype == jnp.float32 and np.array_equal(a, b)


def test_a_chain_of_residuals_is_added_once(rng):
    """A stage's blocks: without `once` the last fusion reads the output of every block."""

    def stage(x, kernels, kept):
        for kernel in kernels:
            x = kept(nn.relu(x + nn.relu(x @ kernel)))
        return x

    def most_read(kept):
        lines = jax.jit(partial(stage, kept=kept)).lower(x, kernels).compile().as_text().splitlines()
        return max(line.split(" fusion(")[1].count("%") for line in lines if " fusion(" in line)

    x, kernels = np.float32(rng.normal(size=(64, 32))), list(np.float32(rng.normal(size=(6, 32, 32))))
    jax.config.update("jax_disable_most_optimizations", False)  # fusion is what this is about
    try:
        assert most_read(lambda x: x) > 6 and most_read(once) <= 4
        values = [
            jax.jit(jax.value_and_grad(lambda x, k=k: stage(x, kernels, k).sum()))(x) for k in (lambda x: x, once)
        ]
    finally:
        jax.config.update("jax_disable_most_optimizations", True)
    assert jax.tree.all(jax.tree.map(lambda a, b: np.allclose(a, b, rtol=1e-5), *values))


@pytest.mark.parametrize("ceil", [True, False])
@pytest.mark.parametrize("size", [(8, 6), (7, 9), (9, 4)])
def test_max_pool(size, ceil, rng):
    """The gradient goes to the first maximum of a window; ties everywhere, and windows of −∞."""
    x = rng.integers(-2, 3, (2, *size, 3)).astype("f")
    x[0, :4, :4] = -np.inf
    shape = jax.eval_shape(lambda x: max_pool(x, ceil), x).shape
    g = rng.normal(size=shape).astype("f")
    y, to_x = jax.jit(lambda x, g: (max_pool(x, ceil), jax.vjp(lambda x: max_pool(x, ceil), x)[1](g)[0]))(x, g)
    value, gradient = np.full(shape, -np.inf), np.zeros(x.shape)
    for b, i, j, c in np.ndindex(*shape):
        inside = [(p, q) for p in range(2 * i - 1, 2 * i + 2) for q in range(2 * j - 1, 2 * j + 2)]
        inside = [(p, q) for p, q in inside if 0 <= p < size[0] and 0 <= q < size[1]]
        first = max(inside, key=lambda at: x[b, at[0], at[1], c])  # of equal ones the first
        value[b, i, j, c] = x[b, first[0], first[1], c]
        gradient[b, first[0], first[1], c] += g[b, i, j, c]
    assert np.array_equal(y, value) and np.allclose(to_x, gradient, atol=1e-6)
    n = size if not ceil else [s + 1 for s in size]
    assert shape[1:3] == tuple((s - 1) // 2 + 1 for s in n)

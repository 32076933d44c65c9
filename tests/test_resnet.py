"""The trunk: counts, grids, strides and dilations of both geometries, the max-pool and the blocks against loops."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pmljax.resnet import ResNet, grid_size, max_pool, stage_plan


@cache  # tracing a network takes up to two seconds
def shapes(depth, geometry, width=64, norm="batch"):
    """Of a network's variables: they are the same for images of any size and, so that one trace serves both, geometry."""
    image = jax.ShapeDtypeStruct((1, 33, 33, 3), jnp.float32)
    return jax.eval_shape(ResNet(depth, width, geometry, norm=norm).init, jax.random.key(0), image)


pooled = jax.jit(max_pool, static_argnames="ceil")


def count(tree):
    return sum(x.size for x in jax.tree.leaves(tree))


@pytest.mark.parametrize(
    ("geometry", "depth", "conv", "affine", "norms"),
    [
        ("deeplab", 18, 11_166_912, 9_600, 20),
        ("deeplab", 34, 21_267_648, 17_024, 36),
        ("deeplab", 50, 23_454_912, 53_120, 53),
        ("torchvision", 50, 23_454_912, 53_120, 53),
        ("deeplab", 101, 42_394_816, 105_344, 104),
        ("deeplab", 152, 57_992_384, 151_424, 155),
    ],
)
def test_parameter_counts(geometry, depth, conv, affine, norms):
    variables = shapes(depth, geometry)
    assert count(variables["params"]) == conv + affine
    assert count(variables["batch_stats"]) == affine
    assert len(jax.tree.leaves(variables["batch_stats"])) == 2 * norms


def test_width_multiplies_and_names_stay():
    whole, part = shapes(50, "deeplab")["params"], shapes(50, "deeplab", 8)["params"]
    assert jax.tree.structure(whole) == jax.tree.structure(part)
    assert part["stage3"]["block1"]["conv2"]["kernel"].shape == (3, 3, 32, 32)
    assert set(whole) == {"stem", "stage1", "stage2", "stage3", "stage4"}
    assert set(whole["stage1"]) == {"block1", "block2", "block3"}
    assert set(whole["stage1"]["block1"]) == {
        "conv1", "norm1", "conv2", "norm2", "conv3", "norm3", "shortcut", "shortcut_norm",
    }  # fmt: skip
    basic = shapes(18, "deeplab")["params"]["stage1"]["block1"]
    assert "shortcut" not in basic  # torchvision's basic layer1.0 has none


@given(st.integers(1, 1200))
def test_grid_size(size):
    # By the recurrences, and by the closed forms.
    a = (size - 1) // 2 + 1
    floor, ceil = (a - 1) // 2 + 1, -(-(a - 1) // 2) + 1
    assert grid_size(size, "torchvision") == (floor - 1) // 2 + 1 == -(-size // 8)
    assert grid_size(size, "deeplab") == (ceil - 1) // 2 + 1 == (size + 1) // 8 + 1


def test_grid_sizes_of_record():
    assert [grid_size(s, "deeplab") for s in (480, 854, 321, 256)] == [61, 107, 41, 33]
    assert [grid_size(s, "torchvision") for s in (480, 854, 321, 256)] == [60, 107, 41, 32]


@pytest.mark.parametrize("geometry", ["deeplab", "torchvision"])
@pytest.mark.parametrize("stride", [4, 8, 16])
def test_every_size_mod_8_gives_its_grid(geometry, stride):
    net, variables = ResNet(10, 8, geometry, stride), shapes(10, "deeplab", 8)
    for size in range(33, 33 + max(stride, 8), 2):  # the width is seven more: each remainder on one of the axes
        out = jax.eval_shape(net.apply, variables, jax.ShapeDtypeStruct((1, size, size + 7, 3), jnp.float32))
        expected = (grid_size(size, geometry, stride), grid_size(size + 7, geometry, stride))
        assert out["stage4"].shape == (1, *expected, 64)


def test_stage_plans():
    # (stride of the first block, its dilation twice, the dilation of the others): kazuto1011/deeplab-pytorch and torchvision.
    assert stage_plan("deeplab", 8) == [(1, 1, 1, 1), (2, 1, 1, 1), (1, 2, 2, 2), (1, 4, 4, 4)]
    assert stage_plan("torchvision", 8) == [(1, 1, 1, 1), (2, 1, 1, 1), (1, 1, 1, 2), (1, 2, 2, 4)]
    assert stage_plan("deeplab", 16) == [(1, 1, 1, 1), (2, 1, 1, 1), (2, 1, 1, 1), (1, 2, 2, 2)]
    assert stage_plan("torchvision", 4) == [(1, 1, 1, 1), (1, 1, 1, 2), (1, 2, 2, 4), (1, 4, 4, 8)]
    # Weights of stride 8 at stride 4: all that lies behind the stride left out is twice as wide.
    assert stage_plan("deeplab", 4, 8) == [(1, 1, 1, 1), (1, 1, 2, 2), (1, 4, 4, 4), (1, 8, 8, 8)]


@pytest.mark.parametrize("geometry", ["deeplab", "torchvision"])
@pytest.mark.parametrize("depth", [10, pytest.param(50, marks=pytest.mark.slow)])
def test_a_finer_grid_computes_the_same_where_both_have_a_cell(geometry, depth, rng):
    coarse, fine = (ResNet(depth, 8, geometry, stride, trained=trained) for stride, trained in ((8, None), (4, 8)))
    variables = random(shapes(depth, "deeplab", 8), rng)
    image = np.float32(rng.normal(size=(1, 39, 47, 3)))
    stages = [jax.jit(net.apply)(variables, image) for net in (coarse, fine)]
    for name in ("stage2", "stage4"):
        a, b = (np.asarray(found[name]) for found in stages)
        assert b.shape[1] == grid_size(39, geometry, 4)
        np.testing.assert_allclose(b[:, ::2, ::2], a, atol=1e-5 * np.abs(a).max())


@pytest.mark.parametrize("size", [7, 8, 9, 10])
@pytest.mark.parametrize("ceil", [True, False])
def test_max_pool_against_a_loop(size, ceil, rng):
    x = rng.normal(size=(size, size)).astype(np.float32) - 5  # below zero: zero padding would show
    n = (-(-(size - 1) // 2) if ceil else (size - 1) // 2) + 1
    expected = [
        [x[max(2 * i - 1, 0) : 2 * i + 2, max(2 * j - 1, 0) : 2 * j + 2].max() for j in range(n)] for i in range(n)
    ]
    assert np.array_equal(np.asarray(pooled(x[None, ..., None], ceil))[0, ..., 0], expected)


def conv(x, kernel, stride=1, dilation=1):
    """Convolution with the padding of PyTorch's models, by a sum over the kernel's places."""
    k = kernel.shape[0]
    reach = dilation * (k // 2)
    padded = np.pad(x, ((reach, reach), (reach, reach), (0, 0)))
    h, w = x.shape[:2]
    out = sum(padded[a * dilation :, b * dilation :][:h, :w] @ kernel[a, b] for a in range(k) for b in range(k))
    return out[::stride, ::stride]


def norm(x, p, s):
    return (x - s["mean"]) / np.sqrt(s["var"] + 1e-5) * p["scale"] + p["bias"]


def random(shapes, rng):
    """Weights of a sensible scale, norms and their statistics at random."""

    def draw(x):
        fan = np.prod(x.shape[:-1])
        return np.abs(rng.normal(1, 0.3, x.shape)) if x.ndim == 1 else rng.normal(0, fan**-0.5, x.shape)

    return jax.tree.map(lambda x: np.float32(draw(x)), shapes)


@pytest.mark.parametrize("geometry", ["deeplab", "torchvision"])
@pytest.mark.parametrize("depth", [18, 50])
def test_every_stage_against_plain_numpy(geometry, depth, rng):
    """The whole trunk in float64, convolution by convolution, at a size that is 7 mod 8, weights and statistics random."""
    net = ResNet(depth, 8, geometry)
    variables = random(shapes(depth, "deeplab", 8), rng)
    image = rng.normal(size=(39, 47, 3))
    out = jax.tree.map(np.asarray, jax.jit(net.apply)(variables, np.float32(image)[None]))

    p, s = (jax.tree.map(np.float64, variables[k]) for k in ("params", "batch_stats"))
    x = np.maximum(norm(conv(image, p["stem"]["conv1"]["kernel"], 2), p["stem"]["norm1"], s["stem"]["norm1"]), 0)
    x = np.array(pooled(np.float32(x)[None], geometry == "deeplab"), np.float64)[0]
    for i, (stride, first, _, rest) in enumerate(stage_plan(geometry, 8)):
        name = f"stage{i + 1}"
        for b, weights in enumerate(p[name].values(), 1):
            stats = s[name][f"block{b}"]
            st_, d = (stride, first) if b == 1 else (1, rest)
            if depth == 18:
                plan = [("1", st_, d), ("2", 1, d)]
            else:
                plan = (
                    [("1", st_, 1), ("2", 1, d), ("3", 1, 1)]
                    if geometry == "deeplab"
                    else [("1", 1, 1), ("2", st_, d), ("3", 1, 1)]
                )
            y = x
            for n, s1, d1 in plan:
                y = np.maximum(y, 0) if n != "1" else y
                y = norm(conv(y, weights[f"conv{n}"]["kernel"], s1, d1), weights[f"norm{n}"], stats[f"norm{n}"])
            if "shortcut" in weights:
                x = norm(conv(x, weights["shortcut"]["kernel"], st_), weights["shortcut_norm"], stats["shortcut_norm"])
            x = np.maximum(x + y, 0)
        error = np.abs(out[name][0] - x).max() / np.abs(x).max()
        assert error < 1e-4, f"{name}: {error}"


def test_batch_statistics_move_only_in_training(rng):
    net = ResNet(18, 8)
    x = np.float32(rng.normal(size=(2, 33, 33, 3)))
    variables = random(shapes(18, "deeplab", 8), rng)

    def statistics(variables, x, train):  # alone: of the network's outputs nothing has to be compiled
        return net.apply(variables, x, train=train, mutable=["batch_stats"])[1]["batch_stats"]

    run = jax.jit(statistics, static_argnames="train")
    still, moved = (jax.tree.map(np.asarray, run(variables, x, train=train)) for train in (False, True))
    same = jax.tree.map(lambda a, b: bool((a == b).all()), variables["batch_stats"], still)
    changed = jax.tree.map(lambda a, b: bool((a != b).any()), variables["batch_stats"], moved)
    assert all(jax.tree.leaves(same)) and all(jax.tree.leaves(changed))


def test_group_norm_has_no_statistics():
    variables = shapes(18, "deeplab", 32, "group")
    assert set(variables) == {"params"}

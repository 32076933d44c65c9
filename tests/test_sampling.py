"""Crops against the pictures they come from, the cells' labels against areas, and what is drawn."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pmljax.config import ModelConfig
from pmljax.labels import VOID, shrink_matrix
from pmljax.preprocess import position, position_of_crop
from pmljax.sampling import Augment, Clip, augment, cell_labels, draw_anchors, root_weights

H, W, T = 60, 90, 3
STILL = Augment(crop=40, colour=0.0)
WHOLE = (10.0, 20.0, 100.0, 200.0)  # the canvas begins at row 10, column 20 of a frame of 100×200


def clip(number=0, extent=(H, W), seed=0):
    """Frames whose red and green say where each pixel lies on the canvas; object 1 is a box, object 2 another."""
    y, x = np.mgrid[:H, :W]
    picture = np.stack([2 * y, 2 * x, np.zeros_like(y)], -1).astype(np.uint8)
    labels = np.zeros((T, H, W), np.uint8)
    for t in range(T):
        labels[t, 10:30, 20 + 5 * t : 40 + 5 * t] = 1
        labels[t, 40:50, 60:70] = 2
    inside = (y < extent[0]) & (x < extent[1])
    return Clip(
        np.where(inside[None, ..., None], np.stack([picture] * T), 0).astype(np.uint8),
        np.where(inside[None], labels, VOID).astype(np.uint8),
        np.arange(T, dtype=np.float32) * 7,
        np.tile(np.float32(WHOLE), (T, 1)),
        np.array(extent, np.int32),
        np.uint32(number),
    )


run = jax.jit(augment, static_argnums=2)


def source(views, t):
    """The canvas pixel (y, x) that every pixel of crop t shows, by its origin and step."""
    p = np.arange(views.frames.shape[1])
    y, x = (np.asarray(views.origin)[t, k] - WHOLE[k] + np.asarray(views.step)[t, k] * p for k in range(2))
    return np.meshgrid(y, x, indexing="ij")


@pytest.mark.parametrize(
    "config",
    [
        STILL,
        Augment(crop=40, colour=0.0, place="each", zoom=0.2),
        Augment(crop=40, colour=0.0, place="each", zoom=0.2, aspect=0.4),
    ],
    ids=["shared", "each", "stretched"],
)
def test_a_crop_lies_where_it_says(config):
    """Colours, labels and position agree under crop, scale and flip: the position input stays the original frame's."""
    flips, scales, stretches = set(), [], []
    for number in range(12):
        made = clip(number)
        views = run(jax.random.key(5), made, config)
        for t in range(T):
            y, x = source(views, t)
            inner = (y > 3) & (y < H - 4) & (x > 3) & (x < W - 4)  # where no tent is cut off
            assert inner.sum() > 100
            shown = np.asarray(views.frames)[t].astype(float)
            # Two grey levels are a pixel: half of one is rounding, and a sampled tent is off by up to a tenth of a pixel.
            assert np.abs(shown[..., 0] - 2 * y)[inner].max() <= 0.75
            assert np.abs(shown[..., 1] - 2 * x)[inner].max() <= 0.75
            row, column = (np.clip(np.round(v).astype(int), 0, n - 1) for v, n in ((y, H), (x, W)))
            clear = inner & (np.abs(y % 1 - 0.5) > 1e-3) & (np.abs(x % 1 - 0.5) > 1e-3)  # no tie in rounding
            assert np.array_equal(np.asarray(views.labels)[t][clear], made.labels[t][row, column][clear])
        step = np.asarray(views.step)
        flips.add(bool(step[0, 1] < 0))
        scales.append(1 / step[0, 0])
        stretch = np.log(np.abs(step[:, 1]) / step[:, 0])
        assert np.allclose(stretch, stretch[0], atol=1e-5) and abs(stretch[0]) <= config.aspect + 1e-5
        stretches.append(stretch[0])
        if config is STILL:
            assert np.ptp(step, 0).max() == 0 and np.ptp(np.asarray(views.origin), 0).max() == 0
        assert np.allclose(views.numbers, made.numbers)
    assert flips == {True, False} and np.ptp(stretches) >= config.aspect
    assert 0.4 < min(scales) < 0.7 and 1.1 < max(scales) < 1.9


def test_a_frame_read_with_more_pixels_is_shown_as_large():
    """With a short side of its own, a scale is that of the whole frame: twice the pixels, twice the step."""
    coarse = clip(4)
    fine = coarse._replace(
        frames=coarse.frames.repeat(2, 1).repeat(2, 2),
        labels=coarse.labels.repeat(2, 1).repeat(2, 2),
        window=coarse.window * 2,
        extent=coarse.extent * 2,
    )
    config = Augment(crop=24, scale=(0.7, 1.4), short_side=60, zoom=0.1, colour=0.0)
    steps = [np.abs(run(jax.random.key(3), x, config).step) for x in (coarse, fine)]
    assert np.allclose(steps[1], 2 * steps[0], rtol=1e-6)
    # A frame whose short side is 100 has one of 42 to 84 at these scales.
    assert ((100 / steps[0] > 42 * np.exp(-0.1)) & (100 / steps[0] < 84 * np.exp(0.1))).all()


def test_colours_are_turned_about_grey_alike_in_all_frames():
    plain, config = STILL, dataclasses.replace(STILL, hue=0.6)
    turned = 0
    for number in range(12):
        made = clip(number)
        made = made._replace(frames=80 + made.frames // 3)  # so that nothing is cut off
        was, now = (np.asarray(run(jax.random.key(7), made, c).frames, float) for c in (plain, config))
        inside = was.min(-1) > 70
        assert np.array_equal(was == 0, now == 0)  # beyond the picture
        assert np.abs(was.mean(-1) - now.mean(-1))[inside].max() <= 1
        # One angle turns all frames' colours into the others, by the rotation about (1, 1, 1) of Rodrigues' formula.
        axis = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / np.sqrt(3)
        errors = []
        for angle in np.linspace(0, 2 * np.pi, 360, endpoint=False):
            matrix = np.eye(3) + np.sin(angle) * axis + (1 - np.cos(angle)) * axis @ axis
            errors.append(np.abs(was[inside] @ matrix.T - now[inside]).max())
        assert min(errors) <= 3
        turned += errors[0] > 3
    assert 4 <= turned <= 10


def test_position_of_a_crop_is_that_of_the_original_frame():
    config = ModelConfig("x", 18, 8, position="yxt", geometry="torchvision")
    views = run(jax.random.key(2), clip(3), STILL)
    got = jax.vmap(partial(position_of_crop, config, (40, 40)))(views.origin, views.step, views.size, views.numbers)
    for t in range(T):
        shown = np.asarray(views.frames)[t, ::8, ::8].astype(float) / 2 + np.array((*WHOLE[:2], 0))
        y, x = (v[::8, ::8] for v in source(views, t))
        inner = (y > 1) & (y < H - 2) & (x > 1) & (x < W - 2)
        expected = shown[..., :2] / np.array(WHOLE[2:])
        assert inner.any() and np.abs(np.asarray(got)[t, ..., :2] - expected)[inner].max() < 0.3 / 100
        assert np.allclose(np.asarray(got)[t, ..., 2], min(7 * t / 100, 1))


@pytest.mark.parametrize("kind", ["yx", "yxt", "ijn", "zeros", "none"])
def test_a_crop_that_is_the_whole_frame_has_the_frame_s_position(kind):
    config = ModelConfig("x", 18, 8, position=kind)
    for size in ((47, 33), (64, 71)):
        whole = position(config, size, jnp.float32(40))
        crop = position_of_crop(config, size, jnp.zeros(2), jnp.ones(2), jnp.array(size, jnp.float32), jnp.float32(40))
        assert np.array_equal(whole, crop)


def test_what_is_drawn_depends_on_key_and_number_alone():
    clips = [clip(n) for n in (4, 9, 2**31 + 5)]
    config = Augment(crop=40)
    together = jax.jit(jax.vmap(augment, (None, 0, None)), static_argnums=2)
    stacked = jax.tree.map(lambda *x: np.stack(x), *clips)
    turned = jax.tree.map(lambda x: x[::-1], stacked)
    many, back = together(jax.random.key(0), stacked, config), together(jax.random.key(0), turned, config)
    for i in range(3):
        assert all(np.array_equal(a[i], b[2 - i]) for a, b in zip(many, back, strict=True))
        one = run(jax.random.key(0), clips[i], config)
        assert all(np.allclose(a[i], b, atol=1.01) for a, b in zip(many, one, strict=True))
    assert not np.array_equal(many.frames[0], many.frames[1])
    other = run(jax.random.key(1), clips[0], config)
    assert not np.array_equal(other.frames, many.frames[0])


def test_a_crop_shows_an_object_and_void_beyond_the_content():
    each = Augment(crop=24, scale=(1.0, 1.0), place="each")
    for number in range(10):
        labels = np.asarray(run(jax.random.key(1), clip(number), each).labels)
        assert all(((x == 1) | (x == 2)).any() for x in labels)
    # Content of 20×30 in a crop of 40: all of it, at a random place, void and black around.
    offsets = set()
    for number in range(6):
        views = run(jax.random.key(1), clip(number, extent=(20, 30)), Augment(crop=40, scale=(1.0, 1.0), colour=0.0))
        labels, frames = np.asarray(views.labels), np.asarray(views.frames)
        assert (labels[0] != VOID).sum() == 600 and not frames[labels == VOID].any()
        offsets.add(tuple(np.argwhere(labels[0] != VOID)[0]))
    assert len(offsets) > 3


def test_a_clip_of_nothing_but_void_is_no_error():
    made = clip()._replace(labels=np.full((T, H, W), VOID, np.uint8))
    views = run(jax.random.key(0), made, STILL)
    assert (np.asarray(views.labels) == VOID).all() and np.isfinite(views.origin).all()


def test_colours_change_within_their_bounds():
    made = clip()._replace(frames=np.full((T, H, W, 3), 120, np.uint8))
    means = []
    for number in range(20):
        views = run(jax.random.key(0), made._replace(number=np.uint32(number)), Augment(24, (1.0, 1.0), colour=0.25))
        means += np.asarray(views.frames, float).mean((1, 2, 3)).tolist()
    assert 89 < min(means) < 105 and 135 < max(means) < 151
    assert len(set(np.round(means, 3))) > 30  # each frame's own


def shares_by_hand(labels, grid, stride):
    a_y, a_x = (shrink_matrix(n, c, stride).astype(float) for n, c in zip(labels.shape, grid, strict=True))
    return {i: a_y @ (labels == i) @ a_x.T for i in np.unique(labels)}


@pytest.mark.parametrize("stride", [4, 8, 16])
@pytest.mark.parametrize("size", [(47, 39), (64, 55), (41, 80)])
@pytest.mark.parametrize("geometry", ["deeplab", "torchvision"])
def test_labels_of_cells(size, stride, geometry):
    grid = ModelConfig("x", 18, 8, geometry=geometry, stride=stride).grid(size)
    rng = np.random.default_rng(sum(size))
    coarse = rng.choice([0, 1, 2, 77, 254, VOID], (size[0] // 6 + 1, size[1] // 6 + 1)).astype(np.uint8)
    labels = np.kron(coarse, np.ones((6, 6), np.uint8))[: size[0], : size[1]]
    labels[: size[0] // 2] = np.where(rng.random((size[0] // 2, size[1])) < 0.9, 5, labels[: size[0] // 2])
    got = np.asarray(jax.jit(partial(cell_labels, grid=grid, stride=stride))(labels))
    shares = shares_by_hand(labels, grid, stride)
    ids = np.array(list(shares))
    stacked = np.stack(list(shares.values()))
    largest = stacked.max(0)
    expected = np.where(largest >= 0.75, ids[stacked.argmax(0)], VOID)
    close = np.abs(largest - 0.75) < 1e-4
    assert np.array_equal(got[~close], expected[~close])
    assert (got == 5).any() and (got == VOID).any()


@given(st.integers(0, 10**6), st.sampled_from([1, 2, 3, 9]))
def test_anchors(seed, ids):
    rng = np.random.default_rng(seed)
    labels = rng.choice(np.append(rng.choice(255, ids, replace=False), VOID), 200).astype(np.uint8)
    cells, of = jax.jit(draw_anchors, static_argnums=2)(jax.random.key(seed), labels, 64)
    assert np.array_equal(labels[cells], of)
    there = set(labels.tolist()) - {VOID}
    counts = np.bincount(of, minlength=256)
    assert set(np.flatnonzero(counts)) == there and not counts[VOID]
    assert counts[list(there)].max() - counts[list(there)].min() <= 1


def test_anchors_are_even_within_a_label_and_void_where_all_is():
    labels = jnp.array([3] * 10 + [0] * 40 + [VOID] * 50, jnp.uint8)
    draw = jax.jit(draw_anchors, static_argnums=2)
    cells, _ = draw(jax.random.key(0), labels, 20_000)
    counts = np.bincount(cells, minlength=100)
    assert np.abs(counts[:10] - 1000).max() < 160 and np.abs(counts[10:50] - 250).max() < 80 and not counts[50:].any()
    assert (draw(jax.random.key(0), jnp.full(9, VOID, jnp.uint8), 5)[1] == VOID).all()


def test_root_weights():
    labels = jnp.array([1, 1, 1, 1, 0, VOID], jnp.uint8)
    assert np.allclose(root_weights(labels), np.array([0.5, 0.5, 0.5, 0.5, 1, 0]) / 3)
    assert not np.any(root_weights(jnp.full(4, VOID, jnp.uint8)))

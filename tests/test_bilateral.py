"""The bilateral solver against loops, a float64 copy of its steps and SciPy's sparse solve; gradients; what is degenerate."""

import dataclasses
from fractions import Fraction
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pmljax import bilateral
from pmljax.bilateral import solve
from pmljax.bilateral_grid import (
    DEFAULT,
    BilateralConfig,
    bistochastise,
    find_vertices,
    neighbour_sum,
    neighbours_of,
    splat,
    take,
)
from pmljax.confidence import near_border, vote_confidence

# The oracle, from Barron and Poole's formulas (docs/sources.md): dictionaries and loops, then SciPy's matrices in float64


def tuples_by_hand(image, config):
    """The five whole numbers of each pixel, row by row, in exact arithmetic."""
    luma, chroma = Fraction(str(config.sigma_luma)), Fraction(str(config.sigma_chroma))
    found = []
    for y, x in np.ndindex(image.shape[:2]):
        r, g, b = (int(c) for c in image[y, x])
        luminance = Fraction(299 * r + 587 * g + 114 * b, 1000)
        u = Fraction(-168736 * r - 331264 * g + 500000 * b, 10**6) + 128
        v = Fraction(500000 * r - 418688 * g - 81312 * b, 10**6) + 128
        place = (y // config.sigma_space, x // config.sigma_space)
        found.append((*place, int(luminance / luma), int(u / chroma), int(v / chroma)))
    return found


class ByHand:
    """The system of one image."""

    def __init__(self, image, config=DEFAULT):
        from scipy import sparse

        tuples = tuples_by_hand(image, config)
        self.config, self.vertices = config, sorted(set(tuples))
        number = {t: i for i, t in enumerate(self.vertices)}
        self.of_pixel = np.array([number[t] for t in tuples]).reshape(image.shape[:2])
        count, pixels = len(self.vertices), self.of_pixel.size
        self.splat = sparse.csr_matrix((np.ones(pixels), (self.of_pixel.ravel(), np.arange(pixels))), (count, pixels))
        self.neighbours = np.full((10, count), -1)
        for i, t in enumerate(self.vertices):
            for axis in range(5):
                for j, side in enumerate((1, -1)):
                    other = (*t[:axis], t[axis] + side, *t[axis + 1 :])
                    self.neighbours[2 * axis + j, i] = number.get(other, -1)
        _, at = np.nonzero(self.neighbours >= 0)
        edges = sparse.csr_matrix((np.ones(len(at)), (at, self.neighbours[self.neighbours >= 0])), (count, count))
        self.blur = edges + 10 * sparse.identity(count)
        m = self.splat @ np.ones(pixels)
        self.n = np.ones(count)
        for _ in range(config.rounds):
            self.n = np.sqrt(self.n * m / (self.blur @ self.n))
        self.m = self.n * (self.blur @ self.n)

    def system(self, target, confidence):
        """(A, b, S c, diag A), for one channel."""
        from scipy import sparse

        weight = self.splat @ np.float64(confidence).ravel()
        b = self.splat @ (np.float64(confidence) * target).ravel()
        n = sparse.diags(self.n)
        a = self.config.smoothness * (sparse.diags(self.m) - n @ self.blur @ n) + sparse.diags(weight)
        return a.tocsc(), b, weight, self.config.smoothness * (self.m - 10 * self.n**2) + weight

    def steps(self, target, confidence):
        """`config.steps` conjugate gradients."""
        a, b, weight, diagonal = self.system(target, confidence)
        inverse = 1 / np.maximum(diagonal, self.config.diagonal_floor)
        y = np.where(weight > 0, b / np.where(weight > 0, weight, 1), 0)
        r = b - a @ y
        p = z = inverse * r
        for _ in range(self.config.steps):
            if np.linalg.norm(r) <= self.config.tolerance * np.linalg.norm(b):
                break
            q = a @ p
            along = r @ z / (p @ q)
            before = r @ z
            y, r = y + along * p, r - along * q
            z = inverse * r
            p = z + r @ z / before * p
        return y[self.of_pixel]

    def solution(self, target, confidence):
        from scipy.sparse.linalg import spsolve

        a, b, *_ = self.system(target, confidence)
        return spsolve(a, b)[self.of_pixel]


def relative(found, expected):
    return np.abs(np.float64(found) - expected).max() / np.abs(expected).max()


def scene(rng, h=37, w=53):
    """A frame with two colours under noise, and a target that misses their edge by three pixels."""
    y, x = np.mgrid[:h, :w]
    inside = (y - h / 2) ** 2 + (x - w / 2) ** 2 < (min(h, w) / 3) ** 2
    image = np.where(inside[..., None], (200, 90, 60), (60, 120, 150)) + rng.normal(0, 5, (h, w, 3)) + y[..., None]
    target = np.roll(inside, 3, 1).astype(float)
    return image.clip(0, 255).astype(np.uint8), target, rng.uniform(0.1, 1, (h, w))


# Colours at the ends of every axis, where a step past the end must meet nobody
CORNERS = np.array([(r, g, b) for r in (0, 4, 251, 255) for g in (0, 255) for b in (0, 4, 251, 255)], np.uint8)
IMAGES = {
    "scene": lambda rng: scene(rng, 16, 25)[0],
    "noise": lambda rng: rng.integers(0, 256, (16, 25, 3), dtype=np.uint8),
    "corners": lambda rng: rng.choice(CORNERS, (16, 25)),
    "greys": lambda rng: np.repeat(np.arange(400).reshape(16, 25, 1) % 256, 3, 2).astype(np.uint8),
    "equal": lambda rng: np.full((16, 25, 3), 77, np.uint8),
    "one pixel": lambda rng: np.full((1, 1, 3), 255, np.uint8),
    "one row": lambda rng: rng.integers(90, 110, (1, 40, 3), dtype=np.uint8),
}


@partial(jax.jit, static_argnames=("config", "rows"))
def grid_parts(image, x, config, rows):
    """Everything of the grid, in one call: (vertices, neighbours, S x, Sᵀ S x, B̄ S x, n, n ∘ B̄n)."""
    vertices = find_vertices(image, config)
    neighbours = neighbours_of(vertices, rows, config)
    splatted = splat(vertices.of_pixel, x, rows)
    blurred = 10 * splatted + neighbour_sum(neighbours, splatted)
    pixels = splat(vertices.of_pixel, jnp.ones((*image.shape[:2], 1), x.dtype), rows)[:, 0]
    n, around = bistochastise(neighbours, pixels, config.rounds)
    return vertices, neighbours, splatted, take(vertices.of_pixel, splatted), blurred, n, n * (10 * n + around)


@pytest.mark.parametrize(
    ("name", "sigmas"),
    [(name, (4.0, 4.0, 8)) for name in IMAGES] + [(name, (7.5, 2.5, 3)) for name in ("scene", "corners")],
)
def test_grid_against_loops(name, sigmas, rng):
    image, config = IMAGES[name](rng), BilateralConfig(*sigmas)
    expected = ByHand(image, config)
    x = rng.normal(size=(*image.shape[:2], 2))
    count, rows = len(expected.vertices), image.shape[0] * image.shape[1] + 1
    by_hand = np.zeros((count, 2))
    np.add.at(by_hand, expected.of_pixel.ravel(), x.reshape(-1, 2))

    # As many rows as there can be, and as few as hold the vertices
    for size in (rows, count + 1) if (name, sigmas[2]) == ("scene", 8) else (rows,):
        found = jax.device_get(grid_parts(jnp.asarray(image), jnp.float32(x), config, size))
        vertices, neighbours, splatted, sliced, blurred, n, m = found
        assert vertices.first[-1] == count
        assert np.array_equal(vertices.of_pixel, expected.of_pixel)
        assert (neighbours[:, count:] == size - 1).all()
        absent = expected.neighbours < 0
        assert np.array_equal(neighbours[:, :count], np.where(absent, size - 1, expected.neighbours))
        assert np.allclose(splatted[:count], by_hand, atol=1e-5) and not splatted[count:].any()
        assert np.array_equal(sliced, splatted[expected.of_pixel])
        assert np.allclose(blurred[:count], expected.blur @ by_hand, atol=1e-4)
        assert np.allclose(n[:count], expected.n, rtol=1e-5) and not n[count:].any()
        assert np.allclose(m[:count], expected.m, rtol=1e-5)


def test_a_loop_agrees_with_the_oracles_matrices(rng):
    """B̄ and one round of bistochastisation, vertex by vertex."""
    expected = ByHand(scene(rng, 20, 20)[0], dataclasses.replace(DEFAULT, rounds=1))
    for i, t in enumerate(expected.vertices):
        around = [u for u in expected.vertices if sum(abs(a - b) for a, b in zip(t, u, strict=True)) == 1]
        row = expected.blur[[i]].toarray()[0]
        assert row[i] == 10 and row.sum() == 10 + len(around)
        assert np.isclose(expected.n[i] ** 2, (expected.of_pixel == i).sum() / row.sum())


# The solve


@pytest.mark.parametrize("shape", [(37, 53), (3, 40)])
def test_the_same_steps_in_float64(shape, rng):
    image, target, confidence = scene(rng, *shape)
    expected = ByHand(image).steps(target, confidence)
    found = solve(jnp.asarray(image), jnp.float32(target)[..., None], jnp.float32(confidence))
    assert np.abs(found[..., 0] - expected).max() < 1e-5
    if shape == (37, 53):
        with jax.enable_x64(True):
            found = solve(jnp.asarray(image), jnp.float64(target)[..., None], jnp.float64(confidence))
            assert np.abs(found[..., 0] - expected).max() < 1e-10


@pytest.mark.parametrize("config", [DEFAULT, BilateralConfig(8.0, 6.0, 5, 30.0)], ids=["default", "other"])
def test_a_long_solve_against_scipy(config, rng):
    image, target, confidence = scene(rng)
    expected = ByHand(image, config).solution(target, confidence)
    long = dataclasses.replace(config, steps=3000, tolerance=1e-10)
    with jax.enable_x64(True):
        found = solve(jnp.asarray(image), jnp.float64(target)[..., None], jnp.float64(confidence), long)
    assert relative(found[..., 0], expected) < 1e-8
    if config == DEFAULT:
        found = solve(jnp.asarray(image), jnp.float32(target)[..., None], jnp.float32(confidence), long)
        assert relative(found[..., 0], expected) < 1e-4


def test_it_moves_the_target_to_the_edge(rng):
    image, target, _ = scene(rng)
    truth = np.roll(target, -3, 1) > 0.5
    found = solve(jnp.asarray(image), jnp.float32(target)[..., None], jnp.ones(target.shape))[..., 0] > 0.5
    assert (found != truth).mean() < 0.3 * ((target > 0.5) != truth).mean()


def test_objects_at_once_are_objects_one_at_a_time(rng):
    image, target, confidence = scene(rng)
    # One of them is nothing, one is done at once, one much larger: each has its own steps.
    targets = np.stack([target, np.zeros_like(target), np.ones_like(target), 1000 * np.roll(target, 5, 0)], -1)
    image, targets, confidence = jnp.asarray(image), jnp.float32(targets), jnp.float32(confidence)
    together = solve(image, targets, confidence)
    for i in range(4):
        alone = solve(image, targets[..., i : i + 1], confidence)[..., 0]
        assert np.abs(together[..., i] - alone).max() <= 2e-6 * max(np.abs(alone).max(), 1)
    assert not together[..., 1].any() and np.allclose(together[..., 2], 1, atol=1e-5)


def test_too_weak_a_data_term_is_a_large_smoothness(rng):
    """The XOR of the public solver: confidence 13 of 65535 takes the very steps of λ 645,268."""
    image, target, _ = scene(rng)
    image, target = jnp.asarray(image), jnp.float32(target)[..., None]
    weak = jnp.full(target.shape[:2], 13 / 65535)
    smooth = dataclasses.replace(DEFAULT, smoothness=128 * 65535 / 13)
    found = solve(image, target, weak)
    assert np.allclose(found, solve(image, target, jnp.ones_like(weak), smooth), atol=1e-3)
    assert np.abs(found - solve(image, target, jnp.ones_like(weak))).max() > 0.05


# What is degenerate


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_made_single(dtype, rng):
    image = jnp.asarray(rng.integers(0, 256, (15, 20, 3)), jnp.uint8)
    target, confidence = (jnp.asarray(rng.random(shape), dtype) for shape in ((15, 20, 2), (15, 20)))
    found = solve(image, target, confidence)
    assert found.dtype == jnp.float32
    assert np.array_equal(found, solve(image, target.astype(jnp.float32), confidence.astype(jnp.float32)))


def test_no_confidence_and_no_target(rng):
    image, target, confidence = scene(rng)
    image, target, confidence = jnp.asarray(image), jnp.float32(target)[..., None], jnp.float32(confidence)
    assert not solve(image, target, jnp.zeros_like(confidence)).any()
    assert not solve(image, jnp.zeros_like(target), confidence).any()


def test_confidence_here_and_there(rng):
    """What has no confidence takes its values from what has; a part of the grid that has none gives 0."""
    image, target, confidence = scene(rng)
    confidence[rng.random(confidence.shape) < 0.9] = 0
    image[5:25, 40:] = (0, 0, 255)  # its own part: no vertex beside it
    confidence[5:25, 40:] = 0
    found = solve(jnp.asarray(image), jnp.float32(target)[..., None], jnp.float32(confidence))[..., 0]
    assert np.isfinite(found).all() and not found[5:25, 40:].any()
    assert np.abs(found - ByHand(image).steps(target, confidence)).max() < 1e-4


def test_one_pixel_and_one_colour():
    ones = partial(jnp.ones, dtype=jnp.float32)
    one = solve(jnp.full((1, 1, 3), 255, jnp.uint8), 0.25 * ones((1, 1, 1)), ones((1, 1)))
    assert np.allclose(one, 0.25)
    image, target = np.full((37, 53, 3), 128, np.uint8), np.linspace(0, 1, 37 * 53).reshape(37, 53)
    found = solve(jnp.asarray(image), jnp.float32(target)[..., None], ones((37, 53)))[..., 0]
    assert np.abs(found - ByHand(image).steps(target, np.ones((37, 53)))).max() < 1e-5
    assert np.isclose(found.mean(), target.mean(), atol=1e-5)  # smoothing keeps the sum


# Gradients


def test_gradients_against_finite_differences(rng):
    image, target, confidence = scene(rng, 19, 23)
    image = jnp.asarray(image)
    config = dataclasses.replace(DEFAULT, steps=2000, tolerance=1e-13)
    with jax.enable_x64(True):
        inputs = [jnp.asarray(np.stack([target, rng.random(target.shape)], -1)), jnp.asarray(confidence)]
        towards = jnp.asarray(rng.normal(size=(*target.shape, 2)))

        @partial(jax.jit, static_argnums=2)
        def loss(t, c, config):
            return (solve(image, t, c, config) * towards).sum()

        gradients = jax.grad(loss, (0, 1))(*inputs, config)
        for k, gradient in enumerate(gradients):
            for _ in range(5):
                step = rng.normal(size=inputs[k].shape) * 1e-5
                moved = [list(inputs), list(inputs)]
                moved[0][k], moved[1][k] = inputs[k] + step, inputs[k] - step
                difference = loss(*moved[0], config) - loss(*moved[1], config)
                assert np.isclose(difference, 2 * (gradient * step).sum(), rtol=1e-5, atol=1e-10)
        # The default's 25 steps, from nothing, come this close to the solution's gradients.
        for few, gradient in zip(jax.grad(loss, (0, 1))(*inputs, DEFAULT), gradients, strict=True):
            assert relative(few, np.asarray(gradient)) < 0.02


def test_gradients_are_finite(rng):
    image, target, confidence = scene(rng, 19, 23)
    gradients = jax.jit(jax.grad(lambda t, c, image: (solve(image, t, c) ** 2).sum(), (0, 1)))
    for guide, c in [
        (image, 0 * confidence),
        (image, confidence * (rng.random(confidence.shape) < 0.05)),
        (np.full_like(image, 50), np.ones_like(confidence)),
    ]:
        found = gradients(jnp.float32(target)[..., None], jnp.float32(c), jnp.asarray(guide))
        assert all(np.isfinite(g).all() for g in found)
        assert found[0].any() == c.any()


# Compiling


def few_steps(rng):
    image, target, confidence = scene(rng, 5, 7)
    run = partial(solve, config=dataclasses.replace(DEFAULT, steps=2, rounds=1, sigma_space=2))
    return run, (jnp.asarray(image), jnp.float32(target)[..., None], jnp.float32(confidence))


@pytest.mark.slow  # each operation is compiled alone
def test_compiling_changes_nothing(rng):
    run, inputs = few_steps(rng)
    found = run(*inputs)
    with jax.disable_jit():
        assert np.abs(found - run(*inputs)).max() < 1e-5


def test_batching_changes_nothing(rng):
    run, inputs = few_steps(rng)
    turned = [x[::-1] for x in inputs]
    many = np.asarray(jax.vmap(run)(*(jnp.stack(x) for x in zip(inputs, turned, strict=True))))
    for found, one in zip(many, (inputs, turned), strict=True):
        assert np.abs(found - run(*one)).max() < 1e-5


def test_a_second_frame_compiles_nothing(rng):
    compiled = []
    for i in range(3):
        image, target, confidence = scene(np.random.default_rng(i))
        solve(jnp.asarray(image), jnp.float32(target)[..., None], jnp.float32(confidence))
        compiled.append(solve._cache_size())
    assert compiled[0] == compiled[1] == compiled[2]


def test_every_size_gives_the_same(rng, monkeypatch):
    """Images from one vertex to as many as pixels, through the sizes and without them."""
    noise = rng.integers(0, 256, (32, 32, 3), np.uint8)
    # Colours as far apart as sixteen steps of the grid: every pixel is a vertex.
    apart = np.stack(np.broadcast_arrays(*np.ogrid[:32, :32], 0), -1) % 8 * 32
    images = [np.full((32, 32, 3), 9, np.uint8), scene(rng, 32, 32)[0], noise, np.uint8(apart)]
    target, confidence = jnp.float32(rng.random((32, 32, 2))), jnp.float32(rng.random((32, 32)))
    counts = [int(find_vertices(jnp.asarray(i)).count) for i in images]
    assert counts[0] == 16 and counts[3] == 1024

    def results():
        def value(target, image):
            found = solve(image, target, confidence)
            return (found**2).sum(), found

        both = jax.jit(jax.grad(value, has_aux=True))
        solve.clear_cache()
        return [both(target, jnp.asarray(i)) for i in images]

    plain = results()
    monkeypatch.setattr(bilateral, "SMALL", 100)
    monkeypatch.setattr(bilateral, "SIZES", {jax.default_backend(): (1 / 2, 3 / 4)})
    sizes = bilateral._sizes(1024)
    assert sizes == (512, 768, 1025)
    assert {sum(c >= s for s in sizes[:-1]) for c in counts} == {0, 1, 2}
    for one, other in zip(plain, results(), strict=True):
        assert all(np.abs(a - b).max() < 1e-5 for a, b in zip(one, other, strict=True))
    solve.clear_cache()


def test_sizes(monkeypatch):
    monkeypatch.setattr(bilateral, "SIZES", {jax.default_backend(): (1 / 2, 3 / 4)})
    assert bilateral._sizes(480 * 854) == (2**17, 3 * 2**16, 480 * 854 + 1)
    assert bilateral._sizes(2160 * 3840) == (2**21, 3 * 2**20, 2160 * 3840 + 1)
    assert bilateral._sizes(1) == (2,)
    monkeypatch.setattr(bilateral, "SIZES", {})
    assert bilateral._sizes(480 * 854) == (480 * 854 + 1,)


def test_a_real_frame(davis):
    """A part of one: 25 steps in float32 against float64, and how far they are from the solution."""
    from PIL import Image

    from pmljax.labels import read_labels

    image = np.array(Image.open(davis / "JPEGImages/480p/bmx-bumps/00000.jpg").convert("RGB"))[150:270, 250:400]
    mask = read_labels(davis / "Annotations/480p/bmx-bumps/00000.png")[150:270, 250:400] > 0
    target = np.roll(mask, 4, 1).astype(float)
    expected = ByHand(image)
    found = solve(jnp.asarray(image), jnp.float32(target)[..., None], jnp.ones(target.shape))[..., 0]
    assert np.abs(found - expected.steps(target, np.ones(target.shape))).max() < 1e-5
    long = dataclasses.replace(DEFAULT, steps=1000, tolerance=1e-6)
    solution = solve(jnp.asarray(image), jnp.float32(target)[..., None], jnp.ones(target.shape), long)[..., 0]
    assert np.abs(found - solution).max() < 0.01


def test_limits_are_named():
    for bad, word in [
        ({"sigma_luma": 0.0}, "sigma_luma: found 0"),
        ({"sigma_chroma": 300.0}, "sigma_chroma: found 300"),
        ({"sigma_space": 0}, "sigma_space: found 0"),
        ({"sigma_luma": 1.0, "sigma_chroma": 1.0, "sigma_space": 16}, "int32"),
    ]:
        with pytest.raises(ValueError, match=word):
            BilateralConfig(**bad)


# Confidence


@pytest.mark.parametrize("border", [0, 1, 3, 8])
def test_borders_against_a_loop(border, rng):
    labels = np.zeros((15, 22), np.int32)
    labels[4:9, 6:14], labels[9:13, 13:17], labels[0, 0] = 1, 3, 2
    config = BilateralConfig(border=border, border_confidence=0.2)
    found = np.asarray(near_border(jnp.asarray(labels), config))
    for y, x in np.ndindex(labels.shape):
        other = np.argwhere(labels != labels[y, x])
        distance = np.abs(other - (y, x)).max(1).min()
        expected = 0.2 + 0.8 * min(distance - 1, border) / border if border else 1
        assert np.isclose(found[y, x], expected)
    assert (near_border(jnp.zeros((5, 4), jnp.int32), config) == 1).all()


def test_margins():
    shares = jnp.array([[[0.2, 0.7, 0.1], [0.1, 0.5, 0.4]], [[0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]])
    plain, confidence = BilateralConfig(border=0), jax.jit(vote_confidence, static_argnums=1)
    assert np.allclose(confidence(shares, plain), [[0.5, 0.1], [1, 0]])
    assert np.allclose(confidence(shares[..., :1], plain), shares[..., 0])
    both = confidence(shares, BilateralConfig(border=2, border_confidence=0.3))
    assert np.allclose(both, [[0.15, 0.03], [0.3, 0]])

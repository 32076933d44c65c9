"""The metric that tells labels apart, against Fisher's discriminants in float64."""

import jax
import numpy as np
import pytest

from pmljax.separation import FLAT, RIDGE, separating

compiled = jax.jit(separating, static_argnums=3)  # called as it is, every operation in it would be compiled by itself


def by_hand(embedding, label, valid, stretch):
    """Label by label; the span of the discriminants by singular values."""
    e = np.float64(embedding)
    there = [k for k in np.unique(label[valid])]
    means = [e[valid & (label == k)].mean(0) for k in there]
    within = np.mean([np.cov(e[valid & (label == k)].T, bias=True) for k in there], 0)
    ridge = RIDGE * max(np.trace(within) / len(within), FLAT)
    apart = np.linalg.solve(within + ridge * np.eye(len(within)), np.array(means - np.mean(means, 0)).T)
    u, s, _ = np.linalg.svd(apart, full_matrices=False)
    u = u[:, s > 1e-6 * max(s[0], 1e-30)]
    return np.eye(len(within)) + stretch * u @ u.T


@pytest.mark.parametrize("labels", [2, 3, 11])
def test_against_the_formula(labels, rng):
    d, n = 16, 400
    label = rng.integers(0, labels, n)
    embedding = (rng.normal(size=(labels, d))[label] + rng.normal(size=(n, d)) * rng.random(d)).astype("f")
    valid = rng.random(n) < 0.8
    embedding[~valid] = np.nan  # whatever they hold
    share = 0.6 * np.eye(16, dtype="f")[label] + 0.025  # shares, and columns that no label uses
    found = np.asarray(compiled(embedding, share, valid, 1.5))
    assert np.allclose(found, by_hand(embedding, label, valid, 1.5), atol=2e-4)
    assert np.allclose(np.linalg.eigvalsh(found), [1] * (d - labels + 1) + [2.5] * (labels - 1), atol=1e-4)


def test_one_label_or_one_pixel_each(rng):
    embedding, share = rng.normal(size=(5, 4)).astype("f"), np.eye(2, dtype="f")[[0, 0, 0, 0, 1]]
    valid = np.array([True, True, True, True, False])
    assert np.array_equal(compiled(embedding, share, valid, 1.0), np.eye(4))  # one label
    assert np.array_equal(compiled(embedding, share, ~valid & False, 1.0), np.eye(4))  # none
    single = np.array([False, False, True, False, True])  # a pixel each: the line through them
    found = np.asarray(compiled(embedding, share, single, 1.0))
    line = embedding[4] - embedding[2]
    assert np.allclose(found @ line, 2 * line, atol=1e-5) and np.isclose(np.linalg.det(found), 2, atol=1e-4)


def test_distances_grow_between_labels_and_not_within(rng):
    light = rng.normal(size=(200, 1))
    label = rng.integers(0, 2, 200)
    embedding = np.concatenate([light, 0.5 * label[:, None] + 0.05 * rng.normal(size=(200, 1))], 1).astype("f")
    by = compiled(embedding, np.eye(2, dtype="f")[label], np.ones(200, bool), 1.0)
    assert np.allclose(by, np.diag([1.0, 2.0]), atol=0.05)

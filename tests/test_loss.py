"""Eq. 1 against a float64 loop, pixel by pixel, values and gradients; empty pools, void, blocks, the order of the pool."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pmljax import loss as module
from pmljax.loss import nearest_two, triplet_loss

VOID = 255


def clip(seed, a=30, p=70, d=5, labels=2, void=0.1):
    rng = np.random.default_rng(seed)
    unit = [x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (rng.normal(size=(n, d)) for n in (a, p))]
    ids = [np.where(rng.random(n) < void, VOID, rng.integers(0, labels, n)).astype(np.int32) for n in (a, p)]
    return tuple(map(jnp.array, (np.float32(unit[0]), ids[0], np.float32(unit[1]), ids[1])))


def by_hand(anchors, anchor_labels, pool, pool_labels, margin, hinge, reduction, labels):
    """(loss, gradient to the anchors, gradient to the pool, shares) in float64, one anchor after the other."""
    anchors, pool = np.float64(anchors), np.float64(pool)
    anchor_labels, pool_labels = np.array(anchor_labels), np.array(pool_labels)
    each, to_anchors, to_pool = {}, np.zeros_like(anchors), np.zeros_like(pool)
    nearer, active = [], []
    for k in range(labels):
        terms = []
        for i in np.flatnonzero(anchor_labels == k):
            same = [j for j in range(len(pool)) if pool_labels[j] == k]
            other = [j for j in range(len(pool)) if pool_labels[j] not in (k, VOID)]
            if not same or not other:
                continue
            j, n = (min(group, key=lambda j, i=i: ((anchors[i] - pool[j]) ** 2).sum()) for group in (same, other))
            terms.append((i, j, n, ((anchors[i] - pool[j]) ** 2).sum() - ((anchors[i] - pool[n]) ** 2).sum()))
        if not terms:
            continue
        nearer += [t < 0 for *_, t in terms]
        active += [t + margin > 0 for *_, t in terms]
        whole = sum(t for *_, t in terms) + margin
        each[k] = np.mean([max(t + margin, 0) for *_, t in terms]) if hinge == "anchor" else max(whole, 0)
        for i, j, n, t in terms:
            weight = (t + margin > 0) / len(terms) if hinge == "anchor" else float(whole > 0)
            to_anchors[i] += weight * 2 * (pool[n] - pool[j])
            to_pool[j] += weight * 2 * (pool[j] - anchors[i])
            to_pool[n] -= weight * 2 * (pool[n] - anchors[i])
    scale = 1 / max(len(each), 1) if reduction == "mean" else 1
    shares = (np.mean(nearer), np.mean(active)) if nearer else (0, 0)
    return scale * sum(each.values()), scale * to_anchors, scale * to_pool, (*shares, len(nearer))


@pytest.mark.parametrize("hinge", ["anchor", "label"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("labels", [2, 4])
def test_against_a_loop(hinge, reduction, labels):
    options = {"margin": 0.3, "hinge": hinge, "reduction": reduction, "labels": labels}
    run = jax.jit(jax.value_and_grad(lambda a, p, al, pl: triplet_loss(a, al, p, pl, **options).loss, (0, 1)))
    diagnose = jax.jit(partial(triplet_loss, **options))
    for seed in range(8):
        a, al, p, pl = clip(seed, labels=labels)
        value, (to_a, to_p) = run(a, p, al, pl)
        expected, ga, gp, shares = by_hand(a, al, p, pl, **options)
        assert np.allclose(value, expected, rtol=1e-5, atol=1e-6)
        assert np.allclose(to_a, ga, atol=1e-5) and np.allclose(to_p, gp, atol=1e-5)
        assert np.allclose(diagnose(a, al, p, pl)[1:], shares)


def test_each_variant_of_the_reproductions():
    """Two labels, one easy and one hard anchor of the foreground, one background anchor, on a line."""
    anchors, labels = jnp.array([[0.0], [1.0], [5.0]]), jnp.array([1, 1, 0])
    pool, of = jnp.array([[0.0], [3.0], [5.0]]), jnp.array([1, 0, 0])
    # Terms: 0 − 9 = −9, 1 − 4 = −3 for the foreground; 0 − 25 = −25 for the background.
    at = partial(triplet_loss, anchors, labels, pool, of)
    assert np.isclose(at(margin=4.0).loss, ((0 + 1) / 2 + 0) / 2)  # sydney0zq: hinge an anchor, mean, half of both
    assert np.isclose(at(margin=4.0, reduction="sum").loss, (0 + 1) / 2)
    assert at(margin=4.0, hinge="label", reduction="sum").loss == 0  # bf-vos: −12 + 4, the easy one cancels the hard
    assert np.isclose(at(margin=13.0, hinge="label", reduction="sum").loss, 1)
    found = at(margin=4.0)
    assert found.nearer == 1 and np.isclose(found.active, 1 / 3) and found.anchors == 3


@pytest.mark.parametrize("empty", ["anchors of one", "positives", "negatives", "pool", "all anchors"])
@pytest.mark.parametrize("hinge", ["anchor", "label"])
def test_empty_pools_give_no_loss_and_no_gradient(empty, hinge):
    a, al, p, pl = clip(0, void=0.0)
    if empty == "anchors of one":
        al = jnp.zeros_like(al)
    elif empty == "positives":
        al, pl = jnp.ones_like(al), jnp.zeros_like(pl)
    elif empty == "negatives":
        al, pl = jnp.ones_like(al), jnp.ones_like(pl)
    elif empty == "pool":
        pl = jnp.full_like(pl, VOID)
    else:
        al = jnp.full_like(al, VOID)
    value, gradient = jax.value_and_grad(lambda a, p: triplet_loss(a, al, p, pl, hinge=hinge).loss, (0, 1))(a, p)
    expected = by_hand(a, al, p, pl, 0.7, hinge, "mean", 2)
    assert np.allclose(value, expected[0], atol=1e-6) and all(np.isfinite(g).all() for g in gradient)
    if empty != "anchors of one":
        assert value == 0 and not any(g.any() for g in gradient)
        assert not np.any(triplet_loss(a, al, p, pl, hinge=hinge)[1:])


def test_equal_pixels_have_a_finite_gradient():
    same = jnp.ones((4, 3))
    labels = jnp.array([0, 1, 0, 1])
    value, gradient = jax.value_and_grad(lambda x: triplet_loss(x, labels, x, labels).loss)(same)
    assert np.isclose(value, 0.7) and not gradient.any()


@given(st.integers(0, 10**6))
def test_the_order_of_the_pool_does_not_matter(seed):
    a, al, p, pl = clip(seed)
    order = np.random.default_rng(seed).permutation(len(p))
    run = jax.jit(triplet_loss)
    straight, shuffled = run(a, al, p, pl), run(a, al, p[order], pl[order])
    assert all(np.allclose(x, y, atol=1e-6) for x, y in zip(straight, shuffled, strict=True))


def test_blocks_change_nothing(monkeypatch):
    a, al, p, pl = clip(3, p=300)
    whole = nearest_two(a, al, p, pl)
    monkeypatch.setattr(module, "BLOCK", 128)
    parts = nearest_two(a, al, p, pl)
    assert all(np.array_equal(x, y) for x, y in zip(whole, parts, strict=True))


def test_memory_is_a_block_whatever_the_pool():
    def temporary(n):
        shapes = [jax.ShapeDtypeStruct(s, t) for s, t in (((512, 64), "float32"), ((512,), "int32"))]
        shapes += [jax.ShapeDtypeStruct(s, t) for s, t in (((n, 64), "float32"), ((n,), "int32"))]
        call = jax.jit(lambda a, al, p, pl: triplet_loss(a, al, p, pl).loss)
        return call.lower(*shapes).compile().memory_analysis().temp_size_in_bytes

    small, large = temporary(8192), temporary(65536)
    # What grows is one flag a pool pixel, not 512 distances.
    assert large - small < 8 * (65536 - 8192)


def test_many_clips_at_once_and_compiled():
    clips = [clip(seed, labels=3) for seed in range(4)]
    run = partial(triplet_loss, labels=3)
    many = jax.jit(jax.vmap(run))(*(jnp.stack(x) for x in zip(*clips, strict=True)))
    for i, one in enumerate(clips):
        assert all(np.allclose(x[i], y, atol=1e-6) for x, y in zip(many, run(*one), strict=True))


def test_finite_differences():
    with jax.enable_x64(True):
        a, al, p, pl = clip(5, a=6, p=12, d=3)
        a, p = a.astype(jnp.float64), p.astype(jnp.float64)
        loss = jax.jit(lambda a, p: triplet_loss(a, al, p, pl, margin=0.5).loss)
        for k, gradient in enumerate(jax.grad(loss, (0, 1))(a, p)):
            rng = np.random.default_rng(k)
            for _ in range(10):
                step = rng.normal(size=(a, p)[k].shape) * 1e-6
                moved = [[a, p], [a, p]]
                moved[0][k], moved[1][k] = moved[0][k] + step, moved[1][k] - step
                difference = loss(*moved[0]) - loss(*moved[1])
                assert np.isclose(difference, 2 * (gradient * step).sum(), rtol=1e-5, atol=1e-12)


def test_against_float64_loop_in_float64():
    with jax.enable_x64(True):
        a, al, p, pl = clip(9)
        a, p = a.astype(jnp.float64), p.astype(jnp.float64)
        value, (ga, gp) = jax.value_and_grad(lambda a, p: triplet_loss(a, al, p, pl).loss, (0, 1))(a, p)
        expected, xa, xp, _ = by_hand(a, al, p, pl, 0.7, "anchor", "mean", 2)
        assert (
            np.isclose(value, expected, rtol=1e-12)
            and np.allclose(ga, xa, atol=1e-12)
            and np.allclose(gp, xp, atol=1e-12)
        )

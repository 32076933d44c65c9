"""Eq. 1 against a float64 loop, pixel by pixel, values and gradients; empty pools, void, blocks, the order of the pool."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pmljax import loss as module
from pmljax.loss import nearest_two, soft_triplet_loss, triplet_loss

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


@pytest.mark.parametrize("call", [triplet_loss, soft_triplet_loss])
def test_a_pool_without_pixels_and_one_that_is_not_finite(call, rng):
    """No pixel: no loss. NaN at void: nothing. NaN where a pixel takes part: said, as every step looks at its loss."""
    anchors, pool = (jnp.asarray(rng.normal(size=(n, 3)), jnp.float32) for n in (5, 9))
    labels, of = jnp.array([0, 1, 0, 1, 0]), jnp.array([0, 1, 0, 1, 0, 1, 0, 1, 255])
    loss = jax.value_and_grad(lambda a, p, n: call(a, labels, p, n).loss)
    value, gradient = loss(anchors, pool[:0], of[:0])
    assert value == 0 and not gradient.any()
    (value, gradient), beside = loss(anchors, pool, of), loss(anchors, pool.at[8].set(jnp.nan), of)
    assert value > 0 and value == beside[0] and np.array_equal(gradient, beside[1])
    assert jnp.isnan(loss(anchors, pool.at[3].set(jnp.nan), of)[0])
    assert jnp.isnan(loss(anchors.at[0].set(jnp.nan), pool, of)[0])


def test_numbers_that_are_no_label_take_no_part():
    anchors, pool = jnp.array([[0.0, 0.0]]), jnp.array([[1.0, 0.0], [0.1, 0.0], [2.0, 0.0]])
    at = partial(triplet_loss, anchors, jnp.array([0]), pool, jnp.array([0, 2, 1]), margin=0.0)
    assert at().loss == 0  # of two labels: 1 is nearer than 4
    assert np.isclose(at(labels=3).loss, 0.99)  # of three: .01 is nearer


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


# The soft twin


def soft_by_hand(anchors, anchor_labels, pool, pool_labels, temperature, weights):
    """(loss, gradient to the anchors) in float64, one anchor after the other: −log of its own label's share."""
    anchors, pool = np.float64(anchors), np.float64(pool)
    anchor_labels, pool_labels = np.asarray(anchor_labels), np.asarray(pool_labels)
    total, weight, gradient, counted = 0.0, 0.0, np.zeros_like(anchors), 0
    for i, a in enumerate(anchors):
        known = [j for j in range(len(pool)) if pool_labels[j] != VOID]
        same = [j for j in known if pool_labels[j] == anchor_labels[i]]
        if anchor_labels[i] == VOID or not same or len(same) == len(known):
            continue
        share = np.array([np.exp(-((a - pool[j]) ** 2).sum() / (2 * temperature)) for j in known])
        mine = np.array([j in same for j in known])
        total += weights[i] * -np.log(share[mine].sum() / share.sum())
        pull = -(a[None] - pool[known]) / temperature  # of the exponent
        each = (share / share.sum())[:, None] * pull
        gradient[i] = weights[i] * (each.sum(0) - (share[mine, None] * pull[mine]).sum(0) / share[mine].sum())
        weight += weights[i]
        counted += 1
    scale = 1 / weight if weight else 0.0
    return total * scale, gradient * scale, counted


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("temperature", [0.05, 1.0])
def test_soft_loss_against_a_loop(weighted, temperature):
    def loss(a, al, p, pl, weights):
        found = soft_triplet_loss(a, al, p, pl, temperature=temperature, weights=weights if weighted else None)
        return found.loss, found

    run = jax.jit(jax.value_and_grad(loss, has_aux=True))
    for seed in range(4):
        a, al, p, pl = clip(seed, labels=3)
        weights = np.random.default_rng(seed).random(len(a)).astype("f") if weighted else np.ones(len(a), "f")
        (value, found), gradient = run(a, al, p, pl, weights)
        expected, by_anchor, counted = soft_by_hand(a, al, p, pl, temperature, weights)
        assert np.isclose(value, expected, rtol=1e-5) and np.allclose(gradient, by_anchor, atol=2e-5)
        hard = triplet_loss(a, al, p, pl, labels=3)
        assert found.anchors == counted == hard.anchors and np.isclose(found.nearer, hard.nearer)


def test_a_cold_soft_loss_is_the_hinge_without_margin():
    a, al, p, pl = clip(2)
    cold = soft_triplet_loss(a, al, p, pl, temperature=1e-4).loss * 2e-4
    terms = triplet_loss(a, al, p, pl, margin=0.0, reduction="sum")
    counts = np.bincount(np.asarray(al), minlength=2)[:2]
    each = [triplet_loss(a, jnp.where(al == k, al, VOID), p, pl, margin=0.0, reduction="sum").loss for k in (0, 1)]
    assert np.isclose(sum(each), terms.loss, rtol=1e-5)
    assert np.isclose(cold, (np.array(each) * counts).sum() / counts.sum(), rtol=1e-3)


@pytest.mark.parametrize("empty", ["positives", "negatives", "pool", "anchors", "weights"])
def test_soft_loss_of_empty_pools(empty):
    a, al, p, pl = clip(0, void=0.0)
    weights = None
    if empty == "positives":
        al, pl = jnp.ones_like(al), jnp.zeros_like(pl)
    elif empty == "negatives":
        al, pl = jnp.ones_like(al), jnp.ones_like(pl)
    elif empty == "pool":
        pl = jnp.full_like(pl, VOID)
    elif empty == "anchors":
        al = jnp.full_like(al, VOID)
    else:
        weights = jnp.zeros(len(a))
    value, gradient = jax.value_and_grad(lambda a, p: soft_triplet_loss(a, al, p, pl, weights=weights).loss, (0, 1))(
        a, p
    )
    assert value == 0 and not any(g.any() for g in gradient)


# Beside PyTorch


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("hinge", ["anchor", "label"])
@pytest.mark.parametrize("labels", [2, 4])
def test_beside_pytorch(hinge, reduction, labels):
    """Values and gradients, the distances from one product and the minima by torch.min, as the reproductions do."""
    torch = pytest.importorskip("torch")
    options = {"margin": 0.3, "hinge": hinge, "reduction": reduction, "labels": labels}
    run = jax.jit(jax.value_and_grad(lambda a, p, al, pl: triplet_loss(a, al, p, pl, **options).loss, (0, 1)))
    for seed in range(3):
        a, al, p, pl = clip(seed, labels=labels)
        value, gradient = run(a, p, al, pl)
        x, y = (torch.tensor(np.asarray(v), requires_grad=True) for v in (a, p))
        own, other = (torch.tensor(np.asarray(v).astype(np.int64)) for v in (al, pl))
        distance = ((x**2).sum(1)[:, None] + (y**2).sum(1)[None] - 2 * x @ y.T).clamp(min=0)
        each = []
        for k in range(labels):
            mine = own == k
            if mine.any() and (other == k).any() and ((other != k) & (other != VOID)).any():
                near = distance[mine][:, other == k].min(1).values
                far = distance[mine][:, (other != k) & (other != VOID)].min(1).values
                term = near - far
                each.append(torch.relu(term + 0.3).mean() if hinge == "anchor" else torch.relu(term.sum() + 0.3))
        loss = torch.stack(each).sum() if reduction == "sum" else torch.stack(each).mean()
        loss.backward()
        assert np.isclose(value, loss.item(), rtol=1e-5)
        assert all(np.allclose(g, t.grad.numpy(), atol=2e-6) for g, t in zip(gradient, (x, y), strict=True))

"""Eq. 1 against a float64 loop, pixel by pixel, values and gradients; empty pools, void, blocks, the order of the pool."""

from functools import cache, partial

import jax
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
    return np.float32(unit[0]), ids[0], np.float32(unit[1]), ids[1]


@cache
def compiled(call=triplet_loss, **options):
    """A call's (loss, all that it says, gradients to the anchors and to the pool), compiled once for all tests that ask for
    these options; numbers such as the margin are given with the clip."""

    def whole(anchors, pool, anchor_labels, pool_labels, traced):
        found = call(anchors, anchor_labels, pool, pool_labels, **options, **traced)
        return found.loss, found

    run = jax.jit(jax.value_and_grad(whole, (0, 1), has_aux=True))

    def found(anchors, anchor_labels, pool, pool_labels, **traced):
        (value, said), gradients = jax.tree.map(np.asarray, run(anchors, pool, anchor_labels, pool_labels, traced))
        return value, said, gradients

    return found


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
    options = {"hinge": hinge, "reduction": reduction, "labels": labels}
    for seed in range(8):
        a, al, p, pl = clip(seed, labels=labels)
        value, found, (to_a, to_p) = compiled(**options)(a, al, p, pl, margin=0.3)
        expected, ga, gp, shares = by_hand(a, al, p, pl, margin=0.3, **options)
        assert np.allclose(value, expected, rtol=1e-5, atol=1e-6)
        assert np.allclose(to_a, ga, atol=1e-5) and np.allclose(to_p, gp, atol=1e-5)
        assert np.allclose(found[1:], shares)


def test_each_variant_of_the_reproductions():
    """Two labels, one easy and one hard anchor of the foreground, one background anchor, on a line."""
    anchors, labels = np.float32([[0], [1], [5]]), np.int32([1, 1, 0])
    pool, of = np.float32([[0], [3], [5]]), np.int32([1, 0, 0])
    # Terms: 0 − 9 = −9, 1 − 4 = −3 for the foreground; 0 − 25 = −25 for the background.
    at = partial(triplet_loss, anchors, labels, pool, of)
    assert np.isclose(at(margin=4.0).loss, ((0 + 1) / 2 + 0) / 2)  # sydney0zq: hinge an anchor, mean, half of both
    assert np.isclose(at(margin=4.0, reduction="sum").loss, (0 + 1) / 2)
    assert (
        float(at(margin=4.0, hinge="label", reduction="sum").loss) == 0
    )  # bf-vos: −12 + 4, the easy one cancels the hard
    assert np.isclose(at(margin=13.0, hinge="label", reduction="sum").loss, 1)
    _, nearer, active, count = map(float, at(margin=4.0))
    assert nearer == 1 and np.isclose(active, 1 / 3) and count == 3


@pytest.mark.parametrize("empty", ["anchors of one", "positives", "negatives", "pool", "all anchors"])
@pytest.mark.parametrize("hinge", ["anchor", "label"])
def test_empty_pools_give_no_loss_and_no_gradient(empty, hinge):
    a, al, p, pl = clip(0, void=0.0)
    if empty == "anchors of one":
        al = np.zeros_like(al)
    elif empty == "positives":
        al, pl = np.ones_like(al), np.zeros_like(pl)
    elif empty == "negatives":
        al, pl = np.ones_like(al), np.ones_like(pl)
    elif empty == "pool":
        pl = np.full_like(pl, VOID)
    else:
        al = np.full_like(al, VOID)
    value, found, gradient = compiled(hinge=hinge, reduction="mean", labels=2)(a, al, p, pl, margin=0.7)
    expected = by_hand(a, al, p, pl, 0.7, hinge, "mean", 2)
    assert np.allclose(value, expected[0], atol=1e-6) and all(np.isfinite(g).all() for g in gradient)
    if empty != "anchors of one":
        assert value == 0 and not any(g.any() for g in gradient)
        assert not np.any(found[1:])


@pytest.mark.parametrize("call", [triplet_loss, soft_triplet_loss])
def test_a_pool_without_pixels_and_one_that_is_not_finite(call):
    """No pixel: no loss. NaN at void: nothing. NaN where a pixel takes part: said, as every step looks at its loss."""
    anchors, labels, pool, of = clip(0, void=0.0)
    of[8] = VOID
    run = partial(compiled(hinge="anchor", reduction="mean", labels=2), margin=0.7)
    run = run if call is triplet_loss else partial(compiled(call), temperature=0.1)

    def loss(anchors, pool, of):
        value, _, gradients = run(anchors, labels, pool, of)
        return value, gradients[0]

    def diverged(x, row):
        return np.where(np.arange(len(x))[:, None] == row, np.float32(np.nan), x)

    value, gradient = loss(anchors, pool[:0], of[:0])
    assert value == 0 and not gradient.any()
    (value, gradient), beside = loss(anchors, pool, of), loss(anchors, diverged(pool, 8), of)
    assert value > 0 and value == beside[0] and np.array_equal(gradient, beside[1])
    assert np.isnan(loss(anchors, diverged(pool, 3), of)[0])
    assert np.isnan(loss(diverged(anchors, 0), pool, of)[0])


@pytest.mark.parametrize("call", [triplet_loss, soft_triplet_loss])
@pytest.mark.parametrize("without", ["nothing", "positives", "negatives"])
def test_what_stands_at_void_has_no_part_in_any_gradient(call, without):
    """The first of the pool, which is looked up where nothing is found, and an anchor: as with zeros there, to the bit."""
    anchors, labels, pool, of = clip(0, void=0.0)
    of[0] = labels[1] = VOID
    if without != "nothing":  # of label 1
        of[(of == 1) if without == "positives" else (of == 0)] = VOID
    of[-1] = 0 if without == "positives" else 1
    there = labels != VOID, of != VOID
    slopes = jax.jit(jax.grad(lambda a, p: call(a, labels, p, of).loss, (0, 1)))

    def beside(number):
        filled = (np.where(at[:, None], x, np.float32(number)) for x, at in zip((anchors, pool), there, strict=True))
        return [np.asarray(slope) for slope in slopes(*filled)]

    for clean, found in zip(beside(0), beside(np.nan), strict=True):
        assert np.isfinite(found).all() and np.array_equal(clean, found)
    assert without != "nothing" or all(slope.any() for slope in beside(np.nan))


def test_as_many_labels_as_there_are():
    anchors, pool = np.float32([[0], [1]]), np.float32([[0], [2], [4]])
    at = partial(triplet_loss, anchors, np.int32([253, 254]), pool, np.int32([253, 254, 253]))
    assert at(labels=255).anchors == 2
    with pytest.raises(ValueError, match=r"labels 256: expected 1…255"):
        at(labels=256)


def test_numbers_that_are_no_label_take_no_part():
    anchors, pool = np.float32([[0, 0]]), np.float32([[1, 0], [0.1, 0], [2, 0]])
    at = partial(triplet_loss, anchors, np.int32([0]), pool, np.int32([0, 2, 1]), margin=0.0)
    assert float(at().loss) == 0  # of two labels: 1 is nearer than 4
    assert np.isclose(at(labels=3).loss, 0.99)  # of three: .01 is nearer


@pytest.mark.parametrize("loss", [triplet_loss, soft_triplet_loss])
def test_labels_of_any_whole_numbers(loss):
    a, al, p, pl = clip(1, void=0.0)
    expected = loss(a, al, p, pl).loss
    assert expected > 0
    for kind in (np.int8, np.uint8, np.int16):
        assert loss(a, al.astype(kind), p, pl.astype(kind)).loss == expected


def test_equal_pixels_have_a_finite_gradient():
    same = np.ones((4, 3), np.float32)
    labels = np.int32([0, 1, 0, 1])
    value, gradient = jax.jit(jax.value_and_grad(lambda x, of: triplet_loss(x, of, x, of).loss))(same, labels)
    assert np.isclose(value, 0.7) and not np.asarray(gradient).any()


@given(st.integers(0, 10**6))
def test_the_order_of_the_pool_does_not_matter(seed):
    a, al, p, pl = clip(seed)
    order = np.random.default_rng(seed).permutation(len(p))
    run = compiled(hinge="anchor", reduction="mean", labels=2)
    straight, shuffled = (run(a, al, p[o], pl[o], margin=0.7)[1] for o in (slice(None), order))
    assert all(np.allclose(x, y, atol=1e-6) for x, y in zip(straight, shuffled, strict=True))


def test_blocks_change_nothing(monkeypatch):
    a, al, p, pl = clip(3, p=300)

    def found():  # by a function of its own each time, which is traced with the block that there is
        return jax.jit(lambda *x: nearest_two(*x))(a, al, p, pl)

    whole = found()
    monkeypatch.setattr(module, "BLOCK", 128)
    parts = found()
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
    many = jax.tree.map(np.asarray, jax.jit(jax.vmap(run))(*map(np.stack, zip(*clips, strict=True))))
    for i, one in enumerate(clips):
        assert all(np.allclose(x[i], y, atol=1e-6) for x, y in zip(many, run(*one), strict=True))


def test_finite_differences():
    with jax.enable_x64(True):
        a, al, p, pl = clip(5)
        a, p, run = np.float64(a), np.float64(p), partial(compiled(), margin=0.5)
        for k, gradient in enumerate(run(a, al, p, pl)[2]):
            assert gradient.dtype == np.float64
            rng = np.random.default_rng(k)
            for _ in range(10):
                step = rng.normal(size=(a, p)[k].shape) * 1e-6
                moved = [[a, p], [a, p]]
                moved[0][k], moved[1][k] = moved[0][k] + step, moved[1][k] - step
                difference = np.subtract(*(run(a, al, p, pl)[0] for a, p in moved))
                assert np.isclose(difference, 2 * (gradient * step).sum(), rtol=1e-5, atol=1e-12)


def test_against_float64_loop_in_float64():
    with jax.enable_x64(True):
        a, al, p, pl = clip(9)
        a, p = np.float64(a), np.float64(p)
        value, _, (ga, gp) = compiled()(a, al, p, pl, margin=0.7)
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
@pytest.mark.parametrize("temperature", [0.05, 1.0, None])
def test_soft_loss_against_a_loop(weighted, temperature):
    for seed in range(4):
        a, al, p, pl = clip(seed, labels=3)
        weights = np.random.default_rng(seed).random(len(a)).astype("f") if weighted else np.ones(len(a), "f")
        given = {"weights": weights} if weighted else {}
        given |= {} if temperature is None else {"temperature": temperature}
        value, found, (gradient, _) = compiled(soft_triplet_loss)(a, al, p, pl, **given)
        expected, by_anchor, counted = soft_by_hand(a, al, p, pl, temperature or 0.1, weights)
        assert np.isclose(value, expected, rtol=1e-5) and np.allclose(gradient, by_anchor, atol=2e-5)
        hard = triplet_loss(a, al, p, pl, labels=3)
        assert found.anchors == counted == hard.anchors and np.isclose(found.nearer, hard.nearer)


def test_a_cold_soft_loss_is_the_hinge_without_margin():
    a, al, p, pl = clip(2)
    cold = compiled(soft_triplet_loss)(a, al, p, pl, temperature=1e-4)[0] * 2e-4
    hinge = partial(compiled(hinge="anchor", reduction="sum", labels=2), margin=0.0)
    terms = hinge(a, al, p, pl)[0]
    counts = np.bincount(al, minlength=2)[:2]
    each = [hinge(a, np.where(al == k, al, VOID), p, pl)[0] for k in (0, 1)]
    assert np.isclose(sum(each), terms, rtol=1e-5)
    assert np.isclose(cold, (np.array(each) * counts).sum() / counts.sum(), rtol=1e-3)


@pytest.mark.parametrize("empty", ["positives", "negatives", "pool", "anchors", "weights"])
def test_soft_loss_of_empty_pools(empty):
    a, al, p, pl = clip(0, void=0.0)
    given = {}
    if empty == "positives":
        al, pl = np.ones_like(al), np.zeros_like(pl)
    elif empty == "negatives":
        al, pl = np.ones_like(al), np.ones_like(pl)
    elif empty == "pool":
        pl = np.full_like(pl, VOID)
    elif empty == "anchors":
        al = np.full_like(al, VOID)
    else:
        given = {"weights": np.zeros(len(a), np.float32)}
    value, _, gradient = compiled(soft_triplet_loss)(a, al, p, pl, temperature=0.1, **given)
    assert value == 0 and not any(g.any() for g in gradient)


# Beside PyTorch


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("hinge", ["anchor", "label"])
@pytest.mark.parametrize("labels", [2, 4])
def test_beside_pytorch(hinge, reduction, labels):
    """Values and gradients, the distances from one product and the minima by torch.min, as the reproductions do."""
    torch = pytest.importorskip("torch")
    run = partial(compiled(hinge=hinge, reduction=reduction, labels=labels), margin=0.3)
    for seed in range(3):
        a, al, p, pl = clip(seed, labels=labels)
        value, _, gradient = run(a, al, p, pl)
        x, y = (torch.tensor(v, requires_grad=True) for v in (a, p))
        own, other = (torch.tensor(v.astype(np.int64)) for v in (al, pl))
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

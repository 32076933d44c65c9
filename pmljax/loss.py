"""Equation 1 of the paper: the modified triplet loss, for one clip.

For every anchor pixel, the nearest positive in the pool is pulled and the nearest negative pushed (squared L2):

    L = Σ_a [ min_{p: same label} ‖a − p‖² − min_{n: other label} ‖a − n‖² + α ]₊

Anchors come from one frame of a clip, the pool from two others. With two labels the roles of foreground and background
swap with the anchor's label; with several objects the positives are the same object and the negatives all else.
`soft_triplet_loss` is its smooth twin: soft minima in place of minima, softplus in place of the hinge. The semantic
cross-entropy of the paper's first stage is here too.
Axes: `a` anchors, `p` pool, `d` embedding. `jax.vmap` makes it a loss of many clips.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, Integer

from pmljax.jitted import jitted

Hinge = Literal["anchor", "label"]
Precision = Literal["high", "highest"]
BLOCK = 4096  # pool pixels compared at once


class TripletLoss(NamedTuple):
    """loss: a scalar.  nearer: share of the anchors whose nearest positive is nearer than the nearest negative.

    active: share of the anchors whose hinge is active.  anchors: how many there were with both pools not empty.
    The shares are 0 where there are none.
    """

    loss: jax.Array
    nearer: jax.Array
    active: jax.Array
    anchors: jax.Array


@jitted(owned=True, static_argnames=("hinge", "reduction", "labels"), inline=True)
def triplet_loss(
    anchors: Float[ArrayLike, "a d"],
    anchor_labels: Integer[ArrayLike, "a"],
    pool: Float[ArrayLike, "p d"],
    pool_labels: Integer[ArrayLike, "p"],
    *,
    margin: float | Float[Array, ""] = 0.7,
    hinge: Hinge = "anchor",
    reduction: Literal["mean", "sum"] = "mean",
    labels: int = 2,
) -> TripletLoss:
    """The modified triplet loss of one clip.

    anchor_labels, pool_labels: 0…labels − 1; any other number (void, filling) takes no part.  labels: 255 at most.
    hinge "anchor": [·]₊ around each anchor's term, averaged over a label's anchors (sydney0zq); "label": around the sum of
    a label's terms, α entering once (bf-vos), so that easy anchors cancel hard ones.
    reduction: "mean" over the labels that have anchors and both pools (½(fg + bg) of two), or their "sum".
    An anchor with an empty pool gives no loss and no gradient. Where a pixel that takes part is not finite, the loss is NaN.
    """
    anchors, pool = jnp.asarray(anchors), jnp.asarray(pool)
    # int8 has no 254, and in uint8 what is void cannot be told by −1.
    anchor_labels, pool_labels = (jnp.asarray(x).astype(jnp.int32) for x in (anchor_labels, pool_labels))
    if hinge not in ("anchor", "label") or reduction not in ("mean", "sum"):
        raise ValueError(f"hinge {hinge}, reduction {reduction}: expected anchor or label, mean or sum")
    if not 1 <= labels <= 255:
        raise ValueError(f"labels {labels}: expected 1…255, as 255 is void")
    pool, pool_labels = _some(pool, pool_labels)
    near, far = nearest_two(anchors, anchor_labels, pool, jnp.where(pool_labels < labels, pool_labels, -1))
    there = (near >= 0) & (far >= 0) & (anchor_labels >= 0) & (anchor_labels < labels)
    # Distances once more from the two pixels found: exact near zero, and the gradient touches nothing else. Where there are
    # none, zeros: what stands at void may be NaN, and then its gradient times nothing is.
    own, positive, negative = (
        jnp.where(there[:, None], x, 0) for x in (anchors, pool[jnp.maximum(near, 0)], pool[jnp.maximum(far, 0)])
    )
    term = _squared(own, positive) - _squared(own, negative)

    member = (anchor_labels[:, None] == jnp.arange(labels, dtype=anchor_labels.dtype)[None]) & there[
        :, None
    ]  # [a, label]
    count = member.sum(0, dtype=term.dtype)
    if hinge == "anchor":
        each = jnp.where(member, jax.nn.relu(term + margin)[:, None], 0).sum(0) / jnp.maximum(count, 1)
    else:
        each = jnp.where(count > 0, jax.nn.relu(jnp.where(member, term[:, None], 0).sum(0) + margin), 0)
    total = each.sum()
    if reduction == "mean":
        total = total / jnp.maximum((count > 0).sum(dtype=total.dtype), 1)
    # The search passes over what is not finite: a network that diverged would have no loss.
    parts = ((anchors, anchor_labels), (pool, pool_labels))
    finite = [(jnp.isfinite(x).all(-1) | (of < 0) | (of >= labels)).all() for x, of in parts]
    total = jnp.where(finite[0] & finite[1], total, jnp.nan)
    number = there.sum(dtype=total.dtype)
    nearer, active = (
        jax.lax.stop_gradient(jnp.where(there, which, False).sum(dtype=total.dtype) / jnp.maximum(number, 1))
        for which in (term < 0, term + margin > 0)
    )
    return TripletLoss(total, nearer, active, number)


@jitted(owned=True, static_argnames="precision", inline=True)
def soft_triplet_loss(
    anchors: Float[Array, "a d"],
    anchor_labels: Integer[Array, "a"],
    pool: Float[Array, "p d"],
    pool_labels: Integer[Array, "p"],
    *,
    temperature: float | Float[Array, ""] = 0.1,
    weights: Float[Array, "a"] | None = None,
    precision: Precision = "highest",
) -> TripletLoss:
    """Eq. 1 with soft minima: Σ_a w_a softplus((softmin_{same} − softmin_{other}) / τ) over half the squared distances,
    softmin(x) = −τ log Σ exp(−x/τ).

    That is the negative logarithm of the share that the anchor's own label has among exp(−‖a − p‖²/2τ) of the whole pool;
    for unit vectors the exponent is the cosine over τ. Every pixel of the pool has a gradient, the nearest the largest.
    weights: of the anchors (equal by default); they are made to sum to 1 over the anchors with both pools.
    precision: of the products of embeddings; "high" is TF32 on a GPU, with ten bits behind the first.
    """
    anchor_labels, pool_labels = (jnp.asarray(x).astype(jnp.int32) for x in (anchor_labels, pool_labels))
    pool, pool_labels = _some(pool, pool_labels)
    known, meant = ((of >= 0) & (of <= 254) for of in (pool_labels, anchor_labels))
    # Whatever stands at void: of NaN the products' gradient would be NaN for all anchors, and for all of the pool.
    anchors, pool = jnp.where(meant[:, None], anchors, 0), jnp.where(known[:, None], pool, 0)
    distance = 0.5 * _pairwise(anchors, pool, precision)
    same = (anchor_labels[:, None] == pool_labels[None]) & known[None]
    other = ~same & known[None]
    there = same.any(1) & other.any(1) & meant
    near, far = (_soft_minimum(distance, group, temperature) for group in (same, other))
    term = jnp.where(there, near - far, 0)
    each = jnp.where(there, jax.nn.softplus(term), 0)
    weight = jnp.where(there, jnp.ones_like(term) if weights is None else weights, 0)
    weight = weight / jnp.maximum(weight.sum(), 1e-12)
    number = there.sum(dtype=term.dtype)
    hard = [jnp.where(group, distance, jnp.inf).min(1) for group in (same, other)]
    nearer, active = (
        jax.lax.stop_gradient((there & flag).sum(dtype=term.dtype) / jnp.maximum(number, 1))
        for flag in (hard[0] < hard[1], term > 0)
    )
    return TripletLoss((each * weight).sum(), nearer, active, number)


def _some(pool: Float[Array, "p d"], labels: Int[Array, "p"]) -> tuple[Float[Array, "q d"], Int[Array, "q"]]:
    """The pool, or one void pixel where it has none."""
    return (
        (pool, labels) if len(pool) else (jnp.zeros_like(pool, shape=(1, pool.shape[1])), jnp.full(1, 255, jnp.int32))
    )


def _soft_minimum(distance: Float[Array, "a p"], group: Array, temperature: float | Array) -> Float[Array, "a"]:
    """−log Σ_{group} exp(−distance/τ): the soft minimum over τ; 0, without a gradient, over an empty group."""
    some = group.any(1)
    safe = group | ~some[:, None]
    total = jax.nn.logsumexp(jnp.where(safe, -distance / temperature, -jnp.inf), 1)
    return jnp.where(some, -total, 0)


def _pairwise(x: Float[Array, "a d"], y: Float[Array, "p d"], precision: Precision) -> Float[Array, "a p"]:
    """Squared distances of all pairs, from one matrix product."""
    product = jnp.matmul(x, y.T, precision=precision)
    return jnp.maximum(jnp.sum(x * x, -1)[:, None] + jnp.sum(y * y, -1)[None] - 2 * product, 0)


def semantic_loss(logits: Float[Array, "y x c"], labels: Int[Array, "y x"]) -> Float[Array, ""]:
    """Cross-entropy over the cells of one picture, in their mean; labels outside 0…c − 1 (void) take no part.

    0, with zero gradient, where all is void.
    """
    known = (labels >= 0) & (labels < logits.shape[-1])
    chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), jnp.where(known, labels, 0)[..., None], -1)[..., 0]
    return -jnp.where(known, chosen, 0).sum() / jnp.maximum(known.sum(dtype=logits.dtype), 1)


def nearest_two(
    anchors: Float[Array, "a d"],
    anchor_labels: Integer[Array, "a"],
    pool: Float[Array, "p d"],
    pool_labels: Integer[Array, "p"],
) -> tuple[Int[Array, "a"], Int[Array, "a"]]:
    """(nearest pool pixel of the same label, nearest of another) of every anchor; −1 where there is none.

    Of equal distances the lower row. A block of the pool after the other: no more than a·BLOCK distances exist at a time.
    Nothing is differentiated here. Negative labels and those over 254 are void.
    """
    anchors, pool = jax.lax.stop_gradient((anchors, pool))
    size = min(BLOCK, pool.shape[0])
    starts = jnp.arange(0, pool.shape[0], size, dtype=jnp.int32)
    void = (pool_labels < 0) | (pool_labels > 254)

    def next_block(best, offset):
        start = jnp.minimum(offset, pool.shape[0] - size)
        p, labels, out = (jax.lax.dynamic_slice_in_dim(x, start, size) for x in (pool, pool_labels, void))
        fresh = ~out & (start + jnp.arange(size, dtype=jnp.int32) >= offset)
        distance = jnp.sum(p * p, -1)[None] - 2 * jnp.matmul(anchors, p.T, precision="highest")
        same = anchor_labels[:, None] == labels[None]
        return tuple(
            _nearer(kept, jnp.where(fresh[None] & group, distance, jnp.inf), start)
            for kept, group in zip(best, (same, ~same), strict=True)
        ), None

    none = (jnp.full(anchors.shape[:1], jnp.inf, anchors.dtype), jnp.full(anchors.shape[:1], -1, jnp.int32))
    ((_, near), (_, far)), _ = jax.lax.scan(next_block, (none, none), starts)
    return near, far


def _nearer(kept, distance: Float[Array, "a p"], start: Int[Array, ""]):
    # XLA's argmin compares pair after pair on a CPU: 4.1 ms for 512 × 3,362. The minimum, then the first column that
    # equals it, are plain reductions: .5 ms.
    found, columns = distance.min(-1), distance.shape[-1]
    here = jnp.where(distance == found[:, None], jnp.arange(columns, dtype=jnp.int32)[None], columns)
    column = jnp.minimum(here.min(-1), columns - 1)  # a row of NaN equals nothing
    closer = found < kept[0]
    return jnp.where(closer, found, kept[0]), jnp.where(closer, column + start, kept[1])


def _squared(x: Float[Array, "a d"], y: Float[Array, "a d"]) -> Float[Array, "a"]:
    return jnp.sum((x - y) ** 2, -1)

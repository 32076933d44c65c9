"""The metric that tells the user's labels apart, from the user's own pixels: Fisher's linear discriminants.

Of two pixels of one label some directions of the embedding say much that does not matter (light, texture, sides of an object);
between labels others do. Distances are stretched along the latter. A closed form: nothing is trained.
Axes: `r` reference row, `d` embedding, `o` label.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

RIDGE = 0.3  # of the mean variance, added to every direction's: what few pixels seem to tell apart is not believed
FLAT = 1e-6  # the least mean variance, where every label is one pixel
NONE = 1e-5  # of the longest: a direction that short is rounding; o labels have at most o − 1


def separating(
    embedding: Float[Array, "r d"], share: Float[Array, "r o"], valid: Bool[Array, "r"], stretch: float
) -> Float[Array, "d d"]:
    """I + stretch·P, by which embeddings are multiplied before they are compared; P projects on the directions that
    separate the labels.

    Those are (S + ridge·I)⁻¹ (m_k − m): m_k each label's mean, m the mean of those, S the covariance within labels, each
    label weighing the same. A row's label is its largest share; rows that are not valid, whatever they hold, do not count.
    stretch: 0 leaves distances as they are; with fewer than two labels they stay so too.
    """
    d, o = embedding.shape[1], share.shape[1]
    label = jnp.where(valid[:, None], jax.nn.one_hot(share.argmax(-1), o, dtype=embedding.dtype), 0)
    rows = jnp.where(valid[:, None], embedding, 0)
    count = label.sum(0)
    there = (count > 0).astype(rows.dtype)
    means = _product(label.T, rows) / jnp.maximum(count, 1)[:, None]
    within = rows - _product(label, means)
    weight = _product(label, (there / jnp.maximum(count, 1))[:, None]) / jnp.maximum(there.sum(), 1)
    covariance = _product((within * weight).T, within)
    ridge = RIDGE * jnp.maximum(jnp.trace(covariance) / d, FLAT)
    centre = (means * there[:, None]).sum(0) / jnp.maximum(there.sum(), 1)
    one = jnp.eye(d, dtype=rows.dtype)
    apart = jnp.linalg.solve(covariance + ridge * one, ((means - centre[None]) * there[:, None]).T)  # [d, o]
    length, basis = jnp.linalg.eigh(_product(apart.T, apart))
    known = length > NONE * jnp.maximum(length.max(), jnp.finfo(length.dtype).tiny)
    along = _product(apart, basis) * jnp.where(known, jax.lax.rsqrt(jnp.where(known, length, 1)), 0)[None]
    return one + stretch * _product(along, along.T)


def _product(a: Float[Array, "i j"], b: Float[Array, "j k"]) -> Float[Array, "i k"]:
    return jnp.matmul(a, b, precision="highest")

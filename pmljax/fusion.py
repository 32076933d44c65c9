"""What XLA's fusion is kept from: computing the same again for every one that uses it.

Two means, as one is not enough. `apart`, a barrier, holds while the graph is simplified (a transposition is not pushed into
a product, a sum not into another), and is gone before loops are fused. `once` is a write, which fusion does not repeat.
"""

from __future__ import annotations

import jax
from jax import lax
from jaxtyping import Array, Float

apart = lax.optimization_barrier


@jax.custom_jvp
def once(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """`x`, which XLA computes once on a CPU, instead of again wherever it is used.

    Its fusion repeats cheap work, and a sum of residuals is cheap: the last of a stage's blocks would add all the blocks
    before it, each user of it anew. A write of one number in place costs nothing.
    """

    def written(x: jax.Array) -> jax.Array:
        corner = (0,) * x.ndim
        return lax.dynamic_update_slice(x, lax.slice(x, corner, (1,) * x.ndim), corner)

    return lax.platform_dependent(x, cpu=written, default=lambda x: x)


@once.defjvp
def _once_forward(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    return once(*primals), tangents[0]

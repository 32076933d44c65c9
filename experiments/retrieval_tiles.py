"""Which tiles make `nearest` fast: the choice behind QUERY_TILE, REFERENCE_TILE and GROUP.

    python -m experiments.retrieval_tiles

Half a minute on two cores. Random unit vectors from seed 0, 6,588 × 6,588, D 128, float32; every row is measured in each of
seven rounds, and the median is printed beside the floor: the matrix product and its row minimum alone.
"""

from __future__ import annotations

import time

import jax
import jax.numpy as jnp
import numpy as np

from pmljax import retrieval

N, D, ROUNDS = 6588, 128, 7
# (k, queries a tile, references a tile, group)
ROWS = (
    (5, 6592, 6656, 32),
    (5, 6592, 1024, 32),
    (5, 1024, 6656, 32),
    (5, 512, 6656, 32),
    (5, 256, 6656, 32),
    (5, 128, 6656, 32),
    (5, 256, 2048, 32),
    (5, 256, 6656, 16),
    (5, 256, 6656, 64),
    (5, 256, 6656, 6656),  # one group: every column is sorted
    (1, 256, 6656, 32),
    (10, 256, 6656, 32),
)


def main() -> None:
    key = jax.random.key(0)
    queries, references = (x / jnp.linalg.norm(x, axis=-1, keepdims=True) for x in jax.random.normal(key, (2, N, D)))

    def floor(q, r):
        return jnp.min(jnp.sum(r * r, -1)[None] - 2 * jnp.matmul(q, r.T, precision="highest"), -1)

    calls = {"floor": jax.jit(floor).lower(queries, references).compile()}
    for k, query_tile, reference_tile, group in ROWS:
        retrieval.GROUP = group
        retrieval.nearest.clear_cache()
        lowered = retrieval.nearest.lower(
            queries, references, k=k, query_tile=query_tile, reference_tile=reference_tile
        )
        calls[f"k {k:2}, {query_tile:4} queries × {reference_tile} references, groups of {group}"] = lowered.compile()
    seconds = {name: [] for name in calls}
    for _ in range(ROUNDS + 1):
        for name, call in calls.items():
            begin = time.perf_counter()
            jax.block_until_ready(call(queries, references))
            seconds[name].append(time.perf_counter() - begin)
    print(f"{jax.devices()[0].device_kind}, JAX {jax.__version__}")
    for name, taken in seconds.items():
        low, median, high = np.quantile(taken[1:], (0.1, 0.5, 0.9))  # the first round warms up
        print(f"{median * 1e3:6.1f} ms ({low * 1e3:.1f}…{high * 1e3:.1f})  {name}")


if __name__ == "__main__":
    main()

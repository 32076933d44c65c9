"""Networks with random weights, of which nothing has to be compiled: initialising the smallest takes a second."""

import jax
import numpy as np

from pmljax.model import Model, abstract


def filled(shapes, seed=0, head=None):
    """Arrays for `shapes`: random kernels of a sensible scale, norms that change nothing. head: the scale of the head's."""
    rng = np.random.default_rng(seed)

    def fill(path, x):
        if path[-1].key == "kernel":
            scale = head if head and path[1].key == "head" else np.sqrt(2 / np.prod(x.shape[:-1]))
            return (rng.normal(size=x.shape) * scale).astype(x.dtype)
        return np.full(x.shape, path[-1].key in ("scale", "var"), x.dtype)

    return jax.device_put(jax.tree_util.tree_map_with_path(fill, shapes))


def network(config, seed=0):
    """A model of a configuration."""
    return Model(filled(abstract(config).variables, seed), config)

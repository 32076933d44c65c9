"""Over devices: the one line of `jax.pmap` around the training step, and how a batch and a state are laid for it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from pmljax.errors import InputError
from pmljax.train import Objective, TrainConfig, TrainState, embedding_loss, train_step

AXIS = "devices"

Step = Callable[..., tuple[TrainState, dict[str, jax.Array]]]


def spread(config: TrainConfig, objective: Objective = embedding_loss) -> Step:
    """The step over all devices of all hosts: batches `[local devices, b, …]` (`split`), the state unreplicated. Its fourth
    argument, the steps of the whole run (by default the recipe's), may change without another compilation."""
    devices = jax.device_count()
    if config.accumulate > 1 and config.batch // devices % config.accumulate:
        raise InputError(
            f"accumulate {config.accumulate}: expected a divisor of the {config.batch // devices} clips of each of"
            f" {devices} devices"
        )
    step = partial(train_step, config, objective=objective, axis_name=AXIS)
    over = jax.pmap(step, AXIS, in_axes=(None, 0, None, None), out_axes=(None, None), donate_argnums=0)

    def spread_step(
        state: TrainState, batch: Any, key: PRNGKeyArray, steps: int | Float[Array, ""] = config.steps
    ) -> Any:
        return over(state, batch, key, steps if isinstance(steps, jax.Array) else np.float32(steps))

    return spread_step


def split(batch: Any, devices: int) -> Any:
    """`batch` `[b, …]` as `[devices, b/devices, …]`; InputError where it does not divide."""
    b = jax.tree.leaves(batch)[0].shape[0]
    if b % devices:
        raise InputError(f"batch {b}: expected a multiple of the {devices} devices of this host")
    return jax.tree.map(lambda x: x.reshape(devices, b // devices, *x.shape[1:]), batch)


def replicate(state: Any) -> Any:
    """The first state, or another tree of arrays, laid over all devices: without it the second step would be compiled anew."""
    mesh = jax.make_mesh((jax.device_count(),), (AXIS,), axis_types=(jax.sharding.AxisType.Auto,))
    return jax.device_put(state, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()))

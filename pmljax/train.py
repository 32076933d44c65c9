"""Training: the recipe, the state, and one pure step. `parallel` spreads it over devices.

`train_step(config, state, batch, key)` averages the loss over a batch of clips, its gradients over `accumulate` parts and
over the devices of a pmap axis, and updates parameters and their average over time. What a clip is worth is an objective,
a function given to the step; `embedding_loss` is the paper's.
Axes: `b` clip, `t` frame of the clip, `c` side of a crop, `y x` grid, `q` cell.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, get_args, get_origin, get_type_hints

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from pmljax.config import ModelConfig
from pmljax.errors import InputError
from pmljax.loss import Hinge, TripletLoss, soft_triplet_loss, triplet_loss
from pmljax.model import EmbeddingNet, Model, create
from pmljax.preprocess import position_of_crop, preprocess
from pmljax.sampling import Augment, Clip, augment, cell_labels, draw_anchors, root_weights


@dataclass(frozen=True)
class TrainConfig:
    """A recipe. A checkpoint carries it."""

    model: ModelConfig
    augment: Augment = field(default_factory=Augment)
    steps: int = 20_000
    batch: int = 4
    """Clips a step, over all devices and hosts."""
    seed: int = 0
    """Of the weights, the clips and all that is drawn."""
    # The clips
    data: str = ""
    """What they are made of, in words: a run goes on with the same only."""
    init: str = ""
    """The fingerprint of the weights that it begins with, likewise; "": random ones."""
    short_side: int = 480
    """Frames with a longer short side are scaled down to it."""
    canvas: tuple[int, int] = (480, 854)
    """(h, w) in which every frame lies; larger ones are cut (scaled down by `resident`)."""
    # The loss
    loss: Literal["triplet", "soft"] = "triplet"
    """triplet: Eq. 1, from drawn anchors. soft: its smooth twin, from every labelled cell of the first frame."""
    margin: float = 0.7
    hinge: Hinge = "anchor"
    reduction: Literal["mean", "sum"] = "mean"
    anchors: int = 512
    """Drawn in the first frame, each label equally often: 256 of two."""
    temperature: float = 0.1
    """Of the soft loss."""
    turns: bool = False
    """Whether every frame of a clip has the anchors in turn, and the others are the pool; else the first alone has them."""
    # The optimiser
    optimiser: Literal["sgd", "adamw"] = "sgd"
    rate: float = 2.5e-4
    head: float = 10.0
    """Factor of the rate for the head."""
    schedule: Literal["poly", "cosine"] = "poly"
    """poly: (1 − step/steps)^0.9.  cosine: half a wave down to 0."""
    warmup: int = 0
    """Steps over which the rate rises from 0."""
    momentum: float = 0.9
    decay: float = 5e-4
    """Weight decay; never of norms and biases."""
    clip: float = 0.0
    """Largest norm of the whole gradient; 0: any."""
    accumulate: int = 1
    """Parts of a device's batch, one after the other: the same update from less memory (not with synced norms)."""
    average: float = 0.0
    """Of the parameters over time, for evaluation: kept share a step (fewer at the beginning); 0: none."""
    # The network
    norm: Literal["frozen", "synced"] = "frozen"
    """Batch normalisation: frozen as it is, scale and bias too (the paper's fine-tuning), or trained, with the statistics
    of all devices. Of no concern to group normalisation, which is trained."""
    remat: bool = False
    """Whether activations are computed again in the backward pass: less memory, a third more work."""

    def __post_init__(self):
        if not self.model.depth:
            raise InputError(f"model {self.model.name}: has no network to train; expected small, base, paper, …")
        for name, kind in get_type_hints(TrainConfig).items():
            if get_origin(kind) is Literal and getattr(self, name) not in get_args(kind):
                raise InputError(f"{name} {getattr(self, name)}: expected one of {', '.join(get_args(kind))}")
        for name in ("steps", "batch", "accumulate", "anchors"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} {getattr(self, name)}: expected 1 or more")
        for name in ("warmup", "momentum", "decay", "clip", "average"):
            if not getattr(self, name) >= 0:
                raise InputError(f"{name} {getattr(self, name)}: expected 0 or more")
        if not self.average < 1:
            raise InputError(f"average {self.average}: expected less than 1")
        if not self.temperature > 0:
            raise InputError(f"temperature {self.temperature}: expected more than 0")
        if self.batch % self.accumulate:
            raise InputError(f"accumulate {self.accumulate}: expected a divisor of batch {self.batch}")
        if self.norm == "synced" and self.accumulate > 1 and self.model.norm == "batch":
            raise InputError("accumulate: parts have statistics of their own; expected 1 with norm synced")
        if self.model.input_size not in (None, (self.augment.crop,) * 2):
            raise InputError(
                f"crop {self.augment.crop}: found a network whose pictures are {self.model.input_size}; expected crops of"
                " that size, or a network without one"
            )
        if not 0 < self.rate < math.inf:
            raise InputError(f"rate {self.rate}: expected more than 0, and finite")

    @property
    def trains_norm(self) -> bool:
        return self.norm == "synced" and self.model.norm == "batch"


@flax.struct.dataclass
class TrainState:
    """step: updates done, int32.  variables: {"params", "batch_stats"}.  average: of the parameters over time ({} if
    there is none).  optimiser: its moments."""

    # Any: transformations of trees put other things than arrays here for a while.
    step: Any
    variables: Any
    average: Any
    optimiser: Any


class Outcome(flax.struct.PyTreeNode):
    """What an objective returns. each: the loss of every clip, `[b]`.  shares: what is shown beside it, means over clips.
    batch_stats: as they are afterwards."""

    each: Any
    shares: Any
    batch_stats: Any


Objective = Callable[[TrainConfig, dict[str, Any], Any, PRNGKeyArray, str | None], Outcome]


# The paper's objective


def embedding_loss(
    config: TrainConfig, variables: dict[str, Any], clips: Clip, key: PRNGKeyArray, axis_name: str | None
) -> Outcome:
    """Augment, embed, compare: the triplet loss of every clip. Anchors in the first frame, the pool in the others."""
    c = config.model
    keys = jax.random.split(key)
    views = jax.vmap(augment, (None, 0, None))(keys[0], clips, config.augment)
    b, t = views.frames.shape[:2]
    size = (config.augment.crop, config.augment.crop)
    grid = c.grid(size)
    flat = jax.tree.map(lambda x: x.reshape(b * t, *x.shape[2:]), views)
    places = jax.vmap(partial(position_of_crop, c, size))(flat.origin, flat.step, flat.size, flat.numbers)
    net = EmbeddingNet(c, remat=config.remat, axis_name=axis_name)
    images = preprocess(c, flat.frames)
    if config.trains_norm:
        (embedding, _), changed = net.apply(variables, images, places, True, mutable=["batch_stats"])
        stats: Any = changed["batch_stats"]
    else:
        embedding, _ = net.apply(variables, images, places, False)  # pyright: ignore
        stats = variables.get("batch_stats", {})
    labels = jax.vmap(lambda x: cell_labels(x, grid, c.stride))(flat.labels)
    found = jax.vmap(partial(clip_loss, config))(
        jax.vmap(lambda n: jax.random.fold_in(keys[1], n))(clips.number),
        embedding.reshape(b, t, -1, c.dimensions),  # pyright: ignore
        labels.reshape(b, t, -1),
    )
    shares = {"nearer": found.nearer.mean(), "active": found.active.mean(), "anchors": found.anchors.mean()}
    return Outcome(found.loss, shares, stats)


def clip_loss(config: TrainConfig, key: PRNGKeyArray, embedding: Float[Array, "t q d"], labels: Array) -> TripletLoss:
    """The loss of one clip from its embeddings and its cells' labels, uint8 `[t, q]`; the mean over the turns."""
    if not config.turns:
        return _one_turn(config, key, embedding, labels)
    turns = [jnp.roll(jnp.arange(labels.shape[0]), -first) for first in range(labels.shape[0])]
    keys = jax.random.split(key, len(turns))
    each = [_one_turn(config, k, embedding[turn], labels[turn]) for k, turn in zip(keys, turns, strict=True)]
    return jax.tree.map(lambda *x: jnp.stack(x).mean(0), *each)


def _one_turn(config: TrainConfig, key: PRNGKeyArray, embedding: Float[Array, "t q d"], labels: Array) -> TripletLoss:
    """Anchors in the first frame, the pool in the others."""
    pool, pool_labels = embedding[1:].reshape(-1, embedding.shape[-1]), labels[1:].reshape(-1).astype(jnp.int32)
    if config.loss == "soft":
        first = labels[0].astype(jnp.int32)
        weights = root_weights(labels[0]).astype(embedding.dtype)
        # Of a network that computes with 8 bits more than ten of a product would be noise; TF32 is a fraction of the time.
        precision = "high" if config.model.dtype == "bfloat16" else "highest"
        return soft_triplet_loss(
            embedding[0],
            first,
            pool,
            pool_labels,
            temperature=config.temperature,
            weights=weights,
            precision=precision,
        )
    cells, of = draw_anchors(key, labels[0], config.anchors)
    return triplet_loss(
        embedding[0][cells],
        of.astype(jnp.int32),
        pool,
        pool_labels,
        margin=config.margin,
        hinge=config.hinge,
        reduction=config.reduction,
        labels=255,
    )


# The step


def create_state(config: TrainConfig, variables: dict[str, Any] | None = None) -> TrainState:
    """The state before the first step, from random weights or from `variables`."""
    if variables is None:
        variables = create(config.model, jax.random.key(config.seed)).variables
    # Copies, as buffers are donated; together, or there would be a program for every shape of a weight.
    copy: Any = jax.jit(partial(jax.tree.map, jnp.copy))
    copied = copy(dict(variables))
    average = copy(copied["params"]) if config.average else {}
    return TrainState(jnp.int32(0), copied, average, jax.jit(optimiser(config).init)(copied["params"]))


def evaluated(config: TrainConfig, state: TrainState) -> Model:
    """The model that a state stands for: the parameters' average over time where there is one."""
    params = state.average if config.average else state.variables["params"]
    return Model({**state.variables, "params": params}, config.model)


def learning_rate(config: TrainConfig, step: Array, steps: int | Array | None = None) -> Float[Array, ""]:
    """The rate of the update that follows `step` of `steps` updates (by default the recipe's)."""
    done = jnp.minimum(step.astype(jnp.float32) / (config.steps if steps is None else steps), 1)
    fall = (1 - done) ** 0.9 if config.schedule == "poly" else 0.5 * (1 + jnp.cos(jnp.pi * done))
    rise = jnp.minimum((step.astype(jnp.float32) + 1) / (config.warmup + 1), 1)
    return config.rate * fall * rise


def thawed(config: TrainConfig, params: Any) -> Any:
    """The parameters, with no gradient to frozen norms: without it the sums over every activation that such a gradient
    needs would be taken, and thrown away."""
    if config.model.norm != "batch" or config.trains_norm:
        return params
    return jax.tree_util.tree_map_with_path(
        lambda path, x: jax.lax.stop_gradient(x) if "norm" in path[-2].key else x, params
    )


def optimiser(config: TrainConfig, steps: int | Array | None = None) -> optax.GradientTransformation:
    """Gradient to update: clipping, momentum or Adam, decay of kernels, factor of the head, rate."""

    def kernels(params: Any) -> Any:
        return jax.tree.map(lambda x: x.ndim > 1, params)

    def scaled(updates: Any, params: Any = None) -> Any:
        del params

        def factor(path: Any, x: Array) -> Array:
            names = [entry.key for entry in path]
            return x * (config.head if names[0] == "head" else 1)

        return jax.tree_util.tree_map_with_path(factor, updates)

    adam = config.optimiser == "adamw"
    decay = optax.add_decayed_weights(config.decay, kernels)
    return optax.chain(
        optax.clip_by_global_norm(config.clip) if config.clip else optax.identity(),
        optax.identity() if adam else decay,
        optax.scale_by_adam() if adam else optax.trace(config.momentum),
        decay if adam else optax.identity(),
        optax.stateless(scaled),
        optax.scale_by_schedule(lambda step: -learning_rate(config, jnp.asarray(step), steps)),
    )


def _updated(
    config: TrainConfig, state: TrainState, gradient: Any, stats: Any, steps: int | Array | None
) -> TrainState:
    """The state after the optimiser's update; its step does not count on."""
    params = state.variables["params"]
    with jax.numpy_dtype_promotion("standard"):  # Optax raises a Python float to an int32
        updates, moments = optimiser(config, steps).update(gradient, state.optimiser, params)
    new = optax.apply_updates(params, updates)
    average = state.average
    if config.average:
        # A constant share would remember the random beginning for 1/(1 − share) steps.
        done = state.step.astype(jnp.float32)
        kept = jnp.minimum(config.average, (1 + done) / (10 + done))
        average = jax.tree.map(lambda a, p: kept * a + (1 - kept) * p, average, new)
    variables = {**state.variables, "params": new}
    if stats:
        variables["batch_stats"] = stats
    return TrainState(state.step, variables, average, moments)


def train_step(
    config: TrainConfig,
    state: TrainState,
    batch: Any,
    key: PRNGKeyArray,
    steps: int | Array | None = None,
    *,
    objective: Objective = embedding_loss,
    axis_name: str | None = None,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One update. `batch`: a pytree with leading axis b (`Clip` for `embedding_loss`); `key`: the run's, the same at every
    step, as clips carry their number; `steps`: of the whole run, by default the recipe's.

    Returns the state and the metrics: loss, norm (of the gradient), rate, each (every clip's loss, over all devices), and
    the objective's shares. Where the loss or the gradient is not finite, only the step counts on: the schedule of the rate,
    which the optimiser counts, does not.
    """

    def loss(params: Any, stats: Any, part: Any) -> tuple[jax.Array, Outcome]:
        outcome = objective(config, {"params": thawed(config, params), "batch_stats": stats}, part, key, axis_name)
        return outcome.each.mean(), outcome

    def next_part(stats: Any, part: Any) -> tuple[Any, Any]:
        (_, outcome), gradient = jax.value_and_grad(loss, has_aux=True)(state.variables["params"], stats, part)
        return outcome.batch_stats, (gradient, outcome.each, outcome.shares)

    stats = state.variables.get("batch_stats", {})
    if config.accumulate > 1:
        parts = jax.tree.map(lambda x: x.reshape(config.accumulate, -1, *x.shape[1:]), batch)
        stats, (gradients, each, shares) = jax.lax.scan(next_part, stats, parts)
        gradient, shares = jax.tree.map(lambda x: x.mean(0), (gradients, shares))
    else:
        stats, (gradient, each, shares) = next_part(stats, batch)
    each = each.reshape(-1)
    if axis_name:
        # pmap's rule: gradient first, then its mean.
        gradient, shares, stats = jax.lax.pmean((gradient, shares, stats), axis_name)
        each = jax.lax.all_gather(each, axis_name).reshape(-1)

    norm = optax.tree.norm(gradient)
    finite = jnp.isfinite(each).all() & jnp.isfinite(norm)
    # A branch: chosen number by number, all parameters and moments would be read and written once more.
    kept_state = jax.lax.cond(finite, lambda: _updated(config, state, gradient, stats, steps), lambda: state)
    rate = learning_rate(config, state.step, steps)
    metrics = {"loss": each.mean(), "norm": norm, "rate": rate, "each": each, **shares}
    return dataclasses.replace(kept_state, step=state.step + 1), metrics

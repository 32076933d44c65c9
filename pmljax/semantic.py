"""The paper's first stage: the trunk learns classes, before it learns an embedding.

DeepLab-v2: the trunk's last stage, then an atrous pyramid: the sum of four 3×3 convolutions that look 6, 12, 18 and 24
cells far. `semantic_objective` makes a training step of it, `evaluate` measures the mean IoU. The trunk has the names that
it has in `EmbeddingNet`, so that its weights carry over (`weights.carry`).
Axes: `b` batch, `h w` picture, `y x` grid, `c` class.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cached_property, partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Integer, PRNGKeyArray, UInt8

from pmljax.config import ModelConfig
from pmljax.labels import grow_matrix
from pmljax.loss import semantic_loss
from pmljax.preprocess import apply_axes, preprocess
from pmljax.resnet import ResNet
from pmljax.sampling import Clip, augment, cell_labels
from pmljax.train import Objective, Outcome, TrainConfig

RATES = (6, 12, 18, 24)
MAJORITY = 0.501  # of a cell's box, for the cell to have a label


class Pyramid(nn.Module):
    """The classifier: a sum of 3×3 convolutions with bias, one a rate; the sum in the precision of the result."""

    classes: int
    rates: tuple[int, ...]
    dtype: Any
    precision: Any

    @nn.compact
    def __call__(self, x: Float[Array, "b y x d"]) -> Float[Array, "b y x c"]:
        parts = [
            nn.Conv(
                self.classes,
                (3, 3),
                padding=rate,
                kernel_dilation=rate,
                dtype=self.dtype,
                kernel_init=nn.initializers.normal(0.01),
                name=f"c{i}",
            )(x)
            for i, rate in enumerate(self.rates)
        ]
        return sum(part.astype(self.precision) for part in parts)  # pyright: ignore


class SemanticNet(nn.Module):
    """Trunk and classifier: preprocessed images float `[b, h, w, 3]` to logits `[b, y, x, c]`, float32 (float64 if
    computed so). Of `config` only what concerns the trunk and its input counts; its taps, head and position are the
    embedding's."""

    config: ModelConfig
    classes: int
    rates: tuple[int, ...] = RATES
    remat: bool = False
    axis_name: str | None = None

    @cached_property
    def _dtype(self) -> Any:
        return jnp.dtype(self.config.dtype)

    @nn.compact
    def __call__(self, images: Float[Array, "b h w 3"], train: bool = False) -> Float[Array, "b y x c"]:
        c = self.config
        trunk = ResNet(
            c.depth,
            c.width,
            c.geometry,
            c.stride,
            c.norm,
            self._dtype,
            remat=self.remat,
            axis_name=self.axis_name,
            trained=c.trained_stride,
            name="trunk",
        )
        # "head": train.optimiser gives it the head's rate.
        return Pyramid(self.classes, self.rates, self._dtype, c.precision, name="head")(trunk(images, train)["stage4"])


def create_variables(net: SemanticNet, key: PRNGKeyArray) -> dict[str, Any]:
    """Random weights {"params", "batch_stats"}."""
    # Runs once: most of its seconds would go into optimising the code.
    options = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    return jax.jit(partial(net.init, images=jnp.zeros((1, 33, 33, 3))), compiler_options=options)(key)


def semantic_objective(classes: int, rates: tuple[int, ...] = RATES) -> Objective:
    """The cross-entropy of every picture, for `train_step` and `fit`. Batches are `Clip`s of one frame; share: accuracy,
    that of the known cells whose likeliest class is right."""

    def objective(
        config: TrainConfig, variables: dict[str, Any], pictures: Clip, key: PRNGKeyArray, axis_name: str | None
    ) -> Outcome:
        c = config.model
        views = jax.vmap(augment, (None, 0, None))(key, pictures, config.augment)
        grid = c.grid((config.augment.crop, config.augment.crop))
        cells = jax.vmap(lambda x: cell_labels(x, grid, c.stride, MAJORITY))(views.labels[:, 0])
        images = preprocess(c, views.frames[:, 0])
        net = SemanticNet(c, classes, rates, remat=config.remat, axis_name=axis_name)
        if config.trains_norm:
            logits, changed = net.apply(variables, images, True, mutable=["batch_stats"])
            stats: Any = changed["batch_stats"]
        else:
            logits: Any = net.apply(variables, images, False)
            stats = variables.get("batch_stats", {})
        known = cells < classes
        right = known & (jnp.argmax(logits, -1).astype(jnp.uint8) == cells)
        accuracy = right.sum(dtype=jnp.float32) / jnp.maximum(known.sum(dtype=jnp.float32), 1)
        return Outcome(jax.vmap(semantic_loss)(logits, cells.astype(jnp.int32)), {"accuracy": accuracy}, stats)

    return objective


# How good it is


@partial(jax.jit, static_argnames=("net", "short_side"))
def _predict(net: SemanticNet, variables: dict[str, Any], frame: Any, short_side: int | None) -> UInt8[Array, "h w"]:
    c = net.config
    images = preprocess(c, frame[None], short_side)
    logits: Any = net.apply(variables, images)
    a_y, a_x = (
        grow_matrix(cells, size, c.stride, seen, half_pixel=c.half_pixel)
        for cells, size, seen in zip(logits.shape[1:3], frame.shape[:2], images.shape[1:3], strict=True)
    )
    return jnp.argmax(apply_axes(a_y, a_x, logits[0]), -1).astype(jnp.uint8)


def predict(
    net: SemanticNet,
    variables: dict[str, Any],
    frame: UInt8[Array | np.ndarray, "h w 3"],
    short_side: int | None = None,
) -> UInt8[np.ndarray, "h w"]:
    """The class of every pixel: the logits grow to the frame's size, the highest wins.

    short_side: frames with a longer short side are scaled down to it first. Compiles once for every size of frame.
    """
    return np.asarray(_predict(net, variables, jnp.asarray(frame), short_side))


class Scores(NamedTuple):
    """mean_iou: over the classes that occur, in truth or prediction.  accuracy: share of the known pixels that are right.
    each: IoU of every class, NaN for those that do not occur."""

    mean_iou: float
    accuracy: float
    each: Float[np.ndarray, "c"]


def count_pairs(
    truth: UInt8[np.ndarray, "h w"], predicted: UInt8[np.ndarray, "h w"], classes: int
) -> Integer[np.ndarray, "c c"]:
    """Pixels by (true class, predicted class); void ones do not count."""
    known = truth < classes
    pairs = truth[known].astype(np.int64) * classes + predicted[known]
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def score(pairs: Integer[np.ndarray, "c c"]) -> Scores:
    """The scores of a set from its pairs, summed over all its pictures as PASCAL VOC does."""
    right = np.diag(pairs).astype(float)
    union = pairs.sum(0) + pairs.sum(1) - right
    each = np.where(union > 0, right / np.maximum(union, 1), np.nan)
    some = bool((union > 0).any())
    return Scores(float(np.nanmean(each)) if some else 0.0, float(right.sum() / max(pairs.sum(), 1)), each)


def evaluate(
    net: SemanticNet,
    variables: dict[str, Any],
    pictures: Iterable[tuple[np.ndarray, np.ndarray]],
    short_side: int | None = None,
    show: Callable[[int, np.ndarray, np.ndarray, np.ndarray], object] = lambda i, frame, truth, predicted: None,
) -> Scores:
    """The scores on (frame, labels) pairs, each at its full size. show: called with every picture's number, frame, truth
    and prediction."""
    pairs = np.zeros((net.classes, net.classes), np.int64)
    for i, (frame, truth) in enumerate(pictures):
        predicted = predict(net, variables, frame, short_side)
        pairs += count_pairs(truth, predicted, net.classes)
        show(i, frame, truth, predicted)
    return score(pairs)

"""Checkpoints of a training run: Orbax's, atomic, the last few and the best.

`RUN/checkpoints/STEP` holds `state` (all that the next step depends on, in full precision), `model` (the variables to
evaluate: the parameters' average over time where the run keeps one) and `config`, JSON: a format version, the whole recipe
and the step, from which the data's position follows. A folder appears under its name only when it is whole, so that a run
killed at any moment goes on from the last one that was acknowledged.
"""

from __future__ import annotations

import dataclasses
import logging
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from pmljax.config import ModelConfig, thaw
from pmljax.errors import InputError
from pmljax.model import Model, abstract

if TYPE_CHECKING:
    from orbax.checkpoint import CheckpointManager

FORMAT = 1
FOLDER = "checkpoints"


def open_folder(run: Path, keep: int = 2) -> CheckpointManager:
    """The checkpoints of a run's folder, made if need be: the last `keep` stay, and the one with the highest score."""
    import orbax.checkpoint as ocp
    from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

    logging.getLogger("absl").addFilter(_not_of_scores)
    best = BestN(get_metric_fn=lambda m: m["score"], n=1, keep_checkpoints_without_metrics=False)
    options = ocp.CheckpointManagerOptions(
        # What is acknowledged is on the disk: no write goes on behind the step that follows.
        enable_async_checkpointing=False,
        preservation_policy=AnyPreservationPolicy([LatestN(keep), best]),
        best_fn=lambda metrics: metrics["score"],
        cleanup_tmp_directories=True,
    )
    return ocp.CheckpointManager((run / FOLDER).absolute(), options=options)


def _not_of_scores(record: logging.LogRecord) -> bool:
    """Orbax warns at each checkpoint that has no score: those of runs that nobody validates."""
    return "tracked_metric" not in record.getMessage()


def save(
    folder: CheckpointManager,
    step: int,
    config: Any,
    state: Any,
    model: Model,
    score: float | None = None,
    scored: str = "",
) -> None:
    """Save the state after `step` updates. config: the run's dataclass, with the model's in its field `model`. scored: what
    the run's scores are of, in words. InputError where it cannot be written."""
    import orbax.checkpoint as ocp

    record = {"format": FORMAT, "step": step, "config": dataclasses.asdict(config), "scored": scored}
    stands = "those before it stay, and the same command goes on from the last"
    needed = sum(np.dtype(x.dtype).itemsize * x.size for x in jax.tree.leaves((state, model.variables)))
    # Asked first: once it is writing, tensorstore tells of each array by a traceback of its own.
    if (free := shutil.disk_usage(folder.directory).free) < needed:
        raise InputError(
            f"{folder.directory}: found room for {free / 2**20:.0f} MiB, the checkpoint of step {step} needs"
            f" {needed / 2**20:.0f}; {stands}"
        )
    try:
        with _undisturbed():
            folder.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state),  # pyright: ignore
                    model=ocp.args.StandardSave(model.variables),  # pyright: ignore
                    config=ocp.args.JsonSave(record),  # pyright: ignore
                ),
                metrics=None if score is None else {"score": score},
                force=True,
            )
            folder.wait_until_finished()
    except Exception as error:  # of a full disk tensorstore says so in a ValueError
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"{folder.directory}: the checkpoint of step {step} cannot be written ({reason:.200}); expected a folder with"
            f" room and rights; {stands}"
        ) from None


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Ctrl-C and SIGTERM wait for the end of the block: a save that is cut off shows a traceback for every thread of it."""
    if threading.current_thread() is not threading.main_thread():  # which alone gets signals
        yield
        return
    told: list[Any] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    before = {number: handler for number, handler in before.items() if callable(handler)}  # SIGTERM's own needs no care
    for number in before:
        signal.signal(number, lambda *given: told.append(given))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for given in told[:1]:
            before[given[0]](*given)


def restore(folder: CheckpointManager, step: int, like: Any) -> Any:
    """The state of a step. `like`: one of the same structure, whose shapes, types and devices it gets."""
    import orbax.checkpoint as ocp

    path = Path(folder.directory) / str(step)
    return _read(path, "state", ocp.args.StandardRestore(like))  # pyright: ignore


def read_record(path: Path) -> dict[str, Any]:
    """The JSON of one checkpoint (`…/STEP`): {"format", "step", "config", "scored"}; the last is younger than the format."""
    import orbax.checkpoint as ocp

    record = _read(path, "config", ocp.args.JsonRestore())  # pyright: ignore
    if not isinstance(record, dict) or record.get("format") != FORMAT or not isinstance(record.get("config"), dict):
        found = record.get("format") if isinstance(record, dict) else record
        raise InputError(f"{path}: found a checkpoint of format {found!r}, expected {FORMAT}: one written by pmljax")
    return record


def find(path: Path) -> Path:
    """The checkpoint that a path means: itself, or of a run's folder the best, or the last where none was scored."""
    if (path / "config").is_dir() and (path / "model").is_dir():
        return path
    folder = path / FOLDER if (path / FOLDER).is_dir() else path
    steps = sorted((int(p.name) for p in folder.iterdir() if p.name.isdecimal() and p.is_dir()), reverse=True)
    if not steps:
        raise InputError(f"{path}: found no checkpoint; expected a run of pmljax train, or one of its checkpoints/STEP")
    scores = {step: score for step in steps if (score := _score(folder / str(step))) is not None}
    # Of equal scores the later.
    return folder / str(max(scores, key=lambda step: (scores[step], step)) if scores else steps[0])


def read_model(path: Path) -> Model:
    """The model of a run's folder (`find`) or of one checkpoint; InputError for what is cut short or foreign."""
    import orbax.checkpoint as ocp

    path = find(path)
    config = thaw(ModelConfig, read_record(path)["config"].get("model"), str(path))
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), abstract(config).variables)
    variables = _read(path, "model", ocp.args.StandardRestore(like))  # pyright: ignore
    for name, value in jax.tree_util.tree_leaves_with_path(variables):
        if not np.isfinite(np.asarray(value)).all():
            raise InputError(f"{path}: {jax.tree_util.keystr(name)}: found NaN or infinity, expected finite weights")
    # By way of NumPy: what is restored is bound to its device, what is computed from it then too, and a call that gets its
    # own result back would be compiled once more.
    return Model(jax.device_put(jax.tree.map(np.asarray, variables)), config)


def _read(path: Path, item: str, how: Any) -> Any:
    import orbax.checkpoint as ocp

    handler = ocp.JsonCheckpointHandler() if item == "config" else ocp.StandardCheckpointHandler()
    if not (path / item).is_dir():
        raise InputError(f"{path}: found no {item}; expected a checkpoint of pmljax (checkpoints/STEP)")
    try:
        with ocp.Checkpointer(handler) as reader:
            return reader.restore((path / item).absolute(), args=how)
    except Exception as error:  # whatever a damaged file makes of tensorstore, msgpack, JSON and the shapes
        reason = " ".join(str(error).split())[:160]
        raise InputError(
            f"{path}: {item}: cannot be read ({type(error).__name__}: {reason}); expected a whole checkpoint of this"
            " model; take an earlier one, or train anew with --overwrite"
        ) from None


def _score(path: Path) -> float | None:
    import json

    try:
        return float(json.loads((path / "metrics" / "metrics").read_text())["score"])
    except (OSError, ValueError, KeyError, TypeError):
        return None

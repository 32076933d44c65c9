"""The training loop: steps, checkpoints, validation, and a run that goes on where it was killed.

`RUN/checkpoints/STEP`, `RUN/log.jsonl`, `RUN/loss.png`, `RUN/tensorboard`, and what the validation writes. The next step
depends on the checkpoint alone: clips are numbered from the beginning of the run, and all that is drawn for a clip
follows from its number.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from pmljax.errors import InputError, differing
from pmljax.files import alone
from pmljax.model import Model
from pmljax.parallel import replicate, split, spread
from pmljax.runlog import RunLog
from pmljax.sampling import Augment
from pmljax.train import (
    Objective,
    TrainConfig,
    TrainState,
    create_state,
    embedding_loss,
    evaluated,
)
from pmljax.weights import checkpoint


class Every(NamedTuple):
    """How often, in steps: a line in the log, a checkpoint, a validation (0: none). keep: the last checkpoints."""

    log: int = 10
    save: int = 200
    validate: int = 0
    keep: int = 2


DEFAULT = Every()
TRIED = 24  # steps by which the pace is known; the first third, with the compilation, does not count


def fit(
    run: Path,
    config: TrainConfig,
    batches: Callable[[int], Iterator[Any]],
    *,
    objective: Objective = embedding_loss,
    variables: dict[str, Any] | None = None,
    every: Every = DEFAULT,
    validate: Callable[[Model, Path], dict[str, float]] | None = None,
    score: str = "J&F",
    scores_of: str = "",
    describe: Callable[[int], str] = str,
    overwrite: bool = False,
    seconds: float | None = None,
    report: Callable[[int, dict[str, float]], object] = lambda step, numbers: None,
) -> Model:
    """Train, or go on with the run in the folder `run`; returns the model after the last step.

    batches(n): this host's batches `[b, …]` from the n-th on, without end; their field `frames` is `[b, t, h, w, 3]`, or
    `[b, h, w, 3]` of single pictures. The n-th holds the clips n·batch and following.
    variables: to start from in place of random ones.  validate(model, run): scores, and whatever pictures it writes;
    score: the one by which the best checkpoint is kept.  scores_of: what they are of, in words, which a run that goes on
    has to keep to, so that they compare.  describe: a clip's number in words.
    seconds: the steps are as many as there is time for from now on, by the pace of the first few, and config's are none of
    its concern; a run that goes on keeps the number that it has.  report: called with the numbers of every line of the log.
    Raises InputError where the folder holds another recipe's run, or what no run of ours wrote, and where the loss is no longer
    finite: then the last checkpoint and the clip are named; of a single clip's loss the checkpoint is the state before it. Of a
    new run nothing is written, and of an old one nothing removed, before the first clips are there.
    """
    _check_ours(run)
    started = time.monotonic()
    step, key = spread(config, objective), jax.random.key(config.seed)
    state, devices = create_state(config, variables), jax.local_device_count()
    with ExitStack() as opened:  # closed whatever stops the run
        mine = jax.process_count() == 1  # hosts share the folder
        held = mine and run.is_dir()
        if held:
            opened.enter_context(alone(run, "trains in it"))
        new = overwrite or not _begun(run)
        if new:
            state, stream = replicate(state), batches(0)
            with _advice(config):
                batch = split(next(stream), devices)
            if seconds is not None:
                left = seconds + started - time.monotonic()
                with _advice(config):
                    config = dataclasses.replace(config, steps=_affordable(config, step, state, batches(0), key, left))
        run.mkdir(parents=True, exist_ok=True)
        if mine and not held:  # nobody could be kept from a folder that was not there
            opened.enter_context(alone(run, "trains in it"))
            if new and not overwrite and _begun(run):
                raise InputError(
                    f"{run}: another process trained in it meanwhile; expected another --out, or the same again"
                )
        if overwrite:
            _clear(run)
        folder = checkpoint.open_folder(run, every.keep)
        opened.callback(_closed, folder)
        if new:
            begin = 0
            checkpoint.save(folder, 0, config, state, evaluated(config, state), scored=scores_of)
        else:
            begin = folder.latest_step()
            assert begin is not None
            record = checkpoint.read_record(Path(folder.directory) / str(begin))
            before, measured = record["config"], record.get("scored") or scores_of
            if validate and measured != scores_of:
                raise InputError(
                    f"{run}: found scores of {measured}, not of {scores_of}: which checkpoint is the best could not be told;"
                    " expected the same, another --out, or --overwrite"
                )
            scores_of = measured
            if seconds is not None:
                config = dataclasses.replace(config, steps=before["steps"])
            _same_recipe(run, before, config)
            state, stream = checkpoint.restore(folder, begin, replicate(state)), batches(begin)
            with _advice(config):
                batch = split(next(stream), devices) if begin < config.steps else None
        first = jax.process_index() == 0
        log = RunLog(run, dataclasses.asdict(config), begin, new=new) if first else None
        if log:
            opened.callback(log.close)
        if seconds is not None:
            report(begin, {"steps": float(config.steps)})
            if log and not begin:
                log.write(0, {"steps": float(config.steps)})
        kept, pictures, since, failure = [], 0, time.monotonic(), None
        steps = replicate(jnp.float32(config.steps))
        for n in range(begin, config.steps):
            assert batch is not None
            done, last = n + 1, n + 1 == config.steps
            pictures += config.batch * (batch.frames.shape[2] if batch.frames.ndim == 6 else 1)
            with _advice(config):
                state, metrics = step(state, batch, key, steps)
                if not last:  # the next clips are read while the devices work
                    try:
                        batch = split(next(stream), devices)
                    except InputError as error:
                        if (
                            jax.process_count() > 1
                        ):  # the other hosts know nothing of it, and keep no step with this one
                            raise
                        failure = error  # raised once this step is kept
                metrics = jax.device_get(metrics)
            if not (np.isfinite(metrics["each"]).all() and math.isfinite(metrics["norm"])):
                # Where other clips of the batch are well, so is the state; else it may be what diverged, and the last
                # checkpoint stays the last.
                if np.isfinite(metrics["each"]).any() and not np.isfinite(metrics["each"]).all():
                    state = dataclasses.replace(state, step=state.step - 1)
                    if folder.latest_step() != n:
                        checkpoint.save(folder, n, config, state, evaluated(config, state), scored=scores_of)
                kept_at = run / checkpoint.FOLDER / str(folder.latest_step())
                raise InputError(_diverged(run, n, kept_at, config, metrics, describe))
            kept.append({k: float(v) for k, v in metrics.items() if k != "each"})
            scored = validate is not None and every.validate and (done % every.validate == 0 or last)
            saved = scored or done % every.save == 0 or last or failure is not None
            if done % every.log == 0 or saved:  # a line is of the steps since a checkpoint: the same if stopped there
                numbers = {k: float(np.mean([m[k] for m in kept])) for k in kept[0]}
                now = time.monotonic()
                if not begin and done <= every.log and numbers.get("anchors") == numbers["norm"] == 0:
                    raise InputError(
                        f"{run}: found nothing to learn from in the first {done * config.batch} clips ({describe(0)}, …), as no"
                        " cell has a label; expected masks with an object or two labels in sight"
                    )
                numbers["images a second"] = pictures / (now - since)
                kept, pictures, since = [], 0, now
                if log:
                    log.write(done, numbers)
                report(done, numbers)
            scores = {}
            if validate and scored:
                try:
                    scores = validate(evaluated(config, state), run)
                except Exception as error:
                    failure = failure or error  # raised once this step is kept
                else:
                    if log:
                        log.write(done, scores)
                        log.draw(list(scores))
                    report(done, scores)
                since, pictures = time.monotonic(), 0
            if saved:
                checkpoint.save(folder, done, config, state, evaluated(config, state), scores.get(score), scores_of)
            if failure:
                raise failure
        if log:
            log.draw()
        return evaluated(config, state)


def _affordable(
    config: TrainConfig, step: Any, state: TrainState, stream: Iterator[Any], key: Any, seconds: float
) -> int:
    """How many steps take what is left of `seconds` once the step is compiled; `state` stays as it is."""
    begin, times = time.monotonic(), []
    state = jax.tree.map(jnp.copy, state)  # given away by the step
    steps = replicate(jnp.float32(config.steps))
    for _ in range(TRIED):
        state, metrics = step(state, split(next(stream), jax.local_device_count()), key, steps)
        jax.block_until_ready(metrics)
        times.append(time.monotonic())
    pace = (times[-1] - times[TRIED // 3]) / (TRIED - TRIED // 3 - 1)
    found = max(int((begin + seconds - times[-1]) / pace), 1)
    return int(multihost_utils.broadcast_one_to_all(np.int32(found)))  # the first host's clock is everybody's


def _same_recipe(run: Path, before: dict[str, Any], config: TrainConfig) -> None:
    now = json.loads(json.dumps(dataclasses.asdict(config)))
    # A run that was begun before a way to vary clips was there has none of it.
    before = (
        {"init": now["init"]}
        | before
        | {"augment": json.loads(json.dumps(dataclasses.asdict(Augment()))) | before["augment"]}
    )
    if before.get("data") == re.sub(r", [0-9a-f]{8}(?=[,)])", "", now["data"]):  # begun before data had a fingerprint
        before["data"] = now["data"]
    changed = [k for k in sorted(before.keys() | now.keys()) if before.get(k) != now.get(k)]
    if changed:
        where = differing(changed[0], before.get(changed[0]), now.get(changed[0]))
        raise InputError(
            f"{run}: begun with another {', '.join(changed)} ({where}); expected the same, another --out, or --overwrite"
        )


LEFT = (checkpoint.FOLDER, "tensorboard", "validation")  # the folders of a run


def _begun(run: Path) -> bool:
    """Whether the folder holds checkpoints."""
    there = (run / checkpoint.FOLDER).iterdir() if (run / checkpoint.FOLDER).is_dir() else ()
    return any(p.name.isdecimal() and p.is_dir() for p in there)


def _check_ours(run: Path) -> None:
    """InputError where the folder holds what has the name of a run's file or folder, but no run of ours wrote it."""
    log, first = run / "log.jsonl", None
    if log.is_file():
        with suppress(ValueError, RecursionError, OSError):  # ValueError: no JSON, or no text
            first = json.loads(log.read_text().partition("\n")[0])
    told = first.get("run") if isinstance(first, dict) else None
    if isinstance(told, dict) and "config" in told:
        return
    strange = [run / name for name in LEFT if (run / name).is_dir() and any((run / name).iterdir())]
    if strange and (run / checkpoint.FOLDER).is_dir():  # killed before its log was begun
        begun = [p for p in (run / checkpoint.FOLDER).iterdir() if p.name.partition(".")[0].isdecimal()]
        strange = [] if begun and len(begun) == len(list((run / checkpoint.FOLDER).iterdir())) else strange
    strange += [log] if log.is_file() and log.stat().st_size else []
    if strange:
        raise InputError(f"{strange[0]}: found what no run of pmljax wrote; expected another --out, or nothing there")


def _clear(run: Path) -> None:
    """Remove what a run of ours (`_check_ours`) left in the folder, and nothing else; its log last, which says whose it is."""
    for name in LEFT:
        if (run / name).is_dir():
            shutil.rmtree(run / name)
    for name in ("loss.png", "log.jsonl"):
        (run / name).unlink(missing_ok=True)


def _closed(folder: Any) -> None:
    with suppress(Exception):  # what could not be written was said when it was saved
        folder.close()


def _diverged(
    run: Path,
    n: int,
    kept_at: Path,
    config: TrainConfig,
    metrics: dict[str, np.ndarray],
    describe: Callable[[int], str],
) -> str:
    numbers = range(n * config.batch, (n + 1) * config.batch)
    bad = [i for i, loss in zip(numbers, metrics["each"], strict=True) if not math.isfinite(loss)]
    what = "loss" if bad else "gradient"
    clips = "; ".join(f"clip {i} ({describe(i)})" for i in (bad or numbers)[:4])
    return (
        f"{run}: step {n}: the {what} is not finite at {clips}; the last checkpoint is {kept_at}; look"
        f" at that clip, or begin from there with a lower rate: --init {kept_at} --rate … --out …"
    )


@contextmanager
def _advice(config: TrainConfig) -> Iterator[None]:
    """Out of memory as one line that says what to lower."""
    try:
        yield
    except MemoryError as error:
        raise InputError(
            f"this machine has not enough memory ({error}); lower --batch, --crop or --short-side"
        ) from None
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        least = config.batch // jax.device_count()
        raise InputError(
            f"the device has not enough memory for {least} clips of {config.augment.crop} pixels at once; lower --batch or"
            " --crop, raise --accumulate, or add --remat or --dtype bfloat16"
        ) from None

"""`pmljax train`: the command that puts sources of clips, a recipe and a validation together."""

from __future__ import annotations

import dataclasses
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import arg

from pmljax.device import Device, use_device
from pmljax.errors import InputError
from pmljax.options import check_together
from pmljax.sources import Clips
from pmljax.terminal import ends_when_told, show, training_bar

Batches = Callable[[int], Iterator[Any]]


@dataclass(frozen=True)
class Changes:
    """Changes to the recipe."""

    steps: int | None = None
    """How many updates; by default as many as the recipe has, and so with all that follows."""
    batch: int | None = None
    """Clips a step, over all devices and hosts."""
    rate: float | None = None
    """The learning rate at its highest."""
    crop: int | None = None
    """Side of the crops, in pixels."""
    short_side: int | None = None
    """Frames with a longer short side are scaled down to it when they are read; crops of all but paper keep their scale."""
    scale: tuple[float, float] | None = None
    """Smallest and largest factor of a crop's scale."""
    zoom: float | None = None
    """Each frame's own factor beside it: exp(±zoom)."""
    colour: float | None = None
    """Largest relative change of each frame's brightness, contrast and saturation."""
    hue: float | None = None
    """How often a clip's colours are turned about grey, by any angle, the same in all its frames."""
    aspect: float | None = None
    """Each clip's own factor between height and width: exp(±aspect)."""
    paste: float | None = None
    """How often an object of another clip lies before a clip's frames, with --resident."""
    time: float | None = None
    """Largest offset added to a clip's frame numbers, for --position yxt."""
    accumulate: int | None = None
    """Parts of a device's batch, one after the other: the same update from less memory."""
    remat: bool = False
    """Compute activations again in the backward pass: less memory, a third more work."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """Of the network's computation; parameters are float32."""
    position: Literal["none", "yx", "yxt"] | None = None
    """Of a cell, put beside the head's input: its place in the frame, and the frame's number."""
    turns: bool | None = None
    """Whether every frame of a clip has the anchors in turn, instead of the first alone."""
    norm: Literal["frozen", "synced"] | None = None
    """Batch normalisation: frozen, or trained with the statistics of all devices."""
    seed: int = 0
    """Of the weights, the clips and all that is drawn."""


@dataclass(frozen=True)
class Train:
    """Train a network's embedding with the modified triplet loss.

    pmljax train --davis DAVIS --split train --out run

    Writes OUT/checkpoints/STEP (the last two and the best), OUT/log.jsonl, OUT/tensorboard, OUT/loss.png and
    OUT/validation. A run that was stopped is continued by the same command. `--model OUT` of the other commands takes it.
    """

    out: Path
    """The folder to write to."""
    clips: Annotated[Clips, arg(name="")] = field(default_factory=Clips)
    recipe: str = "small"
    """small: for two CPU cores, from random weights. small-gpu: the same network on a GPU, with pasted objects, which need
    --resident. base: a larger one, likewise. paper: the paper's, as far as it is known."""
    changes: Annotated[Changes, arg(name="")] = Changes()
    init: str | None = None
    """Weights to start from: a .safetensors file, a run, a checkpoint of one, an import. What fits by name and shape is
    taken, the rest is said."""
    validate: str | None = None
    """A split of --davis to score during training. Never the one that is reported."""
    validate_every: int = 1000
    """Steps between validations."""
    validate_frames: int = 10
    """Frames of each sequence that are scored then; 0: all."""
    save_every: int = 200
    """Steps between checkpoints."""
    workers: int = 0
    """Processes that read clips; 0: threads of this one."""
    threads: int = 2
    """Threads that read clips, in each process; without --resident."""
    minutes: float | None = None
    """How long the command may take, with reading and compiling, in place of --steps: their number follows from the pace of
    the first ones, without what checkpoints and validations take. A run that goes on keeps its number."""
    resident: bool = False
    """Read the sources once and keep them in the device's memory, four bytes a pixel: for an accelerator that is faster
    than the reading of clips."""
    views: int = 8
    """Of each picture of --stills, with --resident."""
    device: Device = "auto"
    """Where to compute; auto takes an accelerator if there is one."""
    overwrite: bool = False
    """Start anew, whatever run OUT holds: leave it out to go on with one that was stopped."""
    json: bool = False
    """Print the result as JSON."""

    def run(self) -> None:
        with ends_when_told() as check:
            self._run(check)

    def _run(self, check: Callable[[], None]) -> None:
        from pmljax.fit import Every, fit
        from pmljax.validation import on_davis
        from pmljax.weights.torch import MODEL

        begin = time.monotonic()
        for name in ("validate_every", "save_every", "threads", "views", "validate_frames", "workers"):
            least = 0 if name in ("validate_frames", "workers") else 1
            if getattr(self, name) < least:
                raise InputError(f"--{name.replace('_', '-')} {getattr(self, name)}: expected {least} or more")
        if not 0 <= self.changes.seed < 2**32:
            raise InputError(f"--seed {self.changes.seed}: expected 0…{2**32 - 1}")
        if self.changes.short_side is not None and self.changes.short_side < 8:
            raise InputError(f"--short-side {self.changes.short_side}: expected 8 or more")
        check_together(self, {"validate_every": "validate", "validate_frames": "validate", "views": "resident"})
        use_device(self.device)
        if not self.resident:
            from pmljax.data.batches import reader

            reader()  # who lacks it hears so before clips are made
        sources, weights, words = self.clips.sources(self.changes.seed)
        if self.resident:
            words += f", resident, {self.views} views of a picture"
        config = self._config(words)
        if config.augment.paste and not self.resident:
            raise InputError(
                f"recipe {self.recipe}, paste {config.augment.paste}: found no --resident, which draws what is pasted; expected"
                " both, or --paste 0"
            )
        if self.minutes is not None and (not 0 < self.minutes < math.inf or self.changes.steps is not None):
            given = f"--minutes {self.minutes}" + (
                "" if self.changes.steps is None else f" --steps {self.changes.steps}"
            )
            raise InputError(f"{given}: expected one of them, --minutes or --steps, and more than 0")
        batches, describe = (self._resident if self.resident else self._read)(config, sources, weights)
        if (self.out / MODEL).is_file():
            raise InputError(
                f"--out {self.out}: found {MODEL}, which --model would take in place of the run; expected another folder"
            )
        variables, init = self._variables(config)
        config = dataclasses.replace(config, init=init)
        validate = None
        if self.validate:
            if not self.clips.davis:
                raise InputError("--validate: found no --davis; expected the root that has the split")
            validate = on_davis(self.clips.davis, self.validate, year=self.clips.year, frames=self.validate_frames)
        with training_bar(f"train {config.model.name}", config.steps) as bar:

            def report(step: int, numbers: Mapping[str, float]) -> None:
                check()
                bar(step, numbers)

            fit(
                self.out,
                config,
                batches,
                variables=variables,
                every=Every(save=self.save_every, validate=self.validate_every if validate else 0),
                validate=validate,
                scores_of=f"--validate {self.validate} --validate-frames {self.validate_frames}" if validate else "",
                describe=describe,
                overwrite=self.overwrite,
                seconds=None if self.minutes is None else 60 * self.minutes + begin - time.monotonic(),
                report=report,
            )
        last = read_last(self.out)
        steps = int(last.get("steps") or config.steps)
        text = f"{steps} steps on {words}; in {self.out}\n" + ", ".join(f"{k} {v:.4g}" for k, v in last.items())
        show({"out": str(self.out), "data": words, **last} if self.json else text)

    def _read(self, config: Any, sources: list[Any], weights: list[float]) -> tuple[Batches, Callable[[int], str]]:
        """Batches of clips from a step on, read as they are needed; a clip's number in words."""
        import jax

        from pmljax.data.batches import Clips as ClipStream
        from pmljax.data.batches import batches
        from pmljax.sampling import Clip

        stream = ClipStream(
            sources, weights, seed=config.seed, canvas=config.canvas, short_side=config.short_side, frames=3
        )

        def from_step(step: int) -> Iterator[Clip]:
            for batch in batches(
                stream,
                batch=config.batch,
                start=step,
                host=jax.process_index(),
                hosts=jax.process_count(),
                workers=self.workers,
                threads=self.threads,
            ):
                yield Clip(**batch)

        return from_step, stream.describe

    def _resident(self, config: Any, sources: list[Any], weights: list[float]) -> tuple[Batches, Callable[[int], str]]:
        """The same from the device's memory."""
        import jax

        from pmljax.resident import hold, resident_batches

        stores = hold(
            sources,
            canvas=config.canvas,
            short_side=config.short_side,
            views=self.views,
            seed=config.seed,
            workers=self.workers,
        )

        def from_step(step: int) -> Iterator[Any]:
            return resident_batches(
                stores,
                weights,
                batch=config.batch,
                canvas=config.canvas,
                seed=config.seed,
                start=step,
                host=jax.process_index(),
                hosts=jax.process_count(),
                pasted=config.augment.paste,
            )

        return from_step, lambda number: "drawn on the device"

    def _config(self, words: str) -> Any:
        from pmljax.recipes import recipe

        config = recipe(self.recipe)
        changed = {k: v for k, v in dataclasses.asdict(self.changes).items() if v is not None}
        model = {k: changed.pop(k) for k in ("dtype", "position") if k in changed}
        augment = {
            k: changed.pop(k)
            for k in ("crop", "scale", "zoom", "aspect", "colour", "hue", "paste", "time")
            if k in changed
        }
        if "short_side" in changed:  # the canvas keeps its shape
            changed["canvas"] = tuple(round(n * changed["short_side"] / config.short_side) for n in config.canvas)
        seen = dataclasses.replace(config.model, **model)
        if self.changes.time and seen.position != "yxt":
            raise InputError(
                f"--time {self.changes.time:g}: found position {seen.position}, which has no time; expected yxt"
            )
        if self.changes.norm and seen.norm != "batch":
            raise InputError(
                f"--norm {self.changes.norm}: found {seen.norm} normalisation in recipe {self.recipe}, which is trained as"
                " it is; expected a recipe with batch normalisation, such as paper"
            )
        return dataclasses.replace(
            config,
            **changed,
            model=seen,
            augment=dataclasses.replace(config.augment, **augment),
            data=words,
        )

    def _variables(self, config: Any) -> tuple[dict[str, Any] | None, str]:
        """(the variables to start from, the fingerprint of the weights that they come from)."""
        if self.init is None:
            return None, ""
        import jax

        from pmljax.weights import load
        from pmljax.weights.bundled import fingerprint
        from pmljax.weights.carry import carry_over, check_sight

        given, where = load(self.init), f"--init {self.init}"
        check_sight(given.config, config.model, where, self.recipe)
        try:
            variables, report = carry_over(given.variables, config.model, jax.random.key(config.seed))
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
        print(report.text(), file=sys.stderr)  # standard output is the result's
        return variables, fingerprint(given)


def read_last(out: Path) -> dict[str, float]:
    """The last numbers of each kind in a run's log."""
    from pmljax.runlog import read_log

    last: dict[str, float] = {}
    for line in read_log(out / "log.jsonl"):
        last |= {k: v for k, v in line.items() if k not in ("run", "step")}
    return last

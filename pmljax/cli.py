"""The command line: one dataclass a command. Bad input is one line on standard error and exit status 2."""

from __future__ import annotations

import io
import json
import os
import platform
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import FlagCreatePairsOff, arg

from pmljax import metrics
from pmljax.annotating import Annotate
from pmljax.device import keep_compiled, keep_memory, share_memory
from pmljax.errors import InputError
from pmljax.files import alone, asked_file, write_file
from pmljax.options import plain_help
from pmljax.porting import ExportTorch, ImportTorch
from pmljax.segmenting import Embed, Inference, Segment
from pmljax.terminal import interrupted_once, note, notes_damage, progress, show, status, text_table
from pmljax.training import Train
from pmljax.weights.bundled import DEFAULT, SHA256


@dataclass(frozen=True)
class Score:
    """Score any method's masks on a DAVIS folder: J and F, mean, recall and decay, by sequence and over all."""

    davis: Path
    """The DAVIS root: JPEGImages, Annotations, ImageSets."""
    results: Path
    """The folder of results: RESULTS/SEQUENCE/NNNNN.png."""
    split: str = "val"
    """The list of sequences, ImageSets/YEAR/SPLIT.txt."""
    sequences: list[str] = field(default_factory=list)
    """Of the split; all by default."""
    year: int | None = None
    """2016: everything that is not 0 is one object; 2017: objects apart. By default the year that has the split."""
    csv: Path | None = None
    """Write the table as CSV: a row a sequence and object, the last row Global."""
    frames: Path | None = None
    """Write every frame's J and F as JSON: {NAME: {"J": […], "F": […]}}, NAME being SEQUENCE (2016) or SEQUENCE_OBJECT."""
    json: bool = False
    """Print the table as JSON."""

    def run(self) -> None:
        from pmljax.data.davis import find_split

        year, names = find_split(self.davis, self.split, self.year, self.sequences)
        tables, frames = (path and asked_file(path) for path in (self.csv, self.frames))
        if tables and frames and tables.absolute() == frames.absolute():
            raise InputError(f"{self.frames}: found one file for --csv and --frames; expected two")
        if not self.results.is_dir():
            raise InputError(f"{self.results}: no such folder; expected results as SEQUENCE/NNNNN.png")
        rows, scores = score(self.davis, self.results, names, year)
        # Shown before a file that cannot be written costs it; written even where nobody reads what is shown any more.
        try:
            show(rows if self.json else text_table(rows))
        finally:
            if tables:
                write_file(tables, metrics.csv_table(rows).encode())
            if frames:
                plain = {n if year == 2017 else n.removesuffix("_1"): v for n, v in scores.items()}
                lists = {n: {m: v[:, i].tolist() for i, m in enumerate("JF")} for n, v in plain.items()}
                write_file(frames, json.dumps(lists).encode())


@dataclass(frozen=True)
class Evaluate:
    """Segment every sequence of a DAVIS split from its first annotation, then score the results.

    Writes OUT/SEQUENCE/NNNNN.png, OUT/scores.csv and the two CSV files of the official DAVIS-2017 tool. A run that was
    stopped is continued by the same command.
    """

    davis: Path
    """The DAVIS root: JPEGImages, Annotations, ImageSets."""
    out: Path
    """The folder to write to."""
    split: str = "val"
    """The list of sequences, ImageSets/YEAR/SPLIT.txt."""
    sequences: list[str] = field(default_factory=list)
    """Of the split; all by default."""
    year: int | None = None
    """2016: everything that is not 0 is one object; 2017: objects apart. By default the year that has the split."""
    computing: Annotated[Inference, arg(name="")] = Inference()
    overwrite: bool = False
    """Start anew where OUT holds the results of other input or settings."""
    json: bool = False
    """Print the result as JSON."""

    def run(self) -> None:
        from pmljax.data.davis import find_split, open_sequence
        from pmljax.masks import first_mask
        from pmljax.results import segment_to

        year, names = find_split(self.davis, self.split, self.year, self.sequences)
        sequences = [open_sequence(self.davis, name) for name in names]
        # Every sequence is looked at before the first is segmented.
        opened = [(s, s.scored()) for s in sequences]
        masks = {s.name: first_mask(s, frames, year) for s, frames in opened}
        model, preset = self.computing.prepare()
        seconds, count = 0.0, 0
        with progress("evaluate", sum(f.count or 0 for _, f in opened)) as advance:
            for sequence, frames in opened:
                done = segment_to(
                    self.out / sequence.name,
                    model,
                    frames,
                    masks[sequence.name],
                    preset=preset,
                    overlay="none",
                    contact=False,
                    overwrite=self.overwrite,
                    inputs=[next(iter(sequence.annotations.values()))],
                    advance=advance,
                )
                seconds, count = seconds + done.seconds, count + done.computed
        rows, _ = score(self.davis, self.out, names, year)
        rate = f", {count / seconds:.1f} frames a second" if count else ""
        text = f"{text_table(rows)}\nmodel {self.computing.model}, {count} frames computed{rate}; in {self.out}"
        result = {"model": self.computing.model, "computed": count, "seconds": seconds, "scores": rows}
        totals, per_sequence = metrics.official_csv(rows)
        split = self.split.replace("/", "-")  # a list in a folder of its own
        try:  # as in `Score`
            show(result if self.json else text)
        finally:
            write_file(self.out / "scores.csv", metrics.csv_table(rows).encode())
            write_file(self.out / f"global_results-{split}.csv", totals.encode())
            write_file(self.out / f"per-sequence_results-{split}.csv", per_sequence.encode())


@dataclass(frozen=True)
class Demo:
    """Make a short clip (two objects, a post before them, a distractor), segment it, score it. Needs no data.

    Writes OUT/clip.mp4, OUT/first.png and OUT/demo.json, and to OUT/result what `pmljax segment` writes.
    """

    out: Path = Path("demo")
    """The folder to write to."""
    computing: Annotated[Inference, arg(name="")] = Inference()
    json: bool = False
    """Print the result as JSON."""

    def run(self) -> None:
        from pmljax.data.sources import open_frames
        from pmljax.demo import make_clip, score_clip, take_folder
        from pmljax.masks import read_masks
        from pmljax.results import segment_to

        model, preset = self.computing.prepare()
        take_folder(self.out)
        made = self.out / "result"
        with alone(self.out, "makes its demo there"):
            truth = make_clip(self.out, self.computing.seed)
            frames = open_frames(self.out / "clip.mp4")
            masks = read_masks([self.out / "first.png"], frames)
            with progress("demo", len(truth)) as advance:
                done = segment_to(made, model, frames, masks, preset=preset, overwrite=True, advance=advance)
            rows = score_clip(made, truth)
        kind = "colour and position in place of a network" if not model.config.depth else "a network"
        text = (
            f"{text_table(rows)}\nmodel: {self.computing.model} ({kind}); {done.frames} frames in {done.seconds:.1f} s,"
            f" compilation included\nlook at {made / 'overlay.mp4'} and {made / 'contact.jpg'}"
        )
        show({"model": self.computing.model, **done._asdict(), "scores": rows} if self.json else text)


@dataclass(frozen=True)
class Info:
    """Versions, devices and models."""

    json: bool = False
    """Print as JSON."""

    def run(self) -> None:
        import jax

        from pmljax.config import NAMED
        from pmljax.model import abstract, parameter_count

        sizes = {n: parameter_count(abstract(n)) for n in NAMED}
        trained = {n: "bundled" if n in SHA256 else "untrained, as random:" + n for n in NAMED} | {
            "color": "no network"
        }
        result = {
            "pmljax": version("pmljax"),
            "python": platform.python_version(),
            **{name: version(name) for name in ("jax", "jaxlib", "flax", "numpy", "av", "pillow")},
            "devices": [f"{d.platform}:{d.id} {d.device_kind}" for d in jax.devices()],
            "default model": DEFAULT,
            "models": {n: f"{sizes[n]:,} parameters, {trained[n]}" for n in NAMED},
        }
        lines = []
        for name, value in result.items():
            if isinstance(value, dict):
                lines += [f"{name}:", *(f"  {k:12} {v}" for k, v in value.items())]
            else:
                lines.append(f"{name:14} {', '.join(value) if isinstance(value, list) else value}")
        show(result if self.json else "\n".join(lines))


# What the commands share


def score(davis: Path, results: Path, names: Sequence[str], year: int):
    """(table, per-frame values) of `results`, with a progress bar."""
    from pmljax.scoring import remarks, score_results

    with progress("score", len(names)) as advance:
        scores = score_results(davis, results, names, year, advance)
    for said in remarks(davis, results, names):
        note(said)
    return metrics.table(scores), scores


COMMANDS = {
    "segment": Segment,
    "embed": Embed,
    "annotate": Annotate,
    "score": Score,
    "evaluate": Evaluate,
    "train": Train,
    "import-torch": ImportTorch,
    "export-torch": ExportTorch,
    "demo": Demo,
    "info": Info,
}
ANEW = (Score, ImportTorch, ExportTorch, Demo, Info)  # keep nothing of a run that was stopped


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status. Without `argv` the process is ours: the command line's is taken."""
    if argv is None:
        for name in ("stdout", "stderr"):  # closed, as where nobody listens: written to nowhere, not to each other
            if getattr(sys, name) is None:
                setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 (as long as the process)
        if sys.argv[1:2] == ["train"]:
            keep_memory()
        if sys.argv[1:2] == ["annotate"]:
            share_memory()
        keep_compiled()
        interrupted_once()
        notes_damage()
        # Of what is taken all the same: an odd EXIF, many pixels; a cache without room.
        warnings.filterwarnings("ignore", module=r"PIL\.")
        warnings.filterwarnings("ignore", message="Error (reading|writing) persistent compilation cache")
        # Batches that were ready when a training with --workers ended: who tracks them removes them, and need not say so.
        sys.warnoptions.append("ignore:resource_tracker:UserWarning")
        for stream in (sys.stdout, sys.stderr):  # a terminal that lacks a file name's letters gets their numbers
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
    command = None

    def run() -> None:
        nonlocal command
        if (sys.argv[1:] if argv is None else list(argv)) == ["--version"]:
            return show(f"pmljax {version('pmljax')}")
        command = tyro.extras.subcommand_cli_from_dict(
            COMMANDS,
            prog="pmljax",
            description="Video object segmentation by pixel-wise metric learning: embed every pixel once, label by nearest"
            " neighbours.",
            args=argv,
            config=(FlagCreatePairsOff,),
            registry=plain_help(),
        )
        command.run()

    try:
        return status(run)
    except KeyboardInterrupt:
        note("stopped; the same command " + ("starts anew" if isinstance(command, ANEW) else "continues"))
        return 130

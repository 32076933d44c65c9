"""The command line: one dataclass a command. Bad input is one line on standard error and exit status 2."""

from __future__ import annotations

import dataclasses
import json
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import FlagCreatePairsOff, Positional, arg

from pmljax import metrics
from pmljax.device import Device, keep_memory, use_device
from pmljax.errors import InputError
from pmljax.files import write_file
from pmljax.porting import ExportTorch, ImportTorch
from pmljax.terminal import fail, progress, show, text_table
from pmljax.training import Train
from pmljax.weights.bundled import DEFAULT


@dataclass(frozen=True)
class Computing:
    """What computes, and how."""

    model: str = DEFAULT
    """color (no network), random:NAME (untrained), or the path of a .safetensors file, of a training run or of an import."""
    device: Device = "auto"
    """Where to compute; auto takes an accelerator if there is one."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of the network. Distances are float32 in any case."""
    plain: bool = False
    """Retrieval from the marked pixels alone, instead of the default (which also remembers the last frames)."""
    best: bool = False
    """The best measured inference at any speed, instead of the default."""
    paper: bool = False
    """The paper's inference instead of the default: hard majority of five, unanimous pixels join, bilateral solver."""
    size: str = "480"
    """Frames with a longer short side are scaled down to it inside; labels come back at full size. `full`: never."""
    seed: int = 0
    """Of the weights of random:NAME."""

    def prepare(self):
        """(model, preset) on the device asked for."""
        from pmljax.presets import preset_of
        from pmljax.weights import load

        use_device(self.device)
        if self.size != "full" and not (self.size.isdecimal() and int(self.size) >= 8):
            raise InputError(f"--size {self.size}: expected a number of pixels from 8 up, or full")
        if not 0 <= self.seed < 2**32:
            raise InputError(f"--seed {self.seed}: expected 0…{2**32 - 1}")
        chosen = [name for name in ("plain", "best", "paper") if getattr(self, name)]
        if len(chosen) > 1:
            raise InputError(f"found {' and '.join('--' + name for name in chosen)}; expected one of them at most")
        model = load(self.model, dtype=self.dtype, seed=self.seed)
        preset = preset_of(model.config, *chosen)
        return model, dataclasses.replace(preset, size=None if self.size == "full" else int(self.size))


@dataclass(frozen=True)
class Segment:
    """Segment a video: from the mask of its first frame to masks of all frames, an overlay and a contact sheet.

    pmljax segment clip.mp4 --mask first.png --out out

    Writes OUT/NNNNN.png (palette PNGs under the input's frame names, the first frame's included), OUT/overlay.mp4,
    OUT/contact.jpg and OUT/run.json. A run that was stopped is continued by the same command.
    """

    input: Annotated[Positional[Path], arg(metavar="INPUT")]
    """A video (mp4, mov, avi, mkv, webm, gif) or a folder of pictures (jpg, png)."""
    mask: Annotated[list[Path], arg(metavar="MASK [MASK …]")]
    """The first frame's mask: a PNG with ids 1…254 (0 background, 255 void) or 0/255. Or several, or a folder, each named
    by its frame, for objects that appear late: in later masks 0 says nothing. INPUT stands before --mask."""
    out: Path
    """The folder to write to."""
    computing: Annotated[Computing, arg(name="")] = Computing()
    start: int = 0
    """First frame, counted from 0."""
    end: int | None = None
    """Stop before this frame."""
    every: int = 1
    """Take every n-th frame."""
    overlay: Literal["mp4", "gif", "none"] = "mp4"
    """The form of the overlay video."""
    overwrite: bool = False
    """Start anew where OUT holds the results of other input or settings."""
    json: bool = False
    """Print the result as JSON."""

    def run(self) -> None:
        from pmljax.data.sources import open_frames
        from pmljax.results import read_masks, segment_to

        frames = open_frames(self.input, start=self.start, end=self.end, every=self.every)
        masks = read_masks(self.mask, frames)
        model, preset = self.computing.prepare()
        with progress(f"segment {self.input.name}", frames.count) as advance:
            done = segment_to(
                self.out,
                model,
                frames,
                masks,
                preset=preset,
                overlay=self.overlay,
                overwrite=self.overwrite,
                inputs=self.mask,
                advance=advance,
            )
        result = {"out": str(self.out), "model": self.computing.model, **done._asdict()}
        how = f"{done.computed} computed in {done.seconds:.1f} s, model {self.computing.model}"
        text = f"{done.frames} frames in {self.out} ({how})"
        show(result if self.json else text)


@dataclass(frozen=True)
class Score:
    """Score any method's masks on a DAVIS folder: J and F, mean, recall and decay, by sequence and over all."""

    davis: Path
    """The DAVIS root: JPEGImages, Annotations, ImageSets."""
    results: Path
    """The folder of results: RESULTS/SEQUENCE/NNNNN.png."""
    split: str = "val"
    """The list of sequences, ImageSets/YEAR/SPLIT.txt."""
    year: int | None = None
    """2016: everything that is not 0 is one object; 2017: objects apart. By default the year that has the split."""
    csv: Path | None = None
    """Write the table as CSV: a row a sequence and object, the last row Global."""
    frames: Path | None = None
    """Write every frame's J and F as JSON: {sequence: {"J": […], "F": […]}}."""
    json: bool = False
    """Print the table as JSON."""

    def run(self) -> None:
        from pmljax.data.davis import find_split

        year, names = find_split(self.davis, self.split, self.year)
        for path in filter(None, (self.csv, self.frames)):
            if path.is_dir() or not path.absolute().parent.is_dir():
                raise InputError(f"{path}: expected the name of a file in a folder that is there")
        if not self.results.is_dir():
            raise InputError(f"{self.results}: no such folder; expected results as SEQUENCE/NNNNN.png")
        rows, scores = score(self.davis, self.results, names, year)
        if self.csv:
            write_file(self.csv, metrics.csv_table(rows).encode())
        if self.frames:
            plain = {n if year == 2017 else n.removesuffix("_1"): v for n, v in scores.items()}
            lists = {n: {m: v[:, i].tolist() for i, m in enumerate("JF")} for n, v in plain.items()}
            write_file(self.frames, json.dumps(lists).encode())
        show(rows if self.json else text_table(rows))


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
    year: int | None = None
    """2016: everything that is not 0 is one object; 2017: objects apart. By default the year that has the split."""
    computing: Annotated[Computing, arg(name="")] = Computing()
    overwrite: bool = False
    """Start anew where OUT holds the results of other input or settings."""
    json: bool = False
    """Print the result as JSON."""

    def run(self) -> None:
        from pmljax.data.davis import find_split, open_sequence
        from pmljax.results import first_mask, segment_to

        year, names = find_split(self.davis, self.split, self.year)
        sequences = [open_sequence(self.davis, name) for name in names]
        # Every sequence is looked at before the first is segmented.
        for sequence in sequences:
            sequence.counted()
        opened = [(s, s.frames()) for s in sequences]
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
                    advance=advance,
                )
                seconds, count = seconds + done.seconds, count + done.computed
        rows, _ = score(self.davis, self.out, names, year)
        totals, per_sequence = metrics.official_csv(rows)
        write_file(self.out / "scores.csv", metrics.csv_table(rows).encode())
        write_file(self.out / f"global_results-{self.split}.csv", totals.encode())
        write_file(self.out / f"per-sequence_results-{self.split}.csv", per_sequence.encode())
        rate = f", {count / seconds:.1f} frames a second" if count else ""
        text = f"{text_table(rows)}\nmodel {self.computing.model}, {count} frames computed{rate}; in {self.out}"
        result = {"model": self.computing.model, "computed": count, "seconds": seconds, "scores": rows}
        show(result if self.json else text)


@dataclass(frozen=True)
class Demo:
    """Make a short clip (two objects, a post before them, a distractor), segment it, score it. Needs no data, no network.

    Writes OUT/clip.mp4 and OUT/first.png, and to OUT/result what `pmljax segment` writes.
    """

    out: Path = Path("demo")
    """The folder to write to."""
    computing: Annotated[Computing, arg(name="")] = Computing()
    json: bool = False
    """Print the result as JSON."""

    def run(self) -> None:
        from pmljax.data.sources import open_frames
        from pmljax.demo import make_clip, score_clip
        from pmljax.results import read_masks, segment_to

        model, preset = self.computing.prepare()
        truth = make_clip(self.out, self.computing.seed)
        frames = open_frames(self.out / "clip.mp4")
        masks = read_masks([self.out / "first.png"], frames)
        with progress("demo", len(truth)) as advance:
            done = segment_to(self.out / "result", model, frames, masks, preset=preset, overwrite=True, advance=advance)
        rows = score_clip(self.out / "result", truth)
        made = self.out / "result"
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
        trained = {n: "no network" if n == "color" else "untrained, as random:" + n for n in NAMED}
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
    from pmljax.scoring import score_results

    with progress("score", len(names)) as advance:
        scores = score_results(davis, results, names, year, advance)
    return metrics.table(scores), scores


COMMANDS = {
    "segment": Segment,
    "score": Score,
    "evaluate": Evaluate,
    "train": Train,
    "import-torch": ImportTorch,
    "export-torch": ExportTorch,
    "demo": Demo,
    "info": Info,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status. Without `argv` the process is ours: the command line's is taken."""
    if argv is None:
        keep_memory()
    command = tyro.extras.subcommand_cli_from_dict(
        COMMANDS,
        prog="pmljax",
        description="Video object segmentation by pixel-wise metric learning: embed every pixel once, label by nearest"
        " neighbours.",
        args=argv,
        config=(FlagCreatePairsOff,),
    )
    try:
        command.run()
    except InputError as error:
        return fail(str(error))
    except OSError as error:
        what = f"cannot be read or written ({error.strerror or error})"
        return fail(f"{error.filename or 'a file'}: {what}; expected a place with room and rights")
    except KeyboardInterrupt:
        print("pmljax: stopped; the same command continues", file=sys.stderr)
        return 130
    return 0

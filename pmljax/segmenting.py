"""`pmljax segment` and `pmljax embed`, and what commands that compute have in common."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from pmljax.device import Device, use_device
from pmljax.errors import InputError
from pmljax.terminal import note, progress, show
from pmljax.weights.bundled import DEFAULT


@dataclass(frozen=True)
class Computing:
    """What computes, and how."""

    model: str = DEFAULT
    """small (bundled), color (no network), random:NAME (untrained), or the path of a .safetensors file, of a training run
    or of an import."""
    device: Device = "auto"
    """Where to compute; auto takes an accelerator if there is one."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of the network. Distances are float32 in any case."""
    size: str | None = None
    """Short side of the frames inside; labels come back at full size. A number: smaller ones are enlarged to it, at most
    twice, but never for `color`. `full`: as they are. By default the preset's: 480, of `best` 640; `paper` enlarges none."""
    seed: int = 0
    """Of the weights of random:NAME; of `demo` also of the clip."""

    def prepare(self):
        """(model, preset) on the device asked for."""
        return self.prepared("default")

    def prepared(self, name: str):
        """`prepare` with the preset `name`."""
        from pmljax.presets import preset_of
        from pmljax.weights import load

        use_device(self.device)
        size = self.size
        if size not in (None, "full") and not (size.isdecimal() and int(size) >= 8):
            raise InputError(f"--size {self.size}: expected a number of pixels from 8 up, or full")
        if not 0 <= self.seed < 2**32:
            raise InputError(f"--seed {self.seed}: expected 0…{2**32 - 1}")
        model = load(self.model, dtype=self.dtype, seed=self.seed)
        preset = preset_of(model.config, name)
        if size is None:
            return model, preset
        return model, dataclasses.replace(preset, size=None if size == "full" else (int(size), int(size)))


@dataclass(frozen=True)
class Inference(Computing):
    """With a choice of presets."""

    plain: bool = False
    """Retrieval from the marked pixels alone, of a mask also mirrored and nearer, instead of the default (which remembers
    earlier frames too)."""
    best: bool = False
    """The best on the videos that chose it, at a third of the default's speed; frames of 640 lines inside."""
    paper: bool = False
    """The paper's inference instead of the default: hard majority of five, unanimous pixels join, bilateral solver; small
    frames are not enlarged."""

    def prepare(self):
        """(model, preset) on the device asked for."""
        chosen = [name for name in ("plain", "best", "paper") if getattr(self, name)]
        if len(chosen) > 1:
            raise InputError(f"found {' and '.join('--' + name for name in chosen)}; expected one of them at most")
        return self.prepared(*chosen or ["default"])


def vote_rule(neighbours: int | None, log: Path | None, config: Any) -> tuple[int, float | None]:
    """(k, temperature) of a session: what is asked for, else what the edit log that it continues says, else the network's."""
    from pmljax.editlog import vote_of
    from pmljax.presets import session_vote

    if neighbours is not None:
        if not 1 <= neighbours <= 50:
            raise InputError(f"--neighbours {neighbours}: expected 1…50")
        return neighbours, None
    return (log and vote_of(log)) or session_vote(config)


@dataclass(frozen=True)
class Segment:
    """Segment a video: from the mask of its first frame to masks of all frames, an overlay and a contact sheet.

    pmljax segment clip.mp4 --mask first.png --out out

    Writes OUT/NNNNN.png (palette PNGs under the input's frame names, the first frame's included), OUT/overlay.mp4,
    OUT/contact.jpg and OUT/run.json. A run that was stopped is continued by the same command.
    """

    input: Annotated[Positional[Path], arg(metavar="INPUT")]
    """A video (mp4, mov, avi, mkv, webm, gif) or a folder of pictures (jpg, png, webp, …)."""
    out: Path
    """The folder to write to."""
    mask: Annotated[list[Path], arg(metavar="MASK [MASK …]")] = field(default_factory=list)
    """The first frame's mask: a PNG with ids 1…254 (0 background, 255 void) or 0/255. Or several, or a folder, each named
    by its frame, for objects that appear late: in later masks 0 says nothing. INPUT stands before --mask."""
    clicks: Path | None = None
    """Instead of a mask: a file of inputs, JSON lines such as {"op": "click", "frame": 0, "y": 10, "x": 20, "label": 1};
    label 0 marks the background. Scribbles, boxes and masks too (pmljax/inputs.py), and what `Session.save` wrote. frame
    counts the frames chosen by --start and --every."""
    scribbles: Path | None = None
    """Instead of a mask: a scribble file of the DAVIS interactive challenge, whose frames are all of INPUT's."""
    edits: Path | None = None
    """Instead of a mask: the edit log that `pmljax annotate` kept, such as clip-edits/edits.jsonl."""
    neighbours: int | None = None
    """With --clicks or --scribbles: so many of the nearest marked pixels vote, all the same. By default ten, the nearer the
    more (with `color` one); with --edits as the log says."""
    computing: Annotated[Inference, arg(name="")] = Inference()
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
        from pmljax.masks import read_masks, remarks
        from pmljax.results import segment_to

        ways = [n for n in ("mask", "clicks", "scribbles", "edits") if getattr(self, n)]
        if len(ways) != 1:
            found = " and ".join(f"--{n}" for n in ways) or "none"
            raise InputError(f"found {found}; expected one of --mask, --clicks, --scribbles and --edits")
        files = [path for path in self.mask if path.is_file()]  # which may lie among the frames
        frames = open_frames(self.input, start=self.start, end=self.end, every=self.every, without=files)
        if not self.mask:
            return self.from_inputs(frames)
        if self.neighbours is not None:
            raise InputError(f"--neighbours {self.neighbours}: found with --mask; expected --clicks or --scribbles")
        masks = read_masks(self.mask, frames)
        for remark in remarks(self.mask, frames, masks):
            note(remark)
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
        self.told(done)

    def from_inputs(self, frames: Any) -> None:
        from pmljax.editlog import header_of, read_log, with_lines
        from pmljax.interact import Session
        from pmljax.results import session_to
        from pmljax.scribbles import davis_scribbles
        from pmljax.weights.bundled import fingerprint

        if self.computing.best or self.computing.paper:
            raise InputError(
                "--best, --paper: found with --clicks, --scribbles or --edits, which are plain retrieval; leave it out"
            )
        given = self.clicks or self.scribbles or self.edits
        edits: list[Any] = []
        if self.scribbles:
            edits = davis_scribbles(self.scribbles, frames.size, place=frames.place, count=frames.total)
        model, preset = self.computing.prepare()
        vote = vote_rule(self.neighbours, self.edits, model.config)
        if self.edits:
            seen = model.config.seen(frames.size, preset.size)
            header = header_of(frames.digest(), fingerprint(model), frames.size, vote=vote, seen=seen)
            edits, notice = read_log(self.edits, header)
            if notice:
                note(notice)
        with progress(f"embed {self.input.name}", frames.count) as advance:
            session = Session(model, frames, k=vote[0], temperature=vote[1], size=preset.size, advance=advance)
        if self.clicks:
            session.load(self.clicks)
        session.replay(with_lines(edits, self.edits) if self.edits else [(str(given), edit) for edit in edits])
        if not session.edits:
            raise InputError(f"{given}: found no input on a chosen frame; expected one at least")
        if not len(session.marked()[0]):
            raise InputError(f"{given}: what was marked is taken back in the end; expected an input that holds")
        said = sorted({int(i) for i in session.marked()[1]})
        if len(said) == 1:
            what = (
                "background alone is marked, so no object is found"
                if said == [0]
                else (f"object {said[0]} alone is marked, so everything is it: mark the background too, with label 0")
            )
            note(f"{given}: {what}")
        with progress(f"segment {self.input.name}", frames.count) as advance:
            options: Any = {"overlay": self.overlay, "overwrite": self.overwrite, "inputs": [given], "advance": advance}
            done = session_to(self.out, model, frames, session, **options)
        self.told(done)

    def told(self, done: Any) -> None:
        result = {"out": str(self.out), "model": self.computing.model, **done._asdict()}
        how = f"{done.computed} computed in {done.seconds:.1f} s, model {self.computing.model}"
        text = f"{done.frames} frames in {self.out} ({how})"
        show(result if self.json else text)


@dataclass(frozen=True)
class Embed:
    """Embed a video once, so that clicks and scribbles on it are answered at once.

    pmljax embed clip.mp4

    Fills the cache ($PMLJAX_CACHE, else $XDG_CACHE_HOME/pmljax, else ~/.cache/pmljax), which `pmljax segment --clicks` and
    `Session` find again as long as video, model and size are the same.
    """

    input: Annotated[Positional[Path], arg(metavar="INPUT")]
    """A video (mp4, mov, avi, mkv, webm, gif) or a folder of pictures (jpg, png, webp, …)."""
    computing: Annotated[Computing, arg(name="")] = Computing()
    start: int = 0
    """First frame, counted from 0."""
    end: int | None = None
    """Stop before this frame."""
    every: int = 1
    """Take every n-th frame."""
    json: bool = False
    """Print the result as JSON."""

    def run(self) -> None:
        from pmljax.data.sources import open_frames
        from pmljax.embedded import embed_video
        from pmljax.files import default_cache

        frames = open_frames(self.input, start=self.start, end=self.end, every=self.every)
        model, preset = self.computing.prepare()
        begin = time.monotonic()
        with progress(f"embed {self.input.name}", frames.count) as advance:
            found, there = embed_video(model, frames, size=preset.size, cache=default_cache(), advance=advance)
        seconds = time.monotonic() - begin
        result = {"frames": found.count, "file": str(found.path), "there already": there, "seconds": seconds}
        how = "there already" if there else f"in {seconds:.1f} s"
        show(result if self.json else f"{found.count} frames embedded, {how}: {found.path}")

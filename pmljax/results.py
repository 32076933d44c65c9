"""What a run leaves on disk: `NNNNN.png` for every frame, an overlay, a contact sheet, and `run.json`.

`run.json` says what the labels depend on (hashes of input, masks and weights; preset; version). A folder is continued only
where that agrees; frames that are there already are not computed again. Every file appears whole or not at all, and one
process at a time writes there.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from pmljax.data.frames import Frames, Stamped
from pmljax.data.images import list_images
from pmljax.data.overlay import ContactSheet, paint
from pmljax.data.video import VideoWriter
from pmljax.errors import InputError, differing
from pmljax.files import alone, write_file
from pmljax.inputs import to_lines
from pmljax.interact import Session
from pmljax.labels import check_labels, encode_labels, read_labels
from pmljax.model import Model
from pmljax.presets import Preset
from pmljax.segment import segment
from pmljax.weights.bundled import fingerprint

Overlay = Literal["mp4", "gif", "none"]
OVERLAYS = ("mp4", "gif")
FORMAT = 7  # of run.json, and of the rules by which a preset labels: raised when labels change, as runs are continued


class Summary(NamedTuple):
    """frames: in the folder now.  computed: of them, by this run.  seconds: that it took, compilation included."""

    frames: int
    computed: int
    seconds: float


def segment_to(
    out: Path,
    model: Model,
    frames: Frames,
    masks: Mapping[int, np.ndarray],
    *,
    preset: Preset,
    overlay: Overlay = "mp4",
    contact: bool = True,
    overwrite: bool = False,
    inputs: Iterable[Path] = (),
    advance: Callable[[], object] = lambda: None,
) -> Summary:
    """Segment a stream into the folder `out`; `advance` is called after each frame.

    inputs: the files and folders that the run reads besides the frames: `out` may not hold them.

    Nothing is written before the first frame is done. Raises InputError for bad input, for a folder that holds something
    else, for one in which another process writes, and for one begun with other input or settings unless `overwrite`.
    """
    given = {str(i): hashlib.sha256(m.tobytes()).hexdigest() for i, m in sorted(masks.items())}
    identity = _identity(model, frames) | {"masks": given, "preset": dataclasses.asdict(preset)}

    def labels(images: Iterator[tuple[int, np.ndarray]], skip: set[int]) -> Iterator[np.ndarray | None]:
        return segment(model, images, masks, preset=preset, skip=skip)

    return _write(out, frames, identity, labels, overlay, contact, overwrite, inputs, advance)


def session_to(
    out: Path,
    model: Model,
    frames: Frames,
    session: Session,
    *,
    overlay: Overlay = "mp4",
    overwrite: bool = False,
    inputs: Iterable[Path] = (),
    advance: Callable[[], object] = lambda: None,
) -> Summary:
    """As `segment_to`: the labels that the inputs of a session of these frames give."""
    said = hashlib.sha256(to_lines(session.edits).encode()).hexdigest()
    vote = {"k": session.k, "temperature": session.temperature}
    identity = _identity(model, frames) | {"inputs": said, **vote, "seen": list(session.grid.seen)}

    def labels(images: Iterator[tuple[int, np.ndarray]], skip: set[int]) -> Iterator[np.ndarray | None]:
        return (None if i in skip else session.labels(i) for i, _ in enumerate(images))

    return _write(out, frames, identity, labels, overlay, True, overwrite, inputs, advance)


def _write(
    out: Path,
    frames: Frames,
    identity: dict[str, object],
    labels_of: Callable[[Iterator[tuple[int, np.ndarray]], set[int]], Iterator[np.ndarray | None]],
    overlay: Overlay,
    contact: bool,
    overwrite: bool,
    inputs: Iterable[Path],
    advance: Callable[[], object],
) -> Summary:
    """labels_of: (the stream of (number, image), indices that need not be computed) → labels of every frame, or None."""
    begin = time.monotonic()
    sources = [frames.path, *frames.files, *inputs]
    with ExitStack() as stack:
        held = out.is_dir()
        if held:
            stack.enter_context(alone(out, "writes there"))
        record = _inspect(out, identity, _chosen(frames), sources, overwrite)
        there = (p for p in out.glob("*.png") if frames.position(p.stem) is not None) if record else ()
        done = {p.stem for p in there if p.is_file() and p.stat().st_size}  # an empty one is none of ours
        pictures = [f"overlay.{overlay}"] * (overlay != "none") + ["contact.jpg"] * contact
        whole = record is not None and record["finished"] and len(done) >= record["frames"]
        if record and whole and all((out / p).is_file() for p in pictures):
            return Summary(record["frames"], 0, time.monotonic() - begin)

        stamps: deque[Stamped] = deque()

        def images() -> Iterator[tuple[int, np.ndarray]]:
            for frame in frames.stamped():
                stamps.append(frame)
                yield frame.number, frame.image

        skip = {index for name in done if (index := frames.position(name)) is not None}
        sheet, count, computed, begun = ContactSheet(), 0, 0, 0.0
        # Of a finished run no label is missing, and nothing is left that could depend on what a frame adds.
        results = (None for _ in images()) if whole else labels_of(images(), skip)
        with ExitStack() as opened:
            video = None
            for labels in results:
                if not count:
                    begun = stamps[0].seconds  # the overlay begins with the first chosen frame
                    out.mkdir(parents=True, exist_ok=True)
                    if not held:  # nobody could be kept from a folder that was not there
                        stack.enter_context(alone(out, "writes there"))
                        _inspect(out, identity, _chosen(frames), sources, overwrite)
                    _claim(out, identity, frames, overwrite)
                    if overlay != "none":
                        writer = VideoWriter(out / f"overlay.{overlay}", aspect=frames.aspect)
                        video = opened.enter_context(writer)
                frame = stamps.popleft()
                path = out / f"{frame.name}.png"
                if labels is None:
                    labels = check_labels(read_labels(path), str(path), frames.size)
                elif frame.name not in done:
                    write_file(path, encode_labels(labels))
                    computed += 1
                if contact or video:
                    picture = paint(frame.image, labels)
                    sheet.add(frame.name, picture)
                    if video:
                        video.write(picture, frame.seconds - begun)
                count += 1
                advance()
        if contact:
            write_file(out / "contact.jpg", sheet.jpeg())
        _write_run(out, identity, frames, finished=True, count=count)
    return Summary(count, computed, time.monotonic() - begin)


def _identity(model: Model, frames: Frames) -> dict[str, object]:
    """What the labels depend on, as JSON."""
    return {
        "format": FORMAT,
        "version": version("pmljax"),
        "input": frames.digest(),
        "model": model.config.name,
        "weights": fingerprint(model),
    }


def _chosen(frames: Frames) -> list[int | None]:
    return [frames.chosen.start, frames.chosen.stop, frames.chosen.step]


def _inspect(
    out: Path, identity: dict[str, object], chosen: list[int | None], inputs: list[Path], overwrite: bool
) -> dict[str, Any] | None:
    """The run.json of the run that is to be continued in `out`, None for a new one. Changes nothing."""
    there = next(p for p in (out, *out.absolute().parents) if p.exists())
    if not there.is_dir():
        raise InputError(f"{out}: {there} is a file; expected a folder, or nothing, to write to")
    if not os.access(there, os.W_OK | os.X_OK):
        raise InputError(f"{out}: {there} may not be written to; expected a folder that may")
    if out.is_symlink() and not out.exists():
        raise InputError(f"{out}: a link to {out.readlink()}, which is not there; expected a folder, or nothing")
    inside = (file for path in inputs if path.is_dir() for file in list_images(path))  # links may lead to `out`
    place = out.resolve()
    for path in (*inputs, *inside):
        if place in ((found := path.resolve()), found.parent):
            raise InputError(f"{out}: this is where the input {path} is; expected another folder to write to")
    if overwrite or not out.is_dir():
        return None
    run = out / "run.json"
    if not run.is_file():
        strange = sorted(p.name for p in out.iterdir() if not p.name.startswith("."))
        if strange:
            raise InputError(
                f"{out}: found {strange[0]} but no run.json; expected an empty folder or one of pmljax's"
                " (--overwrite writes there all the same)"
            )
        return None
    try:
        record = json.loads(run.read_text())
        before, _ = dict(record["identity"]), (record["finished"], record["frames"])
    except (ValueError, KeyError, TypeError, RecursionError):  # ValueError: no JSON, or no text
        raise InputError(f"{run}: found no record of a run; --overwrite starts anew") from None
    changed = [k for k in identity if json.loads(json.dumps(identity[k])) != before.get(k)]
    if changed:
        where = differing(changed[0], before.get(changed[0]), json.loads(json.dumps(identity[changed[0]])))
        if changed[0] == "input" and record.get("chosen") not in (None, chosen):
            where = differing("frames chosen, from, to, every", record["chosen"], chosen)
        raise InputError(
            f"{out}: begun with another {', '.join(changed)} ({where}); expected the same, another --out, or --overwrite"
        )
    return record


def _claim(out: Path, identity: dict[str, object], frames: Frames, overwrite: bool) -> None:
    """Drop what an earlier run of ours left if it is to be overwritten, and say what is being done."""
    if overwrite:
        # Whoever wrote what has a frame's name: stopped now and continued, it would be taken for ours.
        masks = {*_names_in(out), *(p for p in out.glob("*.png") if frames.position(p.stem) is not None)}
        for path in [out / "run.json", *masks, *(out / f"overlay.{kind}" for kind in OVERLAYS), out / "contact.jpg"]:
            path.unlink(missing_ok=True)
    for unfinished in out.glob(".*.part*"):
        if unfinished.suffix in (".png", ".json", ".jpg", ".mp4", ".gif") and _of_ours(unfinished.name, frames):
            unfinished.unlink()
    _write_run(out, identity, frames, finished=False, count=0)


def _names_in(out: Path) -> list[Path]:
    """The masks in `out` that the run of its run.json wrote."""
    try:
        record = json.loads((out / "run.json").read_text())
        names = record["names"] and {str(name) for name in record["names"]}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return []
    return [p for p in out.glob("*.png") if (p.stem in names if names else p.stem == _number(p.stem))]


def _number(name: str) -> str | None:
    """A frame of a video as it is named, where `name` may be one's: five digits, no more than are needed."""
    return f"{int(name):05d}" if name.isdecimal() and name.isascii() and len(name) < 8 else None


def _of_ours(name: str, frames: Frames) -> bool:
    """Whether an unfinished file is one of a file that a run writes."""
    stem = name[1:].rpartition(".part")[0]
    return stem in ("run", "contact", "overlay") or frames.position(stem) is not None


def _write_run(out: Path, identity: dict[str, object], frames: Frames, *, finished: bool, count: int) -> None:
    record = {
        "input": frames.path.name,
        "names": frames.names,  # of the frames that may be there; null: five digits and more
        "chosen": _chosen(frames),  # of the input, from, to and every: its hash has them too
        "finished": finished,
        "frames": count,
        "identity": identity,
    }
    write_file(out / "run.json", (json.dumps(record, indent=1) + "\n").encode())

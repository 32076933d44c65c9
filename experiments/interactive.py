"""How good do labels become with each click? A simulated user on any DAVIS root, J and F after every interaction.

    python -m experiments.interactive --davis DAVIS --split dev --model MODEL [--model MODEL2 …] --interactions 10 \\
        --kind clicks|scribbles|gestures --frame worst|current --seeds 3 --out interactive

Clicks: one interaction is one click, that of a label it brings up too. The first falls well inside the largest part of an
object in the first frame (the seed chooses the point), the second therefore on background, as everything is labelled
object by then; each next one on the most interior point of the largest error of any label. Scribbles: one interaction is
all scribbles on one frame, over the errors of every label (`experiments.robot`); the first frame, in which the user says
everything, is the seed's choice among those that show every object, as people chose theirs for DAVIS. Gestures: as clicks,
but half of them, by the seed, are one scribble through the same error, as a user of the page mixes them.
`--frame worst`: each next interaction is in the frame with the lowest mean J over objects; with scribbles, which deal with
a whole frame, in one that the robot had not yet, while there is one. `--frame current`: where the last one was, as long as
an error is left there.
`--every N`: only every N-th frame is scored, and only those are seen by the user; all frames are labelled and timed.

J and F are over all frames, the first and the last included, then mean over objects, then over sequences and seeds.
Seconds run from an input to the labels of all cells of all frames. What is timed is a second pass through the same inputs,
so that compilation is left out; the records hold the first pass too, and the seconds of embedding, which come before any
input and are no part of the curve. Where no error is left, the last result stands and costs nothing.
OUT gets curve.csv (seconds: cumulative; frame_seconds: of this interaction, to the full-size labels of its frame),
curve.json (means; area: under J&F against the number of interactions and against seconds, each a share of the axis; the
J&F at 60 s, as the package davisinteractive has them), curve.png and runs/, whose finished (model, sequence, seed) are
not computed again.
Needs SciPy and matplotlib (`pip install 'pmljax[dev]'`).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.interaction_curve import csv_curve, draw, summary, table
from experiments.robot import next_click, scribbles
from pmljax.data import davis
from pmljax.data.frames import Frames
from pmljax.device import keep_memory
from pmljax.errors import InputError
from pmljax.files import write_file
from pmljax.inputs import Edit
from pmljax.interact import Session
from pmljax.labels import VOID, check_labels, object_ids, read_labels
from pmljax.metrics import frame_scores
from pmljax.model import Model
from pmljax.terminal import progress, status
from pmljax.weights import load
from pmljax.weights.bundled import fingerprint

FORMAT = 1  # of the finished runs
NEAR = 0.9  # of the greatest depth: the points among which a seed chooses its first click


class User(NamedTuple):
    """kind: clicks, scribbles or gestures.  frame: worst or current.  every: of the frames, those that are looked at."""

    kind: str
    frame: str
    interactions: int
    every: int


class Video(NamedTuple):
    """truth: the labels `[h, w]` of each frame that is looked at, by its place."""

    name: str
    frames: Frames
    truth: dict[int, np.ndarray]
    objects: list[int]


def read(root: Path, name: str, year: int, every: int) -> Video:
    """A sequence with the truth of every N-th frame; 2016: everything that is not background or void is one object."""
    sequence = davis.open_sequence(root, name)
    frames, truth = sequence.frames(), {}
    for i in range(0, len(sequence.files), every):
        stem = sequence.files[i].stem
        if stem not in sequence.annotations:
            folder = next(iter(sequence.annotations.values())).parent
            raise InputError(
                f"{folder / stem}.png: no such file; expected the annotation of every frame that is scored"
            )
        path = sequence.annotations[stem]
        labels = check_labels(read_labels(path), str(path), frames.size)
        truth[i] = np.where((labels > 0) & (labels < VOID), 1, labels).astype(np.uint8) if year == 2016 else labels
    objects = sorted(set().union(*map(object_ids, truth.values())))
    if not objects:
        raise InputError(f"{name}: found no object in any annotation; expected one at least")
    return Video(name, frames, truth, objects)


# One run


def first_frame(user: User, video: Video, rng: np.random.Generator) -> int:
    """Clicks and gestures: the first. Scribbles: one of those that show the most objects."""
    if user.kind != "scribbles":
        return min(video.truth)
    shown = {frame: len(object_ids(truth)) for frame, truth in video.truth.items()}
    return int(rng.choice([frame for frame, count in shown.items() if count == max(shown.values())]))


def order(user: User, current: int, worst: list[int], had: set[int]) -> list[int]:
    """The frames in the order in which the user looks for an error. worst: all of them, the lowest mean J first."""
    if user.frame == "current":
        return [current, *(frame for frame in worst if frame != current)]
    if user.kind != "scribbles":
        return worst
    return sorted(worst, key=lambda frame: frame in had)  # stable: of those not had, the worst comes first


def play(
    session: Session, video: Video, user: User, seed: int, pool: ThreadPoolExecutor
) -> tuple[list[dict[str, Any]], list[list[Edit]]]:
    """(a record an interaction: its frame, the J and F of every object, the seconds of the first pass; its inputs).

    Fewer than asked for where no error is left.
    """
    rng = np.random.default_rng(seed)
    # Before the first click nothing is an object; with scribbles nothing is known, so that background is drawn as well.
    labels = {f: np.full_like(t, VOID if user.kind == "scribbles" else 0) for f, t in video.truth.items()}
    forget(session)
    frame, had, steps, inputs = first_frame(user, video, rng), set(), [], []
    frames = [frame, *(f for f in video.truth if f != frame)]
    for i in range(user.interactions):
        edits: list[Edit] = []
        for frame in frames:
            if user.kind != "scribbles":
                # Where nothing is an object yet, only objects are errors, in the first frame that shows one. A pixel
                # that was clicked is right from then on, so that none is clicked twice.
                given = (frame, video.truth[frame], labels[frame], rng, 1.0 if i else NEAR)
                edits = next_click(*given, lines=user.kind == "gestures")
            else:
                edits = scribbles(frame, video.truth[frame], labels[frame])
            if edits:
                break
        if not edits:
            break
        seconds, frame_seconds = answer(session, edits)
        labels = {f: session.labels(f) for f in video.truth}
        scores = np.stack(list(pool.map(lambda f, x=labels: frame_scores(x[f], video.truth[f], video.objects), labels)))
        j, f = scores.mean(0).T.tolist()
        steps.append({"frame": frame, "J": j, "F": f, "first": seconds, "first_frame": frame_seconds})
        inputs.append(edits)
        if i:  # the robot's own frames; that of the first inputs does not count
            had.add(frame)
        worst = [list(labels)[at] for at in scores[..., 0].mean(1).argsort(kind="stable")]
        frames = order(user, frame, worst, had)
    return steps, inputs


def answer(session: Session, edits: list[Edit]) -> tuple[float, float]:
    """Make one interaction's inputs: seconds until (the labels of all frames, the full-size labels of their own frame)."""
    begin = time.perf_counter()
    for edit in edits:
        session.apply(edit)
    session.labels(edits[0].frame)  # what the user is looking at comes first
    own = time.perf_counter()
    session.grid_labels()
    return time.perf_counter() - begin, own - begin


def forget(session: Session) -> None:
    """As if the video had just been opened: no input, and no neighbours kept that the next search could start from."""
    session.clear()
    session.grid_labels()


def one_run(session: Session, video: Video, user: User, seed: int, pool: ThreadPoolExecutor) -> list[dict[str, Any]]:
    """`play`, and the seconds of the same inputs once everything is compiled."""
    steps, inputs = play(session, video, user, seed, pool)
    forget(session)
    for step, edits in zip(steps, inputs, strict=True):
        step["seconds"], step["frame_seconds"] = answer(session, edits)
        step["inputs"] = [edit.to_json() for edit in edits]
    return steps


# All runs


def identity(model: Model, root: Path, video: Video, user: User) -> dict[str, Any]:
    """What a finished run depends on."""
    files = sorted((root / "Annotations" / "480p" / video.name).glob("*.png"))
    return {
        "format": FORMAT,
        "weights": fingerprint(model),
        "frames": video.frames.digest(),
        "annotations": hashlib.sha256(b"".join(p.name.encode() + p.read_bytes() for p in files)).hexdigest(),
        "objects": video.objects,
        **user._asdict(),
    }


def place(out: Path, model: str, sequence: str, seed: int) -> Path:
    return out / "runs" / f"{hashlib.sha256(model.encode()).hexdigest()[:8]}-{sequence}-{seed}.json"


def finished(path: Path, expected: dict[str, Any]) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    record = json.loads(path.read_text())
    return record if record["identity"] == json.loads(json.dumps(expected)) else None


def open_session(model: Model, frames: Frames) -> tuple[Session, float]:
    """(a session, seconds of embedding, compilation included)."""
    begin = time.perf_counter()
    session = Session(model, frames, cache=None)
    return session, time.perf_counter() - begin


def run(
    out: Path, root: Path, names: list[str], year: int, models: dict[str, Model], user: User, seeds: int
) -> list[dict[str, Any]]:
    """The record of every (model, sequence, seed), computing what is not there yet."""
    (out / "runs").mkdir(parents=True, exist_ok=True)
    records = []
    with (
        progress("interactive", len(names) * len(models) * seeds) as advance,
        ThreadPoolExecutor(os.cpu_count()) as pool,
    ):
        for name in names:
            video = read(root, name, year, user.every)
            for key, model in models.items():
                records += one_model(
                    out, video, key, model, identity(model, root, video, user), user, seeds, pool, advance
                )
    return records


def one_model(
    out: Path,
    video: Video,
    key: str,
    model: Model,
    expected: dict[str, Any],
    user: User,
    seeds: int,
    pool: ThreadPoolExecutor,
    advance: Callable[[], None],
) -> list[dict[str, Any]]:
    """All seeds of one model on one sequence, embedded once if any is missing."""
    opened, records = None, []
    for seed in range(seeds):
        path = place(out, key, video.name, seed)
        record = finished(path, expected)
        if record is None:
            opened = opened or open_session(model, video.frames)
            steps = one_run(opened[0], video, user, seed, pool)
            record = {"identity": expected, "model": key, "sequence": video.name, "seed": seed}
            record |= {"embed": opened[1], "steps": steps}
            write_file(path, json.dumps(record).encode())
        records.append(record)
        advance()
    return records


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--davis", type=Path, required=True)
    parser.add_argument("--split", default="dev")
    parser.add_argument("--year", type=int)
    parser.add_argument("--sequences", nargs="*", default=[], help="of the split; all by default")
    parser.add_argument(
        "--model", action="append", help="any that `pmljax segment` takes; several times for several lines"
    )
    parser.add_argument("--interactions", type=int, default=10)
    parser.add_argument("--kind", choices=("clicks", "scribbles", "gestures"), default="clicks")
    parser.add_argument("--frame", choices=("worst", "current"), default="worst")
    parser.add_argument("--seeds", type=int, default=3, help="how many, from 0")
    parser.add_argument("--every", type=int, default=1, help="of the frames, those that are scored and looked at")
    parser.add_argument("--out", type=Path, default=Path("interactive"))
    args = parser.parse_args()
    return status(lambda: print(evaluate(args)))


def evaluate(args: argparse.Namespace) -> str:
    for name in ("interactions", "seeds", "every"):
        if getattr(args, name) < 1:
            raise InputError(f"--{name} {getattr(args, name)}: expected 1 or more")
    year, names = davis.find_split(args.davis, args.split, args.year)
    wrong = [name for name in args.sequences if name not in names]
    if wrong:
        raise InputError(f"--sequences {' '.join(wrong)}: expected some of {', '.join(names)}")
    models = {name: load(name) for name in args.model or ["small"]}
    user = User(args.kind, args.frame, args.interactions, args.every)
    records = run(args.out, args.davis, args.sequences or names, year, models, user, args.seeds)
    mine = {name: [r for r in records if r["model"] == name] for name in models}
    summaries = {name: summary(found, args.interactions) for name, found in mine.items()}
    settings = {"split": args.split, "sequences": args.sequences or names, "seeds": args.seeds, **user._asdict()}
    write_file(args.out / "curve.csv", csv_curve(records, args.interactions).encode())
    write_file(args.out / "curve.json", json.dumps({"settings": settings, "models": summaries}, indent=1).encode())
    write_file(args.out / "curve.png", draw(summaries))
    return table(summaries)


if __name__ == "__main__":
    keep_memory()
    sys.exit(main())

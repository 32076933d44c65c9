"""The weights that ship with the package: trained from random ones, packed into one file, scored for their card.

    python -m experiments.train_bundled --recipe small-gpu --davis DAVIS --stills STILLS --first first --out bundled
    python -m experiments.train_bundled --davis DAVIS --stills STILLS --out bundled              # on a CPU, four hours
    python -m experiments.train_bundled --davis DAVIS --split fit --stills STILLS --out trial --score dev      # a trial
    python -m experiments.train_bundled --third bundled/third --davis DAVIS --score val --out bundled
    python -m experiments.train_bundled --tiny --out tiny        # every stage on made clips, in two minutes

The first of these is the released model's recipe, `first` being a run on `--split fit` (how it was run: experiments/README.md).
Stages, each of which goes on where it was stopped; STAGES has the steps of each, the shares of its sources, and its options:
  first   from random weights → OUT/first; `--first RUN` names one that there is
  second  of recipe `small` alone: the same network goes on, with every frame as anchors in turn → OUT/second;
          `--second MODEL`, a run or a file of weights, stands for both
  third   it goes on, on clips of its own → OUT/third; `--third RUN` stands for all of them
  pack    the parameters' average over time, in half precision → OUT/small.safetensors, and its SHA-256
  score   plain, default, best and paper presets on `--score` (looked at once per released model: trials are scored on dev),
          the default once more in single precision, and made clips of keys that no training saw → OUT/card.json, OUT/card.md
OUT/stages.json holds each stage's seconds. What is not known goes to each `pmljax train`: `--batch`, `--workers`, `--device`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments import ablation
from pmljax import metrics
from pmljax.cli import main as pmljax
from pmljax.data import davis
from pmljax.data.synthetic import clip
from pmljax.device import keep_compiled, keep_memory
from pmljax.errors import InputError
from pmljax.files import write_file
from pmljax.model import Model
from pmljax.presets import PRESETS, preset_of
from pmljax.runlog import read_log
from pmljax.segment import segment
from pmljax.terminal import fail
from pmljax.weights import load
from pmljax.weights.bundled import write
from pmljax.weights.checkpoint import find, read_record

SOURCES = ("davis", "stills", "synthetic")


class Stage(NamedTuple):
    """shares: how often each of SOURCES is drawn.  more: options of `pmljax train`."""

    steps: int
    shares: tuple[float, float, float] = (1.0, 1.0, 0.25)
    more: tuple[str, ...] = ()


STAGES = {
    "small": {
        "first": Stage(4900, (1.0, 1.0, 0.0)),
        "second": Stage(4000, more=("--turns", "True")),
        "third": Stage(5000, more=("--turns", "True")),
    },
    "small-gpu": {"first": Stage(9161, more=("--resident",)), "third": Stage(9487, more=("--resident",))},
}
TINY = ["--batch", "2", "--crop", "97"]
UNSEEN = 1000  # the first key of the made clips that are scored; those of training come from splitting another


def train_arguments(args: argparse.Namespace, stage: Stage, out: Path, seed: int) -> list[str]:
    """What `pmljax train` is told in every stage."""
    given = {"davis": args.davis, "stills": args.stills, "synthetic": True}
    shares = dict(zip(SOURCES, stage.shares, strict=True))
    # Of sources that the stage has; all made where it has none of those asked for, as with --tiny.
    chosen = {name: shares[name] for name in args.sources if shares[name]} or {"synthetic": 1.0}
    for name in chosen:
        if not given[name]:
            raise InputError(f"--{name}: not given; expected the folder, or --sources without {name}")
    told = ["train", "--recipe", args.recipe, "--out", str(out)]
    told += ["--davis", str(args.davis), "--split", args.split] if "davis" in chosen else []
    told += ["--stills", str(args.stills)] if "stills" in chosen else []
    told += ["--synthetic"] if "synthetic" in chosen else []
    told += ["--synthetic-clips", "2"] if "synthetic" in chosen and args.tiny else []
    told += ["--weights", *(str(chosen[name]) for name in SOURCES if name in chosen)]
    return [*told, "--seed", str(seed), *stage.more, *args.more]


def stage_arguments(args: argparse.Namespace) -> dict[str, list[str]]:
    """What `pmljax train` is told in each stage that is still to be trained. Each draws clips of its own: another seed."""
    told, before = {}, args.second or args.first
    there = {"first": args.first or args.second or args.third, "second": args.second or args.third, "third": args.third}
    for i, (name, stage) in enumerate(STAGES[args.recipe].items()):
        if there[name]:
            continue
        told[name] = train_arguments(args, stage, args.out / name, args.seed + i)
        told[name] += ["--steps", "4" if args.tiny else str(stage.steps)]
        told[name] += ["--init", str(before)] if before else []
        before = args.out / name
    return told


def pack(run: Path, out: Path) -> dict[str, Any]:
    """Write the run's model to `out`, to be computed in single precision, with the commit that it was begun at; its size and
    SHA-256."""
    begun = next((line["run"] for line in read_log(run / "log.jsonl") if "run" in line), None)
    if begun is None:
        raise InputError(f"{run}: found no log of a run; expected the folder of one")
    write(out, load(run, dtype="float32"), begun["commit"] or "")
    data = out.read_bytes()
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def score_made(model: Model, clips: int, frames: int = 32) -> float:
    """Mean J&F over the objects of unseen made clips as `pmljax demo` makes its own, first and last frame left out."""
    found = []
    for i in range(clips):
        made = clip(jax.random.key(UNSEEN + i), frames=frames, objects=2)
        pictures, truth = np.asarray(made.frames), np.asarray(made.labels)
        for t, labels in enumerate(segment(model, pictures, truth[0])):
            if 0 < t < frames - 1:
                found.append(metrics.frame_scores(labels, truth[t], [1, 2]))
    return float(np.mean(found))


def score(args: argparse.Namespace, packed: Path) -> dict[str, Any]:
    """The card's numbers: of every preset, {"J", "F", "J&F", "seconds", "sequences"}, and of made clips."""
    model = load(packed)
    card: dict[str, Any] = {"made clips, default": score_made(model, *((1, 4) if args.tiny else (6,)))}
    if args.score is None:
        return card
    rows = [ablation.Row(name, model, preset_of(model.config, name)) for name in PRESETS]
    rows.append(ablation.Row("default, float32", load(args.third, dtype="float32"), preset_of(model.config)))
    year, names = davis.find_split(args.davis, args.score)
    records = ablation.run(args.out / args.score, args.davis, names, year, rows)
    write_file(args.out / "card.md", ablation.table(records, args.score).encode())
    ablation.pictures(args.out / args.score, rows, names, records)
    for row, found in records.items():
        total = metrics.table({k: np.array(v) for r in found.values() for k, v in r["scores"].items()})["Global"]
        each = {n: np.mean([np.mean(v, 0) for v in r["scores"].values()], 0).tolist() for n, r in found.items()}
        seconds = float(np.median([r["embed"] + r["label"] for r in found.values()]))
        card[row] = {k: total[f"{k}-Mean"] for k in ("J", "F", "J&F")} | {"seconds": seconds, "sequences": each}
    return card


def timed(out: Path, stage: str, work: Callable[[], Any]) -> Any:
    """What `work` gives; its seconds are added to those that the stage took before it was stopped."""
    path, begin = out / "stages.json", time.monotonic()
    try:
        return work()
    finally:
        before = json.loads(path.read_text()) if path.is_file() else {}
        took = before.get(stage, 0) + time.monotonic() - begin
        write_file(path, json.dumps(before | {stage: round(took, 1)}, indent=1).encode())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", choices=tuple(STAGES), default="small", help="for a CPU, or for a GPU")
    parser.add_argument("--davis", type=Path, help="a DAVIS root")
    parser.add_argument("--split", default="train", help="of it: what is trained on")
    parser.add_argument("--stills", type=Path, help="pictures with masks, in VOC's layout")
    parser.add_argument("--sources", nargs="+", choices=SOURCES, help="all by default; of --tiny: synthetic")
    parser.add_argument("--first", type=Path, help="a run of the first stage to go on from, instead of training one")
    parser.add_argument("--second", type=Path, help="a run or weights of the second stage to go on from")
    parser.add_argument("--third", type=Path, help="a run to pack and score as it is")
    parser.add_argument("--score", help="a split of the DAVIS root to score; never one that was trained on")
    parser.add_argument("--seed", type=int, default=0, help="of the first stage; each other takes the next")
    parser.add_argument("--tiny", action="store_true", help="every stage, a few steps each")
    parser.add_argument("--out", type=Path, required=True)
    args, args.more = parser.parse_known_args()
    args.more += TINY if args.tiny else []
    if args.tiny:  # compiling is most of it
        jax.config.update("jax_disable_most_optimizations", True)
    args.sources = args.sources or (["synthetic"] if args.tiny else list(SOURCES))
    try:
        if args.score and args.davis is None:
            raise InputError("--score: found no --davis; expected the root that has the split")
        stages = stage_arguments(args)
        args.out.mkdir(parents=True, exist_ok=True)
        for stage, arguments in stages.items():
            if status := timed(args.out, stage, lambda told=arguments: pmljax(told)):
                return status
        trained, args.third = [*stages] or ["third"], args.third or args.out / "third"
        packed = args.out / "small.safetensors"
        record = timed(args.out, "pack", lambda: pack(args.third, packed))
        card = timed(args.out, "score", lambda: score(args, packed))
    except InputError as error:
        return fail(str(error))
    record |= {
        "recipes": {s: read_record(find(args.third if s == "third" else args.out / s))["config"] for s in trained},
        "stages": json.loads((args.out / "stages.json").read_text()),
        "scores": card,
    }
    write_file(args.out / "card.json", (json.dumps(record, indent=1) + "\n").encode())
    print(json.dumps({k: v for k, v in record.items() if k != "recipes"}, indent=1))
    return 0


if __name__ == "__main__":
    keep_memory()
    keep_compiled()
    sys.exit(main())

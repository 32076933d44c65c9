"""Does training work at all? From random weights to clearly above colour, on made clips, on a CPU, in minutes.

    python -m experiments.toy --out toy

Trains a small network on made clips (`pmljax.data.synthetic`) and scores it on clips of other keys beside `color`, which
is all that a network without training is worth less than. Writes OUT/run (checkpoints, log, loss.png) and OUT/toy.json;
exit status 1 where the trained network is not clearly better: `.ci/run --all` runs it. About four minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np

import pmljax
from experiments.whole import positive
from pmljax import metrics
from pmljax.config import ModelConfig
from pmljax.data.batches import Clips, batches
from pmljax.data.clip_sources import SyntheticSource
from pmljax.data.overlay import ContactSheet, paint
from pmljax.data.synthetic import clip
from pmljax.files import write_file
from pmljax.fit import Every, fit
from pmljax.labels import object_ids
from pmljax.sampling import Augment, Clip
from pmljax.segment import segment
from pmljax.terminal import training_bar
from pmljax.train import TrainConfig
from pmljax.validation import AS_THEY_ARE

SIZE = (240, 426)
TINY = ModelConfig("toy", 10, 16, norm="group", taps=(2, 3, 4), head=((1, 64), (1, 32)), position="yx")
LIGHT = 0.5  # colour alone is as good as it gets on these clips while the light stays as it is (J .74)
UNSEEN = 1000  # the first key of the clips that are scored; the training pool's come from splitting another


def train(out: Path, steps: int, seed: int) -> tuple[pmljax.Model, float]:
    """(the trained network, seconds)."""
    config = TrainConfig(
        TINY,
        Augment(crop=128, scale=(0.7, 1.5), place="each", zoom=0.1, colour=0.25),
        data="synthetic",
        steps=steps,
        batch=8,
        seed=seed,
        short_side=SIZE[0],
        canvas=SIZE,
        loss="soft",
        optimiser="adamw",
        schedule="cosine",
        rate=2e-3,
        head=1.0,
        decay=1e-4,
        clip=1.0,
        average=0.99,
    )
    begin = time.monotonic()
    stream = Clips([SyntheticSource(seed, 96, size=SIZE, light=LIGHT)], [1.0], seed=seed, canvas=SIZE)

    def from_step(step: int) -> Iterator[Clip]:
        for batch in batches(stream, batch=config.batch, start=step):
            yield Clip(**batch)

    with training_bar("toy", steps) as report:
        model = fit(out / "run", config, from_step, every=Every(save=100), report=report, overwrite=True)
    return model, time.monotonic() - begin


def score(model: pmljax.Model, clips: int, picture: Path | None = None) -> float:
    """Mean J over the objects of `clips` unseen clips, first and last frame left out."""
    sheet, found = ContactSheet(), []
    for i in range(clips):
        made = clip(jax.random.key(UNSEEN + i), frames=12, size=SIZE, objects=2, light=LIGHT)
        frames, truth = np.asarray(made.frames), np.asarray(made.labels)
        ids = object_ids(truth[0])
        for t, labels in enumerate(segment(model, frames, truth[0], preset=AS_THEY_ARE)):
            if 0 < t < len(frames) - 1:
                found.append(metrics.frame_scores(labels, truth[t], ids)[:, 0])
            sheet.add(f"{i} {t}", paint(frames[t], labels))
    if picture:
        write_file(picture, sheet.jpeg())
    return float(np.mean(found))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("toy"))
    parser.add_argument("--steps", type=positive, default=800)
    parser.add_argument("--clips", type=positive, default=4, help="unseen clips that are scored")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--margin", type=float, default=0.1, help="by how much J must be above that of color")
    args = parser.parse_args()
    if not 0 <= args.seed < 2**32:
        parser.error(f"--seed {args.seed}: expected 0…{2**32 - 1}")
    args.out.mkdir(parents=True, exist_ok=True)
    model, seconds = train(args.out, args.steps, args.seed)
    result = {
        "color": score(pmljax.load("color"), args.clips),
        "untrained": score(pmljax.create(TINY, jax.random.key(args.seed)), args.clips),
        "trained": score(model, args.clips, args.out / "toy.jpg"),
        "steps": args.steps,
        "seed": args.seed,
        "seconds of training": round(seconds, 1),
    }
    write_file(args.out / "toy.json", json.dumps(result, indent=1).encode())
    print(json.dumps(result, indent=1))
    better = result["trained"] - result["color"]
    print(f"J {better:+.3f} against color; expected {args.margin:+.3f} or more")
    return 0 if better >= args.margin else 1


if __name__ == "__main__":
    sys.exit(main())

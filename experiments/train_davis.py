"""The paper's training as far as it is known, and its score: fine-tuning on the 30 training sequences of DAVIS-2016.

    python -m experiments.train_davis --davis DAVIS --init TRUNK --out paper     # on a GPU: ResNet-101, 20,000 steps
    python -m experiments.train_davis --smoke --out smoke                        # two small steps on made clips, no data

The recipe, each value with its source, is `paper` in `pmljax/recipes.py`; TRUNK are weights of its trunk (a first stage of
`experiments.pretrain_semantic`, or imported ones). It trains, watches `--validate` (never the split that is reported), then
segments and scores `--report` with the paper's inference. Both parts go on where they were stopped.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pmljax.cli import main as pmljax
from pmljax.device import keep_memory


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--davis", type=Path, help="a DAVIS root")
    parser.add_argument(
        "--init", type=Path, help="weights of the trunk; without, they are random, which is not the paper's"
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--split", default="train")
    parser.add_argument("--year", default="2016", help="of the lists; 2016 has one object a frame, as the paper does")
    parser.add_argument("--validate", help="a split to watch during training")
    parser.add_argument("--report", default="val", help="the split that is scored at the end")
    parser.add_argument("--smoke", action="store_true", help="two small steps on made clips")
    args, more = (
        parser.parse_known_args()
    )  # what is not known goes to `pmljax train`: --batch, --accumulate, --dtype, …
    run = args.out / "run"
    train = ["train", "--recipe", "paper", "--out", str(run)]
    if args.smoke:
        return pmljax([*train, "--synthetic", "--steps", "2", "--batch", "1", "--crop", "65", *more])
    if args.davis is None:
        parser.error("--davis: expected a DAVIS root, or --smoke")
    train += ["--davis", str(args.davis), "--split", args.split, "--year", args.year]
    train += ["--init", str(args.init)] if args.init else []
    train += ["--validate", args.validate] if args.validate else []
    if status := pmljax([*train, *more]):
        return status
    report = ["evaluate", "--davis", str(args.davis), "--split", args.report, "--model", str(run), "--paper"]
    return pmljax([*report, "--year", args.year, "--out", str(args.out / args.report)])


if __name__ == "__main__":
    keep_memory()
    sys.exit(main())

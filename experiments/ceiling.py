"""What the grid of 8 pixels costs: the ground truth taken to the grid and back up, and scored against itself.

    python -m experiments.ceiling --davis DAVIS --split dev [--every 4] [--out ceiling]

No network takes part: this separates what growing loses from what an embedding loses. Hard labels are what plain
retrieval votes with, soft shares the areas of each label in a cell. Means over the frames (all but the first and the last),
then over the objects. The solver runs as it was published (λ 128, confidence 1) and with the margin of the vote for its
confidence and a λ that fits this. `--out` gets the table as JSON and, of the frame that each way loses most on, a picture
of its labels.
"""

from __future__ import annotations

import argparse
import json
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from experiments.whole import positive
from pmljax.bilateral import solve
from pmljax.bilateral_grid import BilateralConfig
from pmljax.confidence import vote_confidence
from pmljax.data import davis
from pmljax.device import keep_memory
from pmljax.files import write_file
from pmljax.labels import VOID, check_labels, encode_labels, grow_matrix, object_ids, read_labels, shrink_matrix
from pmljax.metrics import frame_scores
from pmljax.preprocess import apply_axes
from pmljax.resnet import grid_size
from pmljax.terminal import progress, status

WAYS = (
    "hard, nearest cell",
    "hard, linear",
    "hard, linear, half pixels off",
    "hard, solver λ 128, confidence 1",
    "hard, solver λ 8, margin",
    "soft, linear",
    "soft, solver λ 128, confidence 1",
    "soft, solver λ 8, margin",
)


@partial(jax.jit, static_argnames=("objects", "stride"))
def there_and_back(image: jax.Array, truth: jax.Array, objects: int, stride: int = 8) -> list[jax.Array]:
    """The labels `[h, w]` of each of WAYS."""
    size = truth.shape
    grid = [grid_size(n, "deeplab", stride) for n in size]
    shrink = [shrink_matrix(n, g, stride) for n, g in zip(size, grid, strict=True)]
    linear = [grow_matrix(g, n, stride) for n, g in zip(size, grid, strict=True)]
    off = [grow_matrix(g, n, stride, half_pixel=True) for n, g in zip(size, grid, strict=True)]
    whole = jax.nn.one_hot(truth.astype(jnp.int32), objects + 1)
    soft = apply_axes(*shrink, whole)
    hard = jax.nn.one_hot(soft.argmax(-1), objects + 1)
    nearest = [np.eye(a.shape[1], dtype=np.float32)[a.argmax(1)] for a in linear]

    def solved(target: jax.Array, config: BilateralConfig, sure: bool) -> jax.Array:
        return solve(image, target, jnp.ones(size) if sure else vote_confidence(target, config), config)

    weak = BilateralConfig(smoothness=8.0)
    grown = [
        jnp.einsum("hy,wx,yxo->hwo", *nearest, hard, precision="highest"),
        apply_axes(*linear, hard),
        apply_axes(*off, hard),
        solved(apply_axes(*linear, hard), BilateralConfig(), sure=True),
        solved(apply_axes(*linear, hard), weak, sure=False),
        apply_axes(*linear, soft),
        solved(apply_axes(*linear, soft), BilateralConfig(), sure=True),
        solved(apply_axes(*linear, soft), weak, sure=False),
    ]
    return [g.argmax(-1).astype(jnp.uint8) for g in grown]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--davis", type=Path, required=True)
    parser.add_argument("--split", default="dev")
    parser.add_argument("--every", type=positive, default=1, help="score every n-th frame only")
    parser.add_argument("--out", type=Path, default=Path("ceiling"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    year, names = davis.find_split(args.davis, args.split)
    means: dict[str, np.ndarray] = {}  # of each object, [way, 2]
    worst: dict[str, tuple[float, np.ndarray]] = {}
    with progress("ceiling", len(names)) as advance:
        for name in names:
            sequence, found = davis.open_sequence(args.davis, name), []
            counted = dict(sequence.counted()[:: args.every])
            first = read_labels(next(iter(sequence.annotations.values())))
            ids = [1] if year == 2016 else object_ids(first)
            for path, image in zip(sequence.files, sequence.frames(), strict=True):
                if path.stem not in counted:
                    continue
                truth = check_labels(read_labels(counted[path.stem]), str(counted[path.stem]), image.shape[:2])
                truth = np.where(truth == VOID, 0, truth)
                truth = np.minimum(truth, 1) if year == 2016 else truth
                every = [np.asarray(x) for x in there_and_back(jnp.asarray(image), jnp.asarray(truth), max(ids))]
                scores = np.stack([frame_scores(x, truth, ids) for x in every])  # [way, o, 2]
                found.append(scores)
                for way, labels, score in zip(WAYS, every, scores[..., 0].mean(1), strict=True):
                    if score < worst.get(way, (2.0, labels))[0]:
                        worst[way] = (float(score), labels)
            means |= {f"{name}_{k}": np.stack(found)[:, :, i].mean(0) for i, k in enumerate(ids)}
            advance()
    total = np.mean(list(means.values()), 0)
    rows = {way: {"J": float(j), "F": float(f)} for way, (j, f) in zip(WAYS, total, strict=True)}
    table = {"split": args.split, "every": args.every, "objects": len(means), "ways": rows}
    table["per object"] = {k: {w: v[i].tolist() for i, w in enumerate(WAYS)} for k, v in means.items()}
    write_file(args.out / "ceiling.json", json.dumps(table, indent=1).encode())
    for i, way in enumerate(WAYS):
        write_file(args.out / f"worst-{i}.png", encode_labels(worst[way][1]))
        print(f"{way:34} J {rows[way]['J']:.3f}  F {rows[way]['F']:.3f}   worst frame J {worst[way][0]:.3f}")


if __name__ == "__main__":
    keep_memory()
    sys.exit(status(main))

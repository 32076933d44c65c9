"""What a later mask takes back (`pmljax/late.py`): the same clips with that rule and without it.

    python -m experiments.late_masks --davis DAVIS --model run

J after frame 10, to which the later mask belongs, by kind of mask:
forgotten: of the pasted clips' objects (`pasted_objects`) the second half are in sight, but 0 in the first mask.
late: these objects come into the clip at frame 10.
part: of dev's sequences, the first mask has the upper half of the object alone.
again: the first mask is right, and the later one too.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from unittest import mock

import numpy as np

import pmljax
from experiments.pasted_objects import CLIPS, clip, objects
from pmljax.data import davis
from pmljax.data.images import read_image
from pmljax.labels import object_ids
from pmljax.metrics import frame_scores
from pmljax.segment import segment
from pmljax.terminal import status

AT = 10
KINDS = ("forgotten", "late", "part", "again")
Clip = tuple[str, list[np.ndarray], list[np.ndarray], dict[int, np.ndarray], list[int]]


def only(labels: np.ndarray, ids: list[int]) -> np.ndarray:
    return np.where(np.isin(labels, ids), labels, 0).astype(np.uint8)


def clips(root: Path, kind: str, count: int) -> Iterator[Clip]:
    """(name, frames, truth, masks by their frames, the objects that the later one brings)."""
    if kind in ("forgotten", "late"):
        for name, layers in CLIPS.items():
            frames, truth = map(list, zip(*islice(clip(root, layers), count), strict=True))
            ids = object_ids(truth[0])
            brought = ids[len(ids) // 2 :]
            kept = [i for i in ids if i not in brought]
            if kind == "late":
                before = list(islice(clip(root, [layers[i - 1] for i in kept]), AT))
                frames[:AT], truth[:AT] = ([pair[i] for pair in before] for i in (0, 1))
            yield name, frames, truth, {0: only(truth[0], kept), AT: only(truth[AT], brought)}, brought
        return
    for name in davis.find_split(root, "dev", 2016)[1]:
        files = davis.open_sequence(root, name).annotated()[:count]
        frames, truth = [read_image(p) for _, p, _ in files], [objects(m).astype(np.uint8) for _, _, m in files]
        first = truth[0].copy()
        if kind == "part":
            first[int(np.median(np.nonzero(first)[0])) :] = 0
        yield name, frames, truth, {0: first, AT: truth[AT]}, [1]


def score(labels: list[np.ndarray], truth: list[np.ndarray], ids: list[int]) -> float:
    """Mean J of objects in the frames after the later mask in which they are."""
    each = [
        [frame_scores(labels[t], truth[t], [i])[0, 0] for t in range(AT + 1, len(truth)) if (truth[t] == i).any()]
        for i in ids
    ]
    return float(np.mean([np.mean(x) for x in each if x])) if any(each) else float("nan")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--davis", type=Path, required=True, help="a DAVIS root with the sequences of dev")
    parser.add_argument("--model", default="small", help="a network that has not seen them")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--frames", type=int, default=40, help="of each clip, at most")
    args = parser.parse_args()

    def run() -> None:
        model, module = pmljax.load(args.model), sys.modules[segment.__module__]
        print("| kind | clip | without: brought, others | with |\n|---|---|---|---|")
        for kind in args.kinds:
            rows = []
            for name, frames, truth, masks, brought in clips(args.davis, kind, args.frames):
                others, found = [i for i in object_ids(truth[0]) if i not in brought], []
                for rule in (lambda references, *_: references, module.taken_back):
                    with mock.patch.object(module, "taken_back", rule):
                        labels = list(segment(model, frames, masks))
                    found += [score(labels, truth, brought), score(labels, truth, others)]
                rows.append(found)
                found = ["–" if np.isnan(x) else f"{x:.3f}" for x in found]
                print(f"| {kind} | {name} | {found[0]}, {found[1]} | {found[2]}, {found[3]} |", flush=True)
            a, b, c, d = ("–" if np.isnan(x) else f"{x:.3f}" for x in np.mean(rows, 0))
            print(f"| {kind} | mean | {a}, {b} | **{c}**, {d} |", flush=True)

    return status(run)


if __name__ == "__main__":
    sys.exit(main())

"""A DAVIS root whose sequences are shown backwards: as many again to choose on, with other beginnings.

    python -m experiments.backwards --davis DAVIS --split dev --out backwards
    python -m experiments.backwards --davis DAVIS --split dev --turns 2 --out there-and-back
    python -m experiments.ablation --davis backwards --split dev --year 2016 --model run --out ablation

What goes away comes near, what turns its back shows its face first, and other things are new in the picture. With `--turns N`
they are shown forwards and then turn round N times, so that they are N + 1 times as long: how long does a label hold? OUT
has the same files under the names of the new order. For sequences of which every frame is annotated.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pmljax.data import davis
from pmljax.errors import InputError
from pmljax.files import write_file
from pmljax.terminal import status


def order(count: int, turns: int) -> list[int]:
    """In which order `count` frames are shown: backwards, or forwards and with so many turns."""
    if not turns:
        return list(range(count))[::-1]
    there = list(range(count))
    return there + [i for turn in range(turns) for i in (there[-2::-1] if turn % 2 == 0 else there[1:])]


def write(root: Path, split: str, out: Path, turns: int = 0) -> list[str]:
    """Write the sequences of a DAVIS-2016 split to `out`; their names. InputError if `out` has pictures already."""
    if turns < 0:
        raise InputError(f"--turns {turns}: expected 0 or more")
    if any((out / "JPEGImages").glob("480p/*/*")):
        raise InputError(f"{out}: found pictures in it; expected a new folder")
    _, names = davis.find_split(root, split, 2016)
    sequences = [davis.open_sequence(root, name) for name in names]
    for sequence in sequences:
        sequence.counted()  # every picture has its annotation: said before anything is written
    for name, sequence in zip(names, sequences, strict=True):
        for part, files in (("JPEGImages", sequence.files), ("Annotations", list(sequence.annotations.values()))):
            folder = out / part / "480p" / name
            folder.mkdir(parents=True, exist_ok=True)
            for i, path in enumerate(files[n] for n in order(len(files), turns)):
                write_file(folder / f"{i:05d}{path.suffix}", path.read_bytes())
    (out / "ImageSets/2016").mkdir(parents=True, exist_ok=True)
    write_file(out / f"ImageSets/2016/{split}.txt", ("\n".join(names) + "\n").encode())
    return names


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--davis", type=Path, required=True)
    parser.add_argument("--split", default="dev")
    parser.add_argument("--turns", type=int, default=0, help="forwards, then there and back so often; 0: backwards")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    return status(lambda: print(f"{args.out}: {', '.join(write(args.davis, args.split, args.out, args.turns))}"))


if __name__ == "__main__":
    sys.exit(main())

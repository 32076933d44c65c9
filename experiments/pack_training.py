"""Training data made small, for a machine at the end of a thin line: pictures as WebP, masks as they are.

    python -m experiments.pack_training --davis DAVIS --stills STILLS --out packed
    pmljax train --recipe small-gpu --resident --workers 16 --davis packed/davis --stills packed/stills --out run

OUT/davis holds the sequences of `--split` (and the lists of all of them that are among those), of which only every
`--every`-th frame by its number is taken; OUT/stills the pictures of every split. Pictures that are there already stay.
"""

from __future__ import annotations

import argparse
import io
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image

from pmljax.data import davis
from pmljax.data.images import frame_number, read_image
from pmljax.data.stills import list_stills
from pmljax.errors import InputError
from pmljax.files import write_file
from pmljax.terminal import status


def pack_picture(picture: Path, out: Path, quality: int) -> None:
    """`picture` as WebP under its name in the folder `out`."""
    path = out / f"{picture.stem}.webp"
    if not path.is_file():
        data = io.BytesIO()
        Image.fromarray(read_image(picture)).save(data, "WEBP", quality=quality)
        out.mkdir(parents=True, exist_ok=True)
        write_file(path, data.getvalue())


def copy(path: Path, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, out / path.name)


def davis_files(root: Path, split: str, every: int, out: Path) -> list[tuple[Path, Path]]:
    """(picture, folder) of what is to be packed; masks and lists are copied at once."""
    year, names = davis.find_split(root, split)
    pictures = []
    for name in names:
        for _, picture, mask in davis.open_sequence(root, name).annotated():
            if frame_number(picture.stem, 0) % every == 0:
                copy(mask, out / "Annotations/480p" / name)
                pictures.append((picture, out / "JPEGImages/480p" / name))
    lists = {split: names} | {
        listed.stem: own
        for listed in sorted((root / f"ImageSets/{year}").glob("*.txt"))
        if set(own := listed.read_text().split()) <= set(names)
    }
    (out / f"ImageSets/{year}").mkdir(parents=True, exist_ok=True)
    for name, own in lists.items():
        write_file(out / f"ImageSets/{year}/{name}.txt", ("\n".join(own) + "\n").encode())
    return pictures


def still_files(root: Path, out: Path) -> list[tuple[Path, Path]]:
    """The same for stills."""
    pictures = {}
    if not (lists := sorted((root / "ImageSets/Segmentation").glob("*.txt"))):
        raise InputError(
            f"{root}: found no ImageSets/Segmentation/*.txt; expected pictures with masks, in VOC's layout"
        )
    for listed in lists:
        copy(listed, out / "ImageSets/Segmentation")
        for picture, mask in list_stills(root, listed.stem):
            copy(mask, out / mask.parent.relative_to(root))
            pictures[picture] = out / picture.parent.relative_to(root)
    return list(pictures.items())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--davis", type=Path, required=True, help="a DAVIS root")
    parser.add_argument("--split", default="train", help="of it")
    parser.add_argument("--every", type=int, default=2, help="of the frames, by their numbers")
    parser.add_argument("--stills", type=Path, required=True, help="pictures with masks, in VOC's layout")
    parser.add_argument("--quality", type=int, default=70, help="of WebP")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    return status(lambda: pack(args))


def pack(args: argparse.Namespace) -> None:
    if args.every < 1 or not 0 <= args.quality <= 100:
        raise InputError(f"--every {args.every} --quality {args.quality}: expected 1 or more, and 0…100")
    if not args.stills.is_dir():
        raise InputError(f"{args.stills}: no such folder; expected pictures with masks, in VOC's layout")
    files = davis_files(args.davis, args.split, args.every, args.out / "davis")
    files += still_files(args.stills, args.out / "stills")
    with ThreadPoolExecutor() as threads:
        list(threads.map(lambda pair: pack_picture(*pair, args.quality), files))
    size = sum(path.stat().st_size for path in args.out.rglob("*") if path.is_file())
    print(f"{len(files)} pictures, {size / 2**20:.1f} MiB in {args.out}")


if __name__ == "__main__":
    sys.exit(main())

"""DAVIS folders: `JPEGImages/480p/SEQ/NNNNN.jpg`, `Annotations/480p/SEQ/NNNNN.png`, `ImageSets/YEAR/SPLIT.txt`."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from pmljax.data.frames import Frames
from pmljax.data.images import frame_number, image_size, list_images, natural_key, open_files
from pmljax.errors import InputError


class Sequence(NamedTuple):
    """One video of a data set: its frames' files, and the annotation files by frame name."""

    name: str
    files: list[Path]
    annotations: dict[str, Path]

    def frames(self) -> Frames:
        """The frames as a stream; InputError if there are none."""
        if not self.files:
            raise InputError(f"{self.name}: found no frames; expected JPEGImages/…/{self.name}/NNNNN.jpg")
        return open_files(self.files[0].parent, self.files)

    def scored(self) -> Frames:
        """The frames; InputError if one that is scored (`counted`) has no annotation, none of their size, or no picture."""
        frames = self.frames()
        for name, path in self.counted():
            if frames.position(name) is None:
                raise InputError(f"{path}: found no picture of that name in {frames.path}; expected one")
            if (size := image_size(path)) != frames.size:
                raise InputError(
                    f"{path}: found {size[1]}×{size[0]}, expected {frames.size[1]}×{frames.size[0]}, as the pictures are"
                )
        return frames

    def annotated(self) -> list[tuple[float, Path, Path]]:
        """(the frame's own number, picture, annotation) of the frames that have both."""
        return [
            (float(frame_number(path.stem, index)), path, self.annotations[path.stem])
            for index, path in enumerate(self.files)
            if path.stem in self.annotations
        ]

    def counted(self) -> list[tuple[str, Path]]:
        """(frame, its annotation) of every frame that is scored: all annotated ones but the first and the last.

        InputError if any picture has no annotation, the first and the last included, or none is left.
        """
        names = list(self.annotations)
        folder = next(iter(self.annotations.values())).parent
        missing = [path.stem for path in self.files if path.stem not in self.annotations]
        if missing:
            raise InputError(f"{folder / missing[0]}.png: no such file; expected the annotation of every frame")
        if len(names) < 3:
            raise InputError(
                f"{folder}: found {len(names)} frames; expected 3 or more, as the first and the last do not count"
            )
        return [(name, self.annotations[name]) for name in names[1:-1]]


def find_split(
    root: str | Path, split: str, year: int | None = None, only: Collection[str] = ()
) -> tuple[int, list[str]]:
    """(year, names of the sequences) of `split`; of them `only` those, where any are named.

    `year` defaults to the one whose ImageSets holds the split; where both do, 2017; where none does, DAVIS-2016's own
    ImageSets/480p, which lists pairs of files.
    """
    root = Path(root)
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; expected a DAVIS root with JPEGImages, Annotations and ImageSets")
    listed = {y: root / "ImageSets" / str(y) / f"{split}.txt" for y in (2017, 2016)}
    pairs = root / "ImageSets" / "480p" / f"{split}.txt"
    if year is not None and year not in listed:
        raise InputError(f"--year {year}: expected 2016 (one object) or 2017 (several)")
    chosen = year or next((y for y, path in listed.items() if path.is_file()), 2016)
    if listed[chosen].is_file():
        names = lines_of(listed[chosen])
    elif chosen == 2016 and pairs.is_file():
        lines = [line.split()[0].split("/") for line in lines_of(pairs)]
        if any(len(parts) < 2 for parts in lines):
            raise InputError(f"{pairs}: expected lines of two paths, JPEGImages/…/SEQUENCE/NNNNN.jpg Annotations/…")
        names, listed[chosen] = list(dict.fromkeys(parts[-2] for parts in lines)), pairs
    else:
        there = sorted(str(p.relative_to(root)) for p in (root / "ImageSets").glob("*/*.txt"))
        raise InputError(
            f"{listed[chosen]}: no such split; expected one of {', '.join(there) or 'ImageSets/YEAR/*.txt'}"
        )
    if not names:
        raise InputError(f"{listed[chosen]}: found an empty list; expected a name of a sequence a line")
    for name in names:
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise InputError(f"{listed[chosen]}: found {name}, expected names of sequences")
    for name in only:
        if name not in names:
            raise InputError(f"--sequences {name}: not in the split {split}; expected of {', '.join(names)}")
    return chosen, [name for name in names if not only or name in only]


def lines_of(path: Path) -> list[str]:
    """The lines of a list that are not empty; InputError where it cannot be read."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); expected a list in UTF-8") from None
    return [line.strip() for line in text.splitlines() if line.strip()]


def open_sequence(root: str | Path, name: str, resolution: str = "480p") -> Sequence:
    """The files of one sequence. Annotations may be sparse; which frames must have one is the caller's concern."""
    pictures = Path(root) / "JPEGImages" / resolution / name
    annotated = Path(root) / "Annotations" / resolution / name
    if not annotated.is_dir():
        raise InputError(f"{annotated}: no such folder; expected the annotation of {name}")
    files = list_images(pictures) if pictures.is_dir() else []
    masks = sorted(
        (p for p in annotated.iterdir() if p.suffix.lower() == ".png" and not p.name.startswith(".")),
        key=lambda p: (natural_key(p.name), p.name),
    )
    if not masks:
        raise InputError(f"{annotated}: found no annotation; expected at least the first frame's, NNNNN.png")
    return Sequence(name, files, {p.stem: p for p in masks})

"""Prepare the TFDS data set `davis/480p` from a DAVIS-2017 folder that is already here, for `pmljax.data.tfds`.

    pip install tensorflow 'pmljax[train]'
    python -m experiments.prepare_tfds --davis DAVIS --out TFDS

Only this needs TensorFlow; reading does not. `DAVIS` holds ImageSets/2017/{train,val}.txt and, for every sequence they
name, JPEGImages/480p/SEQ/00000.jpg… and Annotations/480p/SEQ/00000.png… without gaps. Nothing is downloaded.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from pmljax.errors import InputError
from pmljax.terminal import status


@dataclass(frozen=True)
class Config:
    davis: Path
    """The DAVIS-2017 folder."""
    out: Path
    """Where TFDS keeps its data sets; written: OUT/davis/480p/2.1.0."""


def check_folder(root: Path) -> None:
    """InputError where the builder of TFDS, which counts the pictures and names them itself, would not find one."""
    for split in ("train", "val"):
        listed = root / "ImageSets" / "2017" / f"{split}.txt"
        if not listed.is_file():
            raise InputError(f"{listed}: no such file; expected a DAVIS-2017 folder with lists of both splits")
        for name in listed.read_text().splitlines():
            pictures = root / "JPEGImages" / "480p" / name
            count = len(list(pictures.iterdir())) if name.strip() and pictures.is_dir() else 0
            if not count:
                raise InputError(f"{pictures}: found no pictures; expected those of a sequence in {listed}")
            for i in range(count):
                for path in (
                    pictures / f"{i:05d}.jpg",
                    root / "Annotations" / "480p" / name / f"{i:05d}.png",
                ):
                    if not path.is_file():
                        raise InputError(f"{path}: no such file; expected all of the {count} frames, without gaps")


class Here:
    """In place of TFDS's downloads: the folder that the archive would have been extracted to."""

    def __init__(self, folder: Path):
        from etils import epath

        self.folder = epath.Path(folder)

    def download_and_extract(self, _: str) -> Any:
        return self.folder


def main(config: Config) -> None:
    check_folder(config.davis)
    try:
        importlib.import_module("tensorflow")  # which TFDS would miss later
        import tensorflow_datasets as tfds
        from tensorflow_datasets.video.davis import davis
    except ImportError as error:
        raise InputError(f"{error}; preparing needs TensorFlow: pip install tensorflow 'pmljax[train]'") from None

    with tempfile.TemporaryDirectory() as held:
        (Path(held) / "DAVIS").symlink_to(config.davis.resolve(), target_is_directory=True)
        with tfds.core.registered.skip_registration():

            class Davis(davis.Davis):
                pkg_dir_path = davis.Davis.pkg_dir_path

                def _split_generators(self, dl_manager: Any) -> Any:
                    return super()._split_generators(Here(Path(held)))  # pyright: ignore

        builder = Davis(config="480p", data_dir=str(config.out), file_format="array_record")
        builder.download_and_prepare()
    counts = ", ".join(f"{name} {info.num_examples}" for name, info in builder.info.splits.items())
    print(f"{builder.data_path}: {counts} sequences")


if __name__ == "__main__":
    config = tyro.cli(Config, description=__doc__)
    sys.exit(status(lambda: main(config)))

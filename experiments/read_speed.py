"""How many frames a second the disk and the processors give, with and without the cache of decoded frames.

    python -m experiments.read_speed --davis DAVIS [--stills STILLS] [--tfds TFDS] [--workers 2] [--threads 4]

Prints a line for each source: frames (with their labels) a second while nothing is cached, and once it is.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path

import tyro

from pmljax.data import davis
from pmljax.data.batches import Clips, batches
from pmljax.data.clip_sources import Cache, Source, VideoSource
from pmljax.data.stills import StillSource
from pmljax.data.tfds import tfds_source
from pmljax.errors import InputError
from pmljax.terminal import status


@dataclass(frozen=True)
class Config:
    davis: Path | None = None
    """A DAVIS folder."""
    stills: Path | None = None
    """A folder in VOC's layout."""
    tfds: Path | None = None
    """What experiments/prepare_tfds.py wrote."""
    split: str = "train"
    """Of each."""
    canvas: tuple[int, int] = (480, 854)
    short_side: int | None = None
    batch: int = 4
    """Clips of three frames."""
    workers: int = 0
    """Processes."""
    threads: int = 2
    """Of each process."""
    seconds: float = 10.0
    """How long each measurement takes at least."""
    cache: bool = True
    """Whether to measure with the cache too (8 GB at most, in every process)."""


def measure(config: Config, source: Source, warm: float) -> float:
    """Frames a second after `warm` seconds and the first batch; starting processes does not count."""
    clips = Clips([source], [1], seed=0, canvas=config.canvas, short_side=config.short_side)
    stream = batches(clips, batch=config.batch, workers=config.workers, threads=config.threads)
    begin = time.perf_counter()
    next(stream)
    while time.perf_counter() - begin < warm:
        next(stream)
    begin, frames = time.perf_counter(), 0
    while (passed := time.perf_counter() - begin) < config.seconds:
        frames += next(stream)["numbers"].size
    stream.close()
    return frames / passed


def main(config: Config) -> None:
    def sources(cache: Cache | None) -> dict[str, Source]:
        found: dict[str, Source] = {}
        if config.davis:
            _, names = davis.find_split(config.davis, config.split)
            found["davis"] = VideoSource([davis.open_sequence(config.davis, n) for n in names], "davis", cache)
        if config.stills:
            found["stills"] = StillSource(config.stills, config.split, cache=cache)
        if config.tfds:
            found["tfds"] = tfds_source(config.tfds, config.split, cache=cache)
        if not found:
            raise InputError("found nothing to read; expected --davis, --stills or --tfds")
        return found

    plain = sources(None)
    print(f"frames a second, {config.workers} processes, {config.threads} threads, canvas {config.canvas}")
    print(f"{'source':8} {'decoded':>9} {'cached':>9}")
    for name, source in plain.items():
        decoded = measure(config, source, warm=0.0)
        cached = ""
        if config.cache:
            cached = f"{measure(config, sources(Cache(8 * 10**9))[name], warm=3 * config.seconds):9.0f}"
        print(f"{name:8} {decoded:9.0f} {cached}", flush=True)


if __name__ == "__main__":
    config = tyro.cli(Config, description=__doc__)
    sys.exit(status(lambda: main(config)))

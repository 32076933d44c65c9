"""Does the page answer what a Session answers? A simulated user drives the server through HTTP: J&F after every input.

    python -m experiments.page_user --root DAVIS --sequence soapbox --year 2016 --model run
    python -m experiments.page_user --root MULTI --sequence dogs-jump --model run

The user of `experiments.interactive`: the first click well inside the largest part of an object in the first frame, each next
one on the most interior point of the largest error of the worst frame. What the user sees came over HTTP; a Session beside it
is told the same inputs, and after each of them the labels of every frame must be the same to the last pixel.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import tyro

from experiments.interactive import NEAR, read
from experiments.page_drive import served, until
from experiments.robot import next_click
from pmljax.files import write_file
from pmljax.interact import Session
from pmljax.metrics import frame_scores
from pmljax.page.wire import labels_of, packets
from pmljax.terminal import status
from pmljax.weights import load


@dataclass(frozen=True)
class Config:
    root: Path
    """A DAVIS root."""
    sequence: str
    year: int = 2017
    """2016: everything that is not 0 is one object."""
    model: str = "color"
    inputs: int = 10
    seed: int = 0
    out: Path | None = None
    """A JSON file to write to."""


def everything(client: httpx.Client, address: str, count: int, size: tuple[int, int]) -> dict[int, np.ndarray]:
    out = {}
    for begin in range(0, count, 16):
        asked = ",".join(map(str, range(begin, min(begin + 16, count))))
        for about, body in packets(client.get(f"{address}frames?frames={asked}").content):
            out[about["frame"]] = labels_of(body, size)
    return out


def main(config: Config) -> None:
    video = read(config.root, config.sequence, config.year, 1)
    rng, size, count = np.random.default_rng(config.seed), video.frames.size, len(video.truth)
    labels = {f: np.zeros_like(t) for f, t in video.truth.items()}
    frames, steps = list(video.truth), []
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(os.cpu_count()) as pool:
        cache = Path(folder) / "cache"
        session = Session(load(config.model), video.frames, cache=cache)
        arguments = (video.frames.files[0].parent, "--out", Path(folder) / "out", "--model", config.model)
        with served(*arguments, cache=cache) as server, httpx.Client(timeout=60) as client:
            until(lambda: client.get(server.address + "state").json()["phase"] == "ready")
            for i in range(config.inputs):
                found = (next_click(f, video.truth[f], labels[f], rng, 1.0 if i else NEAR) for f in frames)
                edits = next((edits for edits in found if edits), [])
                if not edits:
                    break
                begin = time.perf_counter()
                text = json.dumps(edits[0].to_json())
                client.post(f"{server.address}edit?view={edits[0].frame}", content=text).raise_for_status()
                answered = time.perf_counter() - begin
                labels = everything(client, server.address, count, size)
                seconds = time.perf_counter() - begin
                session.apply(edits[0])
                different = sum(int((labels[f] != session.labels(f)).sum()) for f in labels)
                scores = np.stack(
                    list(pool.map(lambda f, x=labels: frame_scores(x[f], video.truth[f], video.objects), labels))
                )
                frames = [list(labels)[at] for at in scores[..., 0].mean(1).argsort(kind="stable")]
                steps.append(
                    {
                        "input": edits[0].to_json(),
                        "J&F": round(float(scores.mean()), 4),
                        "pixels that differ from the Session's": different,
                        "ms to the answer": round(1e3 * answered),
                        "ms to all frames": round(1e3 * seconds),
                    }
                )
                print(json.dumps(steps[-1]), flush=True)
    assert all(step["pixels that differ from the Session's"] == 0 for step in steps)
    if config.out:
        write_file(config.out, json.dumps(steps, indent=1).encode())


if __name__ == "__main__":
    config = tyro.cli(Config, description=__doc__)
    sys.exit(status(lambda: main(config)))

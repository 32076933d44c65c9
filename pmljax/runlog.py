"""What a training run says of itself: `log.jsonl`, TensorBoard events, and a picture of the loss."""

from __future__ import annotations

import io
import json
import platform
import shutil
import subprocess
from collections.abc import Sequence
from importlib.metadata import version
from itertools import cycle
from pathlib import Path
from typing import Any

import jax
import numpy as np

from pmljax.files import write_file


class RunLog:
    """`RUN/log.jsonl`: a line on the run, then a line every few steps, and one an evaluation. Where tensorboardX is
    installed the same numbers go to `RUN/tensorboard`."""

    def __init__(self, run: Path, config: dict[str, Any], begin: int, *, new: bool = False):
        """`begin`: the step that the run starts or goes on from: lines after it are of steps that will come again. new: what a
        run left that lost its checkpoints is not this one's."""
        if new:
            shutil.rmtree(run / "tensorboard", ignore_errors=True)
            (run / "log.jsonl").unlink(missing_ok=True)
        self.scores: list[str] = []
        self.path = run / "log.jsonl"
        self.lines = [line for line in read_log(self.path) if line.get("step", -1) <= begin]
        if not self.lines:
            self.lines = [{"run": {"config": config, **circumstances()}}]
        write_file(self.path, "".join(json.dumps(line) + "\n" for line in self.lines).encode())
        try:
            from tensorboardX import SummaryWriter

            self.events = SummaryWriter(str(run / "tensorboard"), purge_step=begin + 1)
        except ModuleNotFoundError:
            self.events = None

    def write(self, step: int, numbers: dict[str, float]) -> None:
        """Add the numbers after `step` updates."""
        line = {"step": step, **{k: float(f"{v:.6g}") for k, v in numbers.items()}}
        self.lines.append(line)
        with open(self.path, "a") as file:
            file.write(json.dumps(line) + "\n")
        if self.events:
            for name, value in numbers.items():
                self.events.add_scalar(name, value, step)
            self.events.flush()  # a kill loses nothing of what the log has

    def draw(self, scores: Sequence[str] = ()) -> None:
        """Write `RUN/loss.png`, with the validation's `scores` (by default those drawn before); needs matplotlib, writes
        nothing without it."""
        try:
            from matplotlib.figure import Figure
        except ModuleNotFoundError:
            return
        told = [line for line in self.lines if "step" in line and not {"loss", "steps"} & line.keys()]
        self.scores = list(scores) or self.scores or [name for line in told[-1:] for name in line if name != "step"]
        steps, loss = series(self.lines, "loss")
        figure = Figure(figsize=(8, 4.5), layout="constrained")
        axes = figure.subplots()
        marker = "" if len(loss) > 1 else "o"  # one point makes no line
        axes.plot(steps, loss, marker=marker, color="0.75", linewidth=0.8, label="loss")
        if len(loss) >= 20:
            wide = max(len(loss) // 40, 5)
            smooth = np.convolve(loss, np.ones(wide) / wide, "valid")
            axes.plot(steps[wide - 1 :], smooth, color="tab:blue", label=f"mean of {wide}")
        axes.set(xlabel="step", ylabel="loss", ylim=(0, None))
        if self.scores:
            right = axes.twinx()
            right.set(ylim=(0, 1), ylabel="validation")
            for name, color in zip(self.scores, cycle(("tab:red", "tab:orange", "tab:green")), strict=False):
                right.plot(*series(self.lines, name), "o-", color=color, markersize=3, label=name)
        figure.legend(loc="outside upper center", ncols=6, frameon=False)
        picture = io.BytesIO()
        figure.savefig(picture, format="png", dpi=110)
        write_file(self.path.parent / "loss.png", picture.getvalue())

    def close(self) -> None:
        if self.events:
            self.events.close()


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a log; a last line cut short by a kill is dropped."""
    lines = []
    for text in path.read_text().splitlines() if path.is_file() else []:
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines


def series(lines: list[dict[str, Any]], name: str) -> tuple[np.ndarray, np.ndarray]:
    """(steps, values) of the lines that have `name`."""
    pairs = [(line["step"], line[name]) for line in lines if name in line and "step" in line]
    return tuple(np.array(pairs, float).reshape(-1, 2).T)  # pyright: ignore


def circumstances() -> dict[str, Any]:
    """Versions, device and commit: what a result needs to be had again. No commit where this file is in no repository of its
    own, as in an environment that lies within another's."""
    here = Path(__file__).parent
    try:
        subprocess.run(
            ["git", "-C", str(here), "ls-files", "--error-unmatch", "runlog.py"], capture_output=True, check=True
        )
        command = ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=12"]
        commit = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        commit = None
    return {
        "commit": commit,
        "versions": {name: version(name) for name in ("pmljax", "jax", "flax", "optax", "numpy")},
        "python": platform.python_version(),
        "devices": [f"{d.platform} {d.device_kind}" for d in jax.devices()],
    }

"""The benchmark: pmljax beside its peers and the machine's limit, in one run, on the same work, on any device.

    python -m experiments.benchmark --out benchmark                                # everything
    python -m experiments.benchmark --out benchmark --rows retrieval solver        # some groups; the others stay
    python -m experiments.benchmark --out gpu --rounds 20 \\
        --only "101.*(batch 8|1 object) .bf|6,588 × 6,588, D 128, k 5"             # three of them: a GPU's bars, in minutes
    python -m experiments.benchmark --quick                                        # sizes that measure nothing: does it run?

Prints one Markdown table; OUT gets benchmark.json (every row), table.md and growth.png (needs matplotlib). Stopped, the same
command goes on with the group that it was at: one that is in OUT with the same settings and versions and of the same
commit is not measured again (`--again`: it is), unless there are changes that were not committed. One OUT is of one device.

A row: our median and 10 %…90 % of `--rounds` warm, finished calls; each peer's, its calls interleaved with ours; ours over
the fastest peer's; the floor (floor.py: operations over the best rate of a large matrix product, bytes over that of a copy,
both measured at the beginning) and how much of it is reached; peak memory; seconds of compiling. Where a round takes long,
there are fewer, three at least. PyTorch, FAISS, scikit-learn and OpenCV are optional: the table names what is not here.
Frames are --frame's and --video's, or made with the statistics of pictures.

For a machine that does nothing else: PyTorch's threads wait for each other, beside other work a hundred times as long. An
hour or more on two cores. Exit status 1 where a result was not exact.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import tyro

from experiments.benchmark_table import plots, table

Group = Literal["embedding", "retrieval", "solver", "frame", "video", "click", "step", "start", "growth"]
# Of single calls; --only chooses from their rows.
SINGLE: tuple[Group, ...] = ("embedding", "retrieval", "solver", "frame", "step")
FORMAT = 1  # of benchmark.json


@dataclass(frozen=True)
class Config:
    out: Path | None = None
    """The folder to write to and to go on from; none by default."""
    rows: tuple[Group, ...] = get_args(Group)
    """Groups of rows."""
    only: str = ""
    """A regular expression: only rows of embedding, retrieval, solver, frame and step, in whose name and precision it is
    found."""
    quick: bool = False
    """Small sizes and a toy network: seconds, and no numbers that mean anything."""
    heavy: bool = False
    """On a CPU, also eight frames with ResNet-101, a frame of it end to end, and a ball tree of ten frames."""
    again: bool = False
    """Measure anew what is in OUT already."""
    rounds: int = 7
    frame: Path | None = None
    """A picture, best of 480×854; made by default."""
    video: Path | None = None
    """A video or folder of frames, with --mask; made by default."""
    mask: Path | None = None
    """Of the video's first frame."""
    model: str = "small"
    """Of the rows of `small`."""
    device: Literal["auto", "cpu", "gpu", "tpu"] = "auto"


def machine() -> dict[str, Any]:
    """What the numbers are of, one entry a fact: device, processor, memory, versions."""
    from experiments.peers import versions
    from pmljax.runlog import circumstances

    found = circumstances()
    model = next((n for n in _lines("/proc/cpuinfo", "model name")), "")
    memory = next((n for n in _lines("/proc/meminfo", "MemTotal")), "")
    return {
        "devices": found["devices"],
        "processor": model,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory": memory,
        "python": found["python"],
        "versions": found["versions"],
        "peers": versions(),
        "commit": found["commit"],
    }


def _lines(path: str, name: str) -> Iterable[str]:
    """The values of a file of `name: value` lines; none where there is no such file."""
    file = Path(path)
    for line in file.read_text().splitlines() if file.is_file() else []:
        if line.startswith(name):
            yield line.split(":", 1)[1].strip()


def others(seconds: float = 1.0) -> float | None:
    """How many cores others keep busy while this process sleeps; None where Linux does not say."""
    path = Path("/proc/stat")
    if not path.is_file():
        return None

    def idle() -> int:  # idle and waiting for a disk, of all cores, in ticks
        return sum(map(int, path.read_text().split("\n", 1)[0].split()[4:6]))

    begin = idle()
    time.sleep(seconds)
    return max((os.cpu_count() or 1) - (idle() - begin) / os.sysconf("SC_CLK_TCK") / seconds, 0.0)


def settings(config: Config) -> dict[str, Any]:
    """What a row depends on besides the machine."""

    def digest(path: Path | None) -> str | None:
        if path is None:
            return None
        files = sorted(path.iterdir()) if path.is_dir() else [path]
        return hashlib.sha256(b"".join(hashlib.sha256(f.read_bytes()).digest() for f in files)).hexdigest()[:16]

    given = {name: getattr(config, name) for name in ("quick", "heavy", "rounds", "model", "only", "device")}
    return given | {name: digest(getattr(config, name)) for name in ("frame", "video", "mask")}


def read_record(out: Path | None, here: dict[str, Any]) -> dict[str, Any]:
    """benchmark.json of `out`, or an empty one; InputError for another machine's."""
    from pmljax.errors import InputError

    path = None if out is None else out / "benchmark.json"
    if path is None or not path.is_file():
        return {"format": FORMAT, "groups": {}}
    try:
        record = json.loads(path.read_text())
        groups = record["groups"].values() if record["format"] == FORMAT else None
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError):
        groups = None
    if groups is None:
        raise InputError(f"{path}: found no record of this benchmark; expected another --out")
    for group in groups:
        for what in ("devices", "processor"):
            if group["machine"][what] != here[what]:
                raise InputError(
                    f"{path}: measured with {what} {group['machine'][what]}, here {here[what]}; expected another --out"
                )
    return record


def measure(config: Config, record: dict[str, Any], here: dict[str, Any]) -> None:
    """Fill `record` with the groups asked for, writing it after every row."""
    from experiments import benchmark_rows, benchmark_runs, peers
    from experiments.floor import measure_limits
    from experiments.made_inputs import picture
    from experiments.side_by_side import Missing
    from pmljax.data.images import read_image
    from pmljax.errors import InputError

    wanted = settings(config)

    def there(name: str) -> bool:
        group = record["groups"].get(name)
        same = group and group["finished"] and group["settings"] == wanted
        # A tree with changes of its own is never the same again.
        return bool(same and group["machine"] == here and not str(here["commit"]).endswith("-dirty"))

    rows = [name for name in get_args(Group) if name in config.rows and (not config.only or name in SINGLE)]
    for name in rows:
        if name in record["groups"] and record["groups"][name]["settings"].get("only", "") != config.only:
            raise InputError(
                f"{config.out}: holds other rows of {name} than --only {config.only!r}; expected another --out"
            )
    todo = [name for name in rows if config.again or not there(name)]
    for name in set(rows) - set(todo):
        _say(f"{name}: there already")
    if not todo:
        return
    _say("the machine's limits")
    products = {}
    try:
        peers.torch_device()
        products["PyTorch"] = peers.torch_product
    except Missing:
        pass
    limits = measure_limits(products, quick=config.quick)
    frame = read_image(config.frame) if config.frame else picture()
    frame = frame[:96, :160] if config.quick else frame
    names = ("quick", "heavy", "model", "only", "device", "video", "mask")
    setting = benchmark_rows.Setting(
        limits, frame, 2 if config.quick else config.rounds, **{n: getattr(config, n) for n in names}
    )
    functions = {
        "embedding": benchmark_rows.embedding,
        "retrieval": benchmark_rows.retrieval,
        "solver": benchmark_rows.solver,
        "frame": benchmark_rows.frame,
        "video": benchmark_runs.video,
        "click": benchmark_runs.click,
        "step": benchmark_rows.training_step,
        "start": benchmark_runs.start_up,
        "growth": benchmark_runs.growth,
    }
    for name in todo:
        begin = time.monotonic()
        group = {"finished": False, "settings": wanted, "machine": here, "rows": []}
        group["busy"] = others()
        group["limits"] = {"operations a second": limits.peaks, "bytes a second": limits.bandwidth}
        record["groups"][name] = group
        for row in functions[name](setting):
            group["rows"].append(row.as_json())
            _say(f"{row.name} ({row.precision}): {row.ours.median:.4g} ms")
            save(config.out, record)
        group |= {"finished": True, "seconds": time.monotonic() - begin}
        if config.only and not group["rows"]:
            del record["groups"][name]
        save(config.out, record)
    if config.only and not record["groups"]:
        raise InputError(f"--only {config.only}: found in no row's name and precision; expected part of one")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def save(out: Path | None, record: dict[str, Any]) -> None:
    """Write benchmark.json, the groups in their order."""
    from pmljax.files import write_file

    record["groups"] = {name: record["groups"][name] for name in get_args(Group) if name in record["groups"]}

    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        write_file(out / "benchmark.json", json.dumps(record, indent=1).encode())


def main(config: Config) -> int:
    from pmljax.device import use_device
    from pmljax.errors import InputError
    from pmljax.files import write_file
    from pmljax.terminal import fail

    try:
        if (config.video is None) != (config.mask is None):
            raise InputError("--video and --mask: expected both or neither")
        try:
            re.compile(config.only)
        except re.error as error:
            raise InputError(f"--only {config.only}: found {error}; expected a regular expression") from None
        for path in filter(None, (config.frame, config.video, config.mask)):
            if not path.exists():
                raise InputError(f"{path}: no such file; expected one that is there")
        use_device(config.device)
        here = machine()
        record = read_record(config.out, here)
        measure(config, record, here)
    except InputError as error:
        return fail(str(error))
    text = table(record)
    print(text)
    if config.out is not None:
        write_file(config.out / "table.md", f"{text}\n".encode())
        picture = plots(record)
        if picture:
            write_file(config.out / "growth.png", picture)
    return 0 if all(r["exact"] for group in record["groups"].values() for r in group["rows"]) else 1


if __name__ == "__main__":
    # Before JAX looks for a GPU: other processes and other libraries need room on it, too.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    import jax

    from pmljax.device import keep_memory

    keep_memory()
    jax.config.update("jax_enable_compilation_cache", False)  # seconds of compiling are to be those without
    sys.exit(main(tyro.cli(Config, description=__doc__)))

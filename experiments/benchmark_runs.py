"""The benchmark's rows of whole runs, each in a process of its own: a video, clicks, start-up; and growth.

    python -m experiments.benchmark_runs video|devices '{…}'      # what a row starts: prints JSON

A process of its own has a resident set of its own, and its first start is cold.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from experiments.benchmark_rows import Setting, frame_operations, full_state
from experiments.floor import Floor, floor, product_operations
from experiments.made_inputs import embeddings, training_clips, write_clip
from experiments.side_by_side import Row, Spread, compare, compiled, spread
from pmljax.weights.bundled import DEFAULT
from pmljax_command import asking

ROOT = Path(__file__).resolve().parents[1]
COMMAND = ["-c", "import sys; from pmljax.cli import main; sys.exit(main())"]  # `pmljax`, of this Python


# A process begins with the largest resident set of the one that started it, here of a benchmark in the midst of its work. So a
# small one stands between, and it measures.
LAUNCH = """
import json, os, subprocess, sys, time
begin = time.perf_counter()
process = subprocess.Popen([sys.executable, *sys.argv[2:]])
_, status, usage = os.wait4(process.pid, 0)
seconds = time.perf_counter() - begin
with open(sys.argv[1], "w") as file:
    json.dump([seconds, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)], file)
process.returncode = os.waitstatus_to_exitcode(status)
sys.exit(process.returncode != 0)
"""


def run_python(arguments: list[str], **environment: str) -> tuple[float, int, str]:
    """(seconds, largest resident set in bytes, standard output) of `python ARGUMENTS` in the repository's root."""
    before = {name: value for name, value in os.environ.items() if not name.startswith("JAX_COMPILATION_CACHE")}
    given = {**before, **environment}
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder) / "found.json"
        launcher = [sys.executable, "-I", "-S", "-c", LAUNCH, str(found)]
        # With huge pages, as the command asks for them itself.
        done = subprocess.run(
            [*launcher, *arguments], capture_output=True, text=True, cwd=ROOT, env=asking(given) or given
        )
        if done.returncode:
            raise RuntimeError(f"python {' '.join(arguments)}: failed\n{done.stderr.strip()[-2000:]}")
        seconds, memory = json.loads(found.read_text())
        return seconds, memory, done.stdout


def child(name: str, **options: Any) -> dict[str, Any]:
    """What the function CHILDREN[name] returns in a process of its own."""
    return json.loads(run_python(["-m", "experiments.benchmark_runs", name, json.dumps(options)])[2].splitlines()[-1])


# A video from file to files


def child_video(video: str, mask: str, model: str, preset: str, device: str, rounds: int) -> dict[str, Any]:
    """Seconds of `segment_to`, the first time and then `rounds` times again, and the largest resident set in bytes."""
    import resource

    from pmljax.data.sources import open_frames
    from pmljax.device import use_device
    from pmljax.masks import read_masks
    from pmljax.presets import preset_of
    from pmljax.results import segment_to
    from pmljax.weights import load

    use_device(device)  # pyright: ignore
    loaded = load(model)
    frames = open_frames(video)
    masks = read_masks([Path(mask)], frames)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        done = [
            segment_to(out, loaded, frames, masks, preset=preset_of(loaded.config, preset), overwrite=True)
            for _ in range(1 + rounds)
        ]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    seconds = [d.seconds for d in done]
    return {"frames": done[0].frames, "size": list(frames.size), "seconds": seconds, "memory": peak}


def video(s: Setting) -> Iterator[Row]:
    model = "color" if s.quick else s.model
    with tempfile.TemporaryDirectory() as folder:
        path, mask = s.video, s.mask
        if path is None or mask is None:
            path, mask = write_clip(Path(folder), 4 if s.quick else 48, s.size)
        for preset in ("plain",) if model == "color" else ("plain", "default", "best", "paper"):
            rounds = min(s.rounds, 5)
            given = {"video": str(path.resolve()), "mask": str(mask.resolve()), "model": model, "device": s.device}
            found = child("video", **given, preset=preset, rounds=rounds)
            yield video_row(s, model, preset, found)


def video_row(s: Setting, model: str, preset: str, found: dict[str, Any]) -> Row:
    """Milliseconds a frame, warm; the first run stands in the note."""
    from pmljax.presets import preset_of
    from pmljax.weights import load

    count, (cold, *warm) = found["frames"], found["seconds"]
    ours = spread([t / count for t in warm])
    loaded = load(model)
    (h, w), least = found["size"], None
    if loaded.config.depth and h <= 480:
        least = floor(s.limits, "float32", frame_operations(loaded.config, (h, w), preset_of(loaded.config, preset)))
    note = f"{1e3 / ours.median:.2f} frames a second warm, {count / cold:.2f} cold ({count} frames)"
    title = "`color`" if model == "color" else s.title
    return Row(
        "video",
        f"a frame of a video {h}×{w}, mp4 to PNGs and overlay, {title}, {preset}",
        "float32",
        ours,
        floor=least,
        memory=found["memory"],
        memory_of="resident set",
        compile=max(cold - float(np.median(warm)), 0),
        note=note,
    )


# Clicks


def click(s: Setting) -> Iterator[Row]:
    from pmljax.weights import load

    model = "color" if s.quick else s.model
    count, clicks = (2, 2) if s.quick else (100, 50)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "click.json"
        options = ["--model", model, "--frames", str(count), "--clicks", str(clicks), "--device", s.device]
        options += ["--video", str(s.video.resolve())] if s.video else []
        run_python(["-m", "experiments.click_speed", *options, "--out", str(out)])
        found = json.loads(out.read_text())
    config = load(model).config
    y, x = config.grid(config.seen(tuple(found["size"]), 480))
    one = 2 * y * x * config.dimensions  # bytes of a frame's embeddings, in half precision
    frames = found["frames"]
    for name, moved in (("view", one), ("all", frames * one), ("undo: view", one), ("undo: all", frames * one)):
        what = name.replace("view", "the frame in view").replace("all", f"all {frames} frames")
        slowest = found[f"{name}, ms, slowest"]
        ours = Spread(found[f"{name}, ms"], None, None, clicks, slowest)
        yield Row(
            "click",
            f"{'' if name.startswith('undo') else 'a click: '}{what}",
            "float32 highest",
            ours,
            floor=floor(s.limits, "float32 highest", 0, moved),
            memory=int(found["largest resident set, GiB"] * 2**30),
            memory_of="resident set",
            note=f"embedding them all took {found['embed, s']:.1f} s, opening them again {found['open again, s']:.3f} s",
        )


# Start-up


def start_up(s: Setting) -> Iterator[Row]:
    rounds = 1 if s.quick else min(s.rounds, 5)
    bare: list[float] = []
    seconds: dict[str, list[float]] = {"import pmljax": [], "pmljax info": []}
    memory = dict.fromkeys(seconds, 0)
    ways = {"import pmljax": ["-c", "import pmljax"], "pmljax info": [*COMMAND, "info"]}
    for _ in range(rounds + (not s.quick)):  # the first fills the system's cache of files
        bare.append(run_python(["-c", "import jax, flax.linen"])[0])
        for name, arguments in ways.items():
            took, memory[name], _ = run_python(arguments)
            seconds[name].append(took)
    least = Floor(spread(bare[-rounds:]).median, "import jax, flax.linen")
    for name, took in seconds.items():
        rest = {"memory": memory[name], "memory_of": "resident set"}
        yield Row("start", name, "–", spread(took[-rounds:]), floor=least, **rest)
    for model in ("color",) if s.quick else (DEFAULT, "color"):
        starts: tuple[list[float], list[float]] = ([], [])
        memory = 0
        for _ in range(rounds):
            with tempfile.TemporaryDirectory() as folder:
                # The commands' own cache, empty. $JAX_COMPILATION_CACHE_DIR would bring JAX's own settings with it,
                # which keep only what took a second to compile.
                given = {"PMLJAX_CACHE": f"{folder}/cache"}
                for times in starts:
                    took, memory, _ = run_python(
                        [*COMMAND, "demo", "--out", f"{folder}/demo", "--model", model, "--device", s.device], **given
                    )
                    times.append(took)
        first, second = map(spread, starts)
        rest = {"memory": memory, "memory_of": "resident set", "floor": least}
        yield Row("start", f"pmljax demo, {model}, first start: empty compilation cache", "float32", first, **rest)
        note = f"{second.median / first.median:.2f} of the first"
        yield Row("start", f"pmljax demo, {model}, second start", "float32", second, note=note, **rest)


# Growth


def child_devices(devices: int, quick: bool, rounds: int, device: str) -> dict[str, Any]:
    """Seconds of a training step of `small` on four clips, spread over `devices`, and bytes of a device's temporaries."""
    import jax
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    from pmljax.config import ModelConfig, named
    from pmljax.device import keep_memory, use_device

    keep_memory()
    jax.config.update("jax_num_cpu_devices", devices)
    use_device(device)  # pyright: ignore
    if len(jax.devices()) < devices:
        return {"there": len(jax.devices())}
    from pmljax.parallel import AXIS, split
    from pmljax.sampling import Augment
    from pmljax.train import TrainConfig, create_state, train_step

    toy = ModelConfig("toy", 10, 8, norm="group", head=((1, 16),))
    config = TrainConfig(toy if quick else named("small"), Augment(crop=33 if quick else 192), batch=4)
    clips = split(training_clips(4, (96, 160) if quick else (480, 854)), devices)
    state, key, chosen = create_state(config), jax.random.key(0), jax.devices()[:devices]
    # As `train.spread`, on the first devices only; the state, which is not given away here, lies on all of them.
    step = jax.pmap(
        partial(train_step, config, axis_name=AXIS),
        AXIS,
        in_axes=(None, 0, None),
        out_axes=(None, None),
        devices=chosen,
    )
    state = jax.device_put(state, NamedSharding(Mesh(np.array(chosen), AXIS), PartitionSpec()))
    run = compiled(step, state, clips, key)
    seconds = []
    for i in range(rounds + 1):
        begin = perf_counter()
        jax.block_until_ready(run.call(state, clips, key))
        if i:
            seconds.append(perf_counter() - begin)
    return {"seconds": seconds, "memory": run.memory, "compile": run.seconds, "there": len(jax.devices())}


def growth(s: Setting) -> Iterator[Row]:
    import jax
    import jax.numpy as jnp

    from pmljax.labelling import segment_frame
    from pmljax.presets import preset_of
    from pmljax.retrieval import nearest

    grid = (6, 11) if s.quick else (61, 108)
    every = embeddings(4 if s.quick else 101, grid)
    n = grid[0] * grid[1]
    queries, every = jnp.asarray(every[-n:]), every[:-n]
    for times in (1, 3) if s.quick else (1, 3, 10, 30, 100):
        r = jnp.asarray(every[: times * n])
        run = compiled(nearest, queries, r, k=5)
        limit = floor(s.limits, "float32 highest", product_operations(n, r.shape[1], len(r)), r.nbytes + queries.nbytes)
        rest = {"axis": "references", "at": len(r), "floor": limit, "memory": run.memory, "compile": run.seconds}
        what = f"nearest, k 5: {len(r):,} references"
        yield compare(
            "growth", what, "float32 highest", lambda c=run.call, r=r: c(queries, r), {}, min(s.rounds, 5), **rest
        )

    model = s.load()
    for preset_name in ("plain",) if s.quick else ("plain", "default"):
        preset = preset_of(model.config, preset_name)
        least = frame_operations(model.config, s.size, preset)
        for objects in (1, 2) if s.quick else (1, 3, 10, 30):
            given = (model, full_state(model, s.frame, objects, preset), s.frame, np.float32(9), np.int32(9))
            run = compiled(segment_frame, *given, preset=preset)
            rest = {"axis": f"objects, {preset_name}", "at": objects, "memory": run.memory, "compile": run.seconds}
            what = f"a frame, {s.title}, {preset_name}: {objects} object{'s' * (objects > 1)}"
            rest["floor"] = floor(s.limits, "float32", least)
            yield compare(
                "growth", what, "float32", lambda c=run.call, g=given: c(*g).labels, {}, min(s.rounds, 5), **rest
            )

    name = "color" if s.quick else s.model
    for count in (3, 6) if s.quick else (8, 32, 128):
        with tempfile.TemporaryDirectory() as folder:
            path, mask = write_clip(Path(folder), count, s.size)
            found = child(
                "video", video=str(path), mask=str(mask), model=name, preset="default", device=s.device, rounds=1
            )
        yield Row(
            "growth",
            f"a video, default: {count} frames",
            "float32",
            spread(found["seconds"][1:]),
            memory=found["memory"],
            memory_of="resident set",
            axis="frames",
            at=count,
        )

    for devices in (1, 2) if s.quick else (1, 2, 4):
        found = child("devices", devices=devices, quick=s.quick, rounds=min(s.rounds, 5), device=s.device)
        if "seconds" not in found:
            break  # no more devices than these
        there = f"{found['there']} devices are there"
        note = f"{os.cpu_count()} cores, divided" if jax.default_backend() == "cpu" else there
        yield Row(
            "growth",
            f"a training step of 4 clips: {devices} device{'s' * (devices > 1)}",
            "float32",
            spread(found["seconds"]),
            memory=found["memory"],
            memory_of="temporaries of a device",
            compile=found["compile"],
            note=note,
            axis="devices",
            at=devices,
        )


CHILDREN = {"video": child_video, "devices": child_devices}

if __name__ == "__main__":
    print(json.dumps(CHILDREN[sys.argv[1]](**json.loads(sys.argv[2]))))

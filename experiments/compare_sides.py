"""The two sides of `compare_torch`, each in a process of its own, so that its memory is its own.

    python -m experiments.compare_sides jax WORK

WORK holds model.safetensors and inputs.npz, as `compare_torch` prepares them. Writes WORK/SIDE.npz (stages, labels, loss,
gradients) and WORK/SIDE.json (seconds, bytes; of PyTorch also how far its float32 is from its float64).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from experiments.whole import positive

STAGES = ("stem", "stage1", "stage2", "stage3", "stage4", "head", "embedding")


def held() -> int:
    """Bytes that this process holds now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def timed(call: Callable[[], Any], rounds: int) -> float:
    """Median seconds of finished calls after one that warms up."""
    call()
    seconds = []
    for _ in range(rounds):
        begin = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - begin)
    return float(np.median(seconds))


def run_jax(work: Path, rounds: int, k: int) -> dict[str, Any]:
    import jax
    import jax.numpy as jnp
    from flax.traverse_util import flatten_dict

    from pmljax.labelling import segment_frame
    from pmljax.loss import triplet_loss
    from pmljax.model import embed, embed_stages
    from pmljax.presets import Preset
    from pmljax.segment import start
    from pmljax.weights.bundled import read

    model, given = read(work / "model.safetensors"), dict(np.load(work / "inputs.npz"))
    frames, numbers, preset = given["frames"], given["numbers"], Preset(k=k, size=None)
    before = held()
    out: dict[str, Any] = {"compile": 0.0}

    def compiled(function: Callable[..., Any], *arguments: Any) -> Any:
        begin = time.perf_counter()
        result = jax.jit(function).lower(*arguments).compile()
        out["compile"] += time.perf_counter() - begin
        return result

    run = compiled(embed, model, frames[1:2], numbers[1:2])
    out["embed"] = timed(lambda: jax.block_until_ready(run(model, frames[1:2], numbers[1:2])), rounds)
    stages = compiled(embed_stages, model, frames[1:2], numbers[1:2])(model, frames[1:2], numbers[1:2]).stages
    arrays = {f"stage/{name}": np.asarray(stages[name]).transpose(0, 3, 1, 2) for name in STAGES}
    del stages

    state = start(model, frames[0], given["first"], number=numbers[0], preset=preset)
    begin = time.perf_counter()
    step = segment_frame.lower(model, state.references, frames[1], numbers[1], preset=preset).compile()
    out["compile"] += time.perf_counter() - begin
    labels = [
        np.asarray(step(model, state.references, f, n).labels) for f, n in zip(frames[1:], numbers[1:], strict=True)
    ]
    arrays["labels"] = np.stack(labels)
    out["frame"] = timed(lambda: jax.block_until_ready(step(model, state.references, frames[1], numbers[1])), rounds)
    out["memory of labels"] = peak() - before

    whole = dataclasses.replace(model.config, input_size=None)

    def loss(params: Any, crops: Any, numbers: Any) -> Any:
        variables = {**model.variables, "params": params}
        e = embed(dataclasses.replace(model, variables=variables, config=whole), crops, numbers)
        e = e.reshape(3, -1, e.shape[-1])
        cells = jnp.asarray(given["cells"], jnp.int32)
        chosen = given["anchors"]
        pool, of = e[1:].reshape(-1, e.shape[-1]), cells[1:].reshape(-1)
        return triplet_loss(e[0][chosen], cells[0][chosen], pool, of, labels=255).loss

    arguments = (model.variables["params"], given["crops"], given["crop_numbers"])
    gradient = compiled(jax.value_and_grad(loss), *arguments)
    out["gradient"] = timed(lambda: jax.block_until_ready(gradient(*arguments)), rounds)
    arrays["loss"], found = gradient(*arguments)
    flat: dict[str, Any] = flatten_dict(found, sep="/")  # pyright: ignore
    arrays |= {f"gradient/{name}": np.asarray(x) for name, x in flat.items()}
    out["memory"] = peak() - before
    np.savez(work / "jax.npz", **arrays)
    return out


def run_torch(work: Path, rounds: int, k: int) -> dict[str, Any]:
    import torch
    from safetensors import safe_open

    from tests import torch_reference as reference

    weights: dict[str, Any] = {}
    with safe_open(work / "model.safetensors", "numpy") as file:
        c = json.loads(file.metadata()["config"])
        for name in file.keys():  # noqa: SIM118 (it is no dict)
            *path, leaf = name.split("/")
            room = weights
            for part in path:
                room = room.setdefault(part, {})
            room[leaf] = file.get_tensor(name)
    given = dict(np.load(work / "inputs.npz"))
    frames, numbers, f32 = given["frames"], given["numbers"], torch.float32
    head = {f"conv{i}": (size, channels) for i, (size, channels) in enumerate(c["head"], 1)}
    net = reference.load(reference.Net(c["depth"], c["width"], c["geometry"], head, c["position"]), weights).eval()
    del weights
    before = held()
    out: dict[str, Any] = {}
    size = tuple(c["input_size"]) if c["input_size"] else None

    def inputs(pictures: np.ndarray, numbers: np.ndarray, size: Any, dtype: Any = f32) -> tuple[Any, Any]:
        x = reference.pictures(pictures, c["scaling"], dtype, size)
        seen = (x.shape[2], x.shape[3])
        grid = reference.grid_size(seen, c["geometry"])
        return x, reference.positions(c["position"], grid, seen, list(numbers), dtype)

    with torch.no_grad():
        out["embed"] = timed(lambda: net(*inputs(frames[1:2], numbers[1:2], size)), rounds)
        stages = net.stages(*inputs(frames[1:2], numbers[1:2], size))
        arrays = {f"stage/{name}": stages[name].numpy() for name in STAGES}
        del stages
    options = {"scaling": c["scaling"], "dtype": f32, "k": k, "size": size, "half_pixel": c["half_pixel"]}
    seconds, found = [], []
    stream = reference.segment(net, frames, given["first"], numbers=list(numbers), **options)
    begin = time.perf_counter()
    for labels, _, _, _ in stream:
        found.append(labels.numpy().astype(np.uint8))
        seconds.append(time.perf_counter() - begin)
        begin = time.perf_counter()
    arrays["labels"] = np.stack(found)
    out["frame"] = float(np.median(seconds[1:] or seconds))  # the first holds the references' frame too
    out["memory of labels"] = peak() - before
    cells, anchors = (torch.tensor(given[name].astype(np.int64)) for name in ("cells", "anchors"))

    def loss(dtype: Any = f32) -> torch.Tensor:
        net.zero_grad()
        e = net(*inputs(given["crops"], given["crop_numbers"], None, dtype)).flatten(2).transpose(1, 2)
        value = reference.clip_losses(e[None], anchors[None], cells[None])
        value.backward()
        return value

    out["gradient"] = timed(loss, rounds)
    arrays["loss"] = loss().detach().numpy()
    gradients = reference.by_our_names(net, lambda p: p.grad)
    arrays |= {f"gradient/{name}": x for name, x in gradients.items()}
    out["memory"] = peak() - before

    # The same in float64: how far PyTorch's own float32 is from it.
    net.double()
    with torch.no_grad():
        stages = net.stages(*inputs(frames[1:2], numbers[1:2], size, torch.float64))
        exact = {f"stage/{name}": stages[name].numpy() for name in STAGES}
    exact["loss"] = loss(torch.float64).detach().numpy()
    exact |= {f"gradient/{name}": x for name, x in reference.by_our_names(net, lambda p: p.grad).items()}
    out["rounding"] = {name: relative(arrays[name], x)[1] for name, x in exact.items()}
    np.savez(work / "torch.npz", **arrays)
    return out


def relative(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """(max|a − b|, that over max|b|)."""
    largest = float(np.abs(a.astype(np.float64) - b).max())
    return largest, largest / max(float(np.abs(b).max()), 1e-300)


def peak() -> int:
    """The most bytes that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("side", choices=["jax", "torch"])
    parser.add_argument("work", type=Path)
    parser.add_argument("--rounds", type=positive, default=3, help="timed calls of each kind")
    parser.add_argument("--k", type=positive, default=5, help="neighbours")
    args = parser.parse_args()
    run = {"jax": run_jax, "torch": run_torch}[args.side]
    (args.work / f"{args.side}.json").write_text(json.dumps(run(args.work, args.rounds, args.k)))


if __name__ == "__main__":
    main()

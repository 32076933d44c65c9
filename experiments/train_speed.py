"""Steps a second of `train_step` beside the same step in PyTorch, on the same machine, in one run.

    python -m experiments.train_speed [--depth 50] [--crop 321] [--clips 1] [--rounds 5]

Both sides: ResNet of that depth at stride 8 (DeepLab-v2 geometry, batch norm frozen), head 1×1→128, unit length, the modified
triplet loss of 512 anchors against all cells of two frames, SGD with momentum and decay. Ours draws its crops too, which
PyTorch is given. PyTorch 2.13 runs eagerly, contiguous and channels-last. The rounds are interleaved; medians and range.
Both sides keep the memory they free, as `pmljax` does (`--no-keep-memory`: neither does).
Inputs are uneven noise, never zeros. Also said: the largest difference of the two losses on the same crops and weights.
"""

from __future__ import annotations

import argparse
import json
import time
from functools import partial
from typing import Any

import jax
import numpy as np
import torch

from experiments.whole import positive
from pmljax.config import ModelConfig
from pmljax.device import keep_memory
from pmljax.sampling import Augment, Clip, augment, cell_labels, draw_anchors
from pmljax.train import TrainConfig, create_state, train_step
from tests import torch_reference as reference


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--depth", type=int, default=50, choices=[50, 101])
    parser.add_argument("--crop", type=int, default=321)
    parser.add_argument("--clips", type=positive, default=1)
    parser.add_argument("--rounds", type=positive, default=5)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--keep-memory", action=argparse.BooleanOptionalAction, default=True)
    args = parser.parse_args()
    if args.keep_memory:
        keep_memory()
    model = ModelConfig("speed", args.depth, head=((1, 128),))
    config = TrainConfig(model, Augment(crop=args.crop, colour=0.0), batch=args.clips, rate=1e-4, head=1.0)
    key, rng = jax.random.key(0), np.random.default_rng(0)
    h, w = 480, 854
    labels = np.zeros((args.clips, 3, h, w), np.uint8)
    labels[:, :, 150:330, 250:550] = 1
    coarse = rng.integers(0, 255, (args.clips, 3, h // 8 + 1, w // 8 + 1, 3), dtype=np.uint8)
    frames = coarse.repeat(8, 2).repeat(8, 3)[:, :, :h, :w]
    clips = Clip(
        frames,
        labels,
        np.zeros((args.clips, 3), np.float32),
        np.tile(np.float32([0, 0, h, w]), (args.clips, 3, 1)),
        np.tile(np.int32([h, w]), (args.clips, 1)),
        np.arange(args.clips, dtype=np.uint32),
    )
    state = create_state(config)
    begin = time.monotonic()
    step = jax.jit(partial(train_step, config), donate_argnums=0)
    compiled = step.lower(state, clips, key).compile()
    compile_seconds = time.monotonic() - begin

    # The same crops, anchors and weights for PyTorch.
    keys = jax.random.split(key)
    views = jax.vmap(augment, (None, 0, None))(keys[0], clips, config.augment)
    grid = model.grid((args.crop, args.crop))
    cells = jax.vmap(jax.vmap(lambda x: cell_labels(x, grid)))(views.labels).reshape(args.clips, 3, -1)
    anchors = jax.vmap(lambda n, x: draw_anchors(jax.random.fold_in(keys[1], n), x, config.anchors)[0])(
        clips.number, cells[:, 0]
    )
    mean, std = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
    pictures = (np.asarray(views.frames, np.float32).reshape(-1, args.crop, args.crop, 3) / 255 - mean) / std
    sides: dict[str, Any] = {}
    for name, form in (("contiguous", torch.contiguous_format), ("channels-last", torch.channels_last)):
        net = reference.Net(args.depth, head={"conv1": (1, 128)}).eval()  # frozen: running statistics
        net = reference.load(net, state.variables).to(memory_format=form)  # pyright: ignore
        optimiser = reference.make_optimiser(net, config.momentum, config.decay, config.head)
        x = torch.tensor(pictures.transpose(0, 3, 1, 2).copy()).to(memory_format=form)
        of, chosen = (torch.tensor(np.asarray(v).astype(np.int64)) for v in (cells, anchors))

        def torch_step(net: Any = net, x: torch.Tensor = x, optimiser: Any = optimiser, of=of, chosen=chosen) -> float:
            def loss(e: torch.Tensor) -> torch.Tensor:
                return reference.clip_losses(e.reshape(args.clips, 3, *e.shape[1:]), chosen, of, margin=config.margin)

            return reference.train_step(net, optimiser, config.rate, x, None, loss)

        sides[f"PyTorch {name}"] = torch_step

    def ours() -> float:
        nonlocal state
        state, metrics = compiled(state, clips, key)
        return float(metrics["loss"])

    sides = {"pmljax": ours, **sides}
    first = {name: side() for name, side in sides.items()}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(args.rounds):
        for name, side in sides.items():
            begin = time.monotonic()
            side()
            seconds[name].append(time.monotonic() - begin)
    result = {
        "depth": args.depth,
        "crop": args.crop,
        "frames": 3 * args.clips,
        "device": str(jax.devices()[0].device_kind),
        "memory kept": args.keep_memory,
        "threads": torch.get_num_threads(),
        "compile seconds": round(compile_seconds, 1),
        "first loss": {k: round(v, 6) for k, v in first.items()},
        "seconds a step": {k: [round(float(q), 3) for q in np.quantile(v, (0.5, 0, 1))] for k, v in seconds.items()},
    }
    if args.json:
        print(json.dumps(result, indent=1))
        return
    for k, v in result.items():
        print(f"{k}: {v}")


if __name__ == "__main__":
    main()

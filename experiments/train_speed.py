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
from torch import nn

from pmljax.config import ModelConfig
from pmljax.device import keep_memory
from pmljax.resnet import BLOCKS, stage_plan
from pmljax.sampling import Augment, Clip, augment, cell_labels, draw_anchors
from pmljax.train import TrainConfig, create_state, train_step


class Block(nn.Module):
    """A bottleneck of the DeepLab-v2 geometry."""

    def __init__(self, inside: int, width: int, stride: int, dilation: int, project: bool):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(inside, width, 1, stride, bias=False), nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, dilation, dilation, bias=False)
        self.norm2, self.conv3 = nn.BatchNorm2d(width), nn.Conv2d(width, 4 * width, 1, bias=False)
        self.norm3, self.relu = nn.BatchNorm2d(4 * width), nn.ReLU(inplace=True)
        self.shortcut = self.shortcut_norm = None
        if project:
            self.shortcut = nn.Conv2d(inside, 4 * width, 1, stride, bias=False)
            self.shortcut_norm = nn.BatchNorm2d(4 * width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.relu(self.norm1(self.conv1(x)))
        y = self.relu(self.norm2(self.conv2(y)))
        y = self.norm3(self.conv3(y))
        return self.relu(y + (x if self.shortcut is None else self.shortcut_norm(self.shortcut(x))))  # pyright: ignore


class Net(nn.Module):
    """Trunk, head, unit length: `[n, 3, h, w]` to `[n, 128, y, x]`."""

    def __init__(self, depth: int):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1, ceil_mode=True)
        )
        inside, self.stages = 64, nn.ModuleList()
        for i, (count, (stride, first, rest)) in enumerate(zip(BLOCKS[depth], stage_plan("deeplab", 8), strict=True)):
            width, stage = 64 * 2**i, nn.Sequential()
            for k in range(count):
                stage.append(Block(inside, width, stride if k == 0 else 1, first if k == 0 else rest, k == 0))
                inside = 4 * width
            self.stages.append(stage)
        self.head = nn.Conv2d(inside, 128, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
        x = self.head(x)
        return x / x.norm(dim=1, keepdim=True)


def load(net: Net, variables: dict[str, Any]) -> None:
    """The same numbers on both sides."""
    params, stats = variables["params"], variables["batch_stats"]["trunk"]

    def conv(to: nn.Conv2d, p: dict[str, Any]) -> None:
        to.weight.data = torch.tensor(np.asarray(p["kernel"]).transpose(3, 2, 0, 1).copy())
        if to.bias is not None:
            to.bias.data = torch.tensor(np.asarray(p["bias"]))

    def norm(to: nn.BatchNorm2d, p: dict[str, Any], s: dict[str, Any]) -> None:
        to.weight.data, to.bias.data = (torch.tensor(np.asarray(p[k])) for k in ("scale", "bias"))
        to.running_mean, to.running_var = (torch.tensor(np.asarray(s[k])) for k in ("mean", "var"))

    trunk = params["trunk"]
    conv(net.stem[0], trunk["stem"]["conv1"])  # pyright: ignore
    norm(net.stem[1], trunk["stem"]["norm1"], stats["stem"]["norm1"])  # pyright: ignore
    for i, stage in enumerate(net.stages):
        for k, block in enumerate(stage):  # pyright: ignore
            p, s = (x[f"stage{i + 1}"][f"block{k + 1}"] for x in (trunk, stats))
            for name in p:
                to = getattr(block, name)
                conv(to, p[name]) if "kernel" in p[name] else norm(to, p[name], s[name])
    conv(net.head, params["head"]["conv1"])


def torch_loss(embedding: torch.Tensor, anchors: torch.Tensor, labels: torch.Tensor, margin: float) -> torch.Tensor:
    """Eq. 1 of every clip: embedding `[b, t, q, d]`, anchors `[b, a]`, labels `[b, t, q]`."""
    each = []
    for e, cells, of in zip(embedding, anchors, labels, strict=True):
        a, own = e[0][cells], of[0][cells]
        pool, pool_labels = e[1:].reshape(-1, e.shape[-1]), of[1:].reshape(-1)
        distance = (a**2).sum(-1)[:, None] + (pool**2).sum(-1)[None] - 2 * a @ pool.T
        same = own[:, None] == pool_labels[None]
        known = (pool_labels != 255)[None]
        far = torch.full_like(distance, torch.inf)
        near = torch.where(same & known, distance, far).min(1).values
        other = torch.where(~same & known, distance, far).min(1).values
        hinge = torch.relu(near - other + margin)
        each.append(torch.stack([hinge[own == k].mean() for k in own.unique()]).mean())
    return torch.stack(each).mean()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--depth", type=int, default=50, choices=[50, 101])
    parser.add_argument("--crop", type=int, default=321)
    parser.add_argument("--clips", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
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
        net = Net(args.depth).eval()  # frozen: running statistics
        load(net, state.variables)
        net = net.to(memory_format=form)
        kernels = [p for p in net.parameters() if p.ndim > 1]
        for p in net.parameters():
            p.requires_grad_(p.ndim > 1 or p is net.head.bias)
        groups = [{"params": kernels, "weight_decay": config.decay}, {"params": [net.head.bias], "weight_decay": 0.0}]
        optimiser = torch.optim.SGD(groups, lr=config.rate, momentum=config.momentum)
        x = torch.tensor(pictures.transpose(0, 3, 1, 2).copy()).to(memory_format=form)
        of, chosen = (torch.tensor(np.asarray(v).astype(np.int64)) for v in (cells, anchors))

        def torch_step(net: Net = net, x: torch.Tensor = x, optimiser: Any = optimiser, of=of, chosen=chosen) -> float:
            optimiser.zero_grad()
            e = net(x).flatten(2).transpose(1, 2)
            loss = torch_loss(e.reshape(args.clips, 3, *e.shape[1:]), chosen, of, config.margin)
            loss.backward()
            optimiser.step()
            return loss.item()

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

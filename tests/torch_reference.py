"""The method in plain PyTorch, written from docs/sources.md and not from our JAX: the oracle of the parity tests, and the other
side of the experiments.

The networks carry the names that the public reproductions' files have (style R as in torchvision, style K as in
kazuto1011's), so that an exported state_dict loads into them with strict=True. Everything takes the dtype of its inputs.
Axes as in PyTorch: `n` image, `c` channel, `h w` image, `y x` grid; `q` query, `r` reference, `a` anchor, `p` pool, `d`
embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

BLOCKS = {
    10: (1, 1, 1, 1),
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
# (stride, dilation of the first block, dilation of the others) of the four stages at stride 8.
PLANS = {
    "deeplab": ((1, 1, 1), (2, 1, 1), (1, 2, 2), (1, 4, 4)),
    "torchvision": ((1, 1, 1), (2, 1, 1), (1, 1, 2), (1, 2, 4)),
}
VOID = 255


# The trunk, style R


def conv(inside: int, outside: int, size: int, stride: int = 1, dilation: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inside, outside, size, stride, dilation * (size // 2), dilation, bias=False)


class Block(nn.Module):
    """A residual block: bottleneck or basic. DeepLab-v2 strides in the 1×1 `conv1`, torchvision in the 3×3 `conv2`."""

    def __init__(self, inside: int, width: int, stride: int, dilation: int, project: bool, deep: bool, geometry: str):
        super().__init__()
        out = 4 * width if deep else width
        if deep:
            first, second = (stride, 1) if geometry == "deeplab" else (1, stride)
            self.conv1, self.bn1 = conv(inside, width, 1, first), nn.BatchNorm2d(width)
            self.conv2, self.bn2 = conv(width, width, 3, second, dilation), nn.BatchNorm2d(width)
            self.conv3, self.bn3 = conv(width, out, 1), nn.BatchNorm2d(out)
        else:
            self.conv1, self.bn1 = conv(inside, width, 3, stride, dilation), nn.BatchNorm2d(width)
            self.conv2, self.bn2 = conv(width, width, 3, 1, dilation), nn.BatchNorm2d(width)
        self.deep, self.relu = deep, nn.ReLU(inplace=True)
        self.downsample = nn.Sequential(conv(inside, out, 1, stride), nn.BatchNorm2d(out)) if project else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        if self.deep:
            y = self.bn3(self.conv3(self.relu(y)))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


class Trunk(nn.Module):
    """Images `[n, 3, h, w]` to {"stem", "stage1", …, "stage4"}."""

    def __init__(self, depth: int, width: int = 64, geometry: str = "deeplab"):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width)
        self.relu, self.maxpool = nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1, ceil_mode=geometry == "deeplab")
        deep, inside = depth >= 50, width
        for i, (count, (stride, first, rest)) in enumerate(zip(BLOCKS[depth], PLANS[geometry], strict=True)):
            stage, inner = nn.Sequential(), width * 2**i
            for k in range(count):
                s, d = (stride, first) if k == 0 else (1, rest)
                stage.append(Block(inside, inner, s, d, k == 0 and (deep or i > 0), deep, geometry))
                inside = inner * (4 if deep else 1)
            self.add_module(f"layer{i + 1}", stage)
        self.channels = inside

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        out = {"stem": self.maxpool(self.relu(self.bn1(self.conv1(x))))}
        x = out["stem"]
        for i in range(1, 5):
            x = out[f"stage{i}"] = getattr(self, f"layer{i}")(x)
        return out


# The trunk, style K (bottlenecks of the DeepLab-v2 geometry only)


class ConvNorm(nn.Module):
    def __init__(self, inside: int, outside: int, size: int, stride: int = 1, dilation: int = 1, padding: int = 0):
        super().__init__()
        self.conv = nn.Conv2d(inside, outside, size, stride, padding, dilation, bias=False)
        self.bn = nn.BatchNorm2d(outside)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x))


class BlockK(nn.Module):
    def __init__(self, inside: int, width: int, stride: int, dilation: int, shortcut: str | None):
        super().__init__()
        self.reduce = ConvNorm(inside, width, 1, stride)
        self.conv3x3 = ConvNorm(width, width, 3, 1, dilation, dilation)
        self.increase = ConvNorm(width, 4 * width, 1)
        self.projection = shortcut
        if shortcut:
            self.add_module(shortcut, ConvNorm(inside, 4 * width, 1, stride))

    def forward(self, x: Tensor) -> Tensor:
        y = self.increase(F.relu(self.conv3x3(F.relu(self.reduce(x)))))
        return F.relu(y + (getattr(self, self.projection)(x) if self.projection else x))


class TrunkK(nn.Module):
    """As Trunk. layer: what its five layers are called; shortcut: "proj" or "shortcut"."""

    def __init__(self, depth: int, width: int = 64, layer: str = "layer", shortcut: str = "proj"):
        super().__init__()
        self.layer = layer
        stem = nn.Module()
        stem.add_module("conv1", ConvNorm(3, width, 7, 2, padding=3))
        self.add_module(f"{layer}1", stem)
        inside = width
        for i, (count, (stride, first, rest)) in enumerate(zip(BLOCKS[depth], PLANS["deeplab"], strict=True)):
            stage = nn.Sequential()
            for k in range(count):
                s, d = (stride, first) if k == 0 else (1, rest)
                stage.add_module(f"block{k + 1}", BlockK(inside, width * 2**i, s, d, shortcut if k == 0 else None))
                inside = 4 * width * 2**i
            self.add_module(f"{layer}{i + 2}", stage)
        self.channels = inside

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = F.relu(getattr(self, f"{self.layer}1").conv1(x))
        x = F.max_pool2d(x, 3, 2, 1, ceil_mode=True)
        out = {"stem": x}
        for i in range(1, 5):
            x = out[f"stage{i}"] = getattr(self, f"{self.layer}{i + 1}")(x)
        return out


# The heads, and the whole

HEADS: dict[str, dict[str, tuple[int, int]]] = {  # name: (kernel, channels) (paper: our reading)
    "sydney0zq": {"conv1": (3, 128), "conv2": (1, 128), "eh_layer": (1, 128)},
    "bfvos": {"conv1": (1, 128), "eh_layer2": (1, 128)},
    "paper": {"conv1": (3, 512), "conv2": (1, 128)},
}
POSITIONS = {"sydney0zq": "zeros", "bfvos": "ijn", "paper": "yxt"}
CHANNELS = {"none": 0, "yx": 2, "yxt": 3, "zeros": 2, "ijn": 3}


class Net(nn.Module):
    """Trunk, position, head, unit length: images `[n, 3, h, w]` and positions `[n, p, y, x]` to `[n, d, y, x]`.

    head: one of HEADS, or a dict like theirs.  style K: bf-vos's names.
    """

    def __init__(
        self,
        depth: int = 101,
        width: int = 64,
        geometry: str = "deeplab",
        head: str | dict[str, tuple[int, int]] = "sydney0zq",
        position: str | None = None,
        style: str = "R",
    ):
        super().__init__()
        layers = HEADS[head] if isinstance(head, str) else head
        self.geometry = geometry
        self.position = position or (POSITIONS[head] if isinstance(head, str) else "none")
        if style == "R":
            self.base_extractor: Any = Trunk(depth, width, geometry)
        else:
            self.feature_extractor: Any = TrunkK(depth, width, "fe_layer")
        inside = self.trunk.channels + CHANNELS[self.position]
        self.embedding_head = nn.ModuleDict()
        for name, (size, channels) in layers.items():
            self.embedding_head[name] = nn.Conv2d(inside, channels, size, padding=size // 2)
            inside = channels

    @property
    def trunk(self) -> Any:
        return self.base_extractor if hasattr(self, "base_extractor") else self.feature_extractor

    def stages(self, x: Tensor, places: Tensor | None = None) -> dict[str, Tensor]:
        """Every stage's activations, with "head" and "embedding"."""
        out = self.trunk(x)
        x = out["stage4"]
        if places is not None:
            x = torch.cat([x, places], 1)
        for i, layer in enumerate(self.embedding_head.values()):
            x = layer(F.relu(x) if i else x)
        out["head"], out["embedding"] = x, x / x.norm(dim=1, keepdim=True)
        return out

    def forward(self, x: Tensor, places: Tensor | None = None) -> Tensor:
        return self.stages(x, places)["embedding"]


def load(net: Net, variables: dict[str, Any]) -> Net:
    """A style R net with the numbers of our variables, in their own dtype: written apart from `pmljax.weights`."""
    params, stats = variables["params"], variables["batch_stats"]["trunk"]

    def put(to: Any, name: str, x: Any) -> None:
        old, new = getattr(to, name), torch.tensor(np.asarray(x))
        assert old.shape == new.shape, (name, old.shape, new.shape)
        setattr(to, name, nn.Parameter(new) if isinstance(old, nn.Parameter) else new)

    def layer(to: Any, p: dict[str, Any], s: dict[str, Any] | None = None) -> None:
        if s is None:
            put(to, "weight", np.asarray(p["kernel"]).transpose(3, 2, 0, 1).copy())
            if to.bias is not None:
                put(to, "bias", p["bias"])
        else:
            for name, x in (("weight", p["scale"]), ("bias", p["bias"]), ("running_mean", s["mean"])):
                put(to, name, x)
            put(to, "running_var", s["var"])

    trunk, ours = net.trunk, params["trunk"]
    layer(trunk.conv1, ours["stem"]["conv1"])
    layer(trunk.bn1, ours["stem"]["norm1"], stats["stem"]["norm1"])
    for i in range(1, 5):
        for k, block in enumerate(getattr(trunk, f"layer{i}"), 1):
            p, s = (x[f"stage{i}"][f"block{k}"] for x in (ours, stats))
            for name in p:
                j = name[-1]
                to = {"shortcut": ("downsample", 0), "shortcut_norm": ("downsample", 1)}.get(name)
                kind = "bn" if "norm" in name else "conv"
                to = block.downsample[to[1]] if to else getattr(block, f"{kind}{j}")
                layer(to, p[name], s[name] if "norm" in name else None)
    for i, to in enumerate(net.embedding_head.values(), 1):
        layer(to, params["head"][f"conv{i}"])
    return net


def by_our_names(net: Net, number: Callable[[Any], Tensor]) -> dict[str, np.ndarray]:
    """{our name: a number of each parameter, in our axes} of a style R net: its value, its gradient."""
    parameters: dict[str, Any] = {"trunk/stem/conv1/kernel": net.trunk.conv1.weight}

    def norm(name: str, of: Any) -> None:
        parameters[f"{name}/scale"], parameters[f"{name}/bias"] = of.weight, of.bias

    norm("trunk/stem/norm1", net.trunk.bn1)
    for i in range(1, 5):
        for k, block in enumerate(getattr(net.trunk, f"layer{i}"), 1):
            at = f"trunk/stage{i}/block{k}"
            for n in range(1, 4 if block.deep else 3):
                parameters[f"{at}/conv{n}/kernel"] = getattr(block, f"conv{n}").weight
                norm(f"{at}/norm{n}", getattr(block, f"bn{n}"))
            if block.downsample is not None:
                parameters[f"{at}/shortcut/kernel"] = block.downsample[0].weight
                norm(f"{at}/shortcut_norm", block.downsample[1])
    for i, layer in enumerate(net.embedding_head.values(), 1):
        parameters[f"head/conv{i}/kernel"], parameters[f"head/conv{i}/bias"] = layer.weight, layer.bias
    values = {name: number(p).detach().numpy() for name, p in parameters.items()}
    return {name: x.transpose(2, 3, 1, 0) if x.ndim == 4 else x for name, x in values.items()}


# Weights and pictures to compare with


def random_weights(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> dict[str, np.ndarray]:
    """Weights for our variables (names with `/` to shapes), norms and their statistics random too, float64."""
    rng = np.random.default_rng(seed)

    def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
        *_, room, layer, leaf = name.split("/")
        if leaf == "kernel":
            return rng.normal(0, (2 / np.prod(shape[:-1])) ** 0.5, shape)
        spread = np.abs(rng.normal(1, 0.3, shape)) + 0.1
        # The input counts in hundreds; and the last norm of a block is small, so that 33 sums of residuals stay small.
        large = 1e4 if room == "stem" else 1.0
        small = 0.3 if layer in ("norm3", "shortcut_norm") else 1.0
        return {
            "scale": small * spread,
            "var": large * spread,
            "mean": large**0.5 * rng.normal(0, 0.3, shape),
            "bias": rng.normal(0, 0.1, shape),
        }[leaf]

    return {name: draw(name, shape) for name, shape in shapes.items()}


def smooth_pictures(count: int, size: tuple[int, int], seed: int = 0) -> np.ndarray:
    """Smooth noise, uint8 `[n, h, w, 3]`: octaves of falling strength, as in photographs."""
    from PIL import Image

    rng, (h, w) = np.random.default_rng(seed), size
    out = np.zeros((count, h, w, 3))
    for cell, weight in ((64, 1.0), (16, 0.5), (4, 0.25), (1, 0.08)):
        coarse = rng.normal(0, 60, (count, h // cell + 2, w // cell + 2, 3))
        for i, c in np.ndindex(count, 3):
            layer = Image.fromarray(coarse[i, ..., c].astype(np.float32)).resize((w, h), Image.Resampling.BICUBIC)
            out[i, ..., c] += weight * np.asarray(layer)
    return np.clip(out + 120, 0, 255).astype(np.uint8)


# What the network sees (docs/sources.md)

BGR, RGB = (104.00698793, 116.66876762, 122.67891434), (122.675, 116.669, 104.008)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def pictures(frames: np.ndarray, scaling: str, dtype: torch.dtype, size: tuple[int, int] | None = None) -> Tensor:
    """uint8 RGB `[n, h, w, 3]` to `[n, 3, h, w]` as a network's weights expect it. size: (h, w), Pillow's nearest."""
    if size is not None and frames.shape[1:3] != size:
        from PIL import Image

        frames = np.stack([np.asarray(Image.fromarray(f).resize(size[::-1], Image.Resampling.NEAREST)) for f in frames])
    x = torch.tensor(frames.transpose(0, 3, 1, 2).copy()).to(dtype)

    def each(values: Sequence[float]) -> Tensor:
        return torch.tensor(values, dtype=dtype)[None, :, None, None]

    if scaling == "bgr":
        return x.flip(1) - each(BGR)
    if scaling == "rgb":
        return x - each(RGB)
    if scaling == "standardise":
        mean, std = x.mean((1, 2, 3), keepdim=True), x.std((1, 2, 3), keepdim=True, correction=0)
        return (x - mean) / std
    return (x / 255 - each(MEAN)) / each(STD)


def grid_size(size: tuple[int, int], geometry: str) -> tuple[int, int]:
    """(y, x) of the stride-8 grid."""
    if geometry == "deeplab":
        return (size[0] + 1) // 8 + 1, (size[1] + 1) // 8 + 1
    return -(-size[0] // 8), -(-size[1] // 8)


def positions(
    kind: str, grid: tuple[int, int], size: tuple[int, int], numbers: Sequence[float], dtype: torch.dtype
) -> Tensor | None:
    """`[n, p, y, x]` of whole frames of `size` (h, w) at stride 8."""
    if kind == "none":
        return None
    i, j = torch.meshgrid(*(torch.arange(n, dtype=dtype) for n in grid), indexing="ij")
    each = []
    for n in numbers:
        t = torch.full(grid, float(n), dtype=dtype)
        each.append(
            {
                "yx": [8 * i / size[0], 8 * j / size[1]],
                "yxt": [8 * i / size[0], 8 * j / size[1], (t / 100).clamp(max=1)],
                "zeros": [0 * i, 0 * j],
                "ijn": [i, j, t],
            }[kind]
        )
    return torch.stack([torch.stack(channels) for channels in each])


# The loss (Eq. 1)


def triplet_loss(
    anchors: Tensor,
    own: Tensor,
    pool: Tensor,
    of: Tensor,
    *,
    margin: float = 0.7,
    hinge: str = "anchor",
    reduction: str = "mean",
) -> Tensor:
    """Eq. 1 of one clip: anchors `[a, d]` with labels `[a]`, pool `[p, d]` with labels `[p]`; VOID takes no part.

    hinge "anchor": around each anchor's term, the mean over a label's anchors; "label": around a label's sum.
    """
    distance = (anchors**2).sum(-1)[:, None] + (pool**2).sum(-1)[None] - 2 * anchors @ pool.T
    same, known = own[:, None] == of[None], (of != VOID)[None]
    far = torch.full((), torch.inf, dtype=distance.dtype)
    near = torch.where(same & known, distance, far).min(1).values
    other = torch.where(~same & known, distance, far).min(1).values
    there = torch.isfinite(near) & torch.isfinite(other) & (own != VOID)
    term = (near - other)[there]
    each = []
    for label in own[there].unique():
        of_label = term[own[there] == label]
        each.append(F.relu(of_label + margin).mean() if hinge == "anchor" else F.relu(of_label.sum() + margin))
    if not each:
        return anchors.sum() * 0
    return torch.stack(each).mean() if reduction == "mean" else torch.stack(each).sum()


def soft_triplet_loss(
    anchors: Tensor, own: Tensor, pool: Tensor, of: Tensor, *, temperature: float = 0.1, weights: Tensor | None = None
) -> Tensor:
    """The smooth twin: −log of the share that an anchor's own label has among exp(−‖a − p‖²/2τ) of the whole pool."""
    exponent = -(((anchors[:, None] - pool[None]) ** 2).sum(-1)) / (2 * temperature)
    known = (of != VOID)[None]
    same = (own[:, None] == of[None]) & known
    there = same.any(1) & (known & ~same).any(1) & (own != VOID)
    weights = torch.ones_like(exponent[:, 0]) if weights is None else weights
    mine = torch.logsumexp(exponent[there].masked_fill(~same[there], -torch.inf), 1)
    whole = torch.logsumexp(exponent[there].masked_fill(~known.expand_as(same)[there], -torch.inf), 1)
    return ((whole - mine) * weights[there]).sum() / weights[there].sum()


def clip_losses(embedding: Tensor, anchors: Tensor, labels: Tensor, **options: Any) -> Tensor:
    """The mean of `triplet_loss` over clips: embedding `[b, t, q, d]`, anchors `[b, a]` among the first frame's cells,
    labels `[b, t, q]`; the pool is the other frames."""
    each = [
        triplet_loss(e[0][cells], of[0][cells], e[1:].flatten(0, 1), of[1:].flatten(), **options)
        for e, cells, of in zip(embedding, anchors, labels, strict=True)
    ]
    return torch.stack(each).mean()


# The training step


def make_optimiser(net: Net, momentum: float = 0.9, decay: float = 5e-4, head: float = 10.0) -> torch.optim.SGD:
    """SGD of the kernels and the head's biases; norms are frozen, biases do not decay, the head has `head` times the rate
    (`factor` of its groups)."""
    inside = set(net.embedding_head.parameters())
    for p in net.parameters():
        p.requires_grad_(p.ndim > 1 or p in inside)
    kernels = [p for p in net.parameters() if p.ndim > 1]
    groups = [
        {"params": [p for p in kernels if p not in inside], "weight_decay": decay, "factor": 1.0},
        {"params": [p for p in kernels if p in inside], "weight_decay": decay, "factor": head},
        {"params": [p for p in inside if p.ndim == 1], "weight_decay": 0.0, "factor": head},
    ]
    return torch.optim.SGD(groups, lr=0.0, momentum=momentum)


def poly(rate: float, step: int, steps: int) -> float:
    return rate * (1 - step / steps) ** 0.9


def train_step(
    net: Net,
    optimiser: torch.optim.SGD,
    rate: float,
    images: Tensor,
    places: Tensor | None,
    loss: Callable[..., Tensor],
) -> float:
    """One update at `rate`; loss: of embeddings `[n, q, d]`. The network is in eval mode: norms frozen."""
    net.eval()
    for group in optimiser.param_groups:
        group["lr"] = rate * group["factor"]
    optimiser.zero_grad()
    value = loss(net(images, places).flatten(2).transpose(1, 2))
    value.backward()
    optimiser.step()
    return value.item()


# Retrieval


def nearest(queries: Tensor, references: Tensor, k: int, tile: int = 2048) -> tuple[Tensor, Tensor]:
    """(squared distances, rows) of the k nearest references, nearest first, each `[q, k]`."""
    k, found = min(k, len(references)), []
    for q in queries.split(tile):
        distance = (q**2).sum(-1)[:, None] + (references**2).sum(-1)[None] - 2 * q @ references.T
        found.append(distance.topk(k, largest=False))
    return torch.cat([f.values for f in found]), torch.cat([f.indices for f in found])


def vote(
    rows: Tensor, labels: Tensor, count: int, majority: bool = False, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Shares `[q, count]` of the neighbours' labels; majority: one-hot, of equal votes the nearest neighbour's."""
    votes = F.one_hot(labels[rows], count)  # [q, k, count]
    if not majority:
        return votes.sum(1).to(dtype) / rows.shape[1]
    closeness = (votes * torch.arange(rows.shape[1], 0, -1)[None, :, None]).amax(1)
    return F.one_hot((votes.sum(1) * (rows.shape[1] + 1) + closeness).argmax(-1), count).to(dtype)


def cell_labels(labels: np.ndarray, grid: tuple[int, int], half_pixel: bool) -> Tensor:
    """The label of every cell, `[y·x]`: that with the largest area in its box of 8×8 pixels around pixel 8i, of equal ones
    the lowest; half_pixel: the nearest pixel's, as the reproductions have it."""
    ids = torch.tensor(labels.astype(np.int64))
    if half_pixel:
        return F.interpolate(ids[None, None].double(), grid, mode="nearest-exact")[0, 0].long().flatten()
    axes = []
    for size, cells in zip(labels.shape, grid, strict=True):
        centre, pixel = 8 * torch.arange(cells)[:, None] + 0.5, torch.arange(size)[None]
        overlap = torch.minimum(centre + 4, pixel + 1) - torch.maximum(centre - 4, pixel + 0.0)
        axes.append(overlap.clamp(min=0).double())
    area = torch.einsum("yh,hwo,xw->yxo", axes[0], F.one_hot(ids).double(), axes[1])
    return area.argmax(-1).flatten()


def grow(shares: Tensor, grid: tuple[int, int], size: tuple[int, int], half_pixel: bool) -> Tensor:
    """Shares `[y·x, o]` at every pixel, `[o, h, w]`: linear, cell i lying on pixel 8i, beyond the last cell constant."""
    x = shares.T.reshape(1, -1, *grid)
    if half_pixel:
        return F.interpolate(x, size, mode="bilinear", align_corners=False)[0]
    x = x[0]
    for axis, (n, cells) in enumerate(zip(size, grid, strict=True), 1):
        at = (torch.arange(n, dtype=shares.dtype) / 8).clamp(max=cells - 1)
        low = at.floor().long()
        high, part = (low + 1).clamp(max=cells - 1), at - low
        part = part[:, None] if axis == 1 else part
        x = x.index_select(axis, low) * (1 - part) + x.index_select(axis, high) * part
    return x


def segment(
    net: Net,
    frames: np.ndarray,
    first: np.ndarray,
    *,
    scaling: str,
    dtype: torch.dtype,
    k: int = 5,
    majority: bool = False,
    size: tuple[int, int] | None = None,
    half_pixel: bool = False,
    numbers: Sequence[float] | None = None,
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """(labels `[h, w]`, shares grown `[o, h, w]`, embedding `[q, d]`, references `[r, d]`) of every frame after the first,
    whose mask `first` has the labels 0…o − 1 and no void. Every cell of the first frame is a reference."""
    references = own = None
    with torch.no_grad():
        for n, frame in enumerate(frames):
            x = pictures(frame[None], scaling, dtype, size)
            seen = (x.shape[2], x.shape[3])
            grid = grid_size(seen, net.geometry)
            e = net(x, positions(net.position, grid, seen, [n if numbers is None else numbers[n]], dtype))[0]
            e = e.flatten(1).T
            if references is None or own is None:
                references, own = e, cell_labels(first, grid, half_pixel)
                continue
            shares = vote(nearest(e, references, k)[1], own, int(first.max()) + 1, majority, dtype)
            grown = grow(shares, grid, frame.shape[:2], half_pixel)
            yield grown.argmax(0), grown, e, references

"""The other sides of the benchmark, all optional: PyTorch, FAISS, scikit-learn, OpenCV. `Missing` says why one is not here.

Each function prepares a peer and returns a call that is finished when it returns. The networks are those of
tests/torch_reference.py with the same weights as ours; what they lack (group normalisation, several taps) is put in here.
Axes as in PyTorch: `n` image, `c` channel, `y x` grid; `q` query, `r` reference, `k` neighbour, `o` label, `d` embedding.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import jax
import numpy as np

from experiments.floor import Kind
from experiments.side_by_side import Missing
from pmljax.model import Model
from pmljax.preprocess import BGR_MEAN, IMAGENET_MEAN, IMAGENET_STD

TORCH, CHANNELS_LAST, COMPILED = "PyTorch", "PyTorch channels-last", "PyTorch compiled"
FAISS, BALL_TREE, OPENCV = "FAISS IndexFlatL2", "scikit-learn BallTree", "OpenCV"
INSTALL = {
    "torch": "pip install '.[torch]'",
    "faiss": "pip install faiss-cpu",
    "sklearn": "pip install scikit-learn",
    "cv2": "Debian's python3-opencv",
}


def need(module: str) -> Any:
    """The module, or Missing with what would install it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of libraries that are not ours
            return import_module(module)
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError) and error.name == module.split(".")[0]:
            raise Missing(f"not installed ({INSTALL.get(module.split('.')[0], module)})") from None
        raise Missing(f"cannot be imported ({error})") from None


def versions() -> dict[str, str]:
    """Of the peers that are installed."""
    found = {}
    for name in ("torch", "faiss-cpu", "faiss-gpu", "scikit-learn", "opencv-contrib-python"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


# PyTorch


def torch_device() -> tuple[Any, str]:
    """(torch, the device like JAX's)."""
    torch, backend = need("torch"), jax.default_backend()
    if backend == "cpu":
        return torch, "cpu"
    if backend == "gpu" and torch.cuda.is_available():
        return torch, "cuda"
    raise Missing(f"this PyTorch has no {backend.upper()}")


def finish(torch: Any, device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def torch_product(n: int, kind: Kind) -> Callable[[], object]:
    torch, device = torch_device()
    a, b = (
        torch.randn(n, n, device=device, dtype=torch.bfloat16 if kind == "bfloat16" else torch.float32)
        for _ in range(2)
    )

    def call() -> None:
        before = torch.backends.cuda.matmul.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = kind == "float32"
        with torch.inference_mode():
            torch.mm(a, b)
        finish(torch, device)
        torch.backends.cuda.matmul.allow_tf32 = before

    return call


def torch_net(model: Model) -> Any:
    """The reference's network with the model's weights, on the CPU, contiguous, float32."""
    torch = need("torch")
    from tests import torch_reference as reference

    c, params = model.config, jax.tree.map(np.asarray, model.variables["params"])
    head = {f"conv{i}": layer for i, layer in enumerate(c.head, 1)}
    net = reference.Net(c.depth, c.width, c.geometry, head, c.position).eval()
    first = params["head"]["conv1"]["kernel"].shape
    net.embedding_head["conv1"] = torch.nn.Conv2d(first[2], first[3], first[0], padding=first[0] // 2)
    stats = model.variables.get("batch_stats")
    if c.norm == "group":  # loaded as batch normalisation first
        stats = _neutral(params)
    net = reference.load(net, {"params": params, "batch_stats": stats})
    if c.norm == "group":
        from pmljax.resnet import GROUPS

        for block in list(net.modules()):
            for name, norm in list(block.named_children()):
                if isinstance(norm, torch.nn.BatchNorm2d):
                    grouped = torch.nn.GroupNorm(GROUPS, norm.num_features, norm.eps)
                    grouped.weight, grouped.bias = norm.weight, norm.bias
                    setattr(block, name, grouped)
    return net


def _neutral(params: Any) -> Any:
    """The statistics of batch normalisation that change nothing, by the norms' names."""
    return {
        name: {"mean": np.zeros_like(p["scale"]), "var": np.ones_like(p["scale"])} if "scale" in p else _neutral(p)
        for name, p in params.items()
        if "kernel" not in p
    }


def torch_embed(
    model: Model, size: tuple[int, int], dtype: str, form: str = CHANNELS_LAST
) -> Callable[[np.ndarray], Any]:
    """frames uint8 `[n, h, w, 3]` in the host's memory → embeddings `[n, d, y, x]` float32 on the device.

    form: TORCH (contiguous), CHANNELS_LAST, or COMPILED: that by `torch.compile`. `size`: (h, w), of every frame."""
    torch, device = torch_device()
    if form == COMPILED and device == "cpu":
        raise Missing("compared on a GPU only")
    from tests import torch_reference as reference

    c, torch_dtype = model.config, getattr(torch, dtype)
    layout = torch.contiguous_format if form == TORCH else torch.channels_last
    net = torch_net(model).to(device, torch_dtype, memory_format=layout)
    mean, std = (BGR_MEAN, (1.0, 1.0, 1.0)) if c.scaling == "bgr" else (IMAGENET_MEAN, IMAGENET_STD)
    if c.scaling not in ("bgr", "imagenet"):
        raise Missing(f"does not scale pictures as {c.scaling}")
    mean, std = (torch.tensor(v, device=device)[None, :, None, None] for v in (mean, std))
    grid = reference.grid_size(size, c.geometry)
    places = reference.positions(c.position, grid, size, [0.0], torch.float32)
    places = None if places is None else places.to(device, torch_dtype)

    def run(frames: Any) -> Any:
        x = frames.permute(0, 3, 1, 2).float()  # a picture's channels are last as it comes
        x = (x.flip(1) if c.scaling == "bgr" else x / 255) - mean
        stages = net.trunk((x / std).to(torch_dtype, memory_format=layout))
        taps = [stages[f"stage{tap}"] for tap in c.taps]
        x = torch.cat(taps if places is None else [*taps, places.expand(len(frames), -1, -1, -1)], 1)
        for i, layer in enumerate(net.embedding_head.values()):
            x = layer(torch.relu(x) if i else x)
        x = x.float()
        return x / x.norm(dim=1, keepdim=True)

    forward = torch.compile(run) if form == COMPILED else run

    def call(frames: np.ndarray) -> Any:
        with torch.inference_mode():
            out = forward(torch.from_numpy(frames).to(device))
        finish(torch, device)
        return out

    return call


def torch_nearest(queries: np.ndarray, references: np.ndarray, k: int, shares: np.ndarray | None = None) -> Any:
    """A call: matrix product and topk, tile by tile of queries, then the vote where `shares` `[r, o]`, one-hot, are given.

    All large results go to the same memory: where a process keeps what it frees (`keep_memory`), fresh ones, of one tile after
    the other, took 20 GB at 658,800 references.
    """
    torch, device = torch_device()
    from tests import torch_reference as reference

    q, r = (torch.from_numpy(x).to(device) for x in (queries, references))
    own = (r**2).sum(-1)[None]
    labels = None if shares is None else torch.from_numpy(shares.argmax(-1)).to(device)
    room = 2**28 if device == "cpu" else 2**32  # bytes of a tile's distances
    tile = int(np.clip(room // (4 * len(r)), 1, len(q)))
    distances = torch.empty(tile, len(r), device=device)
    nearest, rows = torch.empty(len(q), k, device=device), torch.empty(len(q), k, dtype=torch.int64, device=device)

    def call() -> Any:
        with torch.inference_mode():
            for part, values, found in zip(q.split(tile), nearest.split(tile), rows.split(tile), strict=True):
                here = torch.addmm(own, part, r.T, alpha=-2, out=distances[: len(part)])
                torch.topk(here, k, largest=False, out=(values, found))
            out = rows if labels is None or shares is None else reference.vote(rows, labels, shares.shape[1])
        finish(torch, device)
        return out

    return call


def torch_frame(model: Model, first: np.ndarray, labels: np.ndarray, dtype: str) -> Callable[[np.ndarray], Any]:
    """frame uint8 `[h, w, 3]` → labels `[h, w]` in the host's memory: the preset `plain`, from the first frame and its ids
    0…objects."""
    torch, device = torch_device()
    from tests import torch_reference as reference

    size = (first.shape[0], first.shape[1])
    embed, grid = torch_embed(model, size, dtype), reference.grid_size(size, model.config.geometry)
    half, count = model.config.half_pixel, int(labels.max()) + 1
    references = embed(first[None])[0].flatten(1).T
    own = reference.cell_labels(labels, grid, half).to(device)

    def call(frame: np.ndarray) -> Any:
        with torch.inference_mode(), torch.device(device):
            rows = reference.nearest(embed(frame[None])[0].flatten(1).T, references, 5)[1]
            grown = reference.grow(reference.vote(rows, own, count), grid, size, half)
            return grown.argmax(0).to(torch.uint8).cpu()

    return call


def torch_step(
    variables: Any, config: Any, pictures: np.ndarray, cells: np.ndarray, anchors: np.ndarray, form: str
) -> Callable[[], float]:
    """One update of a network with batch normalisation, frozen, on the same crops: the loss.

    config: a TrainConfig.  pictures: float32 `[n, h, w, 3]`, as the network sees them.  cells: labels `[b, t, y·x]`, n = b·t.
    anchors: cells of each clip's first frame, `[b, a]`."""
    torch, device = torch_device()
    from tests import torch_reference as reference

    layout = torch.contiguous_format if form == TORCH else torch.channels_last
    net = torch_net(Model(variables, config.model)).to(device, memory_format=layout)
    optimiser = reference.make_optimiser(net, config.momentum, config.decay, config.head)
    x = torch.from_numpy(pictures.transpose(0, 3, 1, 2).copy()).to(device, memory_format=layout)
    of, chosen = (torch.from_numpy(v.astype(np.int64)).to(device) for v in (cells, anchors))

    def loss(embedding: Any) -> Any:
        by_clip = embedding.reshape(*of.shape[:2], *embedding.shape[1:])
        return reference.clip_losses(by_clip, chosen, of, margin=config.margin)

    def call() -> float:
        with torch.device(device):
            return reference.train_step(net, optimiser, config.rate, x, None, loss)  # its .item() waits

    return call


# The others, all on the CPU


def on_cpu(name: str) -> str:
    """What a peer that knows no other device is called beside us."""
    return name if jax.default_backend() == "cpu" else f"{name} (on the CPU)"


def faiss_nearest(queries: np.ndarray, references: np.ndarray, k: int, shares: np.ndarray | None = None) -> Any:
    """A call: rows `[q, k]`, or the votes `[q, o]`. The index is filled before."""
    index = need("faiss").IndexFlatL2(references.shape[1])
    index.add(references)
    if shares is None:
        return lambda: index.search(queries, k)[1]
    return lambda: shares[index.search(queries, k)[1]].mean(1)


def ball_tree_nearest(queries: np.ndarray, references: np.ndarray, k: int) -> Any:
    """A call: rows `[q, k]`. The tree is built before."""
    tree = need("sklearn.neighbors").BallTree(references)
    return lambda: tree.query(queries, k)[1]


def opencv_solve(frame: np.ndarray, target: np.ndarray, config: Any) -> Callable[[], Any]:
    """A call: OpenCV's `fastBilateralSolverFilter` of the frame, one channel of the target `[h, w, o]` after the other."""
    cv2 = need("cv2")
    bgr, planes = np.ascontiguousarray(frame[..., ::-1]), [np.ascontiguousarray(t) for t in np.moveaxis(target, -1, 0)]
    ones = np.ones(frame.shape[:2], np.float32)
    how = (config.sigma_space, config.sigma_luma, config.sigma_chroma, config.smoothness, config.steps)
    try:
        cv2.ximgproc.fastBilateralSolverFilter(bgr, planes[0], ones, None, *how)
    except (AttributeError, cv2.error):
        raise Missing("its build has no fastBilateralSolverFilter, or no Eigen for it") from None
    return lambda: [cv2.ximgproc.fastBilateralSolverFilter(bgr, p, ones, None, *how) for p in planes]

"""The benchmark's rows of single compiled calls: embedding, retrieval, solver, frame, training step; each beside its peers.

Every group is a generator of rows, so that what is measured is there before the next begins. Frames cross from the host's
memory on both sides; references lie on the device.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import peers
from experiments.floor import Limits, floor, operations, product_operations
from experiments.frame_speed import stripes
from experiments.made_inputs import embeddings, training_clips
from experiments.side_by_side import Row, attempt, compare, compiled
from experiments.solver_speed import OBJECTS as CHANNELS
from pmljax.bilateral import solve
from pmljax.bilateral_grid import DEFAULT, find_vertices
from pmljax.config import ModelConfig
from pmljax.labelling import segment_frame
from pmljax.memory import SPARSE, cells_kept
from pmljax.model import Model, abstract, create, embed, with_dtype
from pmljax.preprocess import preprocess
from pmljax.presets import Preset, preset_of
from pmljax.retrieval import nearest, vote
from pmljax.sampling import Augment, augment, cell_labels, draw_anchors
from pmljax.segment import start, step
from pmljax.train import TrainConfig, create_state, train_step
from pmljax.weights import load

NETWORKS = {"ResNet-101 `paper`": "random:paper", "ResNet-50 `base`": "random:base"}


@dataclass(frozen=True)
class Setting:
    """What all rows are measured with.

    frame: uint8 `[h, w, 3]`.  model: of the rows of `small`.  heavy: on a CPU too, what takes very long there.
    only: a regular expression; rows of single calls in whose title it is not found are left out.
    device, video, mask: as in the commands, for processes of their own."""

    limits: Limits
    frame: np.ndarray
    rounds: int = 7
    quick: bool = False
    heavy: bool = False
    model: str = "small"
    only: str = ""
    device: str = "auto"
    video: Path | None = None
    mask: Path | None = None

    @property
    def size(self) -> tuple[int, int]:
        return self.frame.shape[0], self.frame.shape[1]

    @property
    def title(self) -> str:
        """What the rows call the model that `load` gives."""
        return "a toy" if self.quick else f"`{Path(self.model).name}`"

    def load(self, dtype: str = "float32") -> Model:
        """The model of the rows of `small`; quick: a toy, as compiling is most of a short run."""
        if self.quick:
            toy = ModelConfig("toy", 10, 8, norm="group", taps=(2, 3, 4), head=((1, 16), (1, 8)))
            return with_dtype(create(toy), dtype)
        return load(self.model, dtype=dtype)

    def wants(self, what: str, precision: str) -> bool:
        """Whether a row of that name is measured."""
        return bool(re.search(self.only, f"{what} ({precision})"))

    @property
    def accelerator(self) -> bool:
        return jax.default_backend() != "cpu"


def bytes_of(*trees: Any) -> int:
    return sum(x.nbytes for x in jax.tree.leaves(trees))


# Embedding


def embed_operations(config: ModelConfig, batch: int, size: tuple[int, int]) -> int:
    """Of `embed` of `batch` frames of `size` (h, w)."""
    frames, numbers = (
        jax.ShapeDtypeStruct(shape, t) for shape, t in (((batch, *size, 3), jnp.uint8), ((batch,), jnp.float32))
    )
    return operations(embed, abstract(config), frames, numbers)


def embedding(s: Setting) -> Iterator[Row]:
    networks = {s.title: ""} if s.quick else {**NETWORKS, s.title: ""}
    for (title, name), batch in ((n, b) for n in networks.items() for b in ((1,) if s.quick else (1, 8))):
        if batch == 8 and name == "random:paper" and not (s.heavy or s.accelerator):
            continue
        for dtype in ("float32", "bfloat16"):
            what = "embedding, {}, {}×{}, batch {}".format(title, *s.size, batch)
            if not s.wants(what, dtype):
                continue
            model = load(name, dtype=dtype) if name else s.load(dtype)
            frames = np.stack([np.roll(s.frame, (5 * i, 9 * i), (0, 1)) for i in range(batch)])
            numbers = np.zeros(batch, np.float32)
            run = compiled(jax.jit(embed), model, frames, numbers)
            sides, note = {}, ""
            result = np.asarray(run.call(model, frames, numbers))
            for form in (peers.TORCH, peers.CHANNELS_LAST, *((peers.COMPILED,) if s.accelerator else ())):
                call = attempt(peers.torch_embed, model, s.size, dtype, form)
                if not isinstance(call, str):
                    theirs = call(frames).permute(0, 2, 3, 1).cpu().numpy()
                    note = f"largest difference from PyTorch's {np.abs(theirs - result).max():.1e}"
                    call = partial(call, frames)
                sides[form] = call
            least = floor(
                s.limits,
                dtype,
                embed_operations(model.config, batch, s.size),
                bytes_of(frames, model.variables["params"], result),
            )
            options = {"floor": least, "memory": run.memory, "compile": run.seconds, "note": note}
            yield compare(
                "embedding",
                what,
                dtype,
                lambda r=run, m=model, f=frames, n=numbers: r.call(m, f, n),
                sides,
                s.rounds,
                **options,
            )


# Retrieval


def disagreement(
    queries: np.ndarray, references: np.ndarray, ours: np.ndarray, theirs: np.ndarray
) -> tuple[int, float]:
    """(in how many places the rows `[q, k]` differ, the largest difference there of their distances, in float64, as a
    share of 1e-5·(‖q‖² + ‖r‖²): up to 1 it is rounding)."""
    differ = ours != theirs
    if not differ.any():
        return 0, 0.0
    which = np.nonzero(differ)
    q = queries[which[0]].astype(np.float64)
    a, b = (references[rows[which]].astype(np.float64) for rows in (ours, theirs))
    away = np.abs(((q - a) ** 2).sum(-1) - ((q - b) ** 2).sum(-1))
    return int(differ.sum()), float((away / (1e-5 * ((q**2).sum(-1) + (b**2).sum(-1)))).max())


def exact_rows(queries: np.ndarray, references: np.ndarray, k: int) -> np.ndarray:
    """int `[q, k]`, in float64, one query after the other; of equal distances the lower row."""
    own = (references.astype(np.float64) ** 2).sum(-1)
    each = [np.argsort(own - 2 * (references @ q.astype(np.float64)), kind="stable")[:k] for q in queries]
    return np.stack(each)


def retrieval(s: Setting) -> Iterator[Row]:
    grid, many = ((6, 11), (1,)) if s.quick else ((61, 108), (1, 10, 100))
    kind = "float32 highest"
    every = embeddings(max(many) + 1, grid)
    n = grid[0] * grid[1]
    queries, every = every[-n:], every[:-n]  # the last frame's, as of a video
    on_device = jnp.asarray(queries)
    for count in many:
        r = every[: count * n]
        there = jnp.asarray(r)
        least = product_operations(n, r.shape[1], len(r))
        for k in (1, 5, 10):
            what = f"nearest, {n:,} × {len(r):,}, D {r.shape[1]}, k {k}"
            if not s.wants(what, kind):
                continue
            run = compiled(nearest, on_device, there, k=k)
            rows = np.asarray(run.call(on_device, there).rows)
            sides = {
                peers.on_cpu(peers.FAISS): attempt(peers.faiss_nearest, queries, r, k),
                peers.TORCH: attempt(peers.torch_nearest, queries, r, k),
                peers.on_cpu(peers.BALL_TREE): attempt(peers.ball_tree_nearest, queries, r, k)
                if count <= (10 if s.heavy else 1)
                else "takes minutes a call where there are more references",
            }
            exact, note = checked(queries, r, rows, sides)
            limit = floor(s.limits, kind, least, bytes_of(queries, r, rows, rows))
            options = {"floor": limit, "memory": run.memory, "compile": run.seconds, "note": note, "exact": exact}
            yield compare(
                "retrieval", what, kind, lambda c=run.call, t=there: c(on_device, t), sides, s.rounds, **options
            )
        for objects in (1, 10):
            what = f"nearest and vote, {n:,} × {len(r):,}, k 5, {objects} object{'s' * (objects > 1)}"
            if not s.wants(what, kind):
                continue
            shares = np.eye(objects + 1, dtype=np.float32)[np.arange(len(r)) * 7 // 5 % (objects + 1)]
            both = jax.jit(lambda q, r, s: vote(nearest(q, r, k=5), s))
            given = (on_device, there, jnp.asarray(shares))
            run = compiled(both, *given)
            result = np.asarray(run.call(*given))
            sides = {
                peers.on_cpu(peers.FAISS): attempt(peers.faiss_nearest, queries, r, 5, shares),
                peers.TORCH: attempt(peers.torch_nearest, queries, r, 5, shares),
            }
            differ = [(np.abs(np.asarray(c()) - result) > 1e-3).any(-1).mean() for c in sides.values() if callable(c)]
            note = f"votes differ for {max(differ):.1%} of the queries at most" if differ else ""
            limit = floor(s.limits, kind, least, bytes_of(queries, r, shares, result))
            options = {"floor": limit, "memory": run.memory, "compile": run.seconds, "note": note}
            yield compare("retrieval", what, kind, lambda c=run.call, g=given: c(*g), sides, s.rounds, **options)


def checked(queries: np.ndarray, r: np.ndarray, rows: np.ndarray, sides: dict[str, Any]) -> tuple[bool, str]:
    """Whether `rows` `[q, k]` are the nearest, by the first peer that is here, else by float64 for some queries; in words."""
    name = next((name for name, call in sides.items() if callable(call)), None)
    if name:
        theirs = sides[name]()
        theirs = np.asarray(theirs.cpu() if hasattr(theirs, "cpu") else theirs)
        some = slice(None)
    else:
        some = slice(None, None, max(len(queries) // 64, 1))
        name, theirs = "float64", exact_rows(queries[some], r, rows.shape[1])
    differ, worst = disagreement(queries[some], r, rows[some], theirs)
    how = "" if not differ else ", all within rounding" if worst <= 1 else f", by up to {worst:.0f} times rounding"
    return worst <= 1, f"{differ:,} of {theirs.size:,} rows differ from {name}'s{how}"


# Solver


def solver_bytes(pixels: int, vertices: int, channels: int, steps: int) -> int:
    """What the steps move at least: per vertex ten neighbours, three weights, and of each channel three vectors read and
    written; per pixel its colour once, and each channel in and out."""
    return steps * vertices * 4 * (10 + 3 + 6 * channels) + pixels * (3 + 4 + 8 * channels)


def solver(s: Setting) -> Iterator[Row]:
    h, w = s.size
    image, ones = jnp.asarray(s.frame), jnp.ones((h, w), jnp.float32)
    vertices = int(find_vertices(image).count)
    labels = stripes((h, w), max(CHANNELS) - 1)
    coarse = np.kron(labels[::8, ::8], np.ones((8, 8), np.uint8))[:h, :w]
    for channels in CHANNELS[:2] if s.quick else CHANNELS:
        what = f"solver, {h}×{w}, {channels} channel{'s' * (channels > 1)}"
        if not s.wants(what, "float32"):
            continue
        target = (coarse[..., None] == np.arange(channels)).astype(np.float32)
        given = (image, jnp.asarray(target), ones)
        run = compiled(solve, *given)
        sides = {peers.on_cpu(peers.OPENCV): attempt(peers.opencv_solve, s.frame, target, DEFAULT)}
        limit = floor(s.limits, "float32", 0, solver_bytes(h * w, vertices, channels, DEFAULT.steps))
        options = {"floor": limit, "memory": run.memory, "compile": run.seconds, "note": f"{vertices:,} vertices"}
        yield compare("solver", what, "float32", lambda c=run.call, g=given: c(*g), sides, s.rounds, **options)


# A frame


def frame_operations(config: ModelConfig, size: tuple[int, int], preset: Preset) -> int:
    """Of a frame's network and its distances: to one marked frame, to the cells of the memory and of that frame's views,
    and in the window of each frame of the ring."""
    size = config.seen(size, preset.size)
    y, x = config.grid(size)
    window = y * x if preset.adaptation.window is None else min((2 * preset.adaptation.window + 1) ** 2, y * x)
    compared = y * x + preset.adaptation.remembered * cells_kept(y * x) + preset.adaptation.frames * window
    embedded = embed_operations(config, 1, size) * (2 if preset.flip else 1)
    return embedded + product_operations(y * x, config.dimensions, compared)


def full_state(model: Model, frame: np.ndarray, objects: int, preset: Preset) -> Any:
    """References as in the midst of a stream: every frame of the ring and of the memory is there."""
    state, adaptation = start(model, frame, stripes(frame.shape[:2], objects), preset=preset), preset.adaptation
    for i in range(max(adaptation.frames, adaptation.memory)):
        state, _ = step(model, state._replace(index=(i + 1) * SPARSE * adaptation.every), frame)
    return state.references


def frame(s: Setting) -> Iterator[Row]:
    presets = ("plain",) if s.quick else ("plain", "default", "best", "paper")
    wanted: list[tuple[str, str, str, int, Any]] = [
        (s.title, "", preset, objects, "float32") for preset in presets for objects in (1, 10)
    ]
    if s.accelerator or s.heavy:
        wanted += [("ResNet-101 `paper`", "random:paper", "plain", 1, dtype) for dtype in ("float32", "bfloat16")]
    number, index = np.float32(9), np.int32(9)
    for title, name, preset_name, objects, dtype in wanted:
        what = f"a frame, {title}, {preset_name}, {objects} object{'s' * (objects > 1)}"
        if not s.wants(what, dtype):
            continue
        model = load(name, dtype=dtype) if name else s.load(dtype)
        preset = preset_of(model.config, preset_name)
        if preset_name == "plain":  # PyTorch's side has the marked frame as it is, alone
            preset = Preset(size=preset.size)
        references = full_state(model, s.frame, objects, preset)
        moved = np.roll(s.frame, (3, 5), (0, 1))
        run = compiled(segment_frame, model, references, moved, number, index, preset=preset)

        def ours(run: Any = run, given: Any = (model, references, moved, number, index)) -> np.ndarray:
            return np.asarray(run.call(*given).labels)  # uint8 in, uint8 out

        call = "no peer does the same"
        note = ""
        if preset_name == "plain":
            call = attempt(peers.torch_frame, model, s.frame, stripes(s.size, objects), dtype)
            if not isinstance(call, str):
                note = f"{(call(moved).numpy() != ours()).mean():.2%} of the labels differ from PyTorch's"
                call = partial(call, moved)
        options = {"floor": floor(s.limits, dtype, frame_operations(model.config, s.size, preset))}
        options |= {"memory": run.memory, "compile": run.seconds, "note": note}
        yield compare("frame", what, dtype, ours, {peers.CHANNELS_LAST: call}, s.rounds, **options)


# A training step


def step_operations(model: ModelConfig, frames: int, crop: int) -> int:
    """Forward, and as much for each of the two gradients, but for the one to the pictures."""
    forward = embed_operations(model, frames, (crop, crop))
    out = (crop - 1) // 2 + 1
    return 3 * forward - 2 * frames * out**2 * model.width * 7 * 7 * 3


def training_step(s: Setting) -> Iterator[Row]:
    crop = 65 if s.quick else 321
    for depth in (10,) if s.quick else (50, 101):
        what = f"a training step, ResNet-{depth}, 3 crops of {crop}"
        if not s.wants(what, "float32"):
            continue
        model = ModelConfig("speed", depth, 8 if s.quick else 64, head=((1, 128),))
        config = TrainConfig(model, Augment(crop=crop, colour=0.0), batch=1, rate=1e-4, head=1.0)
        clips, key = training_clips(1, s.size), jax.random.key(0)
        state = create_state(config)
        given = jax.tree.map(np.array, state.variables)  # the state's own buffers are given away
        # What our step draws, for the other side.
        keys = jax.random.split(key)
        views = jax.vmap(augment, (None, 0, None))(keys[0], clips, config.augment)
        cells = jax.vmap(jax.vmap(partial(cell_labels, grid=model.grid((crop, crop)))))(views.labels)
        cells = np.asarray(cells).reshape(1, 3, -1)
        anchors = jax.vmap(lambda n, x, k=keys[1]: draw_anchors(jax.random.fold_in(k, n), x, 512)[0])(
            clips.number, jnp.asarray(cells[:, 0])
        )
        pictures = np.asarray(preprocess(model, views.frames.reshape(-1, crop, crop, 3)))
        sides = {
            form: attempt(peers.torch_step, given, config, pictures, cells, np.asarray(anchors), form)
            for form in (peers.TORCH, peers.CHANNELS_LAST)
        }
        run = compiled(jax.jit(partial(train_step, config), donate_argnums=0), state, clips, key)
        held = [state]

        def ours(run: Any = run, held: list[Any] = held, clips: Any = clips, key: Any = key) -> float:
            held[0], metrics = run.call(held[0], clips, key)
            return float(metrics["loss"])

        losses = {name: call() for name, call in {"ours": ours, **sides}.items() if callable(call)}
        note = "first loss: " + ", ".join(f"{name} {loss:.5f}" for name, loss in losses.items())
        limit = floor(s.limits, "float32", step_operations(model, 3, crop))
        options = {"floor": limit, "memory": run.memory, "compile": run.seconds, "note": note}
        yield compare("step", what, "float32", ours, sides, s.rounds, **options)

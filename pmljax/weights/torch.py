"""Weights from PyTorch and back: what PyTorch's code computes from a file, the model made of it computes too.

A file's layout is recognised from names and shapes (`layouts`), every tensor given
its place and everything without one listed. `state_dict` is the way back: what came in goes out bit for bit, with the
counters and the classifier that were kept beside the model. Reading and writing the files: `torch_files`.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import PRNGKeyArray

from pmljax.config import ModelConfig
from pmljax.errors import InputError
from pmljax.files import temporary_name, write_file
from pmljax.model import Head, Model
from pmljax.weights.bundled import shapes_of, write
from pmljax.weights.layouts import COUNTER, LAYOUTS, Layout, counters, measure, model_config, names, recognise
from pmljax.weights.torch_files import read_safetensors

MODEL, REST, RECORD = "model.safetensors", "rest.safetensors", "import.json"  # of an import's folder
PARALLEL = "module."  # put before every name by DataParallel


# In


@dataclass(frozen=True)
class Match:
    """What became of every tensor and every variable. taken: (our variable, their tensor).  fresh: variables that no such
    file has.  loose: those it may lack, zero.  missing: those it should have.  left: tensors that may be left over.
    unplaced: tensors that found no place.  wrong: tensors of another shape or kind, in words.  parallel: whether every
    name began with `module.`."""

    layout: Layout
    config: ModelConfig
    taken: tuple[tuple[str, str], ...]
    fresh: tuple[str, ...]
    loose: tuple[str, ...]
    missing: tuple[str, ...]
    left: tuple[str, ...]
    unplaced: tuple[str, ...]
    wrong: tuple[str, ...]
    parallel: bool

    def text(self) -> str:
        """All of it, to print."""
        c = self.config
        position = c.position if self.layout.head else f"{c.position} of a new head"
        counted = [name for name in self.left if name.endswith(COUNTER)]
        other = [name for name in self.left if not name.endswith(COUNTER)]
        lines = [
            f"layout: {self.layout.name} ({self.layout.about}{', saved by DataParallel' if self.parallel else ''})",
            f"network: ResNet-{c.depth}, {c.geometry} geometry, stride {c.stride}, input {c.scaling}, position {position}",
            f"taken: {len(self.taken)} tensors",
        ]
        lists = (
            ("fresh, from random weights", self.fresh),
            ("absent, zero", self.loose),
            ("found no weight for", self.missing),
            ("found no place for", self.unplaced),
            ("of another shape", self.wrong),
            ("left over, as expected", ([f"{len(counted)} × {COUNTER}"] if counted else []) + other),
        )
        return "\n".join([*lines, *(f"{what}: {', '.join(which)}" for what, which in lists if which)])

    def refusal(self) -> str | None:
        """Why the file cannot be taken, in one line; None where it can."""
        if self.wrong:
            return f"{_some(self.wrong)}; as layout {self.layout.name} of ResNet-{self.config.depth} has them"
        if not self.missing and not self.unplaced:
            return None
        parts = [f"found no weight for {_some(self.missing)}"] if self.missing else []
        parts += [f"found no place for {_some(self.unplaced)}"] if self.unplaced else []
        hint = "; was a tensor renamed, or is --layout another?" if self.missing and self.unplaced else ""
        return f"{' and '.join(parts)}; expected the names of layout {self.layout.name}{hint}"


def _some(words: tuple[str, ...], shown: int = 12) -> str:
    return ", ".join(words[:shown]) + (f" and {len(words) - shown} more" if len(words) > shown else "")


def match(tensors: Mapping[str, np.ndarray], layout: str | None = None) -> Match:
    """Give every tensor its place. layout: a name of LAYOUTS; None: recognised from names and shapes."""
    if layout is not None and layout not in LAYOUTS:
        raise InputError(f"layout {layout}: expected one of {', '.join(LAYOUTS)}")
    parallel = bool(tensors) and all(name.startswith(PARALLEL) for name in tensors)
    tensors = stripped(tensors)
    shapes = {name: x.shape for name, x in tensors.items()}
    chosen = LAYOUTS[layout] if layout else recognise(shapes)
    depth, width = measure(chosen, shapes)
    config = model_config(chosen, depth, width)
    expected = shapes_of(config)
    known = names(chosen, depth)
    taken = tuple((ours, theirs) for ours, theirs in known.items() if theirs in tensors)
    wrong = []
    for ours, theirs in taken:
        shape = _their_shape(expected[ours])
        if shapes[theirs] != shape:
            wrong.append(f"{theirs}: found {shapes[theirs]}, expected {shape}")
        elif tensors[theirs].dtype.kind != "f":
            wrong.append(f"{theirs}: found {tensors[theirs].dtype}, expected floating point")
    over = [name for name in tensors if name not in set(known.values())]
    counts = set(counters(chosen, depth))
    left = tuple(name for name in over if name in counts or re.fullmatch(chosen.left, name))
    absent = [(ours, theirs) for ours, theirs in known.items() if theirs not in tensors]
    return Match(
        chosen,
        config,
        taken,
        fresh=tuple(ours for ours in expected if ours not in known),
        loose=tuple(theirs for _, theirs in absent if theirs in chosen.loose),
        missing=tuple(theirs for _, theirs in absent if theirs not in chosen.loose),
        left=left,
        unplaced=tuple(name for name in over if name not in set(left)),
        wrong=tuple(wrong),
        parallel=parallel,
    )


def stripped(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The tensors without DataParallel's prefix."""
    parallel = all(name.startswith(PARALLEL) for name in tensors)
    return {name.removeprefix(PARALLEL) if parallel else name: x for name, x in tensors.items()}


def to_model(tensors: Mapping[str, np.ndarray], found: Match, key: PRNGKeyArray) -> Model:
    """The model of a match; InputError if it is refused, or a weight is not finite. key: of a head that no file has."""
    if reason := found.refusal():
        raise InputError(reason)
    tensors = stripped(tensors)
    shapes = shapes_of(found.config)
    new: dict[str, Any] = {}
    for ours, theirs in found.taken:
        with np.errstate(over="ignore"):
            value = np.asarray(tensors[theirs], np.float32)
        if not np.isfinite(value).all():
            beyond = np.isfinite(tensors[theirs]).all()
            what = "numbers that float32 does not hold" if beyond else "NaN or infinity"
            raise InputError(f"{theirs}: found {what}, expected finite weights: the training diverged, maybe")
        if ours.endswith("/var") and (value < 0).any():
            raise InputError(f"{theirs}: found a variance below 0, expected 0 or more")
        new[ours] = jax.device_put(value.transpose(2, 3, 1, 0) if value.ndim == 4 else value)
    if found.fresh:
        c = found.config
        inside = shapes["params/head/conv1/kernel"][2]
        head = Head(c.head, jnp.dtype(c.dtype)).init(key, jnp.zeros((1, 1, 1, inside)))
        new |= {f"params/head/{k}": v for k, v in flatten_dict(head["params"], sep="/").items()}  # pyright: ignore
    new |= {name: jax.device_put(np.zeros(shape, np.float32)) for name, shape in shapes.items() if name not in new}
    return Model(unflatten_dict(new, sep="/"), found.config)


def _their_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (shape[3], shape[2], shape[0], shape[1]) if len(shape) == 4 else tuple(shape)


# A folder of an import: what `--model` of every command takes


def write_import(out: Path, model: Model, tensors: Mapping[str, np.ndarray], found: Match, source: str) -> None:
    """Write OUT/model.safetensors, and beside it what is not the model's: counters and classifier, and the report."""
    from safetensors.numpy import save

    out.mkdir(parents=True, exist_ok=True)
    plain = stripped(tensors)
    lists = {f.name: getattr(found, f.name) for f in dataclasses.fields(found) if f.name not in ("layout", "config")}
    record = {"source": source, "layout": found.layout.name, **lists}
    # The model gets its name last: where it is, all is. An import that was there stays until the new one is on the disk.
    new = temporary_name(out / MODEL)
    try:
        write(new, model, dtype=np.float32)
        rest = save({name: np.asarray(plain[name], order="C") for name in found.left})
        write_file(temporary_name(out / REST), rest)
        (out / MODEL).unlink(missing_ok=True)
        write_file(out / RECORD, json.dumps(record, indent=1).encode())
        os.replace(temporary_name(out / REST), out / REST)
        os.replace(new, out / MODEL)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(out / MODEL)) from None
    finally:
        for unfinished in (new, temporary_name(out / REST)):
            unfinished.unlink(missing_ok=True)


@dataclass(frozen=True)
class Kept:
    """What an import kept beside its model: the tensors left over, of a layout."""

    layout: str
    tensors: dict[str, np.ndarray]


def read_kept(path: Path) -> Kept | None:
    """What lies beside an imported model (its folder, or model.safetensors in it); None where it is no import."""
    if not path.exists():  # no file: a model's name
        return None
    folder = path if path.is_dir() else path.parent
    if not (folder / MODEL).is_file() or not (folder / RECORD).is_file() or (path.is_file() and path.name != MODEL):
        return None
    try:
        layout = json.loads((folder / RECORD).read_text())["layout"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder / RECORD}: cannot be read ({error!r}); import the file again") from None
    if not (folder / REST).is_file():
        raise InputError(f"{folder / REST}: no such file; expected what the import kept beside the model: import again")
    return Kept(layout, read_safetensors(folder / REST))


# Out


def state_dict(model: Model, layout: str, kept: Kept | None = None) -> dict[str, np.ndarray]:
    """A model's weights under the names of a layout, as its module's state_dict has them; InputError if they do not fit.

    kept: of the import that the model came from; without it (or from another layout) counters are 0 and there is no
    classifier.
    """
    if layout not in LAYOUTS:
        raise InputError(f"layout {layout}: expected one of {', '.join(LAYOUTS)}")
    c, chosen = model.config, LAYOUTS[layout]
    if not c.depth or c.norm != "batch":
        kind = "no network" if not c.depth else f"{c.norm} normalisation"
        raise InputError(f"model {c.name}: found {kind}, expected a ResNet with batch normalisation, as {layout} has")
    like = model_config(chosen, c.depth, c.width)
    if c.geometry != like.geometry:
        raise InputError(
            f"model {c.name}: found {c.geometry} geometry, expected {like.geometry}, as layout {layout} has"
        )
    variables: dict[str, Any] = flatten_dict(model.variables, sep="/")  # pyright: ignore
    expected = shapes_of(like)
    if chosen.head and len(c.head) != len(chosen.head):
        raise InputError(
            f"model {c.name}: found a head of {len(c.head)} layers, expected {len(chosen.head)} ({layout})"
        )
    if kept is not None and kept.layout != layout:
        kept = None
    dtype: Any = np.float64 if chosen.double else np.float32
    out: dict[str, np.ndarray] = {}
    for ours, theirs in names(chosen, c.depth).items():
        if ours not in variables or variables[ours].shape != expected[ours]:
            there = variables[ours].shape if ours in variables else "nothing"
            raise InputError(
                f"model {c.name}: {ours}: found {there}, expected {expected[ours]}, as layout {layout} has"
            )
        value = np.asarray(variables[ours], dtype)
        out[theirs] = np.ascontiguousarray(value.transpose(3, 2, 0, 1) if value.ndim == 4 else value)
        if kept is None and theirs.endswith("running_var"):
            out[f"{theirs.removesuffix('running_var')}{COUNTER}"] = np.zeros((), np.int64)
    return out | (kept.tensors if kept else {})


def differences(config: ModelConfig, layout: str) -> list[str]:
    """What the module that takes an exported file must be told, as its own code does otherwise."""
    like = model_config(LAYOUTS[layout], config.depth, config.width)
    fields = ("scaling", "stride", "taps")
    fields += ("position", "unit", "input_size", "half_pixel") if LAYOUTS[layout].head else ()
    return [
        f"{name} {getattr(config, name)} ({layout}: {getattr(like, name)})"
        for name in fields
        if getattr(config, name) != getattr(like, name)
    ]

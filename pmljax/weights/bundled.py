"""Weights in one file, `NAME.safetensors`: half precision, upcast at load.

Metadata: `format` (a version), `config` (JSON of the ModelConfig), `commit`. Names are the variables' own:
`params/trunk/stage3/block1/conv2/kernel`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from functools import cache
from pathlib import Path

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from pmljax.config import ModelConfig, thaw
from pmljax.errors import InputError
from pmljax.files import write_file
from pmljax.model import Model, abstract

FORMAT = "1"
DEFAULT = "small"
"""The model of every command where none is named."""
SHA256 = {"small": "e3c9d97a5e9858ea8ce05b49694f69779c930ef77b8d692598c33b8c2b43cc5f"}
"""Of the weights that come with the package, `NAME.safetensors` in this folder."""


def released(name: str) -> Model:
    """The weights of a name in SHA256; InputError where the file is not the one that was released."""
    path = Path(__file__).parent / f"{name}.safetensors"
    found = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "no such file"
    if found != SHA256[name]:
        raise InputError(f"{path}: found {found}, expected the SHA-256 {SHA256[name]}; install pmljax again")
    return read(path)


def write(path: str | Path, model: Model, commit: str = "", dtype: type = np.float16) -> None:
    """Write a model to one file; half precision by default, but for the norms' statistics, which may be of any size.

    InputError where a number would not be finite: nothing is written.
    """
    from safetensors.numpy import save

    with np.errstate(over="ignore"):
        arrays = {
            name: np.asarray(value, np.float32 if name.startswith("batch_stats/") else dtype)
            for name, value in flatten_dict(model.variables, sep="/").items()
        }
    if unfit := next((name for name, value in arrays.items() if not np.isfinite(value).all()), None):
        raise InputError(
            f"{path}: {unfit}: found numbers that {np.dtype(dtype).name} does not hold; expected finite ones"
        )
    metadata = {"format": FORMAT, "config": json.dumps(dataclasses.asdict(model.config)), "commit": commit}
    write_file(Path(path), save(arrays, metadata))


def read(path: str | Path) -> Model:
    """Read a model that `write` wrote; InputError for anything else, for missing, foreign or non-finite weights."""
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    try:
        with safe_open(path, "numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dict)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; expected weights (.safetensors)") from None
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{path}: found no readable weights ({error}); expected a .safetensors file of pmljax"
        ) from None
    if metadata.get("format") != FORMAT:
        raise InputError(f"{path}: found format {metadata.get('format')}, expected {FORMAT}: weights written by pmljax")
    try:
        config = thaw(ModelConfig, json.loads(metadata["config"]), str(path))
    except (KeyError, json.JSONDecodeError) as error:
        raise InputError(f"{path}: found no configuration ({error!r}); expected weights written by pmljax") from None
    expected = shapes_of(config)
    for name in sorted(expected.keys() | arrays.keys()):
        found = arrays[name].shape if name in arrays else "nothing"
        shape = expected.get(name, "nothing")
        if found != shape:
            raise InputError(f"{path}: {name}: found {found}, expected {shape}, as its configuration says")
        if not np.isfinite(arrays[name]).all():
            raise InputError(f"{path}: {name}: found NaN or infinity, expected finite weights")
        if name.endswith("/var") and (arrays[name] < 0).any():
            raise InputError(f"{path}: {name}: found a variance below 0, expected 0 or more")
    arrays = {name: array.astype(np.float32) for name, array in arrays.items()}
    return Model(jax.device_put(unflatten_dict(arrays, sep="/")), config)  # which compiles nothing


@cache
def shapes_of(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """The shape of every variable of a network, by the names of a file. A second for ResNet-101: once a process."""
    return {k: v.shape for k, v in flatten_dict(abstract(config).variables, sep="/").items()}  # pyright: ignore


def fingerprint(model: Model) -> str:
    """SHA-256 of the configuration and of every weight."""
    digest = hashlib.sha256(json.dumps(dataclasses.asdict(model.config), sort_keys=True).encode())
    for name, value in sorted(flatten_dict(model.variables, sep="/").items()):
        digest.update(name.encode() + np.asarray(value).tobytes())
    return digest.hexdigest()

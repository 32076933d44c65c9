"""Where a model's weights come from: bundled with the package, a file, or a random key."""

from __future__ import annotations

from pathlib import Path

import jax

from pmljax.config import NAMED
from pmljax.errors import InputError
from pmljax.model import Model, create, with_dtype
from pmljax.weights.bundled import DEFAULT, SHA256, read, released
from pmljax.weights.checkpoint import FOLDER, read_model
from pmljax.weights.torch import MODEL


def load(name: str | Path = DEFAULT, *, dtype: str = "float32", seed: int = 0) -> Model:
    """A model by name or by file.

    name: `small` (bundled), `color` (no network: the floor), `random:NAME` (untrained, from `seed`), the path of a
    .safetensors file, of an import's folder, or of a training run's folder (its best checkpoint, or the last where none was
    scored) or of one checkpoint in it.
    dtype: of the computation, whatever the file says: float32, bfloat16, or float64 with JAX's 64 bits.
    Raises InputError where there is no such model.
    """
    text = str(name)
    if text in ("color", *SHA256) and ((Path(text) / MODEL).is_file() or (Path(text) / FOLDER).is_dir()):
        raise InputError(
            f"model {text}: found a name of ours, and a run's or an import's folder of that name here; expected ./{text} for"
            " the folder, or another name for it"
        )
    if text == "color":
        model = create("color")
    elif text in SHA256:
        model = released(text)
    elif text.startswith("random:"):
        model = create(text.removeprefix("random:"), jax.random.key(seed))
    elif (Path(text) / MODEL).is_file():
        model = read(Path(text) / MODEL)
    elif Path(text).is_dir():
        model = read_model(Path(text))
    elif Path(text).is_file():
        model = read(text)
    elif text in NAMED:
        raise InputError(
            f"model {text}: no weights of it are bundled; expected small, color, random:{text}, a .safetensors file or a"
            " run's folder"
        )
    else:
        raise InputError(
            f"model {text}: no such name or file; expected small, color, random:NAME, a .safetensors file or a run's folder"
        )
    return with_dtype(model, dtype)

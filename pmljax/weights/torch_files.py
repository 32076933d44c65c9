"""Reading and writing files of PyTorch's tensors: .pth, which needs PyTorch, and .safetensors, which does not.

Nothing in a file is run: PyTorch reads it with weights_only, which refuses whatever is not a tensor or a plain container.
"""

from __future__ import annotations

import io
import pickle
import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pmljax.errors import InputError
from pmljax.files import write_file

NEEDS_TORCH = (
    "needs PyTorch: pip install 'pmljax[torch]' (on Python 3.11; there is none of that version for later ones);"
    " .safetensors needs none"
)
WRAPPERS = (
    "state_dict",
    "model_state_dict",
    "model",
)  # of training checkpoints; else the only dict of tensors there is


def read_tensors(path: Path, tell: Callable[[str], object] = lambda words: None) -> dict[str, np.ndarray]:
    """The tensors of a .pth (zip or legacy) or .safetensors file by name; InputError for anything else.

    Nothing in the file is run: PyTorch reads it with weights_only.  tell: called with a line where a checkpoint has more
    than one set of tensors, of which one is taken.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(9)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; expected weights of PyTorch (.pth or .safetensors)") from None
    except IsADirectoryError:
        raise InputError(
            f"{path}: found a folder, expected a file of PyTorch's weights (.pth or .safetensors)"
        ) from None
    if path.suffix == ".safetensors" or head[8:] == b"{":
        return read_safetensors(path)
    return _read_pickle(path, tell)


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy") as file:
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dict)
        return {k: x.astype(np.float32) if x.dtype.name == "bfloat16" else x for k, x in found.items()}
    except (TypeError, AttributeError) as error:
        raise _no_arrays(path, error) from None
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{path}: cannot be read ({' '.join(str(error).split())[:120]}); expected a whole .safetensors file: was it"
            " cut short? Fetch it again"
        ) from None


def _read_pickle(path: Path, tell: Callable[[str], object]) -> dict[str, np.ndarray]:
    torch = _import_torch(f"{path}: reading .pth")
    try:
        with warnings.catch_warnings(action="ignore"):  # of formats; what is read is said below
            found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        code = re.search(r"GLOBAL (\S+)", str(error))
        if not code:
            raise _damaged(path, error) from None
        raise InputError(
            f"{path}: holds more than tensors: reading it would run {code[1]}, so it was not read; expected a"
            " state_dict: where you trust the file, load it in PyTorch and torch.save its state_dict()"
        ) from None
    except Exception as error:  # whatever a damaged file makes of zip, pickle and storages
        raise _damaged(path, error) from None

    def tensors(x: object) -> bool:
        return isinstance(x, dict) and bool(x) and all(isinstance(value, torch.Tensor) for value in x.values())

    while isinstance(found, dict) and not tensors(found):
        named = [key for key in WRAPPERS if isinstance(found.get(key), dict)]
        sets = [key for key, x in found.items() if tensors(x)]
        if not named and len(sets) != 1:
            break
        taken = (named or sets)[0]
        if beside := [str(key) for key in sets if key != taken]:
            tell(f"{path}: {taken} is taken; not looked at: {', '.join(beside)}")
        found = found[taken]
    if not tensors(found):
        kind = type(found).__name__
        if isinstance(found, dict):
            kind += f" of {', '.join(sorted({type(x).__name__ for x in found.values()})) or 'nothing'}"
            kind += f" ({', '.join(map(str, list(found)[:4]))}{', …' if len(found) > 4 else ''})" if found else ""
        raise InputError(f"{path}: found a {kind}, expected a state_dict: tensors by name")
    # NumPy has no bfloat16; the others stay as they are.
    wide = {k: x.float() if x.dtype == torch.bfloat16 else x for k, x in found.items()}
    try:
        return {str(k): x.detach().contiguous().numpy() for k, x in wide.items()}
    except (TypeError, RuntimeError, NotImplementedError) as error:  # quantised, sparse, of 8 bits, without numbers
        raise _no_arrays(path, error) from None


def _no_arrays(path: Path, error: Exception) -> InputError:
    reason = " ".join(str(error).split())[:120]
    return InputError(f"{path}: found tensors that are no arrays ({reason}); expected dense ones of floats")


def _damaged(path: Path, error: Exception) -> InputError:
    if "TorchScript" in str(error):
        return InputError(
            f"{path}: found a TorchScript archive, expected a state_dict: where you trust the file, torch.jit.load it in"
            " PyTorch and torch.save its state_dict()"
        )
    if ".tar format" in str(error):
        return InputError(
            f"{path}: found PyTorch's oldest format, expected a .pth of version 0.1.10 or later: load it in PyTorch and"
            " torch.save it"
        )
    reason = " ".join(str(error).split())[:120]
    return InputError(
        f"{path}: cannot be read ({type(error).__name__}: {reason}); expected a whole .pth file: was it cut short? Fetch it"
        " again"
    )


def _import_torch(what: str) -> Any:
    """PyTorch; InputError, beginning with `what` needs it, where it is not installed."""
    try:
        import torch
    except ImportError:
        raise InputError(f"{what} {NEEDS_TORCH}") from None
    return torch


def write_tensors(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Write a state_dict as .pth or .safetensors, by the name's suffix."""
    if path.suffix == ".safetensors":
        from safetensors.numpy import save

        return write_file(path, save(dict(tensors)))
    if path.suffix not in (".pth", ".pt"):
        raise InputError(f"{path}: expected a name that ends in .pth, .pt or .safetensors")
    torch = _import_torch(f"{path}: writing it")
    data = io.BytesIO()
    torch.save({name: torch.tensor(x) for name, x in tensors.items()}, data)
    return write_file(path, data.getvalue())

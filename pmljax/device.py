"""Which device JAX computes on, and what it keeps: memory within a process, compiled calls between them."""

from __future__ import annotations

import ctypes
import os
import sys
from typing import Literal

from pmljax.errors import InputError
from pmljax.files import default_cache

Device = Literal["auto", "cpu", "gpu", "tpu"]


def use_device(device: Device) -> None:
    """Let JAX compute on `device` only; InputError if it is not there."""
    import jax

    if device == "auto":
        return
    # Of GPUs JAX takes what there is, before the CPU: a list of all kinds fails where one of them has no plugin.
    jax.config.update("jax_platforms", "" if device == "gpu" else device)
    try:
        jax.devices(device)
    except RuntimeError as error:
        extra = {"gpu": "; for NVIDIA: pip install 'pmljax[cuda12]'", "tpu": "; pip install 'pmljax[tpu]'"}.get(
            device, ""
        )
        raise InputError(f"--device {device}: JAX finds none ({str(error).splitlines()[0]}){extra}") from None


def free_memory() -> int | None:
    """Bytes that the first device still has for arrays; None where it does not say, as CPUs."""
    import jax

    told = jax.local_devices()[0].memory_stats() or {}
    return told["bytes_limit"] - told["bytes_in_use"] if "bytes_limit" in told else None


def keep_memory() -> None:
    """Let this process keep the memory that it frees, on Linux with glibc; elsewhere nothing happens.

    A compiled call gets its temporary memory, gigabytes in training, from the system and gives it back each time: half a
    million page faults a step, a fifth of its time. For a process of our own only, as it holds for all that runs in it; and
    for training only, since compiling, on several threads, takes half as long again (what labelling frames does about its
    faults: experiments/README.md, "The benchmark").
    """
    # One arena, since the others hand large pieces back whatever they are told.
    _mallopt({ARENA_MAX: 1, MMAP_MAX: 0, TRIM_THRESHOLD: -1})


def share_memory() -> None:
    """Let the threads of this process share what each of them frees, on Linux with glibc; elsewhere nothing happens.

    Else every thread keeps what it freed for itself, in an arena of its own; the page's server has a dozen.
    """
    _mallopt({ARENA_MAX: 2})


ARENA_MAX, MMAP_MAX, TRIM_THRESHOLD = -8, -4, -1  # of <malloc.h>


def _mallopt(parameters: dict[int, int]) -> None:
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # another C library
        return
    for parameter, value in parameters.items():
        mallopt(parameter, value)


def keep_compiled() -> None:
    """Let later processes find what this one compiles, in the cache's folder `compiled`, unless JAX's own settings name
    another ($JAX_COMPILATION_CACHE_DIR; $JAX_ENABLE_COMPILATION_CACHE=0: none). Where it cannot be written, nothing happens.

    A call is found again by what it computes, JAX's version and the device. Some hundred kilobytes a size of frames. An
    entry cut short by a kill costs its compilation again, with a warning; the folder may be deleted at any time.
    """
    import jax

    if jax.config.values["jax_compilation_cache_dir"]:
        return
    try:
        folder = default_cache() / "compiled"
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, InputError):
        return
    if not os.access(folder, os.W_OK | os.X_OK):
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)

"""Which device JAX computes on."""

from __future__ import annotations

import ctypes
import sys
from typing import Literal

from pmljax.errors import InputError

Device = Literal["auto", "cpu", "gpu", "tpu"]


def use_device(device: Device) -> None:
    """Let JAX compute on `device` only; InputError if it is not there."""
    import jax

    if device == "auto":
        return
    jax.config.update("jax_platforms", {"gpu": "cuda,rocm", "cpu": "cpu", "tpu": "tpu"}[device])
    try:
        jax.devices()
    except RuntimeError as error:
        extra = {"gpu": "; for NVIDIA: pip install 'pmljax[cuda12]'", "tpu": "; pip install 'pmljax[tpu]'"}.get(
            device, ""
        )
        raise InputError(f"--device {device}: JAX finds none ({str(error).splitlines()[0]}){extra}") from None


def keep_memory() -> None:
    """Let this process keep the memory that it frees, on Linux with glibc; elsewhere nothing happens.

    A compiled call gets its temporary memory, gigabytes in training, from the system and gives it back each time: half a
    million page faults a step, a fifth of its time. For a process of our own only, as it holds for all that runs in it.
    """
    if not sys.platform.startswith("linux"):
        return
    arena_max, mmap_max, trim_threshold = -8, -4, -1  # of <malloc.h>
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # another C library
        return
    # One arena, since the others hand large pieces back whatever they are told.
    for parameter, value in ((arena_max, 1), (mmap_max, 0), (trim_threshold, -1)):
        mallopt(parameter, value)

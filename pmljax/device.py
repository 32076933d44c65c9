"""Which device JAX computes on."""

from __future__ import annotations

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

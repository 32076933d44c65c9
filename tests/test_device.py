"""Memory that a process keeps. Which device computes is tested with the commands."""

import platform
import subprocess
import sys

import jax
import pytest

from pmljax.device import free_memory, use_device
from pmljax.errors import InputError

TWICE = """
import resource
import numpy as np
from pmljax.device import keep_memory
if {keep}:
    keep_memory()
for _ in range(2):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(2**24)  # 128 MiB, written and freed
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries keep to their own ways")
@pytest.mark.parametrize("keep", [True, False])
def test_memory_that_is_kept_is_not_asked_for_again(keep):
    run = subprocess.run([sys.executable, "-c", TWICE.format(keep=keep)], capture_output=True, text=True, check=True)
    first, second = map(int, run.stdout.split())
    assert first > 50 and (second < 0.1 * first) == keep


@pytest.mark.parametrize(("device", "platforms"), [("cpu", "cpu"), ("tpu", "tpu"), ("gpu", "")])
def test_what_is_asked_for_or_one_line(device, platforms, monkeypatch):
    """A list of all kinds of GPU would fail on one of another kind, as JAX takes it at its word."""
    asked = {}
    monkeypatch.setattr(jax.config, "update", lambda name, value: asked.update({name: value}))
    monkeypatch.setattr(jax, "devices", lambda kind: asked.update(kind=kind))
    use_device(device)
    assert asked == {"jax_platforms": platforms, "kind": device}

    def none(kind):
        raise RuntimeError("none\nat all")

    monkeypatch.setattr(jax, "devices", none)
    with pytest.raises(InputError, match=rf"^--device {device}: JAX finds none \(none\)[^\n]*$"):
        use_device(device)


@pytest.mark.parametrize(
    ("told", "expected"), [({"bytes_limit": 100, "bytes_in_use": 30}, 70), (None, None), ({"bytes_in_use": 30}, None)]
)
def test_free_memory_where_the_device_says(told, expected, monkeypatch):
    class Told:
        def memory_stats(self):
            return told

    monkeypatch.setattr(jax, "local_devices", lambda: [Told()])
    assert free_memory() == expected

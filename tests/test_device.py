"""Memory that a process keeps. Which device computes is tested with the commands."""

import platform
import subprocess
import sys

import pytest

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


ASKED = """
from pmljax.device import use_device
from pmljax.errors import InputError
import jax
try:
    use_device({device!r})
    print(jax.devices()[0].platform)
except InputError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("device", "words"), [("cpu", "cpu"), ("gpu", "--device gpu: JAX finds none"), ("tpu", "--device tpu")]
)
def test_what_is_asked_for_or_one_line(device, words):
    """Also where plugins for some kinds of GPU are missing: asked for by name, they made JAX fail on a GPU of another kind."""
    code = ASKED.format(device=device)
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    # On a machine that has it, there it is.
    assert run.stdout.startswith(words) or run.stdout.strip() in (device, "cuda", "rocm"), run.stderr
    assert run.stdout.count("\n") == 1

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

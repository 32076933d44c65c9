"""Strict settings for every test, and the small made inputs that several files share."""

from __future__ import annotations

import functools
import os
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import settings

jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
# Compiling takes most of the time: as little as there can be of it, and what one process has compiled the others find, as does
# the next run. Commands that tests start as processes of their own compile as they do for users.
jax.config.update("jax_disable_most_optimizations", True)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.05)
# XLA's older loops (--xla_cpu_use_fusion_emitters=false) would compile in half the time, and get gradients in float64 wrong.


def pytest_configure(config: pytest.Config) -> None:
    if config.pluginmanager.hasplugin("cacheprovider"):
        jax.config.update("jax_compilation_cache_dir", str(config.cache.mkdir("compiled")))


# The first call of a compiled function takes seconds; the same examples every time, so that a failure can be had again.
settings.register_profile("pmljax", deadline=None, max_examples=60, derandomize=True)
settings.load_profile("pmljax")

SHARED = Path(os.environ.get("PMLJAX_SHARED", Path(__file__).parents[2] / "shared")) / "data"


@pytest.fixture(scope="session")
def davis() -> Path:
    """The real DAVIS-2016 root, where there is one."""
    return _real("davis2016")


@pytest.fixture(scope="session")
def multi_object() -> Path:
    """The real root with several objects, where there is one."""
    return _real("multi_object")


def _real(name: str) -> Path:
    if not (SHARED / name).is_dir():
        pytest.skip(f"real data is not here: {SHARED.name}/{name}")
    return SHARED / name


@pytest.fixture(scope="module")
def one_step_for_all():
    """Runs of the same recipe in this process take the same compiled step: compiling it would be most of their time."""
    from pmljax import fit

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit, "spread", functools.cache(fit.spread))
        yield


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


class Made:
    """A made clip on disk: `frames/00000.png`…, `first.png`, and the truth in memory."""

    def __init__(self, root: Path):
        from PIL import Image

        from pmljax.data.synthetic import clip
        from pmljax.labels import encode_labels

        self.root = root
        made = clip(jax.random.key(3), frames=8, size=(95, 150), objects=2)
        self.frames, self.truth = np.asarray(made.frames), np.asarray(made.labels)
        self.folder, self.mask = root / "frames", root / "first.png"
        self.folder.mkdir()
        for i, frame in enumerate(self.frames):
            Image.fromarray(frame).save(self.folder / f"{i:05d}.png")
        self.mask.write_bytes(encode_labels(self.truth[0]))


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(tmp_path_factory.mktemp("made"))

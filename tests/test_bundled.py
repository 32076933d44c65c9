"""The weights that come with the package, and the recipe that makes them."""

import argparse
import dataclasses
import json
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pmljax
from experiments import train_bundled
from pmljax.config import NAMED, ModelConfig
from pmljax.errors import InputError
from pmljax.files import write_file
from pmljax.weights import bundled
from pmljax.weights.bundled import read, write
from tests.filled import network

FILE = Path(str(bundled.__file__)).parent / "small.safetensors"


def test_what_is_bundled_is_what_was_released():
    model = pmljax.load()
    assert model.config == NAMED["small"] == pmljax.load("small").config
    assert FILE.stat().st_size <= 8_000_000
    assert bundled.fingerprint(model) == bundled.fingerprint(bundled.read(FILE))


def test_other_weights_under_its_name_are_refused(tmp_path, monkeypatch):
    data = bytearray(FILE.read_bytes())
    data[-1] ^= 1
    (tmp_path / "small.safetensors").write_bytes(data)
    monkeypatch.setattr(bundled, "__file__", str(tmp_path / "bundled.py"))
    with pytest.raises(InputError, match=r"expected the SHA-256 .*install pmljax again"):
        bundled.released("small")
    (tmp_path / "small.safetensors").unlink()
    with pytest.raises(InputError, match="found no such file"):
        bundled.released("small")


def test_its_embeddings_are_finite_and_of_unit_length(made):
    found = np.asarray(pmljax.embed(pmljax.load(), made.frames[:1], np.zeros(1, np.float32)))
    assert found.shape == (1, 13, 19, 64)
    assert np.abs(np.linalg.norm(found, axis=-1) - 1).max() < 1e-5


def given(**changes):
    names = {
        "davis": Path("D"),
        "stills": Path("S"),
        "split": "fit",
        "sources": ["davis", "stills", "synthetic"],
        "more": [],
        "tiny": False,
        "recipe": "small",
    }
    return argparse.Namespace(**names | changes)


def test_what_the_stages_are_told(tmp_path):
    def told(stage, **changes):
        return " ".join(train_bundled.train_arguments(given(**changes), stage, tmp_path, 1)).split(" --out ")[1]

    first, second = (train_bundled.STAGES["small"][name] for name in ("first", "second"))
    assert told(first) == f"{tmp_path} --davis D --split fit --stills S --weights 1.0 1.0 --seed 1"
    assert told(second).endswith("--stills S --synthetic --weights 1.0 1.0 0.25 --seed 1 --turns True")
    assert told(second, tiny=True).endswith(
        "--synthetic --synthetic-clips 2 --weights 1.0 1.0 0.25 --seed 1 --turns True"
    )
    assert told(first, tiny=True) == told(first)  # no made clips, and none asked for
    assert told(second, sources=["synthetic", "davis"]).endswith("--synthetic --weights 1.0 0.25 --seed 1 --turns True")
    # As with --tiny: a stage that has none of the sources asked for is made of made clips.
    assert (
        told(first, sources=["synthetic"], more=["--batch", "2"])
        == f"{tmp_path} --synthetic --weights 1.0 --seed 1 --batch 2"
    )
    with pytest.raises(InputError, match="--stills: not given"):
        told(second, stills=None)


def test_which_stages_are_left(tmp_path):
    def left(first=None, second=None, third=None, recipe="small"):
        args = given(first=first, second=second, third=third, out=tmp_path, seed=7, tiny=False, recipe=recipe)
        return {k: " ".join(v) for k, v in train_bundled.stage_arguments(args).items()}

    every = left()
    assert list(every) == ["first", "second", "third"]
    assert every["first"].endswith("--weights 1.0 1.0 --seed 7 --steps 4900")
    for before, stage, seed in (("first", "second", 8), ("second", "third", 9)):
        steps = train_bundled.STAGES["small"][stage].steps
        assert every[stage].endswith(f"--seed {seed} --turns True --steps {steps} --init {tmp_path / before}")
    assert list(left(first=Path("A"))) == ["second", "third"] and left(first=Path("A"))["second"].endswith("--init A")
    for given_first in (None, Path("A")):
        assert list(left(given_first, Path("B"))) == ["third"]
        assert left(given_first, Path("B"))["third"].endswith("--init B")
    assert not left(third=Path("C"))
    gpu = left(recipe="small-gpu")
    assert list(gpu) == ["first", "third"] and "--recipe small-gpu" in gpu["third"]
    assert gpu["first"].endswith("--weights 1.0 1.0 0.25 --seed 7 --resident --steps 9161")
    assert gpu["third"].endswith(f"--seed 8 --resident --steps 9487 --init {tmp_path / 'first'}")
    assert list(left(first=Path("A"), recipe="small-gpu")) == ["third"]
    assert left(second=Path("B"), recipe="small-gpu")["third"].endswith("--init B")


def test_seconds_add_up_over_runs(tmp_path):
    def fails():
        raise InputError("stopped")

    with pytest.raises(InputError):
        train_bundled.timed(tmp_path, "first", fails)
    assert train_bundled.timed(tmp_path, "first", lambda: 7) == 7
    before = json.loads((tmp_path / "stages.json").read_text())
    assert list(before) == ["first"]
    write_file(tmp_path / "stages.json", json.dumps({"first": 100.0}).encode())
    train_bundled.timed(tmp_path, "first", lambda: time.sleep(0.2))
    assert json.loads((tmp_path / "stages.json").read_text())["first"] >= 100.2


def test_numbers_that_half_precision_does_not_hold(tmp_path):
    model = network(ModelConfig("tiny", 10, 8, norm="batch", taps=(4,), head=((1, 8),)))
    stats = jax.tree.map(lambda x: jnp.full_like(x, 1e5), model.variables["batch_stats"])
    model = dataclasses.replace(model, variables=model.variables | {"batch_stats": stats})
    write(tmp_path / "m.safetensors", model)
    found = read(tmp_path / "m.safetensors").variables["batch_stats"]
    assert all((x == 1e5).all() for x in jax.tree.leaves(found))
    params = jax.tree.map(lambda x: x * 1e9, model.variables["params"])
    with pytest.raises(InputError, match=r"params/.*float16 does not hold"):
        write(tmp_path / "n.safetensors", dataclasses.replace(model, variables=model.variables | {"params": params}))
    assert not (tmp_path / "n.safetensors").exists()

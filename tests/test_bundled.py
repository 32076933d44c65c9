"""The weights that come with the package, and the recipe that makes them."""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import pytest

import pmljax
from experiments import train_bundled
from pmljax.config import NAMED
from pmljax.errors import InputError
from pmljax.files import write_file
from pmljax.weights import bundled

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


def told(**changes):
    names = {"recipe": "bundled", "davis": Path("D"), "stills": Path("S"), "split": "fit", "out": Path("O"), "more": []}
    args = argparse.Namespace(**{"sources": ["davis", "stills", "synthetic"], **names} | changes)
    return " ".join(train_bundled.train_arguments(args))


def test_what_the_training_is_told():
    sources = "--davis D --split fit --stills S --synthetic --weights 1.0 1.0 0.25 --turns True"
    assert told() == f"train --recipe bundled --out O/train --resident {sources}"
    # Nothing is pasted there, so that clips may come from the disk.
    assert told(recipe="small") == f"train --recipe small --out O/train {sources}"
    some = told(sources=["synthetic", "stills"], more=["--batch", "2"])
    assert some.endswith("--resident --stills S --synthetic --weights 1.0 0.25 --turns True --batch 2")
    with pytest.raises(InputError, match="--stills: not given"):
        told(stills=None)


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

"""`pmljax train`: from folders to a run that other commands take; what is refused, in one line."""

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from PIL import Image

from pmljax.cli import main
from pmljax.config import NAMED, ModelConfig
from pmljax.data.davis import open_sequence
from pmljax.errors import InputError
from pmljax.labels import encode_labels, read_labels
from pmljax.model import abstract
from pmljax.presets import PRESETS
from pmljax.recipes import RECIPES, recipe
from pmljax.sampling import Augment
from pmljax.sources import Clips
from pmljax.train import TrainConfig
from pmljax.training import Changes, Train
from pmljax.validation import on_davis, score_sequence
from pmljax.weights import load

pytestmark = pytest.mark.usefixtures("one_step_for_all")
TINY = TrainConfig(
    ModelConfig("tiny", 10, 8, norm="group", taps=(2, 3, 4), head=((1, 16), (1, 8))),
    Augment(crop=32),
    steps=3,
    batch=4,
    short_side=64,
    canvas=(64, 100),
    loss="soft",
    optimiser="adamw",
    rate=1e-3,
)


@pytest.fixture(scope="module")
def root(made, tmp_path_factory):
    """A DAVIS-2017 root of one sequence, in two splits."""
    root = tmp_path_factory.mktemp("davis")
    pictures, masks = root / "JPEGImages/480p/made", root / "Annotations/480p/made"
    shutil.copytree(made.folder, pictures)
    masks.mkdir(parents=True)
    for i, labels in enumerate(made.truth):
        (masks / f"{i:05d}.png").write_bytes(encode_labels(labels))
    (root / "ImageSets/2017").mkdir(parents=True)
    for split in ("train", "dev"):
        (root / f"ImageSets/2017/{split}.txt").write_text("made\n")
    return root


@pytest.mark.slow
def test_a_run_from_a_folder(root, made, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(RECIPES, "tiny", TINY)
    run = tmp_path / "run"
    command = ["train", "--davis", str(root), "--recipe", "tiny", "--out", str(run), "--json"]
    command += ["--validate", "dev", "--validate-every", "3", "--validate-frames", "2", "--position", "yx"]
    assert main(command) == 0
    result = json.loads(capsys.readouterr().out)
    assert (
        re.fullmatch(r"davis 2017 train \(1, [0-9a-f]{8}\) × 1", result["data"])
        and 0 <= result["J&F"] <= 1
        and np.isfinite(result["loss"])
    )
    assert (run / "validation/made.jpg").is_file() and (run / "log.jsonl").is_file()
    assert load(run).config.position == "yx"
    assert main(command) == 0  # nothing left to do
    assert json.loads(capsys.readouterr().out) == result
    assert main([*command, "--rate", "0.1"]) == 2
    assert "begun with another rate" in capsys.readouterr().err
    assert main([*command, "--validate-frames", "1"]) == 2
    error = capsys.readouterr().err
    assert "scores of --validate dev --validate-frames 2, not of --validate dev --validate-frames 1" in error
    assert main([*command[:-8], "--position", "yx"]) == 0  # without a validation
    capsys.readouterr()
    out = tmp_path / "out"
    assert main(["segment", str(made.folder), "--mask", str(made.mask), "--out", str(out), "--model", str(run)]) == 0
    # From its weights another run can start; what is taken is said.
    again = ["train", "--davis", str(root), "--recipe", "tiny", "--out", str(tmp_path / "two"), "--steps", "1"]
    capsys.readouterr()
    assert main([*again, "--init", str(run)]) == 0
    out, error = capsys.readouterr()
    assert "taken" in error and "taken" not in out
    assert main(again) == 2 and "begun with another init" in capsys.readouterr().err
    (tmp_path / "imported").mkdir()
    (tmp_path / "imported/model.safetensors").write_bytes(b"")
    assert main([*again[:-3], str(tmp_path / "imported"), "--steps", "1"]) == 2
    assert "which --model would take in place of the run" in capsys.readouterr().err
    # Weights of the same names and shapes that mean another network.
    for name, value in (("geometry", "torchvision"), ("scaling", "bgr")):
        other = dataclasses.replace(TINY, model=dataclasses.replace(TINY.model, **{name: value}))
        monkeypatch.setitem(RECIPES, "tiny", other)
        assert main([*again, "--init", str(run), "--overwrite"]) == 2
        assert f"expected {value}, as in recipe tiny" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "word"),
    [
        ([], "no source of clips"),
        (["--recipe", "nope", "--davis", "ROOT"], "recipe nope: expected one of small, small-gpu, base, paper"),
        (["--davis", "nowhere"], "nowhere: no such folder"),
        (["--davis", "ROOT", "--split", "val"], "no such split"),
        (["--davis", "ROOT", "--weights", "1", "2"], "--weights 1.0 2.0: expected 1"),
        (["--davis", "ROOT", "--stills", "nowhere"], "no such split"),
        (["--synthetic", "--synthetic-clips", "0"], "--synthetic-clips 0: expected 1 or more"),
        (["--davis", "ROOT", "--batch", "0"], "batch 0: expected 1 or more"),
        (["--davis", "ROOT", "--seed", "-1"], "--seed -1: expected 0…4294967295"),
        (["--davis", "ROOT", "--seed", "4294967296", "--overwrite"], "--seed 4294967296: expected"),
        (["--davis", "ROOT", "--short-side", "0", "--resident"], "--short-side 0: expected 8 or more"),
        (["--davis", "ROOT", "--accumulate", "3"], "accumulate 3: expected a divisor of batch 4"),
        (["--davis", "ROOT", "--init", "nowhere"], "model nowhere"),
        (["--davis", "ROOT", "--paste", "0.5"], "recipe small, paste 0.5: found no --resident"),
        (["--davis", "ROOT", "--recipe", "base"], "recipe base, paste 0.75: found no --resident"),
        (["--davis", "ROOT", "--paste", "1.5", "--resident"], "paste 1.5: expected 0…1"),
        (["--davis", "ROOT", "--hue", "1.5"], "hue 1.5: expected 0…1"),
        (["--davis", "ROOT", "--aspect", "-0.1"], "aspect -0.1: expected 0 or more"),
        (["--davis", "ROOT", "--minutes", "0"], "--minutes 0.0: expected"),
        (["--davis", "ROOT", "--minutes", "nan"], "--minutes nan: expected"),
        (["--davis", "ROOT", "--save-every", "0"], "--save-every 0: expected 1 or more"),
        (["--davis", "ROOT", "--validate-frames", "-1"], "--validate-frames -1: expected 0 or more"),
        (["--davis", "ROOT", "--crop", "-3"], "crop -3: expected 8 pixels or more"),
        (["--davis", "ROOT", "--scale", "2", "0.5"], "scale 2 0.5: expected two numbers above 0"),
        (["--davis", "ROOT", "--minutes", "1", "--steps", "5"], "--minutes 1.0 --steps 5: expected one of them"),
        (["--davis", "ROOT", "--resident", "--views", "2"], "views 2: expected at least the 3 frames"),
        (["--davis", "ROOT", "--views", "4"], "--views 4: found no --resident; expected both"),
        (["--davis", "ROOT", "--validate-every", "50"], "--validate-every 50: found no --validate; expected both"),
        (["--davis", "ROOT", "--stills-split", "val"], "--stills-split val: found no --stills; expected both"),
        (["--synthetic", "--split", "fit"], "--split fit: found no --davis; expected both"),
        (["--davis", "ROOT", "--synthetic-clips", "8"], "--synthetic-clips 8: found no --synthetic; expected both"),
        (["--davis", "ROOT", "--time", "9"], "--time 9: found position none, which has no time; expected yxt"),
        (["--davis", "ROOT", "--norm", "synced"], "--norm synced: found group normalisation in recipe small"),
        (["--davis", "ROOT", "--init", "random:color"], "--init random:color: found a network without weights"),
    ],
)
def test_bad_input(more, word, root, tmp_path, capsys):
    out = tmp_path / "run"
    assert main(["train", "--out", str(out), *(x.replace("ROOT", str(root)) for x in more)]) == 2
    error = capsys.readouterr().err
    assert word in error and error.count("\n") == 1 and not out.exists()


def test_without_grain_no_clip_is_made(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "grain", None)
    monkeypatch.setitem(sys.modules, "grain.python", None)
    monkeypatch.setattr(Clips, "sources", lambda *_: pytest.fail("clips were asked for"))
    assert main(["train", "--synthetic", "--steps", "1", "--out", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert said == "pmljax: reading training clips needs Grain; pip install 'pmljax[train]'\n"
    assert not (tmp_path / "run").exists()


def test_data_are_known_by_their_names_and_sizes(root, tmp_path):
    before = Clips(davis=root).sources(0)[2]
    other = tmp_path / "other"
    shutil.copytree(root, other)
    assert Clips(davis=other).sources(0)[2] == before
    next((other / "Annotations/480p/made").iterdir()).write_bytes(encode_labels(np.zeros((95, 150), np.uint8)))
    assert Clips(davis=other).sources(0)[2] != before


def test_what_a_validation_lacks_is_told_before_training(root, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(root, other)
    (other / "JPEGImages/480p/made/00003.png").unlink()
    with pytest.raises(InputError, match=r"00003\.png: found no picture of that name"):
        on_davis(other, "dev")
    shutil.copytree(root, tmp_path / "empty")
    (tmp_path / "empty/Annotations/480p/made/00000.png").write_bytes(encode_labels(np.zeros((95, 150), np.uint8)))
    with pytest.raises(InputError, match=r"00000\.png: found no object"):
        on_davis(tmp_path / "empty", "dev")


def test_void_is_void_in_grey_masks_with_ids(root, tmp_path):
    """Frames with 0 and 255 alone, beside others with ids: as scoring reads them."""
    folder = tmp_path / "grey"
    shutil.copytree(root, folder)
    for path in (folder / "Annotations/480p/made").iterdir():
        Image.fromarray(read_labels(path)).save(path)
    void = np.zeros((95, 150), np.uint8)
    void[:, :9] = 255
    Image.fromarray(void).save(folder / "Annotations/480p/made/00004.png")
    (source,), _, _ = Clips(davis=folder).sources(0)
    labels = source.reel(0, np.random.default_rng(0), 1, None).labels
    assert set(np.unique(labels[4])) == {0, 255} and set(np.unique(labels[0])) == {0, 1, 2}
    scores = score_sequence(load("color"), open_sequence(folder, "made"), 2017, 0, PRESETS["plain"])
    nothing = np.asarray([scores[f"made_{i}"][3] for i in (1, 2)])  # of frame 4, the truth is void and background
    assert (nothing[:, 0] == 0).all()


def test_as_many_made_clips_as_asked_for():
    (source,), _, words = Clips(synthetic=True, synthetic_clips=2).sources(0)
    assert source.reels == 2 and words == "synthetic (2) × 1"
    assert Clips(synthetic=True).synthetic_clips == 64  # runs that were begun before there was a choice go on


def test_processes_read_what_is_resident(root, tmp_path, monkeypatch):
    def asked(sources, **options):
        raise InputError(f"asked for {options['workers']} processes and {options['views']} views")

    monkeypatch.setattr("pmljax.resident.hold", asked)
    run = Train(tmp_path, Clips(davis=root), resident=True, workers=3, views=5)
    with pytest.raises(InputError, match="asked for 3 processes and 5 views"):
        run.run()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "code"), [(signal.SIGTERM, 128 + signal.SIGTERM), (signal.SIGKILL, -signal.SIGKILL)], ids=["told", "killed"]
)
def test_a_run_that_ends_leaves_no_process(root, tmp_path, how, code):
    """SIGTERM, as `timeout`, schedulers and containers send it; SIGKILL, of which the readers are not told."""
    command = [sys.executable, "-m", "pmljax", "train", "--davis", str(root), "--workers", "2", "--out", str(tmp_path)]
    command += ["--steps", "500", "--crop", "33", "--batch", "2"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True) as process:
        while process.poll() is None and not list(tmp_path.glob("checkpoints/0")):
            time.sleep(0.2)
        process.send_signal(how)
        assert process.wait(60) == code
    with pytest.raises(ProcessLookupError):
        for _ in range(100):  # whoever is left has a moment to end
            os.killpg(process.pid, 0)
            time.sleep(0.1)


@pytest.mark.slow
def test_a_run_from_the_devices_memory(root, tmp_path, monkeypatch, capsys):
    """A run that is stopped and goes on is the run that was not; its clips are drawn anew where it stopped."""
    monkeypatch.setitem(RECIPES, "tiny", TINY)
    common = ["train", "--davis", str(root), "--recipe", "tiny", "--resident", "--paste", "0.5", "--json"]
    assert main([*common, "--out", str(tmp_path / "a"), "--save-every", "2"]) == 0
    assert json.loads(capsys.readouterr().out)["data"].endswith("× 1, resident, 8 views of a picture")
    assert main([*common, "--out", str(tmp_path / "b"), "--save-every", "2"]) == 0
    shutil.rmtree(tmp_path / "b/checkpoints/3")
    assert main([*common, "--out", str(tmp_path / "b"), "--save-every", "2"]) == 0
    a, b = (jax.tree.leaves(load(tmp_path / run).variables) for run in "ab")
    assert all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def test_changes_to_a_recipe(tmp_path):
    changes = Changes(short_side=480, scale=(0.5, 2.5), zoom=0.3, crop=97, position="yx", dtype="bfloat16", steps=7)
    config, small = Train(tmp_path, changes=changes)._config("words"), recipe("small")
    augment = dataclasses.replace(small.augment, crop=97, scale=(0.5, 2.5), zoom=0.3)
    model = dataclasses.replace(small.model, position="yx", dtype="bfloat16")
    assert config == dataclasses.replace(
        small, augment=augment, model=model, steps=7, short_side=480, canvas=(480, 856), data="words"
    )
    assert Train(tmp_path)._config("") == small


def test_recipes_have_what_the_method_says():
    assert recipe("small").model.name == "small" and recipe("small").loss == "soft"
    gpu, base = recipe("small-gpu"), recipe("base")
    assert (gpu.augment.crop, gpu.augment.paste, gpu.augment.hue, gpu.augment.aspect) == (385, 0.75, 0.5, 0.25)
    assert gpu.turns and gpu.steps == 9161
    assert dataclasses.replace(gpu.model, dtype="float32") == recipe("small").model
    assert base == dataclasses.replace(gpu, model=base.model, steps=40_000, batch=16)
    assert base.model == dataclasses.replace(NAMED["base"], dtype="bfloat16")
    half_precision = 2 * sum(x.size for x in jax.tree.leaves(abstract(base.model).variables))
    assert 40e6 < half_precision < 60e6
    paper = recipe("paper")
    assert paper.model.depth == 101 and paper.loss == "triplet" and paper.norm == "frozen"
    assert (paper.augment.crop, paper.augment.scale, paper.augment.time) == (321, (0.5, 1.5), 50)
    assert paper.anchors == 512

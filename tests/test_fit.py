"""The loop: killed and resumed to the bit, what is kept, what is refused, what stops it and what it then says."""

import dataclasses
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from filled import network

import pmljax
from pmljax import fit as fit_module
from pmljax.config import ModelConfig
from pmljax.errors import InputError
from pmljax.fit import Every, _same_recipe, fit
from pmljax.runlog import RunLog, read_log
from pmljax.sampling import Augment, Clip
from pmljax.terminal import ends_when_told
from pmljax.train import Outcome, TrainConfig
from pmljax.weights import checkpoint

pytestmark = pytest.mark.usefixtures("one_step_for_all")
MODEL = ModelConfig("tiny", 10, 8, norm="group", taps=(2, 3, 4), head=((1, 16), (1, 8)))
CONFIG = TrainConfig(
    MODEL, Augment(crop=32), steps=30, batch=4, optimiser="adamw", rate=0.05, average=0.9, seed=3, data="numbers"
)


def variables():
    return {"params": {"head": {"kernel": jnp.ones((3, 2))}}, "batch_stats": {}}


def objective(config, variables, batch, key, axis_name):
    """A small problem whose randomness follows from the clips' numbers, as that of `embedding_loss` does."""
    noise = jax.vmap(lambda n: jax.random.normal(jax.random.fold_in(key, n), (3,)))(batch.number)
    each = (((batch.frames + 0.1 * noise) @ variables["params"]["head"]["kernel"] - 1) ** 2).mean(-1)
    return Outcome(each, {"share": each.min()}, variables["batch_stats"])


def smaller(config, variables, batch, key, axis_name):
    """The mean of all weights' squares, whatever the clips are."""
    squares = sum(jnp.square(x).sum() for x in jax.tree.leaves(variables["params"]))
    return Outcome(jnp.zeros(len(batch.number)) + squares, {}, variables["batch_stats"])


def numbers(bad=None):
    """Batches of clips; clip `bad` is not finite."""

    def batches(start):
        for n in itertools.count(start * CONFIG.batch, CONFIG.batch):
            number = np.arange(n, n + CONFIG.batch)
            frames = np.sin(number[:, None] * np.array([1.0, 2.0, 3.0])).astype(np.float32)
            frames[number == bad] = np.inf
            nothing = np.zeros(len(number), np.float32)
            yield Clip(frames, nothing, nothing, nothing, nothing, number.astype(np.uint32))

    return batches


def train(run, config=CONFIG, **options):
    options = {"every": Every(log=5, save=5)} | options
    return fit(run, config, numbers(), objective=objective, variables=variables(), **options)


def state_bytes(run, step):
    folder = checkpoint.open_folder(run)
    found = checkpoint.restore(folder, step, None)
    folder.close()
    return [np.asarray(x).tobytes() for x in jax.tree.leaves(found)]


SCRIPT = """
import sys
sys.path.insert(0, {here!r})
import conftest, test_fit  # compiled as in this process, so that it is the same to the bit
from pathlib import Path
print("begun", flush=True)
test_fit.train(Path(sys.argv[1]), report=lambda step, numbers: print(step, flush=True))
"""


def killed_and_resumed(run, waits):
    """Train in processes of their own, each killed (SIGKILL) when so many lines of the log are written (int), or so many
    seconds after it began (float); the last not."""
    kills = 0
    for wait in [*waits, None]:
        code = SCRIPT.format(here=str(Path(__file__).parent))
        process = subprocess.Popen([sys.executable, "-c", code, str(run)], stdout=subprocess.PIPE, text=True)
        assert process.stdout and process.stdout.readline() == "begun\n"
        if isinstance(wait, int):
            for _ in range(wait):
                process.stdout.readline()
        elif wait is not None:
            time.sleep(wait)
        if wait is not None:
            process.send_signal(signal.SIGKILL)
        process.communicate(timeout=120)
        kills += process.returncode == -signal.SIGKILL
    assert process.returncode == 0
    return kills


def test_a_run_of_so_many_seconds(tmp_path):
    """The pace says how many steps; the run is that of so many steps, to the bit, also where it was stopped."""

    def slow(pause):
        def batches(start):
            for batch in numbers()(start):
                time.sleep(pause)
                yield batch

        return batches

    def train(run, config=CONFIG, pause=0.0, **options):
        every = Every(log=25, save=25)
        return fit(run, config, slow(pause), objective=objective, variables=variables(), every=every, **options)

    begin = time.monotonic()
    train(tmp_path / "timed", pause=0.02, seconds=5.0)
    assert 2 < time.monotonic() - begin < 14
    steps = checkpoint.read_record(checkpoint.find(tmp_path / "timed"))["config"]["steps"]
    assert 25 < steps < 250  # of 20 ms or more
    lines = [line for line in read_log(tmp_path / "timed/log.jsonl") if "step" in line]
    assert lines[0] == {"step": 0, "steps": steps} and lines[-1]["step"] == steps
    train(tmp_path / "counted", dataclasses.replace(CONFIG, steps=steps))
    assert state_bytes(tmp_path / "timed", steps) == state_bytes(tmp_path / "counted", steps)
    shutil.rmtree(tmp_path / f"timed/checkpoints/{steps}")
    train(tmp_path / "timed", seconds=0.1)
    assert state_bytes(tmp_path / "timed", steps) == state_bytes(tmp_path / "counted", steps)
    assert sum("steps" in line for line in read_log(tmp_path / "timed/log.jsonl")) == 1


@pytest.mark.slow
@pytest.mark.parametrize("waits", [(1, 2), tuple(np.linspace(0.2, 3, 12))])
def test_killed_and_resumed_is_the_same_to_the_bit(tmp_path, waits):
    train(tmp_path / "whole")
    kills = killed_and_resumed(tmp_path / "parts", waits)
    assert kills > 0
    assert state_bytes(tmp_path / "whole", 30) == state_bytes(tmp_path / "parts", 30)
    logs = [[line for line in read_log(tmp_path / p / "log.jsonl") if "step" in line] for p in ("whole", "parts")]
    for a, b in zip(*logs, strict=True):
        assert {k: v for k, v in a.items() if "second" not in k} == {k: v for k, v in b.items() if "second" not in k}
    assert [line["step"] for line in logs[0]] == list(range(5, 31, 5))


def test_stopped_anywhere_goes_on_to_the_bit(tmp_path):
    """Without processes: every step of a run as the place where it stops. So does the log, whose lines come at other steps than
    checkpoints."""
    every = Every(log=4, save=5)

    class Stop(Exception):
        pass

    def told(run):
        lines = [line for line in read_log(run / "log.jsonl") if "step" in line]
        return [{k: v for k, v in line.items() if "second" not in k} for line in lines]

    whole = train(tmp_path / "whole", every=every)
    assert [line["step"] for line in told(tmp_path / "whole")][:4] == [4, 5, 8, 10]
    for stop in (1, 5, 6, 14, 29):

        def batches(start, stop=stop):
            for n, batch in enumerate(numbers()(start), start):
                if n == stop:
                    raise Stop
                yield batch

        run = tmp_path / str(stop)
        with pytest.raises(Stop):
            fit(run, CONFIG, batches, objective=objective, variables=variables(), every=every)
        again = train(run, every=every)
        assert told(run) == told(tmp_path / "whole")
        assert all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(again), strict=True))


def test_the_last_few_and_the_best_are_kept(tmp_path):
    scores = iter([0.1, 0.9, 0.3, 0.2, 0.4, 0.5])
    seen = []

    def validate(model, run):
        seen.append(model)
        return {"J&F": next(scores), "J": 0.0, "F": 0.0}

    model = train(tmp_path, every=Every(log=5, save=3, validate=5, keep=2), validate=validate)
    steps = sorted(int(p.name) for p in (tmp_path / "checkpoints").iterdir() if p.name.isdecimal())
    assert steps == [10, 27, 30]
    assert checkpoint.find(tmp_path).name == "10" and checkpoint.find(tmp_path / "checkpoints" / "30").name == "30"
    assert len(seen) == 6 and np.array_equal(
        seen[-1].variables["params"]["head"]["kernel"], model.variables["params"]["head"]["kernel"]
    )
    lines = read_log(tmp_path / "log.jsonl")
    assert [line["J&F"] for line in lines if "J&F" in line] == [0.1, 0.9, 0.3, 0.2, 0.4, 0.5]
    assert lines[0]["run"]["config"]["seed"] == 3 and lines[0]["run"]["versions"]["jax"] == jax.__version__
    pytest.importorskip("matplotlib")
    assert (tmp_path / "loss.png").read_bytes()[:4] == b"\x89PNG"
    pytest.importorskip("tensorboardX")
    assert list((tmp_path / "tensorboard").glob("events*"))


def test_a_run_from_before_a_way_to_vary_clips_goes_on(tmp_path):
    before = json.loads(json.dumps(dataclasses.asdict(CONFIG)))
    for name in ("aspect", "hue"):
        del before["augment"][name]
    del before["init"]
    _same_recipe(tmp_path, before, CONFIG)
    _same_recipe(tmp_path, before, dataclasses.replace(CONFIG, init="abc"))  # it did not say with what it began
    turned = dataclasses.replace(CONFIG, augment=dataclasses.replace(CONFIG.augment, hue=0.5))
    with pytest.raises(InputError, match="begun with another augment"):
        _same_recipe(tmp_path, before, turned)


@pytest.mark.parametrize("frames", [None, 3])
def test_a_clip_counts_as_many_images_as_it_has_frames(tmp_path, monkeypatch, frames):
    clock = itertools.count()
    monkeypatch.setattr("pmljax.fit.time", SimpleNamespace(monotonic=lambda: float(next(clock))))

    def pictures(start):
        for batch in numbers()(start):
            shape = (CONFIG.batch, *([frames] if frames else []), 2, 2, 3)
            yield batch._replace(frames=np.broadcast_to(batch.frames.reshape(-1, *[1] * (len(shape) - 2), 3), shape))

    def first_alone(config, variables, batch, key, axis_name):
        flat = batch.frames.reshape(batch.frames.shape[0], -1)[:, :3]
        return objective(config, variables, batch._replace(frames=flat), key, axis_name)

    fit(tmp_path, CONFIG, pictures, objective=first_alone, variables=variables(), every=Every(log=5, save=15))
    lines = read_log(tmp_path / "log.jsonl")
    # The clock is read once a line, so between two lines lies a second.
    found = [line["images a second"] for line in lines if "images a second" in line]
    assert found == [5 * CONFIG.batch * (frames or 1)] * 6


def test_another_recipe_is_refused_and_overwrite_starts_anew(tmp_path):
    train(tmp_path)
    other = dataclasses.replace(CONFIG, rate=0.01)
    with pytest.raises(InputError, match=r"begun with another rate \(rate: found 0.05, now 0.01\).*--overwrite"):
        train(tmp_path, other)
    (tmp_path / "mine.txt").write_text("kept")
    train(tmp_path, other, overwrite=True)
    lines = read_log(tmp_path / "log.jsonl")
    assert lines[0]["run"]["config"]["rate"] == 0.01 and (tmp_path / "mine.txt").is_file()


def test_killed_in_its_first_checkpoint_it_begins(tmp_path):
    (tmp_path / "run/checkpoints/0.orbax-checkpoint-tmp").mkdir(parents=True)
    train(tmp_path / "run", dataclasses.replace(CONFIG, steps=5))
    assert state_bytes(tmp_path / "run", 5) == state_bytes(trained_for(tmp_path / "other", 5), 5)


def trained_for(run, steps):
    train(run, dataclasses.replace(CONFIG, steps=steps))
    return run


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("text", ["5", '"run"', '{"run": "mine"}', "[" * 100_000, "é", ""])
def test_a_log_of_somebody_else(tmp_path, overwrite, text):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/best.pth").write_text("mine")
    (tmp_path / "log.jsonl").write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match="found what no run of pmljax wrote"):
        train(tmp_path, overwrite=overwrite)
    assert (tmp_path / "checkpoints/best.pth").is_file()


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_no_run_wrote_is_left_alone(tmp_path, overwrite):
    for name in ("checkpoints/best.pth", "validation/mine.txt", "tensorboard/x", "log.jsonl"):
        run = tmp_path / name.replace("/", "-")
        (run / name).parent.mkdir(parents=True)
        (run / name).write_text("mine")
        with pytest.raises(InputError, match="found what no run of pmljax wrote; expected another --out"):
            train(run, overwrite=overwrite)
        assert (run / name).read_text() == "mine" and len([p for p in run.rglob("*") if p.is_file()]) == 1


def test_nothing_is_removed_or_begun_before_the_first_clips_are_there(tmp_path):
    def broken(start):
        raise InputError("00000.jpg: broken or truncated picture")
        yield

    options = {"objective": objective, "variables": variables()}
    with pytest.raises(InputError, match="broken"):
        fit(tmp_path / "new", CONFIG, broken, **options)
    assert not (tmp_path / "new").exists()
    train(tmp_path / "old", dataclasses.replace(CONFIG, steps=5))
    before = {p: p.read_bytes() for p in (tmp_path / "old").rglob("*") if p.is_file()}
    with pytest.raises(InputError, match="broken"):
        fit(tmp_path / "old", CONFIG, broken, overwrite=True, **options)
    assert before == {p: p.read_bytes() for p in (tmp_path / "old").rglob("*") if p.is_file()}


def test_clips_that_cannot_be_read_cost_no_step_that_was_done(tmp_path):
    def until(n):
        def batches(start):
            for i, batch in enumerate(numbers()(start), start):
                if i >= n:
                    raise InputError("00003.jpg: broken or truncated picture")
                yield batch

        return batches

    options = {"objective": objective, "variables": variables()}
    for _ in range(2):  # one beyond is not asked for, nor when all is done
        fit(tmp_path / "short", dataclasses.replace(CONFIG, steps=7), until(7), **options)
    longer = dataclasses.replace(CONFIG, steps=20)
    with pytest.raises(InputError, match="broken"):
        fit(tmp_path / "part", longer, until(7), every=Every(log=5, save=100), **options)
    fit(tmp_path / "whole", longer, numbers(), every=Every(save=7, keep=9), **options)
    assert state_bytes(tmp_path / "part", 7) == state_bytes(tmp_path / "whole", 7)


def test_the_picture_of_a_finished_run_keeps_its_scores(tmp_path):
    log = RunLog(tmp_path, {}, 0)
    log.write(5, {"loss": 1.0})
    log.write(5, {"J&F": 0.5, "J": 0.4})
    log.draw(["J&F", "J"])
    log.close()
    again = RunLog(tmp_path, {}, 5)
    again.draw()
    again.close()
    assert again.scores == ["J&F", "J"]


def test_a_loss_that_is_not_finite_names_the_clip_and_keeps_the_state_before(tmp_path):
    bad = 13 * CONFIG.batch + 2
    with pytest.raises(
        InputError, match=rf"step 13: the loss is not finite at clip {bad} \(number {bad}\).*checkpoints.13"
    ):
        fit(
            tmp_path / "run",
            CONFIG,
            numbers(bad),
            objective=objective,
            variables=variables(),
            every=Every(log=5, save=5),
            describe=lambda i: f"number {i}",
        )
    assert (tmp_path / "run" / "checkpoints" / "13").is_dir()
    good = train(tmp_path / "good", every=Every(log=5, save=13, keep=9))
    assert good and state_bytes(tmp_path / "run", 13) == state_bytes(tmp_path / "good", 13)


def test_what_diverged_takes_no_checkpoints_place(tmp_path):
    def worse(start):
        for i, batch in enumerate(numbers()(start), start):
            yield batch._replace(frames=batch.frames * np.float32(np.inf if i == 13 else 1))

    with pytest.raises(
        InputError, match=r"step 13: the loss is not finite at clip 52 .*last checkpoint is .*checkpoints.10;"
    ):
        fit(tmp_path, CONFIG, worse, objective=objective, variables=variables(), every=Every(log=5, save=5))
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["10", "5"]


def test_where_nothing_can_be_learnt_it_is_said(tmp_path):
    def nothing(config, variables, batch, key, axis_name):
        return Outcome(jnp.zeros(len(batch.number)), {"anchors": jnp.float32(0)}, variables["batch_stats"])

    with pytest.raises(InputError, match=r"nothing to learn from in the first 20 clips \(number 0, …\)"):
        fit(
            tmp_path,
            CONFIG,
            numbers(),
            objective=nothing,
            variables=variables(),
            every=Every(log=5),
            describe="number {}".format,
        )


def test_a_validation_that_fails_costs_no_step(tmp_path):
    def validate(model, run):
        raise ValueError("a mask of another size")

    with pytest.raises(ValueError, match="another size"):
        train(tmp_path / "run", every=Every(log=5, save=100, validate=7), validate=validate)
    assert state_bytes(tmp_path / "run", 7)
    train(tmp_path / "run")
    train(tmp_path / "whole")
    assert state_bytes(tmp_path / "run", 30) == state_bytes(tmp_path / "whole", 30)


def test_one_process_at_a_time(tmp_path):
    fcntl = pytest.importorskip("fcntl")
    train(tmp_path, dataclasses.replace(CONFIG, steps=5))
    held = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    with pytest.raises(InputError, match="another process trains in it"):
        train(tmp_path, overwrite=True)
    os.close(held)
    assert (tmp_path / "checkpoints/5").is_dir()
    train(tmp_path, dataclasses.replace(CONFIG, steps=5))


def test_a_run_that_another_process_made_meanwhile(tmp_path, monkeypatch):
    """Before the first clips are there nothing is written, and nobody can be kept from a folder that is not there."""
    pytest.importorskip("fcntl")
    run, laid = tmp_path / "run", fit_module.replicate

    def meanwhile(state):
        monkeypatch.setattr(fit_module, "replicate", laid)
        train(run, dataclasses.replace(CONFIG, steps=5, rate=2e-3))
        return laid(state)

    monkeypatch.setattr(fit_module, "replicate", meanwhile)
    with pytest.raises(InputError, match="another process trained in it meanwhile"):
        train(run)
    assert (run / "checkpoints/5").is_dir() and checkpoint.read_record(run / "checkpoints/5")["config"]["steps"] == 5
    with pytest.raises(InputError, match="rate"):
        train(run)


@pytest.mark.parametrize(("number", "ends"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_a_save_is_not_cut_off(tmp_path, monkeypatch, number, ends):
    """Ctrl-C, or SIGTERM where it ends the command, in the midst of it: the checkpoint is whole, then the run stops."""
    opened, at = checkpoint.open_folder, []

    def told(run, keep):
        folder = opened(run, keep)
        saved = folder.save

        def save(step, **options):
            at.append(step)
            if step == 5:
                os.kill(os.getpid(), number)
            return saved(step, **options)

        monkeypatch.setattr(folder, "save", save)
        return folder

    monkeypatch.setattr(checkpoint, "open_folder", told)
    before = signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # which a shell's background process is begun without
    try:
        with ends_when_told(), pytest.raises(ends):
            train(tmp_path / "a")
    finally:
        signal.signal(signal.SIGINT, before)
    monkeypatch.undo()
    assert at == [0, 5] and checkpoint.find(tmp_path / "a").name == "5"
    train(tmp_path / "a")
    train(tmp_path / "b")
    assert state_bytes(tmp_path / "a", 30) == state_bytes(tmp_path / "b", 30)


def test_a_full_disk_is_one_line_and_the_last_checkpoint_stands(tmp_path, monkeypatch):
    save = checkpoint.open_folder

    def full(run, keep):
        folder = save(run, keep)
        real = folder.save
        monkeypatch.setattr(folder, "save", lambda step, **k: real(step, **k) if step < 10 else 1 / 0, raising=False)
        return folder

    monkeypatch.setattr(checkpoint, "open_folder", full)
    with pytest.raises(
        InputError, match=r"checkpoint of step 10 cannot be written \(division by zero\); .*same command goes on"
    ):
        train(tmp_path / "run")
    monkeypatch.undo()
    assert state_bytes(tmp_path / "run", 5)


def test_a_run_that_lost_its_checkpoints_begins_its_log_anew(tmp_path):
    train(tmp_path, dataclasses.replace(CONFIG, steps=5))
    shutil.rmtree(tmp_path / "checkpoints")
    train(tmp_path, dataclasses.replace(CONFIG, steps=5, rate=0.01))
    assert read_log(tmp_path / "log.jsonl")[0]["run"]["config"]["rate"] == 0.01


def test_a_host_without_memory_is_one_line(tmp_path):
    def large(start):
        raise MemoryError("Unable to allocate 9 TiB")
        yield

    with pytest.raises(InputError, match=r"not enough memory \(Unable to allocate 9 TiB\); lower --batch"):
        fit(tmp_path, CONFIG, large, objective=objective, variables=variables())
    assert not any(tmp_path.iterdir())


def test_what_a_run_begins_with_stays_the_callers(tmp_path):
    given = variables()
    fit(tmp_path, CONFIG, numbers(), objective=objective, variables=given)
    assert np.array_equal(given["params"]["head"]["kernel"], np.ones((3, 2)))


def test_out_of_memory_says_what_to_lower(tmp_path):
    def full(start):
        yield next(numbers()(start))
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes")

    with pytest.raises(InputError, match=r"not enough memory.*lower --batch or --crop"):
        fit(tmp_path, CONFIG, full, objective=objective, variables=variables())


# Checkpoints as models


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of ten steps of a real network's weights, which only grow smaller: compiling its objective takes long."""
    run = tmp_path_factory.mktemp("run")
    config = dataclasses.replace(CONFIG, steps=10, rate=1e-3)
    return run, fit(run, config, numbers(), objective=smaller, variables=network(MODEL, config.seed).variables)


def test_a_checkpoint_without_a_score_is_nothing_to_warn_of(tmp_path, caplog):
    train(tmp_path / "run", dataclasses.replace(CONFIG, steps=5))
    assert not caplog.records


def test_a_run_is_a_model(trained):
    run, model = trained
    for path in (run, run / "checkpoints", run / "checkpoints" / "10"):
        found = pmljax.load(path)
        assert found.config == model.config
        assert all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(model), strict=True))
    start = pmljax.load(run / "checkpoints" / "0")
    assert not all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(start), jax.tree.leaves(model), strict=True))


def test_what_a_run_gives_is_bound_to_no_device(trained):
    """Bound weights bind what comes of them, and what segments would be compiled twice: before and after the first."""
    assert not any(x.committed for x in jax.tree.leaves(pmljax.load(trained[0]).variables))


def test_segment_takes_a_run(trained, made, tmp_path, capsys):
    from pmljax.cli import main

    run, _ = trained
    out = tmp_path / "out"
    assert main(["segment", str(made.folder), "--mask", str(made.mask), "--out", str(out), "--model", str(run)]) == 0
    assert len(list(out.glob("0*.png"))) == 8


# In a process of their own: what tensorstore leaves unfinished when a read fails complains when it is thrown away, in
# whatever test that happens to be.
LOAD_EACH = """
import json, sys
import pmljax
said = []
for path in sys.argv[1:]:
    try:
        said.append(f"loaded {pmljax.load(path).config}")
    except pmljax.InputError as error:
        said.append(str(error))
print(json.dumps(said))
"""


def test_checkpoints_that_are_refused(trained, tmp_path):
    import shutil

    from pmljax.cli import main

    run, _ = trained
    copies = []
    for what in ("truncated", "emptied", "no model", "foreign config", "format", "other shapes", "empty"):
        copy = tmp_path / what
        shutil.copytree(run / "checkpoints" / "10", copy / "checkpoints" / "10")
        step = copy / "checkpoints" / "10"
        record = step / "config" / "metadata"
        fields = json.loads(record.read_text())
        data = max((p for p in (step / "model").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
        if what == "truncated":
            data.write_bytes(data.read_bytes()[: data.stat().st_size // 2])
        elif what == "emptied":
            data.write_bytes(b"")
        elif what == "no model":
            shutil.rmtree(step / "model")
        elif what == "foreign config":
            record.write_text("{}")
        elif what == "format":
            record.write_text(json.dumps(fields | {"format": 99}))
        elif what == "other shapes":
            fields["config"]["model"]["width"] = 16
            record.write_text(json.dumps(fields))
        else:
            shutil.rmtree(copy / "checkpoints")
        copies.append(str(copy))
    child = subprocess.run([sys.executable, "-c", LOAD_EACH, *copies], capture_output=True, text=True, check=True)
    for copy, said in zip(copies, json.loads(child.stdout), strict=True):
        assert said.startswith(copy) and "expected" in said and "\n" not in said
    assert (
        main(["segment", "nothing.mp4", "--mask", "x.png", "--out", str(tmp_path / "o"), "--model", str(tmp_path)]) == 2
    )

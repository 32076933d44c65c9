"""The commands as a user runs them: what they write, what they refuse, what is left when they are killed."""

import csv
import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from fractions import Fraction
from importlib.metadata import version
from multiprocessing import shared_memory

import av
import numpy as np
import pytest
from PIL import Image

import pmljax
from pmljax import cli, files, results, terminal
from pmljax.data.sources import open_frames
from pmljax.data.video import VideoWriter
from pmljax.labels import encode_labels, read_labels
from pmljax.metrics import jaccard


def run(*args, capsys):
    """(status, standard output, standard error) of one command."""
    try:
        status = cli.main([str(a) for a in args])
    except SystemExit as stop:  # tyro's own errors and --help
        status = stop.code
    out, err = capsys.readouterr()
    return status, out, err


COLOR = ("--model", "color")  # what these tests are about does not depend on the network


@pytest.fixture
def segment(made, tmp_path, capsys):
    def call(source=made.folder, *more, mask=made.mask, out=tmp_path / "out"):
        model = () if "--model" in more else COLOR
        return run("segment", source, "--mask", mask, "--out", out, *model, *more, capsys=capsys)

    return call


def labels_of(folder):
    return np.stack([read_labels(p) for p in sorted(folder.glob("[0-9]*.png"))])


def test_segment_writes_what_it_says(segment, made, tmp_path):
    status, out, _ = segment()
    assert status == 0 and "8 frames" in out and "model color" in out
    folder = tmp_path / "out"
    names = sorted(p.name for p in folder.iterdir())
    assert names == [*(f"{i:05d}.png" for i in range(8)), "contact.jpg", "overlay.mp4", "run.json"]
    assert np.array_equal(read_labels(folder / "00000.png"), made.truth[0])
    with Image.open(folder / "00003.png") as image:
        assert image.mode == "P" and image.size == (150, 95) and image.getpalette()[3:6] == [128, 0, 0]
    assert len(list(open_frames(folder / "overlay.mp4"))) == 8
    with Image.open(folder / "contact.jpg") as sheet:
        assert sheet.format == "JPEG"
    record = json.loads((folder / "run.json").read_text())
    assert record["finished"] and record["frames"] == 8 and str(tmp_path) not in json.dumps(record)
    found = labels_of(folder)
    assert np.mean([jaccard(f == k, t == k) for f, t in zip(found, made.truth, strict=True) for k in (1, 2)]) > 0.5


def test_video_and_gif_give_the_folders_labels(segment, made, tmp_path):
    segment()
    folder = labels_of(tmp_path / "out")
    for name in ("clip.mp4", "clip.gif"):
        with VideoWriter(tmp_path / name) as video:
            for i, frame in enumerate(made.frames):
                video.write(np.pad(frame, ((0, 1), (0, 0), (0, 0)), "edge"), i / 24)
        padded = tmp_path / "mask.png"
        padded.write_bytes(encode_labels(np.pad(made.truth[0], ((0, 1), (0, 0)), "edge")))
        status, *_ = segment(tmp_path / name, mask=padded, out=tmp_path / name.replace(".", "_"))
        assert status == 0
        found = labels_of(tmp_path / name.replace(".", "_"))[:, :95]
        agree = np.mean([jaccard(f == k, t == k) for f, t in zip(found, folder, strict=True) for k in (1, 2)])
        # Compression moves borders, and these objects are 20 pixels across; the real sequence below is held to .95.
        assert agree > 0.85, f"{name}: {agree}"


@pytest.mark.parametrize("form", ["gif", "none"])
def test_overlay_as_gif_or_not_at_all(segment, made, tmp_path, form):
    assert segment(made.folder, "--overlay", form)[0] == 0
    overlays = [p.name for p in (tmp_path / "out").glob("overlay*")]
    assert overlays == ([] if form == "none" else ["overlay.gif"])


def test_running_again_computes_nothing(segment, tmp_path):
    segment()
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").iterdir()}
    status, out, _ = segment()
    assert status == 0 and "(0 computed" in out
    assert before == {p: p.stat().st_mtime_ns for p in (tmp_path / "out").iterdir()}


def test_what_is_missing_is_made_again(segment, made, tmp_path, monkeypatch):
    segment()
    before = (tmp_path / "out/00002.png").read_bytes()
    (tmp_path / "out/00002.png").unlink()
    (tmp_path / "out/mine.png").write_bytes(b"not ours")
    status, out, _ = segment()
    assert status == 0 and "(1 computed" in out and (tmp_path / "out/00002.png").read_bytes() == before
    (tmp_path / "out/00002.png").write_bytes(b"")  # as a full disk leaves what others write
    assert "(1 computed" in segment()[1] and (tmp_path / "out/00002.png").read_bytes() == before
    status, out, _ = segment(made.folder, "--overlay", "gif")
    assert status == 0 and "(0 computed" in out and len(list(open_frames(tmp_path / "out/overlay.gif"))) == 8
    monkeypatch.setattr("pmljax.results.segment", None)  # with every label there nothing is embedded
    assert segment(made.folder, "--overlay", "mp4")[0] == 0
    for damage in (b'{"identity": null, "finished": true, "frames": 8}', b"\xff\xfe"):
        (tmp_path / "out/run.json").write_bytes(damage)
        status, _, err = segment()
        assert status == 2 and "found no record of a run" in err and err.count("\n") == 1


def test_other_settings_are_named_and_change_nothing(segment, made, tmp_path):
    segment()
    before = {p: p.read_bytes() for p in (tmp_path / "out").iterdir()}
    for more, word in [
        (("--paper",), "preset"),
        (("--model", "random:small"), "model, weights"),
        (("--end", "5"), "input"),
    ]:
        status, _, err = segment(made.folder, *more)
        assert status == 2 and f"begun with another {word}" in err and "--overwrite" in err
        assert word != "preset" or "(preset.adaptation.frames: found 0, now 5)" in err
        assert word != "input" or "(frames chosen, from, to, every: found [0, null, 1], now [0, 5, 1])" in err
    assert before == {p: p.read_bytes() for p in (tmp_path / "out").iterdir()}
    status, *_ = segment(made.folder, "--end", "5", "--overwrite")
    assert status == 0 and len(labels_of(tmp_path / "out")) == 5


@pytest.mark.skipif(files.fcntl is None, reason="no locks here")
def test_one_process_at_a_time_in_a_folder(segment, made, tmp_path):
    segment(made.folder, "--end", "3")
    out = tmp_path / "out"
    before = {p: p.read_bytes() for p in out.iterdir()}
    with files.alone(out, "writes there"):
        for more in (("--end", "3"), ("--overwrite",)):
            status, _, err = segment(made.folder, *more)
            assert status == 2 and err.count("\n") == 1 and f"{out}: another process writes there" in err
    assert before == {p: p.read_bytes() for p in out.iterdir()}
    assert segment(made.folder, "--overwrite")[0] == 0


@pytest.mark.skipif(files.fcntl is None, reason="no locks here")
def test_a_folder_that_another_process_made_meanwhile(segment, made, tmp_path, monkeypatch):
    """Nobody can be kept from a folder that is not there; whoever comes second finds it when the first frame is done."""
    out, label, meanwhile = tmp_path / "out", results.segment, []

    def slow(*args, **options):
        for item in label(*args, **options):
            if meanwhile:
                meanwhile.pop()()
            yield item

    monkeypatch.setattr(results, "segment", slow)
    with ExitStack() as stack:
        meanwhile[:] = [lambda: (out.mkdir(), stack.enter_context(files.alone(out, "writes there")))]
        status, _, err = segment()
        assert status == 2 and "another process writes there" in err and not list(out.iterdir())
    out.rmdir()
    meanwhile[:] = [lambda: segment(made.folder, "--end", "3")]
    status, _, err = segment()
    assert status == 2 and "begun with another input" in err and len(labels_of(out)) == 3
    for path in out.iterdir():
        path.unlink()
    out.rmdir()
    meanwhile[:] = [segment]  # the same twice
    assert segment()[0] == 0 and len(labels_of(out)) == 8
    assert json.loads((out / "run.json").read_text())["finished"] and not list(out.glob(".*"))


def test_a_run_is_finished_when_its_overlay_is(segment, tmp_path, monkeypatch):
    def full(_, path):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    with monkeypatch.context() as patch:
        patch.setattr("pmljax.data.video.publish", full)
        status, _, err = segment()
    assert status == 2 and "No space left" in err
    assert not json.loads((tmp_path / "out/run.json").read_text())["finished"]
    assert segment()[0] == 0 and (tmp_path / "out/overlay.mp4").is_file()


def test_a_run_of_other_rules_is_not_continued(segment, tmp_path, monkeypatch):
    segment()
    monkeypatch.setattr(results, "FORMAT", results.FORMAT + 1)
    status, _, err = segment()
    assert status == 2 and "begun with another format" in err


def test_overwriting_leaves_nothing_of_the_run_before(segment, made, tmp_path):
    folder = tmp_path / "named"
    folder.mkdir()
    for i, frame in enumerate(made.frames):
        Image.fromarray(frame).save(folder / f"take_{i}.png")
    segment(folder)
    (tmp_path / "out/123456.png").write_bytes(b"not ours")
    assert segment(folder, "--end", "3", "--overwrite")[0] == 0
    assert {p.name for p in (tmp_path / "out").glob("*.png")} == {
        "take_0.png",
        "take_1.png",
        "take_2.png",
        "123456.png",
    }


def test_a_result_of_another_size_is_named(segment, made, tmp_path):
    segment()
    (tmp_path / "out/contact.jpg").unlink()
    (tmp_path / "out/00002.png").write_bytes(encode_labels(made.truth[0][:9]))
    status, _, err = segment()
    assert status == 2 and "00002.png: the mask is 150×9, the frame 150×95" in err


def test_strangers_files_are_left_alone(segment, made, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.tex").write_text("precious")
    status, _, err = segment()
    assert status == 2 and "thesis.tex but no run.json" in err and [p.name for p in out.iterdir()] == ["thesis.tex"]
    assert segment(made.folder, "--overwrite")[0] == 0
    assert (out / "thesis.tex").read_text() == "precious"
    status, _, err = segment(out=made.folder)
    assert status == 2 and "this is where the input" in err and len(list(made.folder.iterdir())) == 8
    assert segment(mask=made.mask, out=made.mask.parent)[0] == 2


def test_a_run_overwritten_and_stopped_takes_nobody_elses_masks(segment, made, tmp_path, monkeypatch):
    out = tmp_path / "out"
    out.mkdir()
    theirs = encode_labels(np.full_like(made.truth[0], 9))
    for i in range(8):
        (out / f"{i:05d}.png").write_bytes(theirs)
    kept = [".download.part1.mkv", ".notes.part1.txt", "overlay.psd", "20240131.png"]
    for name in kept:
        (out / name).write_text("precious")
    write = results.write_file

    def stopped(path, data):
        if path.name == "00003.png":
            raise KeyboardInterrupt
        write(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(results, "write_file", stopped)
        assert segment(made.folder, "--overwrite")[0] == 130
    assert segment()[0] == 0 and not any((read_labels(out / f"{i:05d}.png") == 9).any() for i in range(8))
    assert segment(made.folder, "--end", "3", "--overwrite")[0] == 0
    assert all((out / name).read_text() == "precious" for name in kept)


@pytest.mark.parametrize("record", ['{"names": 5}', "[" * 100_000, "[]"])
def test_a_record_that_is_none_is_overwritten(segment, made, tmp_path, record):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/run.json").write_text(record)
    status, _, err = segment()
    assert status == 2 and "found no record of a run" in err
    assert (
        segment(made.folder, "--overwrite")[0] == 0 and json.loads((tmp_path / "out/run.json").read_text())["finished"]
    )


def test_late_objects_by_a_folder_of_masks(segment, made, tmp_path):
    masks = tmp_path / "masks"
    masks.mkdir()
    (masks / "00001.png").write_bytes(encode_labels(np.where(made.truth[1] == 2, 2, 0).astype(np.uint8)))
    (masks / "00003.png").write_bytes(encode_labels(np.where(made.truth[3] == 1, 1, 0).astype(np.uint8)))
    status, *_ = segment(mask=masks)
    found = labels_of(tmp_path / "out")
    assert status == 0 and not found[0].any() and set(np.unique(found[2])) == {0, 2}
    assert {1, 2} <= set(np.unique(found[4]))
    status, *_ = segment(made.folder, "--start", "2", mask=masks, out=tmp_path / "part")  # 00001 is not chosen
    assert status == 0 and set(np.unique(labels_of(tmp_path / "part")[1])) == {0, 1}
    (masks / "00003.tif").write_bytes((masks / "00003.png").read_bytes())
    status, _, err = segment(mask=masks, out=tmp_path / "other")
    assert status == 2 and "two pictures named 00003" in err
    (masks / "00003.tif").unlink()
    (masks / "00077.png").write_bytes(encode_labels(made.truth[0]))
    status, _, err = segment(mask=masks, out=tmp_path / "other")
    assert status == 2 and "no frame is named 00077" in err and not (tmp_path / "other").exists()
    (masks / "00077.png").unlink()
    (masks / "00005.png").write_bytes(encode_labels(np.zeros_like(made.truth[0])))  # an empty one says nothing
    assert segment(mask=masks, out=tmp_path / "more")[0] == 0
    assert np.array_equal(labels_of(tmp_path / "more"), found)
    for name in ("00001.png", "00003.png"):
        (masks / name).unlink()
    status, _, err = segment(mask=masks, out=tmp_path / "other")
    assert status == 2 and "found no object in a mask of a chosen frame" in err and not (tmp_path / "other").exists()


# What is refused: one line, status 2, nothing written


def bad_inputs(made, tmp_path):
    """{what: (arguments instead of the good ones, words of the message)}."""
    m, rng = made.truth[0], np.random.default_rng(0)

    def mask(name, array):
        Image.fromarray(array).save(tmp_path / name)
        return {"mask": tmp_path / name}

    def folder(name, change):
        (tmp_path / name).mkdir()
        for i, frame in enumerate(made.frames):
            Image.fromarray(frame).save(tmp_path / name / f"{i:05d}.jpg")
        change(tmp_path / name)
        return {"source": tmp_path / name}

    def empty(path):
        for p in path.iterdir():
            p.unlink()

    (tmp_path / "zero.png").write_bytes(b"")
    (tmp_path / "void.png").write_bytes(encode_labels(np.where(m > 0, 255, 0).astype(np.uint8)))
    (tmp_path / "text.mp4").write_text("hello")
    (tmp_path / "file").write_text("")
    return {
        "mask of another size": (mask("a.png", m[:-2]), "a.png: the mask is 150×93, the frame 150×95"),
        "empty mask file": ({"mask": tmp_path / "zero.png"}, "zero.png: found no readable image"),
        "mask without an object": (mask("c.png", m * 0), "c.png: found no object"),
        "mask of void alone": ({"mask": tmp_path / "void.png"}, "void.png: found nothing but void"),
        "16-bit mask": (mask("e.png", m.astype(np.uint16) * 300), "e.png: found a PNG of 16 bits"),
        "more than 254 objects": (mask("f.png", rng.integers(0, 256, (*m.shape, 3), np.uint8)), "at most 254 objects"),
        "missing mask": ({"mask": tmp_path / "none.png"}, "none.png: no such file"),
        "text named mp4": ({"source": tmp_path / "text.mp4"}, "text.mp4: found no readable video"),
        "missing input": ({"source": tmp_path / "none"}, "none: no such file or folder"),
        "empty folder": (folder("g", empty), "g: found no pictures"),
        "frames of two sizes": (
            folder("h", lambda p: Image.fromarray(made.frames[0][:9]).save(p / "00004.jpg")),
            "00004.jpg: found 150×9, the first frame is 150×95",
        ),
        "first frame broken": (
            folder("i", lambda p: (p / "00000.jpg").write_bytes((p / "00000.jpg").read_bytes()[:900])),
            "00000.jpg: broken or truncated",
        ),
        "out below a file": ({"out": tmp_path / "file" / "x"}, "file is a file; expected a folder"),
        "unknown model": ({"more": ("--model", "nope")}, "model nope: no such name or file"),
        "untrained model": ({"more": ("--model", "paper")}, "model paper: no weights of it are bundled"),
        "bad size": ({"more": ("--size", "huge")}, "--size huge: expected"),
        "bad seed": ({"more": ("--seed", "-1")}, "--seed -1: expected"),
        "masks in the folder to write to": ({"out": made.mask.parent}, "this is where the input"),
        "neighbours of a mask": ({"more": ("--neighbours", "3")}, "--neighbours 3: found with --mask"),
        "start past the end": ({"more": ("--start", "99")}, "no frames left"),
    }


def test_bad_input(segment, made, tmp_path, capsys):
    cases = bad_inputs(made, tmp_path)
    before = sorted(tmp_path.rglob("*"))
    for what, (change, words) in cases.items():
        change = dict(change)
        source, more = change.pop("source", made.folder), change.pop("more", ())
        status, out, err = segment(source, *more, **change)
        assert status == 2 and not out, f"{what}: {status} {out}"
        assert words in err and err.count("\n") == 1 and err.startswith("pmljax: "), f"{what}: {err}"
        assert sorted(tmp_path.rglob("*")) == before, f"{what}: something was written"


def test_a_broken_frame_in_the_middle_keeps_what_was_finished(segment, made, tmp_path):
    folder = tmp_path / "frames"
    folder.mkdir()
    for i, frame in enumerate(made.frames):
        Image.fromarray(frame).save(folder / f"{i:05d}.jpg", quality=95)
    whole = (folder / "00005.jpg").read_bytes()
    (folder / "00005.jpg").write_bytes(whole[: len(whole) // 2])
    status, _, err = segment(folder)
    assert status == 2 and "00005.jpg: broken or truncated" in err and err.count("\n") == 1
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [*(f"{i:05d}.png" for i in range(5)), "run.json"]


def test_usage_errors_and_help(capsys, monkeypatch):
    for args in (["segment"], ["fly"], ["score", "--davis"]):
        assert run(*args, capsys=capsys)[0] == 2
    monkeypatch.setenv("COLUMNS", "300")
    _, out, _ = run("train", "--help", capsys=capsys)
    assert "What fits by name and shape is taken, the rest is said." in out  # its docstring breaks in between
    assert "--scale FLOAT FLOAT" in out and "{float32,bfloat16}" in out and "None" not in out and "False)" not in out
    status, out, _ = run("segment", "--help", capsys=capsys)
    assert status == 0 and "--mask" in out and "first frame" in out.lower()


def test_a_full_disk_is_one_line(segment, monkeypatch, tmp_path):
    def full(path, data):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(results, "write_file", full)
    status, _, err = segment()
    assert status == 2 and "No space left on device" in err and err.count("\n") == 1


# Killed and run again


@pytest.mark.parametrize("frames", [2, 5])
def test_killed_and_continued(made, tmp_path, frames, capsys, segment):
    """kill -9 once some frames are there: no half file; the same command finishes, to the bit as if never stopped."""
    args = ["segment", str(made.folder), "--mask", str(made.mask), "--out", str(tmp_path / "killed"), *COLOR]
    slow = (
        "import sys, time; from pmljax import cli, results; write = results.write_file\n"
        "def slow(path, data): write(path, data); time.sleep(0.2)\n"
        f"results.write_file = slow; cli.main({args!r})"
    )
    process = subprocess.Popen([sys.executable, "-c", slow])
    deadline = time.monotonic() + 60
    while len(list((tmp_path / "killed").glob("[0-9]*.png"))) < frames and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    left = [p for p in (tmp_path / "killed").iterdir() if not p.name.startswith(".")]
    assert not json.loads((tmp_path / "killed" / "run.json").read_text())["finished"]
    for path in left:
        if path.suffix == ".png":
            assert read_labels(path).shape == (95, 150)
    assert run(*args, capsys=capsys)[0] == 0
    segment()
    assert np.array_equal(labels_of(tmp_path / "killed"), labels_of(tmp_path / "out"))
    names = [sorted(p.name for p in (tmp_path / d).iterdir()) for d in ("killed", "out")]
    assert names[0] == names[1]
    # x264 itself gives other bytes for the same frames now and then (1 in 100, under load): compare what is seen.
    overlays = [np.stack(list(open_frames(tmp_path / d / "overlay.mp4"))).astype(int) for d in ("killed", "out")]
    assert overlays[0].shape == overlays[1].shape and np.abs(overlays[0] - overlays[1]).mean() < 1


def test_a_video_whose_header_counts_too_few_frames(made, tmp_path, segment):
    """Its later frames can be chosen and marked, and what was begun goes on."""
    path = tmp_path / "f.mp4"
    with av.open(str(path), "w", options={"movflags": "frag_keyframe"}) as container:
        stream = container.add_stream("libx264", rate=10, options={"g": "2"})
        stream.height, stream.width, stream.pix_fmt = 95 + 1, 150, "yuv420p"
        for frame in made.frames:
            container.mux(
                stream.encode(av.VideoFrame.from_ndarray(np.pad(frame, ((0, 1), (0, 0), (0, 0))), format="rgb24"))
            )
        container.mux(stream.encode())
    mask = np.pad(made.truth[0], ((0, 1), (0, 0)))
    (tmp_path / "m.png").write_bytes(encode_labels(mask))
    assert segment(path, mask=tmp_path / "m.png", out=tmp_path / "whole")[0] == 0
    assert len(labels_of(tmp_path / "whole")) == 8
    assert segment(path, "--start", "3", mask=tmp_path / "m.png", out=tmp_path / "late")[0] == 0
    assert len(labels_of(tmp_path / "late")) == 5
    record = json.loads((tmp_path / "whole/run.json").read_text())
    (tmp_path / "whole/run.json").write_text(json.dumps(record | {"finished": False}))
    kept = labels_of(tmp_path / "whole")
    for i in (2, 3, 4, 5, 6, 7):
        (tmp_path / f"whole/{i:05d}.png").unlink()
    assert segment(path, mask=tmp_path / "m.png", out=tmp_path / "whole")[0] == 0
    assert np.array_equal(labels_of(tmp_path / "whole"), kept)


def test_a_mask_without_background_is_said(segment, made, tmp_path):
    (tmp_path / "m.png").write_bytes(encode_labels(np.where(made.truth[0] == 1, 255, 3).astype(np.uint8)))
    status, _, err = segment(mask=tmp_path / "m.png")
    assert (
        status == 0
        and err
        == "pmljax: object 3 alone is marked, so everything is it: leave the background of the first mask at 0\n"
    )
    two = Image.fromarray(made.truth[0])
    two.putpalette([9, 9, 9, 200, 0, 0, 0, 0, 0])  # as where a picture's colours are counted
    two.save(tmp_path / "m.png")
    status, _, err = segment(mask=tmp_path / "m.png", out=tmp_path / "two")
    assert (
        status == 0
        and "the (9, 9, 9)-coloured part, index 0 of the palette, is background, the black one object 2" in err
    )


def test_what_was_compiled_is_found_again(made, tmp_path):
    """By the next process; an entry that was cut short costs its compilation, and nothing else."""
    cache, found = tmp_path / "cache" / "compiled", []
    command = [
        sys.executable,
        "-c",
        "import sys; from pmljax.cli import main; sys.exit(main())",
        "segment",
        made.folder,
    ]
    for out in (tmp_path / "first", tmp_path / "second"):
        done = subprocess.run(
            [*command, "--mask", made.mask, "--out", out, *COLOR],
            env=os.environ | {"PMLJAX_CACHE": str(tmp_path / "cache")},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        entries = {p.name: p.stat().st_size for p in cache.iterdir()}
        found.append(entries)
        # The largest is the segmentation itself.
        os.truncate(cache / max(entries, key=entries.__getitem__), 1000)
    # What compiles in about a tenth of a second is kept by one process and not by another; the segmentation takes longer.
    labels = [[name for name in entries if "label_embedding" in name] for entries in found]
    assert found[0].keys() <= found[1].keys() and labels[0] == labels[1] and len(labels[0]) == 1
    assert np.array_equal(labels_of(tmp_path / "first"), labels_of(tmp_path / "second"))


# Data sets


@pytest.fixture
def root(made, tmp_path):
    """A made DAVIS-2017 root: two objects, void, and a second sequence with one object."""
    root = tmp_path / "DAVIS"
    for name, truth in (("two", made.truth), ("one", np.where(made.truth == 2, 1, 0).astype(np.uint8))):
        for kind in ("JPEGImages", "Annotations"):
            (root / kind / "480p" / name).mkdir(parents=True)
        for i, (frame, labels) in enumerate(zip(made.frames, truth, strict=True)):
            Image.fromarray(frame).save(root / f"JPEGImages/480p/{name}/{i:05d}.jpg", quality=95)
            labels = labels.copy()
            labels[:3] = 255
            (root / f"Annotations/480p/{name}/{i:05d}.png").write_bytes(encode_labels(labels))
    for year in (2016, 2017):
        (root / f"ImageSets/{year}").mkdir(parents=True)
        (root / f"ImageSets/{year}/val.txt").write_text("two\none\n")
    return root


CLICKS = [
    {"op": "click", "frame": 0, "y": 4, "x": 4, "label": 0},
    {"op": "scribble", "frame": 0, "points": [[90, 3], [90, 140]], "width": 3, "label": 0},
    {"op": "click", "frame": 2, "y": 40, "x": 60, "label": 3},
]


def test_clicks_and_scribbles_in_place_of_a_mask(made, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PMLJAX_CACHE", str(tmp_path / "cache"))
    status, out, _ = run("embed", made.folder, *COLOR, "--json", capsys=capsys)
    first = json.loads(out)
    assert status == 0 and first["frames"] == 8 and not first["there already"]
    assert json.loads(run("embed", made.folder, *COLOR, "--json", capsys=capsys)[1])["there already"]
    clicks, scribbles = tmp_path / "c.jsonl", tmp_path / "s.json"
    clicks.write_text("\n".join(json.dumps(c) for c in CLICKS))
    done = run(
        "segment",
        made.folder,
        *COLOR,
        "--clicks",
        clicks,
        "--out",
        tmp_path / "out",
        "--overlay",
        "none",
        capsys=capsys,
    )
    assert done[0] == 0, done
    session = pmljax.Session(pmljax.load("color"), pmljax.frames(made.folder), cache=tmp_path / "cache")
    assert session.reused
    session.load(clicks)
    found = labels_of(tmp_path / "out")
    assert np.array_equal(found, list(session.all_labels())) and set(np.unique(found)) == {0, 3}
    again = run(
        "segment",
        made.folder,
        *COLOR,
        "--clicks",
        clicks,
        "--out",
        tmp_path / "out",
        "--overlay",
        "none",
        "--json",
        capsys=capsys,
    )
    assert json.loads(again[1])["computed"] == 0
    path = [[0.1, 0.1], [0.9, 0.1]]
    scribbles.write_text(
        json.dumps({"scribbles": [[{"path": path, "object_id": 0}, {"path": [[0.5, 0.5]], "object_id": 2}]]})
    )
    given = ["segment", made.folder, *COLOR, "--scribbles", scribbles, "--out"]
    assert "begun with another inputs" in run(*given, tmp_path / "out", capsys=capsys)[2]
    assert run(*given, tmp_path / "other", "--neighbours", "2", capsys=capsys)[0] == 0
    assert set(np.unique(labels_of(tmp_path / "other"))) <= {0, 2}
    for more, words in (
        ((), "found none; expected one of --mask, --clicks, --scribbles and --edits"),
        (("--clicks", clicks, "--mask", made.mask), "found --mask and --clicks; expected one of"),
        (("--clicks", clicks, "--best"), "--clicks, --scribbles or --edits, which are plain retrieval"),
        (("--clicks", tmp_path / "none"), "none: cannot be read"),
        (("--clicks", made.mask), "cannot be read"),
        (("--mask", made.mask, "--best", "--plain"), "found --plain and --best; expected one of them at most"),
    ):
        status, _, err = run("segment", made.folder, *COLOR, *more, "--out", tmp_path / "no", capsys=capsys)
        assert status == 2 and words in err and err.count("\n") == 1, err
    assert not (tmp_path / "no").exists()


def test_what_is_embedded_is_what_clicks_search(made, capsys):
    for command in ("embed", "annotate"):  # no preset is offered there
        status, _, err = run(command, made.folder, *COLOR, "--best", capsys=capsys)
        assert status == 2 and "--best" in err
        status, out, _ = run(command, "--help", capsys=capsys)
        assert status == 0 and "--model" in out and "--best" not in out and "--plain" not in out


def test_one_label_alone_is_said(made, tmp_path, capsys):
    clicks = tmp_path / "clicks.jsonl"
    for labels, words in (([1], "object 1 alone is marked"), ([0], "background alone is marked"), ([0, 1], None)):
        lines = [{"op": "click", "frame": 0, "y": 5 + 9 * i, "x": 5, "label": i} for i in labels]
        clicks.write_text("".join(json.dumps(line) + "\n" for line in lines))
        out = tmp_path / "".join(map(str, labels))
        status, _, err = run("segment", made.folder, *COLOR, "--clicks", clicks, "--out", out, capsys=capsys)
        assert status == 0 and (words in err and err.count("\n") == 1 if words else not err)


def test_a_file_of_clicks_is_no_edit_log(made, tmp_path, capsys):
    clicks = tmp_path / "clicks.jsonl"
    clicks.write_text('{"op": "click", "frame": 0, "y": 5, "x": 5, "label": 1}\n')
    status, _, err = run("segment", made.folder, *COLOR, "--edits", clicks, "--out", tmp_path / "out", capsys=capsys)
    assert status == 2 and "found no edit log" in err and "--clicks" in err and err.count("\n") == 1


def test_masks_that_are_left_out_are_said(made, tmp_path, capsys):
    late = tmp_path / "late"
    late.mkdir()
    mask = read_labels(made.mask)
    names = sorted(p.stem for p in made.folder.iterdir())
    for name, i in ((names[0], 1), (names[1], 2), (names[2], 1)):
        pmljax.save_labels(late / f"{name}.png", np.where(mask > 0, i, 0))
    given = ["segment", made.folder, *COLOR, "--plain", "--overlay", "none"]
    for name, more, words in (
        ("a", ("--mask", late, "--every", "2"), f"{names[1]}.png: object 2 is in no mask of a chosen frame"),
        ("b", ("--mask", late), None),
        ("c", ("--mask", late, "--end", "1"), None),  # what comes later was not asked for
        ("d", ("--mask", late / f"{names[2]}.png"), "taken for the first frame"),
        ("e", ("--mask", late / f"{names[2]}.png", "--start", "2"), None),
        ("f", ("--mask", late, "--every", "3"), "object 2 is in no mask"),
    ):
        if name == "f":  # what is not asked for may be anything
            Image.fromarray(np.random.default_rng(0).integers(0, 256, (*mask.shape, 3), np.uint8)).save(
                late / f"{names[2]}.png"
            )
        status, _, err = run(*given, *more, "--out", tmp_path / name, capsys=capsys)
        assert status == 0 and (words in err and err.count("\n") == 1 if words else not err), (name, err)


def test_a_mask_that_may_be_meant_the_other_way_round_is_said(segment, made, tmp_path):
    mask = Image.fromarray(np.where(read_labels(made.mask) > 0, 255, 0).astype(np.uint8)).convert("RGB").quantize(2)
    mask.save(tmp_path / "m.png")
    white = np.array(mask.getpalette()).reshape(-1, 3)[0].tolist() == [255] * 3
    status, _, err = segment(mask=tmp_path / "m.png")
    assert white and status == 0 and "m.png: the white part, index 0 of the palette, is background" in err
    assert err.count("\n") == 1 and set(np.unique(labels_of(tmp_path / "out"))) == {0, 1}


def test_grey_masks_beside_a_palette_with_ids(segment, made, tmp_path):
    masks = tmp_path / "masks"
    masks.mkdir()
    pmljax.save_labels(masks / "00000.png", np.where(made.truth[0] > 0, 2, 0))
    Image.fromarray(np.where(made.truth[3] > 0, 255, 0).astype(np.uint8)).save(masks / "00003.png")
    status, _, err = segment(mask=masks)  # 255 is void there, and says nothing: which is said
    assert status == 0 and set(np.unique(labels_of(tmp_path / "out"))) == {0, 2}
    assert "00003.png: white is void beside masks with ids" in err and err.count("\n") == 1
    status, _, err = segment(made.folder, "--every", "2", mask=masks, out=tmp_path / "chosen")
    assert status == 0 and not err
    (masks / "00006.png").write_text("no picture")
    status, _, err = segment(made.folder, "--end", "3", mask=masks, out=tmp_path / "part")  # and was not asked for
    assert status == 0 and not err


def test_a_mask_that_lies_among_the_frames_is_none(segment, made, tmp_path):
    """Whether its name is before all others or within them, and where two would have one name."""
    segment()
    for name in ("first.png", "00003_mask.png", "00000.png"):
        folder = tmp_path / name.replace(".", "_")
        folder.mkdir()
        for path in made.folder.iterdir():
            other = folder / path.name.replace(".png", ".bmp" if name == "00000.png" else ".png")
            Image.open(path).save(other)
        (folder / name).write_bytes(made.mask.read_bytes())
        status, _, err = segment(folder, mask=folder / name, out=tmp_path / "inside" / name)
        assert status == 0 and not err, err
        assert np.array_equal(labels_of(tmp_path / "inside" / name), labels_of(tmp_path / "out"))


def test_an_overlay_is_shown_as_wide_as_its_video(segment, made, tmp_path):
    with VideoWriter(tmp_path / "wide.mp4", aspect=Fraction(2)) as video:
        for i, frame in enumerate(made.frames):
            video.write(np.pad(frame, ((0, 1), (0, 0), (0, 0)), "edge"), i / 24)
    mask = tmp_path / "mask.png"
    mask.write_bytes(encode_labels(np.pad(made.truth[0], ((0, 1), (0, 0)), "edge")))
    assert open_frames(tmp_path / "wide.mp4").aspect == 2
    assert segment(tmp_path / "wide.mp4", mask=mask)[0] == 0
    assert open_frames(tmp_path / "out/overlay.mp4").aspect == 2


def test_links_do_not_lead_into_the_folder_to_write_to(segment, made, tmp_path):
    home, links = tmp_path / "home", tmp_path / "links"
    home.mkdir()
    links.mkdir()
    for path in made.folder.iterdir():
        (home / path.name).write_bytes(path.read_bytes())
        (links / path.name).symlink_to(home / path.name)
    for more, source, mask in (
        ((), links, made.mask),
        (("--overwrite",), links, made.mask),
        (("--overwrite",), made.folder, links),
    ):
        status, _, err = segment(source, *more, mask=mask, out=home)
        assert status == 2, err
    assert all((home / p.name).read_bytes() == p.read_bytes() for p in made.folder.iterdir())
    (tmp_path / "lost").symlink_to(tmp_path / "nowhere")
    status, _, err = segment(out=tmp_path / "lost")
    assert status == 2 and "lost: a link to" in err and err.count("\n") == 1


def test_inputs_that_are_taken_back_or_outside(made, tmp_path, capsys):
    clicks, scribbles = tmp_path / "c.jsonl", tmp_path / "s.json"
    click = '{"op": "click", "frame": 0, "y": 5, "x": 5, "label": 1}\n'
    line = {"path": [[1.5, 0.5]], "object_id": 1}
    scribbles.write_text(json.dumps({"scribbles": [[line]]}))
    given = ["segment", made.folder, *COLOR, "--out", tmp_path / "out"]
    for text in (click + '{"op": "clear"}\n', click + '{"op": "erase", "frame": 0, "points": [[5, 5]], "width": 40}\n'):
        clicks.write_text(text, encoding="utf-8-sig")
        status, _, err = run(*given, "--clicks", clicks, capsys=capsys)
        assert status == 2 and "c.jsonl: what was marked is taken back in the end" in err and err.count("\n") == 1
    status, _, err = run(*given, "--scribbles", scribbles, capsys=capsys)
    assert status == 2 and "s.json: scribble on frame 0: found the point" in err and err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_an_annotation_without_a_picture_is_told_before_the_work(root, tmp_path, capsys):
    picture = sorted((root / "JPEGImages/480p/one").iterdir())[5]
    whole = picture.read_bytes()
    picture.unlink()
    try:
        status, _, err = run("evaluate", *COLOR, "--davis", root, "--out", tmp_path / "r", capsys=capsys)
    finally:
        picture.write_bytes(whole)
    assert status == 2 and f"{picture.stem}.png: found no picture of that name" in err and not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    "code",
    ["from pmljax.terminal import status; x = status(lambda: print('x' * 10**6))", "x = cli.main(['score', '--help'])"],
)
def test_whoever_reads_the_output_may_stop_reading(code):
    script = f"import sys\nfrom pmljax import cli\n{code}\nsys.exit(x)"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "bufsize": 0}
    with subprocess.Popen([sys.executable, "-c", script], **pipes) as process:
        assert process.stdout and process.stderr
        process.stdout.close()
        assert process.stderr.read() == b"" and process.wait() == 1


def test_a_second_ctrl_c_does_not_disturb_what_the_first_ended(monkeypatch):
    ended = []
    monkeypatch.setattr(os, "_exit", ended.append)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as of a shell's background process: it stays so
    try:
        terminal.interrupted_once()
        os.kill(os.getpid(), signal.SIGINT)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        terminal.interrupted_once()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        assert not ended
        monkeypatch.setattr(terminal, "HURRY", 0.0)
        os.kill(os.getpid(), signal.SIGINT)
        assert ended == [130]
    finally:
        signal.signal(signal.SIGINT, before)


def test_shared_memory_that_is_left_at_the_end_is_removed_without_a_word():
    """As that of batches that were ready when a training with --workers ended."""
    code = """
import sys
from multiprocessing import shared_memory
from pmljax.cli import main
sys.argv = ["pmljax", "--version"]
main()
left = shared_memory.SharedMemory(create=True, size=8)
print(left.name)
left.close()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    with pytest.raises(FileNotFoundError):
        shared_memory.SharedMemory(done.stdout.split()[-1])


def test_streams_that_are_closed_and_no_home(tmp_path):
    """As under cron and in containers: what was done is a success, and errors go nowhere else."""
    main = [sys.executable, "-m", "pmljax"]
    shell = ["sh", "-c", 'exec "$@" >&-', "sh", *main, "--version"]
    assert subprocess.run(shell, stderr=subprocess.PIPE).stderr == b""
    shell = ["sh", "-c", 'exec "$@" 2>&-', "sh", *main, "score", "--davis", "none", "--results", "none"]
    done = subprocess.run(shell, stdout=subprocess.PIPE)
    assert (done.returncode, done.stdout) == (2, b"")
    code = (
        "import os; os.path.expanduser = lambda p: p; import pmljax.device as d; d.keep_compiled(); d.default_cache()"
    )
    bare = {k: v for k, v in os.environ.items() if k not in ("PMLJAX_CACHE", "XDG_CACHE_HOME")}
    done = subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, env=bare)
    assert "InputError: found no home folder to keep a cache in; set PMLJAX_CACHE to a folder" in done.stderr


def test_evaluate_then_score(root, tmp_path, capsys):
    status, out, _ = run("evaluate", *COLOR, "--davis", root, "--out", tmp_path / "r", capsys=capsys)
    assert status == 0 and "two_1" in out and "Global" in out and "16 frames computed" in out
    names = {p.name for p in (tmp_path / "r").iterdir()}
    assert names == {"two", "one", "scores.csv", "global_results-val.csv", "per-sequence_results-val.csv"}
    table = (tmp_path / "r" / "scores.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in table] == ["Sequence", "two_1", "two_2", "one_1", "Global"]
    status, out, _ = run(
        "score", "--davis", root, "--results", tmp_path / "r", "--csv", tmp_path / "s.csv", "--frames", tmp_path / "f.json",
        "--json", capsys=capsys,
    )  # fmt: skip
    assert status == 0 and (tmp_path / "s.csv").read_text().splitlines() == table
    frames = json.loads((tmp_path / "f.json").read_text())
    assert set(frames) == {"two_1", "two_2", "one_1"} and len(frames["two_1"]["J"]) == 6
    assert abs(np.mean(frames["two_1"]["J"]) - json.loads(out)["two_1"]["J-Mean"]) < 1e-5
    status, out, _ = run("evaluate", *COLOR, "--davis", root, "--out", tmp_path / "r", capsys=capsys)
    assert status == 0 and "0 frames computed" in out
    truth = {p: p.read_bytes() for p in (root / "Annotations/480p").rglob("*.png")}
    for more in ((), ("--overwrite",)):
        given = ("--davis", root, "--out", root / "Annotations/480p", *more)
        status, _, err = run("evaluate", *COLOR, *given, capsys=capsys)
        assert status == 2 and "this is where the input" in err
    assert truth == {p: p.read_bytes() for p in (root / "Annotations/480p").rglob("*.png")}


def test_a_table_where_output_is_printed(root, tmp_path):
    """A link such as /dev/stdout to the file that the shell opened: written anew, what was in it would be lost."""
    ours = "import sys; from pmljax.cli import main; sys.exit(main())"
    with open(tmp_path / "log.txt", "w+") as log:
        log.write("precious\n")
        log.flush()
        for to in ("/dev/stdout", str(tmp_path / "log.txt")):
            command = [sys.executable, "-c", ours, "score", "--davis", str(root), "--results", str(root), "--csv", to]
            done = subprocess.run(command, stdout=log, stderr=subprocess.PIPE, text=True)
            assert done.returncode == 2 and f"{to}: found the file that output is printed to" in done.stderr
    assert (tmp_path / "log.txt").read_text() == "precious\n"


def test_what_nobody_reads_is_written_all_the_same(root, tmp_path, monkeypatch):
    def closed(_):
        raise BrokenPipeError

    monkeypatch.setattr(cli, "show", closed)
    out, table, frames = tmp_path / "r", tmp_path / "s.csv", tmp_path / "f.json"
    with pytest.raises(BrokenPipeError):
        cli.Evaluate(root, out, computing=cli.Inference("color")).run()
    assert len(list(out.glob("*.csv"))) == 3
    with pytest.raises(BrokenPipeError):
        cli.Score(root, out, csv=table, frames=frames).run()
    assert table.read_bytes() == (out / "scores.csv").read_bytes() and frames.is_file()


def test_score_as_2016(root, tmp_path, capsys):
    for name in ("two", "one"):
        (tmp_path / "r" / name).mkdir(parents=True)
        for path in (root / "Annotations/480p" / name).iterdir():
            truth = read_labels(path)
            binary = Image.fromarray((((truth > 0) & (truth < 255)) * 255).astype(np.uint8))
            binary.save(tmp_path / "r" / name / path.name)
    (tmp_path / "r/two/00000.png").unlink()  # the first and the last frame do not count
    (tmp_path / "r/two/00007.png").unlink()
    args = ("score", "--davis", root, "--results", tmp_path / "r", "--year", "2016")
    status, out, _ = run(*args, "--json", "--frames", tmp_path / "f.json", capsys=capsys)
    assert (
        status == 0 and json.loads(out)["two_1"]["J-Mean"] == 1 and set(json.loads(out)) == {"two_1", "one_1", "Global"}
    )
    assert set(json.loads((tmp_path / "f.json").read_text())) == {"two", "one"}


def test_what_a_score_leaves(root, tmp_path, capsys):
    """Links are followed; names of sequences may have commas, splits folders; a palette that shows the background white is
    said."""
    for kind in ("JPEGImages", "Annotations"):
        (root / kind / "480p/one").rename(root / kind / "480p/one, again")
    (root / "ImageSets/2017/my").mkdir(parents=True)
    (root / "ImageSets/2017/my/val.txt").write_text("one, again\n")
    args = ("--davis", root, "--split", "my/val")
    status, *_ = run("evaluate", *COLOR, *args, "--out", tmp_path / "e", capsys=capsys)
    assert status == 0 and (tmp_path / "e/global_results-my-val.csv").is_file()
    (tmp_path / "kept.csv").write_text("before")
    (tmp_path / "link.csv").symlink_to(tmp_path / "kept.csv")
    score = ("score", *args, "--results", tmp_path / "e")
    status, out, err = run(*score, "--csv", tmp_path / "link.csv", capsys=capsys)
    assert status == 0 and err == "" and (tmp_path / "link.csv").is_symlink()
    lines = list(csv.reader((tmp_path / "kept.csv").read_text().splitlines()))
    assert {len(line) for line in lines} == {8} and lines[1][0] == "one, again_1"
    for path in (tmp_path / "e/one, again").glob("*.png"):
        image = Image.open(path)
        image.load()
        image.putpalette([255] * 3 + [0] * 765)
        image.save(path)
    status, again, err = run(*score, capsys=capsys)
    assert (status, again) == (0, out) and "the white part, index 0 of the palette, is background" in err
    assert err.count("\n") == 1


def test_scores_that_are_refused(root, tmp_path, capsys):
    def refused(word, *more):
        status, _, err = run("score", "--davis", root, "--results", tmp_path / "r", *more, capsys=capsys)
        assert status == 2 and word in err and err.count("\n") == 1, err

    refused("no such folder; expected results")
    (tmp_path / "r").mkdir()
    refused("two: no such folder")
    for name in ("two", "one"):
        (tmp_path / "r" / name).mkdir()
        for path in (root / "Annotations/480p" / name).iterdir():
            labels = read_labels(path)
            (tmp_path / "r" / name / path.name).write_bytes(encode_labels(np.where(labels == 255, 0, labels)))
    assert run("score", "--davis", root, "--results", tmp_path / "r", capsys=capsys)[0] == 0
    good = (tmp_path / "r/two/00003.png").read_bytes()
    (tmp_path / "r/two/00003.png").unlink()
    refused("two/00003.png: no such file")
    (tmp_path / "r/two/00003.png").write_bytes(encode_labels(np.full((95, 150), 3, np.uint8)))
    refused("00003.png: found object 3, expected at most 2")
    (tmp_path / "r/two/00003.png").write_bytes(encode_labels(np.zeros((95, 149), np.uint8)))
    refused("00003.png: found 149×95, expected the annotation's 150×95")
    (tmp_path / "r/two/00003.png").write_bytes(good)
    refused("no such split", "--split", "nope")
    refused("nowhere/x.csv: expected the name of a file", "--csv", str(tmp_path / "nowhere/x.csv"))
    os.mkfifo(tmp_path / "pipe")  # a rename would put a file in its place
    refused("pipe: expected the name of a file", "--frames", str(tmp_path / "pipe"))
    refused("one file for --csv and --frames", "--csv", tmp_path / "x", "--frames", tmp_path / "x")
    assert (tmp_path / "pipe").is_fifo() and not (tmp_path / "x").exists()
    truth = root / "Annotations/480p/two/00004.png"
    kept = truth.read_bytes()
    truth.unlink()
    refused("two/00004.png: no such file; expected the annotation of every frame")
    status, _, err = run("evaluate", *COLOR, "--davis", root, "--out", tmp_path / "e", capsys=capsys)
    assert status == 2 and "00004.png: no such file" in err and not (tmp_path / "e").exists()
    truth.write_bytes(kept)
    for path in (root / "Annotations/480p/one").iterdir():
        path.unlink()
    refused("one: found no annotation")
    status, _, err = run("evaluate", *COLOR, "--davis", root, "--out", tmp_path / "e", capsys=capsys)
    assert status == 2 and "one: found no annotation" in err and not (tmp_path / "e").exists()


# The rest


@pytest.mark.slow
def test_demo(tmp_path, capsys):
    status, out, _ = run("demo", "--out", tmp_path / "demo", capsys=capsys)
    assert status == 0 and "model: small (a network)" in out
    lines = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line}
    assert float(lines["Global"][0]) > 0.8
    assert (tmp_path / "demo/result/overlay.mp4").stat().st_size > 10_000
    assert len(labels_of(tmp_path / "demo/result")) == 20
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/clip.mp4").write_bytes(b"precious")
    status, _, err = run("demo", "--out", tmp_path / "mine", capsys=capsys)
    assert status == 2 and "found clip.mp4; expected a new folder" in err
    assert (tmp_path / "mine/clip.mp4").read_bytes() == b"precious"


@pytest.mark.skipif(files.fcntl is None, reason="no locks here")
def test_one_demo_at_a_time(tmp_path, capsys):
    with files.alone(tmp_path, "makes its demo there"):
        status, _, err = run("demo", *COLOR, "--out", tmp_path, capsys=capsys)
    assert status == 2 and f"{tmp_path}: another process makes its demo there" in err and not list(tmp_path.iterdir())


def test_info(capsys):
    status, out, _ = run("info", "--json", capsys=capsys)
    assert status == 0
    found = json.loads(out)
    assert (
        found["models"]["sydney0zq"].startswith("44,894,912")
        and "bundled" in found["models"]["small"]
        and found["av"] == av.__version__
    )


def test_version(capsys):
    assert run("--version", capsys=capsys) == (0, f"pmljax {version('pmljax')}\n", "")


# Real video, where it is


@pytest.mark.slow
def test_three_real_objects(multi_object, tmp_path, capsys):
    source = multi_object / "JPEGImages/480p/dogs-jump"
    mask = multi_object / "Annotations/480p/dogs-jump/00000.png"
    args = ("segment", source, "--mask", mask, "--out", tmp_path / "dogs", "--end", "12", "--overlay", "none")
    assert run(*args, capsys=capsys)[0] == 0
    found = labels_of(tmp_path / "dogs")
    assert found.shape == (12, 240, 432) and np.array_equal(found[0], read_labels(mask))
    assert all({0, 1, 2, 3} == set(np.unique(f)) for f in found)


@pytest.mark.slow
def test_a_real_sequence_as_mp4_and_gif(davis, tmp_path, capsys):
    """Labels from a video against those from the folder it was made of: mean J of one against the other."""
    folder = davis / "JPEGImages/480p/car-roundabout"
    mask = davis / "Annotations/480p/car-roundabout/00000.png"
    images = [s.image for s in open_frames(folder, end=10).stamped()]
    sources = {"folder": folder}
    for name in ("clip.mp4", "clip.gif"):
        with VideoWriter(tmp_path / name) as video:
            for i, image in enumerate(images):
                video.write(image, i / 24)
        sources[name] = tmp_path / name
    labels = {}
    for name, source in sources.items():
        args = ("segment", source, "--mask", mask, "--out", tmp_path / "r" / name, "--end", "10", "--overlay", "none")
        assert run(*args, capsys=capsys)[0] == 0
        labels[name] = labels_of(tmp_path / "r" / name)[1:] > 0  # the first is the mask itself
    for name in ("clip.mp4", "clip.gif"):
        agree = np.mean([jaccard(a, b) for a, b in zip(labels[name], labels["folder"], strict=True)])
        assert agree >= 0.95, f"{name}: {agree}"


def test_a_mask_for_a_frame_that_a_video_does_not_have(segment, made, tmp_path):
    with VideoWriter(tmp_path / "c.mp4") as video:
        for i, frame in enumerate(made.frames[:4]):
            video.write(frame, i / 10)
    masks = tmp_path / "masks"
    masks.mkdir()
    for name in ("00000", "00003", "00004"):
        (masks / f"{name}.png").write_bytes(encode_labels(np.pad(made.truth[0], ((0, 1), (0, 0)))))  # an even size
    status, _, err = segment(tmp_path / "c.mp4", mask=masks)
    assert status == 2 and "00004.png: no frame is named 00004" in err and not (tmp_path / "out").exists()
    (masks / "00004.png").unlink()
    assert segment(tmp_path / "c.mp4", "--end", "2", mask=masks)[0] == 0


def test_a_video_through_a_pipe(segment, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    status, _, err = segment(tmp_path / "pipe")
    assert status == 2 and err.count("\n") == 1 and "pipe: found a pipe or a device; expected a file" in err


def test_damage_is_one_line_and_masks(made, tmp_path):
    """A frame that cannot be decoded as it was, which FFmpeg fills up from those before."""
    path = tmp_path / "c.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.height, stream.width, stream.pix_fmt = 94, 150, "yuv420p"
        for frame in made.frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame[:94], format="rgb24")))
        container.mux(stream.encode())
    Image.fromarray(made.truth[0][:94]).save(tmp_path / "first.png")
    data = bytearray(path.read_bytes())
    frames = [m.start() for m in re.finditer(b"00dc", data[: data.rindex(b"idx1")]) if m.start() > data.index(b"movi")]
    at = frames[2] + 60
    data[at : at + 40] = bytes(40)
    path.write_bytes(data)
    ours = "import sys; from pmljax.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", ours, "segment", str(path), "--mask", str(tmp_path / "first.png")]
    command += ["--out", str(tmp_path / "out"), "--model", "color"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and len(labels_of(tmp_path / "out")) == 8
    assert done.stderr == f"pmljax: {path}: frame 00002 is damaged; what it and those after it show may be made up\n"


def test_grey_masks_with_ids_may_hold_nothing_but_void(segment, made, tmp_path):
    masks = tmp_path / "masks"
    masks.mkdir()
    void = np.zeros_like(made.truth[0])
    void[:20, :20] = 255
    Image.fromarray(np.where(made.truth[0] == 1, 2, 0).astype(np.uint8)).save(masks / "00000.png")
    Image.fromarray(void).save(masks / "00003.png")
    assert segment(mask=masks)[0] == 0 and set(np.unique(labels_of(tmp_path / "out"))) == {0, 2}


def test_a_terminal_that_lacks_a_names_letters(made, tmp_path):
    ours = "import sys; from pmljax.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", ours, "segment", str(made.folder), "--mask", str(made.mask)]
    command += ["--out", str(tmp_path / "ä"), "--model", "color", "--overlay", "none"]
    done = subprocess.run(command, env={**os.environ, "PYTHONIOENCODING": "ascii"}, capture_output=True, text=True)
    assert done.returncode == 0 and "Traceback" not in done.stderr and (tmp_path / "ä/run.json").is_file()

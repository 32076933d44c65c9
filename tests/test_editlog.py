"""The edit log: cut anywhere, of somebody else, broken, locked, on a full disk."""

import contextlib
import errno
import json
import os
import subprocess

import numpy as np
import pytest

from pmljax import editlog, files
from pmljax.editlog import EditLog, LogFull, header_of, read_log, vote_of
from pmljax.errors import InputError
from pmljax.inputs import Edit

HEADER = header_of("a video", "weights", (41, 55), vote=(1, None), seen=(41, 55))
EDITS = [
    Edit("click", 0, 1, ((4, 5),)),
    Edit("mask", 3, labels=np.eye(9, dtype=np.uint8)),
    Edit("undo"),
    Edit("redo"),
    Edit("box", 1, 2, ((1, 2), (3, 4)), ring=3),
    Edit("name", label=2, name="Hund – “dog”"),
    Edit("remove", target=0),
    Edit("forget", label=2),
    Edit("scribble", 1, 2, ((1, 2), (3, 4)), 7),
]


def written(folder, edits=EDITS):
    log = EditLog(folder, HEADER)
    for edit in edits:
        log.append(edit)
    log.close()
    return log.path


def same(found, expected):
    assert [e.to_json() for e in found] == [e.to_json() for e in expected]


def test_what_is_written_is_read_again(tmp_path):
    path = written(tmp_path / "new" / "folder")
    log = EditLog(path.parent, HEADER)
    same(log.edits, EDITS)
    assert not log.notice
    log.append(Edit("clear"))
    log.close()
    same(read_log(path, HEADER)[0], [*EDITS, Edit("clear")])
    assert json.loads(path.read_text().splitlines()[0]) == HEADER


def test_cut_at_every_byte_of_the_last_three_lines(tmp_path):
    path = written(tmp_path)
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    for cut in range(len(whole) - sum(map(len, lines[-3:])), len(whole)):
        path.write_bytes(whole[:cut])
        torn = whole[cut - 1 : cut] != b"\n" and whole[cut : cut + 1] != b"\n"  # a whole line without its end counts
        kept = whole[: cut + (not torn)].count(b"\n") - 1
        same(read_log(path, HEADER)[0], EDITS[:kept])
        log = EditLog(tmp_path, HEADER)
        same(log.edits, EDITS[:kept])
        assert bool(log.notice) == torn
        log.append(Edit("clear"))
        log.close()
        same(read_log(path, HEADER)[0], [*EDITS[:kept], Edit("clear")])


def test_cut_in_its_first_line_it_is_begun_anew(tmp_path):
    path = written(tmp_path, [])
    first = path.read_bytes()
    for cut in (0, 1, len(first) - 1):
        path.write_bytes(first[:cut])
        log = EditLog(tmp_path, HEADER)
        log.append(EDITS[0])
        log.close()
        same(read_log(path, HEADER)[0], EDITS[:1])


@pytest.mark.parametrize(
    ("key", "what"),
    [("video", "another video"), ("weights", "another model"), ("k", "another k"), ("temperature", "another temp")],
)
def test_a_log_of_something_else_is_refused_and_left_alone(tmp_path, key, what):
    path = written(tmp_path)
    before = path.read_bytes()
    with pytest.raises(
        InputError, match=f"this log is of {what}.*; expected (the same|no --neighbours.*), or another --out"
    ):
        EditLog(tmp_path, HEADER | {key: "other"})
    assert path.read_bytes() == before


def test_what_a_log_says_of_its_vote(tmp_path):
    path = written(tmp_path)
    assert vote_of(path) == (1, None) and vote_of(tmp_path / "none") is None
    header = json.loads(path.read_text().splitlines()[0])
    for changed, expected in (
        ({"k": 10, "temperature": 0.15}, (10, 0.15)),
        ({"temperature": 1}, (1, 1.0)),
        ({"k": "2"}, None),
        ({"k": True}, None),
    ):
        path.write_text(json.dumps(header | changed) + "\n")
        assert vote_of(path) == expected
    del header["temperature"]  # of a log from before votes were weighed, which goes on
    path.write_text(json.dumps(header) + "\n")
    assert vote_of(path) == (1, None) and read_log(path, HEADER)[0] == []
    for broken in ("", "[]", "{", "[" * 100_000):
        path.write_text(broken)
        assert vote_of(path) is None


@pytest.mark.parametrize("line", ["{", "7", '{"op": "jump"}', "[" * 100_000])
def test_a_line_broken_before_the_last_is_refused(tmp_path, line):
    path = written(tmp_path)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:3], line, *lines[3:]]) + "\n")
    with pytest.raises(InputError, match="line 4: found"):
        EditLog(tmp_path, HEADER)


@pytest.mark.skipif(files.fcntl is None, reason="no locks here")
def test_one_at_a_time(tmp_path):
    log = EditLog(tmp_path, HEADER)
    with pytest.raises(InputError, match="another pmljax has it open"):
        EditLog(tmp_path, HEADER)
    log.close()
    EditLog(tmp_path, HEADER).close()


@pytest.mark.parametrize("at", ["write", "fsync"])
def test_a_full_disk_refuses_the_input_and_keeps_the_others(tmp_path, monkeypatch, at):
    path = written(tmp_path, EDITS[:2])
    before = path.read_bytes()
    log = EditLog(tmp_path, HEADER)
    write = os.write

    def full(file, *data):
        if data and len(data[0]) > 10:
            return write(file, data[0][:10])  # some of it still finds room
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(editlog.os, at, full)
        for _ in range(3):
            with pytest.raises(LogFull, match="could not be written"):
                log.append(EDITS[8])
    assert path.read_bytes() == before
    log.append(EDITS[8])  # there is room again
    log.close()
    same(read_log(path, HEADER)[0], [*EDITS[:2], EDITS[8]])


@pytest.fixture
def small_disk(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], capture_output=True)
    if mounted.returncode:
        pytest.skip("no small disk can be mounted here")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_a_disk_that_is_really_full(small_disk):
    log = EditLog(small_disk / "out", HEADER)
    log.append(EDITS[0])
    (small_disk / "filler").write_bytes(b"x" * 40_000)
    big, said = Edit("scribble", 0, 1, tuple((i % 41, i % 55) for i in range(400)), 3), 1
    with pytest.raises(LogFull, match="No space left on device"):
        for _ in range(100):
            log.append(big)
            said += 1
    same(read_log(log.path, HEADER)[0], [EDITS[0], *[big] * (said - 1)])
    (small_disk / "filler").unlink()
    log.append(big)
    log.close()
    same(read_log(log.path, HEADER)[0], [EDITS[0], *[big] * said])


@pytest.mark.parametrize(
    "text", ['{"my": "file"}', '{"op": "click", "frame": 0, "y": 5, "x": 5, "label": 1}', "notes", "{"]
)
def test_a_file_without_a_line_that_is_no_log_is_left_alone(tmp_path, text):
    path = tmp_path / "edits.jsonl"
    path.write_text(text)
    header = HEADER if text != "{" else {}
    with pytest.raises(InputError, match="found no edit log") if header else contextlib.nullcontext():
        EditLog(tmp_path, HEADER).close()
    assert (
        path.read_text() == text if header else json.loads(path.read_text()) == HEADER
    )  # "{" may be a log's beginning


@pytest.mark.parametrize("end", ["", " ", "\r"])
def test_a_last_line_that_is_whole_counts(tmp_path, end):
    path = written(tmp_path, EDITS[:3])
    path.write_text(path.read_text().rstrip("\n") + end)
    log = EditLog(tmp_path, HEADER)
    log.append(EDITS[3])
    log.close()
    assert not log.notice
    same(read_log(path, HEADER)[0], EDITS[:4])


def test_edits_are_named_by_their_lines(tmp_path):
    path = written(tmp_path, EDITS[:3])
    named = editlog.with_lines(read_log(path, HEADER)[0], path)
    assert [where for where, _ in named] == [f"{path}: line {i}" for i in (2, 3, 4)]
    same([edit for _, edit in named], EDITS[:3])

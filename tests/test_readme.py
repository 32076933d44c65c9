"""What the README shows was run: its Python example, and every `pmljax` command's options."""

import contextlib
import re
import shlex
from pathlib import Path

import numpy as np
import pytest

import pmljax
from pmljax import cli
from pmljax.data.video import VideoWriter

README = (Path(__file__).parents[1] / "README.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.S)


def test_the_python_examples_run(made, tmp_path, monkeypatch):
    example, interactive = (
        text.replace('"small"', '"color"') for text in blocks("python")
    )  # compiles in half the time
    monkeypatch.setenv("PMLJAX_CACHE", str(tmp_path / "cache"))
    assert len([line for line in example.splitlines() if line.strip()]) <= 11
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").mkdir()
    with VideoWriter(tmp_path / "demo/clip.mp4") as video:
        for i, frame in enumerate(made.frames):
            video.write(frame[:94], i / 24)
    from pmljax.labels import encode_labels

    (tmp_path / "demo/first.png").write_bytes(encode_labels(made.truth[0][:94]))
    names: dict = {}
    exec(example, names)  # the README's own words
    assert names["labels"].shape == (94, 150) and np.asarray(names["labels"]).dtype == np.uint8
    written = [pmljax.labels(tmp_path / f"demo/{i:05d}.png") for i in range(8)]
    assert np.array_equal(written[0], names["first"]) and np.array_equal(written[1], names["labels"])
    names = {}
    exec(interactive, names)
    assert names["labels"].shape == (94, 150) and set(np.unique(names["labels"])) == {0, 1}
    assert (tmp_path / "demo/inputs.jsonl").is_file() and len(names["session"].edits) == 1


COMMANDS = [
    line.split("#")[0].strip()
    for block in blocks("sh")
    for line in block.replace("\\\n", " ").splitlines()
    if line.startswith("pmljax ")
]


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_exist_with_their_options(line, monkeypatch):
    """Parsed as they stand; running them is the other tests' work."""
    ran = []
    for command in cli.COMMANDS.values():
        monkeypatch.setattr(command, "run", lambda self: ran.append(self))
    with contextlib.suppress(SystemExit):
        assert cli.main(shlex.split(line)[1:]) == 0
    assert len(ran) == 1


def test_there_are_commands():
    assert {line.split()[1] for line in COMMANDS} >= {"segment", "score", "evaluate", "demo", "info"}

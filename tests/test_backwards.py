"""A split shown backwards: the same files, the last one first."""

import sys

from experiments import backwards
from pmljax.data import davis
from tests.test_batches import video


def test_the_last_frame_is_the_first(tmp_path, monkeypatch, capsys):
    root, out = tmp_path / "davis", tmp_path / "out"
    for name, count in (("a", 4), ("b", 12)):
        video(root, name, range(count))
    (root / "ImageSets/2016").mkdir(parents=True)
    (root / "ImageSets/2016/dev.txt").write_text("a\nb\n")
    monkeypatch.setattr(sys, "argv", ["backwards", "--davis", str(root), "--out", str(out)])
    assert backwards.main() == 0
    assert davis.find_split(out, "dev") == (2016, ["a", "b"])
    for name in ("a", "b"):
        before, after = (davis.open_sequence(r, name) for r in (root, out))
        assert [p.read_bytes() for p in after.files] == [p.read_bytes() for p in before.files[::-1]]
        masks = [list(s.annotations.values()) for s in (before, after)]
        assert [p.read_bytes() for p in masks[1]] == [p.read_bytes() for p in masks[0][::-1]]
        assert len(after.counted()) == len(before.files) - 2
    assert backwards.main() == 2
    assert "out: found pictures in it; expected a new folder" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["backwards", "--davis", str(root), "--turns", "2", "--out", str(tmp_path / "b")])
    assert backwards.main() == 0
    before, after = (davis.open_sequence(r, "a") for r in (root, tmp_path / "b"))
    shown = [p.read_bytes() for p in before.files]
    assert [p.read_bytes() for p in after.files] == [shown[i] for i in (0, 1, 2, 3, 2, 1, 0, 1, 2, 3)]

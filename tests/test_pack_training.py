"""What is packed is read as the original is, by the same loaders."""

import sys

import numpy as np

from experiments import pack_training
from pmljax.data import davis
from pmljax.data.images import read_image
from pmljax.data.stills import list_stills
from pmljax.labels import read_labels
from tests.test_batches import box, coordinates, stills_root, video


def test_packed_data_are_the_same_data(tmp_path, monkeypatch, capsys):
    root, out = tmp_path / "davis", tmp_path / "out"
    video(root, "a", range(0, 9, 3))
    video(root, "b", range(5))
    video(root, "c", range(3))
    (root / "ImageSets/2016").mkdir(parents=True)
    for split, names in (("train", "a b"), ("dev", "b"), ("val", "c")):
        (root / f"ImageSets/2016/{split}.txt").write_text("\n".join(names.split()) + "\n")
    stills = stills_root(tmp_path / "stills", {"p": (coordinates(), box())})
    told = ["pack", "--davis", str(root), "--stills", str(stills), "--out", str(out), "--quality", "95"]
    for _ in range(2):  # the second finds all there
        monkeypatch.setattr(sys, "argv", told)
        assert pack_training.main() == 0
        assert capsys.readouterr().out.startswith("6 pictures, ")

    year, names = davis.find_split(out / "davis", "train")
    assert (year, names) == (2016, ["a", "b"]) and davis.find_split(out / "davis", "dev")[1] == ["b"]
    assert not (out / "davis/ImageSets/2016/val.txt").exists() and not (out / "davis/JPEGImages/480p/c").exists()
    found = {name: davis.open_sequence(out / "davis", name).annotated() for name in names}
    assert {name: [n for n, _, _ in frames] for name, frames in found.items()} == {"a": [0, 6], "b": [0, 2, 4]}
    for name, frames in found.items():
        for number, picture, mask in frames:
            original = read_image(root / f"JPEGImages/480p/{name}/{int(number):05d}.png").astype(int)
            assert np.abs(read_image(picture).astype(int) - original).mean() < 6
            assert np.array_equal(read_labels(mask), box())
    ((picture, mask),) = list_stills(out / "stills", "train")
    assert picture.suffix == ".webp" and np.array_equal(read_labels(mask), box())


def test_bad_input(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        sys, "argv", ["pack", "--davis", "nowhere", "--stills", "nowhere", "--out", str(tmp_path / "o")]
    )
    assert pack_training.main() == 2
    assert "nowhere: no such folder" in capsys.readouterr().err and not (tmp_path / "o").exists()

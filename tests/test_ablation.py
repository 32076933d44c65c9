"""The ablation: labels as `segment` gives them, scores as `score` does, and nothing computed twice. The feature plots' axes."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from experiments import ablation
from experiments.feature_distribution import Components, some
from pmljax import metrics, segment
from pmljax.config import NAMED
from pmljax.errors import InputError
from pmljax.labels import encode_labels
from pmljax.model import create
from pmljax.presets import preset_of


@pytest.fixture(scope="module")
def root(made, tmp_path_factory):
    """The made clip as a DAVIS-2017 root of one sequence."""
    root = tmp_path_factory.mktemp("davis")
    for kind, form in (("JPEGImages", Image.fromarray), ("Annotations", None)):
        folder = root / kind / "480p" / "clip"
        folder.mkdir(parents=True)
        for i in range(len(made.frames)):
            path = folder / f"{i:05d}.png"
            if form:
                form(made.frames[i]).save(path)
            else:
                path.write_bytes(encode_labels(made.truth[i]))
    lists = root / "ImageSets" / "2017"
    lists.mkdir(parents=True)
    (lists / "val.txt").write_text("clip\n")
    return root


@pytest.fixture(scope="module")
def rows():
    return ablation.rows_of(create("color"), None, ["plain", "–, adaptation", "plain, shares"])


def test_rows_are_what_segment_computes(root, rows, made, tmp_path):
    records = ablation.run(tmp_path, root, ["clip"], 2017, rows)
    assert list(records) == ["–, adaptation", "plain", "plain, shares"]
    for row in rows:
        labels = list(segment(row.model, list(made.frames), made.truth[0], preset=row.preset))
        expected = np.stack(
            [metrics.frame_scores(a, b, [1, 2]) for a, b in zip(labels[1:-1], made.truth[1:-1], strict=True)]
        )
        record = records[row.name]["clip"]
        assert [np.array(record["scores"][f"clip_{k}"]).tolist() for k in (1, 2)] == [
            expected[:, i].tolist() for i in (0, 1)
        ]
        assert record["worst"] == f"{1 + int(expected.mean((1, 2)).argmin()):05d}"
        assert record["label"] > 0 and record["embed"] > 0
    text = ablation.table(records, "val")
    j, f = expected.mean(0).mean(0)  # of the last row
    assert f"| plain, shares | {j:.3f} | {f:.3f} | {(j + f) / 2:.3f} |" in text
    assert "0.732, 0.750" in text and "Not there, for want of a model or by choice: –, –; position" in text
    ablation.pictures(tmp_path, rows, ["clip"], records)
    assert len(list(tmp_path.glob("worst-*.jpg"))) == 3


def test_what_is_finished_is_not_computed_again(root, rows, tmp_path, monkeypatch):
    ablation.run(tmp_path, root, ["clip"], 2017, rows[1:2])
    embedded = []

    def counted(row, video, embed=ablation.embed_video):
        embedded.append(row.name)
        return embed(row, video)

    monkeypatch.setattr(ablation, "embed_video", counted)
    before = (tmp_path / "rows").glob("*.json")
    kept = {p: p.read_bytes() for p in before}
    records = ablation.run(tmp_path, root, ["clip"], 2017, rows[1:2])
    assert not embedded and all(p.read_bytes() == data for p, data in kept.items())
    assert json.loads(next(iter(kept.values()))) == records["plain"]["clip"]
    changed = rows[1]._replace(preset=dataclasses.replace(rows[1].preset, k=3))  # another preset under the same name
    ablation.run(tmp_path, root, ["clip"], 2017, [changed])
    assert embedded == ["plain"]
    records = ablation.run(tmp_path, root, ["clip"], 2016, [changed])  # all objects as one: another row
    assert embedded == ["plain"] * 2 and list(records[changed.name]["clip"]["scores"]) == ["clip_1"]


def test_components_are_the_largest_singular_vectors(rng):
    rows = rng.normal(size=(200, 6)) * [1, 5, 2, 0.5, 3, 0.1]
    components = Components(rows, 3)
    _, values, vectors = np.linalg.svd(rows - rows.mean(0), full_matrices=False)
    assert np.allclose(np.abs(np.sum(components.axes.T * vectors[:3], -1)), 1)
    assert np.allclose(components.shares, (values**2 / (values**2).sum())[:3])
    colours = components.colours(rows)
    assert colours.min() == 0 and colours.max() == 255 and 0.95 < ((colours > 0) & (colours < 255)).mean() < 1
    chosen = some(rng, np.array([0] * 50 + [7] * 5), 9)
    assert len(chosen) == 14 and (chosen >= 50).sum() == 5


def test_a_network_that_is_not_mirrored_has_no_row_that_mirrors():
    rows = {row.name: row.preset for row in ablation.rows_of(create("color"), None, [])}
    assert "base, flip" not in rows and not any(preset.flip for preset in rows.values())
    # What the commands do with `color`:
    assert rows["default"] == rows["best"] == rows["plain"] == preset_of(NAMED["color"])


def test_names_that_no_row_has_are_refused():
    with pytest.raises(InputError, match=r"--rows defualt, best of all: expected some of –, –; .*; default; best$"):
        ablation.rows_of(create("color"), None, ["default", "defualt", "best of all"])

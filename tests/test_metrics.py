"""J and F against loops written from the definitions, the tool's statistics, and the official scores."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pmljax import metrics
from pmljax.data.davis import find_split
from pmljax.errors import InputError
from pmljax.labels import encode_labels, read_labels
from pmljax.scoring import score_results


def boundary_by_hand(mask):
    """As public tools do, pixel by pixel: differs from the right, lower, lower-right neighbour; one neighbour at the edges."""
    h, w = mask.shape
    out = np.zeros((h, w), bool)
    for i in range(h):
        for j in range(w):
            near = [(i, j + 1), (i + 1, j), (i + 1, j + 1)]
            near = near[1:2] if j == w - 1 else near[:1] if i == h - 1 else near
            if i == h - 1 and j == w - 1:
                continue
            out[i, j] = any(mask[p] != mask[i, j] for p in near)
    return out


def f_by_hand(prediction, truth, radius):
    """Precision and recall of boundary pixels with a partner within `radius`, by distances between all pairs."""
    a, b = (np.argwhere(boundary_by_hand(m)) for m in (prediction, truth))
    if not len(a) or not len(b):
        return float(len(a) == len(b))
    near = ((a[:, None] - b[None]) ** 2).sum(-1) <= radius**2
    precision, recall = near.any(1).mean(), near.any(0).mean()
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


@given(st.integers(0, 2**32 - 1), st.integers(3, 24), st.integers(3, 24), st.sampled_from([0.1, 0.5, 0.95]))
def test_against_loops(seed, h, w, share):
    rng = np.random.default_rng(seed)
    a, b = rng.random((2, h, w)) < share
    union = sum(bool(x or y) for x, y in zip(a.ravel(), b.ravel(), strict=True))
    both = sum(bool(x and y) for x, y in zip(a.ravel(), b.ravel(), strict=True))
    assert metrics.jaccard(a, b) == (both / union if union else 1)
    assert np.array_equal(metrics.boundary(a), boundary_by_hand(a))
    for radius in (1.0, 2.0, 5.0):
        assert math.isclose(metrics.contour_f(a, b, radius), f_by_hand(a, b, radius))


def test_blobs_with_the_default_radius():
    y, x = np.mgrid[:120, :214]
    a = (y - 50) ** 2 + (x - 90) ** 2 < 30**2
    b = (y - 53) ** 2 + (x - 93) ** 2 < 30**2
    radius = math.ceil(0.008 * math.hypot(120, 214))
    assert radius == 2
    assert math.isclose(metrics.contour_f(a, b), f_by_hand(a, b, radius))
    assert math.ceil(0.008 * math.hypot(480, 854)) == 8


def test_empty_cases():
    none, some = np.zeros((20, 20), bool), np.zeros((20, 20), bool)
    some[5:10, 5:10] = True
    assert metrics.jaccard(none, none) == metrics.contour_f(none, none) == 1
    assert metrics.jaccard(some, none) == metrics.contour_f(some, none) == metrics.contour_f(none, some) == 0
    full = np.ones((20, 20), bool)  # a mask without a boundary
    assert metrics.contour_f(full, some) == 0 and metrics.contour_f(full, full) == 1


@pytest.mark.parametrize("radius", [1, 2, 3, 8])
def test_dilate(radius, rng):
    mask = rng.random((40, 37)) < 0.01
    mask[0, 0] = mask[-1, -1] = True
    points = np.argwhere(mask)
    y, x = np.mgrid[:40, :37]
    near = (y[..., None] - points[:, 0]) ** 2 + (x[..., None] - points[:, 1]) ** 2 <= radius**2
    assert np.array_equal(metrics.dilate(mask, radius), near.any(-1))


def test_statistics():
    values = np.arange(48) / 47
    s = metrics.statistics(values)
    assert math.isclose(s.mean, 0.5) and math.isclose(s.recall, 0.5)
    # n = 48: the quarters end at 0, 12, 24, 35, 47, ends shared.
    assert math.isclose(s.decay, values[0:13].mean() - values[35:48].mean())
    long = metrics.statistics(np.linspace(1, 0, 1000))  # the tool's 8-bit frame numbers fail here
    assert math.isclose(long.decay, 0.75, abs_tol=1e-2)
    assert metrics.statistics([0.25]) == (0.25, 0.0, 0.0)
    assert math.isclose(metrics.statistics([math.nan, 1.0, 0.0]).mean, 0.5)
    assert math.isnan(metrics.statistics([]).mean)


def test_tables_average_objects_not_sequences():
    scores = {
        "a_1": np.full((5, 2), 0.8), "a_2": np.full((5, 2), 0.6), "b_1": np.tile([0.1, 0.3], (5, 1)),
    }  # fmt: skip
    rows = metrics.table(scores)
    assert math.isclose(rows["Global"]["J-Mean"], 0.5) and math.isclose(rows["Global"]["F-Mean"], 1.7 / 3)
    assert math.isclose(rows["Global"]["J&F-Mean"], (0.5 + 1.7 / 3) / 2)
    lines = metrics.csv_table(rows).splitlines()
    assert lines[0] == "Sequence,J&F-Mean,J-Mean,J-Recall,J-Decay,F-Mean,F-Recall,F-Decay"
    assert lines[1] == "a_1,0.800,0.800,1.000,0.000,0.800,1.000,0.000" and lines[-1].startswith("Global,0.533,0.500,")
    totals, each = metrics.official_csv(rows)
    assert totals.splitlines()[0] == "J&F-Mean,J-Mean,J-Recall,J-Decay,F-Mean,F-Recall,F-Decay"
    assert totals.splitlines()[1].startswith("0.533,0.500,")
    assert each.splitlines() == ["Sequence,J-Mean,F-Mean", "a_1,0.800,0.800", "a_2,0.600,0.600", "b_1,0.100,0.300"]


def test_frame_scores_by_object():
    truth = np.zeros((10, 10), np.uint8)
    truth[:5] = 1
    truth[5:] = 2
    scores = metrics.frame_scores(np.where(truth == 1, 1, 0).astype(np.uint8), truth, [1, 2])
    assert scores[0].tolist() == [1, 1] and scores[1].tolist() == [0, 0]
    with pytest.raises(ValueError, match=r"prediction \[10, 9\] and truth \[10, 10\]"):
        metrics.frame_scores(truth[:, 1:], truth, [1])


def test_official_scores_to_their_digits(davis):
    """The benchmark site's own scores of the masks that the authors published: every frame, all three digits."""
    year, names = find_split(davis, "val")
    scores = score_results(davis, davis / "pml_authors" / "masks", names, year)
    official = json.loads((davis / "pml_authors" / "official_scores.json").read_text())
    assert set(official) == set(names) and len(names) == 6
    for name in names:
        j, f = scores[f"{name}_1"].T
        assert np.array_equal(np.round(j, 3), official[name]["J"])
        assert np.array_equal(np.round(f, 3), official[name]["F"])
    assert round(metrics.table(scores)["Global"]["J-Mean"], 3) == 0.758


@pytest.fixture
def small_root(tmp_path):
    """A sequence of six frames with two objects, and results that are right on the first two alone."""
    folders = [tmp_path / "JPEGImages/480p/a", tmp_path / "Annotations/480p/a", tmp_path / "results/a"]
    for folder in folders:
        folder.mkdir(parents=True)
    truth = np.zeros((6, 40, 60), np.uint8)
    truth[:, 5:20, 5:30], truth[:, 22:35, 30:55] = 1, 2
    for i, labels in enumerate(truth):
        Image.new("RGB", (60, 40)).save(folders[0] / f"{i:05d}.jpg")
        (folders[1] / f"{i:05d}.png").write_bytes(encode_labels(labels))
        (folders[2] / f"{i:05d}.png").write_bytes(encode_labels(labels if i < 2 else labels * np.uint8(0)))
    return tmp_path


def mean(root, year=2017):
    return float(np.mean([s[:, 0].mean() for s in score_results(root, root / "results", ["a"], year).values()]))


def test_ids_that_are_left_out_are_no_objects(small_root):
    """As objects that are nowhere, and that nobody marks, they would score 1."""
    for path in (small_root / "Annotations/480p/a").iterdir():
        labels = np.array(Image.open(path))
        path.write_bytes(encode_labels(np.where(labels == 2, np.uint8(6), labels)))
    scores = score_results(small_root, small_root / "results", ["a"], 2017)
    assert list(scores) == ["a_1", "a_6"] and scores["a_1"][0, 0] == 1
    assert scores["a_6"].max() == 0  # the results call it 2


def test_frames_are_those_of_the_annotations(small_root):
    assert mean(small_root) == 0.25
    pictures = small_root / "JPEGImages/480p/a"
    Image.new("RGB", (60, 40)).save(pictures / "00001.png")  # beside 00001.jpg
    assert mean(small_root) == 0.25
    for i in (3, 4, 5):  # as where an archive was unpacked in part
        (pictures / f"{i:05d}.jpg").unlink()
    assert mean(small_root) == 0.25
    Image.new("RGB", (60, 40)).save(pictures / "00006.jpg")
    with pytest.raises(InputError, match=r"00006\.png: no such file; expected the annotation of every frame"):
        mean(small_root)


def test_void_alone_in_a_grey_annotation_with_ids(small_root):
    folder = small_root / "Annotations/480p/a"
    for path in folder.iterdir():
        Image.fromarray(read_labels(path)).save(path)  # grey
    only = np.zeros((40, 60), np.uint8)
    only[:9, :9] = 255
    Image.fromarray(only).save(folder / "00003.png")  # both are gone, and the results are empty: right
    assert mean(small_root) == 0.5 and mean(small_root, 2016) == 0.5


def test_annotations_without_an_object(small_root):
    """A palette of 0 and 255 is background and void: whatever was scored against it would be nothing's score."""
    for path in (small_root / "Annotations/480p/a").iterdir():
        path.write_bytes(encode_labels((read_labels(path) > 0) * np.uint8(255)))
    for year in (2016, 2017):
        with pytest.raises(InputError, match=r"00000\.png: found no object; expected ids"):
            mean(small_root, year)


def test_black_and_white_results_of_several_objects(small_root):
    for path in (small_root / "results/a").iterdir():
        Image.fromarray((read_labels(path) > 0) * np.uint8(255)).save(path)
    assert mean(small_root, 2016) == 0.25  # of the four frames that count the first
    with pytest.raises(InputError, match=r"found 255, expected ids 1…2; --year 2016 scores all objects as one"):
        mean(small_root)


def test_lists_of_sequences_as_editors_write_them(small_root):
    path = small_root / "ImageSets/2017/val.txt"
    path.parent.mkdir(parents=True)
    path.write_text("a\n", encoding="utf-8-sig")
    assert find_split(small_root, "val") == (2017, ["a"])
    path.write_text("a\n", encoding="utf-16")
    with pytest.raises(InputError, match=r"val\.txt: cannot be read .*expected a list in UTF-8"):
        find_split(small_root, "val")

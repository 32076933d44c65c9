"""The simulated user: where it clicks and draws, what its curves say; and the public package's loop, with the package faked."""

import json
import sys
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from experiments import davisinteractive_adapter as adapter
from experiments import interaction_curve, interactive, robot
from pmljax.inputs import Edit
from pmljax.labels import VOID, encode_labels
from pmljax.marks import region
from pmljax.model import create
from pmljax.scribbles import davis_scribbles, to_davis

EIGHT = np.ones((3, 3), bool)
FRAMES = 8


def picture(*rows):
    return np.array([[c == "#" for c in row] for row in rows])


def disk(h, w, y, x, radius):
    at = np.mgrid[:h, :w]
    return (at[0] - y) ** 2 + (at[1] - x) ** 2 <= radius**2


def blobs(rng, h=40, w=50):
    """A region of several parts, some at the border, with holes."""
    return ndimage.gaussian_filter(rng.normal(size=(h, w)), 3) > 0.02


RING = disk(40, 40, 20, 20, 15) & ~disk(40, 40, 20, 20, 7)
SHAPES = {
    "disk": disk(30, 30, 15, 14, 11),
    "ring": RING,
    "corner": np.pad(np.tri(20, dtype=bool)[::-1] & ~np.pad(np.ones((12, 12), bool), ((0, 8), (8, 0))), 2),
    "square of four": np.pad(np.ones((2, 2), bool), 3),
    "strip": np.ones((5, 40), bool),
    "thick diagonal": np.abs(np.subtract.outer(np.arange(30), np.arange(30))) < 4,
    "cross": np.pad(np.ones((4, 30), bool), ((13, 13), (0, 0))) | np.pad(np.ones((30, 5), bool), ((0, 0), (12, 13))),
    "all": np.ones((12, 17), bool),
}


# Clicks


def test_the_most_interior_point_is_the_farthest_from_outside_by_trying_all(rng):
    for _ in range(4):
        inside = blobs(rng, 14, 17)
        outside = np.argwhere(~np.pad(inside, 1)) - 1  # the picture's edge is one
        distance = np.sqrt(((np.argwhere(inside)[:, None] - outside[None]) ** 2).sum(-1)).min(1)
        found = {robot.interior_point(inside, np.random.default_rng(seed), 0.7) for seed in range(20)}
        best = robot.interior_point(inside, rng)
        of = dict(zip(map(tuple, np.argwhere(inside).tolist()), distance, strict=True))
        assert of[best] == pytest.approx(distance.max())
        assert len(found) > 1 and min(of[p] for p in found) >= 0.7 * distance.max() - 1e-9


def test_the_next_click_falls_into_the_largest_error(rng):
    truth = np.zeros((40, 60), np.uint8)
    truth[5:25, 5:25], truth[30:38, 40:58] = 1, 2
    labels = truth.copy()
    assert robot.next_click(3, truth, labels, rng) == []
    labels[5:15, 5:15] = 0  # 100 pixels of object 1
    labels[30:38, 40:50] = 1  # 80 of object 2
    labels[0:3, 30:60] = 2  # 90 of background
    click = robot.next_click(3, truth, labels, rng)[0]
    ((y, x),) = click.points
    assert (click.op, click.frame, click.label) == ("click", 3, 1)
    assert 5 <= y < 15 and 5 <= x < 15
    labels[30:38, 40:52] = 1  # 96
    labels[0:4, 30:60] = 2  # 120, the largest now
    click = robot.next_click(3, truth, labels, rng)[0]
    assert click.label == 0 and click.points[0][0] in (1, 2)
    truth[0:4, 30:60] = VOID  # where nobody knows, nothing is wrong
    labels[5:15, 5:15] = 1
    click = robot.next_click(3, truth, labels, rng)[0]
    assert click.label == 2 and 30 <= click.points[0][0] < 38
    # Two errors that only the frame's right labels part are two: 2 × 60 pixels are less than 100 together.
    truth, labels = np.zeros((2, 30, 30), np.uint8)
    labels[0:6, 0:10], labels[0:6, 12:22], labels[20:30, 20:30] = 1, 1, 1
    assert robot.next_click(0, truth, labels, rng)[0].points[0] >= (20, 20)


def test_a_gesture_is_a_click_or_one_line_in_the_largest_error(rng):
    truth = np.zeros((40, 60), np.uint8)
    truth[5:25, 5:55], truth[30:38, 40:58] = 1, 2
    assert robot.next_click(3, truth, truth, rng, lines=True) == []
    gestures = [edit for _ in range(20) for edit in robot.next_click(3, truth, np.zeros_like(truth), rng, lines=True)]
    assert len(gestures) == 20 and {edit.op for edit in gestures} == {"click", "scribble"}
    for edit in gestures:
        assert (edit.frame, edit.label) == (3, 1) and all(truth[p] == 1 for p in edit.points)
        assert (len(edit.points) > 10) == (edit.op == "scribble")


# Scribbles


def parts_and_holes(mask):
    """How many parts a region has, by corners, and how many its outside has, by edges."""
    return ndimage.label(mask, EIGHT)[1], ndimage.label(~np.pad(mask, 1))[1]  # pyright: ignore


@pytest.mark.parametrize("shape", SHAPES)
def test_a_skeleton_is_one_pixel_wide_and_hangs_together(shape):
    mask = SHAPES[shape]
    thin = robot.thin(mask)
    assert thin.any() and not (thin & ~mask).any()
    assert parts_and_holes(thin) == parts_and_holes(mask)
    assert not (thin[1:, 1:] & thin[:-1, 1:] & thin[1:, :-1] & thin[:-1, :-1]).any()


def test_skeletons_of_any_region_keep_parts_and_holes(rng):
    for _ in range(5):
        mask = blobs(rng)
        thin = robot.thin(mask)
        assert parts_and_holes(thin) == parts_and_holes(mask)


def test_longest_paths():
    tree = picture(
        "#......#....",
        ".#....#.....",
        "..#..#......",
        "...##.......",
        "...#......##",
        "...#......#.",
        "...#........",
        "...#........",
    )
    (path,) = robot.longest_paths(tree)  # what has three pixels is too short
    assert {tuple(path[0]), tuple(path[-1])} == {(0, 7), (7, 3)} or {tuple(path[0]), tuple(path[-1])} == {
        (0, 0),
        (0, 7),
    }
    arms = {(0, 0): 3 * 2**0.5, (0, 7): 1 + 3 * 2**0.5, (7, 3): 4}  # to the pixel (3, 3)
    length = sum(float(np.hypot(*(b - a))) for a, b in pairwise(path))
    assert length == pytest.approx(arms[(0, 0)] + arms[(0, 7)])
    (path,) = robot.longest_paths(robot.thin(RING))  # a cycle is cut
    assert np.abs(np.diff(path, axis=0)).max() == 1 and len({tuple(p) for p in path}) == len(path)
    assert len(path) > 0.95 * robot.thin(RING).sum() - 3
    assert robot.longest_paths(np.zeros((5, 5), bool)) == []


def test_a_bezier_curve_is_that_of_de_casteljau(rng):
    points = rng.integers(0, 50, (9, 2))
    curve = robot.bezier(points)
    for t, found in zip(np.linspace(0, 1, len(curve)), curve, strict=True):
        left = points.astype(float)
        while len(left) > 1:
            left = (1 - t) * left[:-1] + t * left[1:]
        assert np.allclose(found, left[0])


def test_opening_is_erosion_and_dilation_by_a_disk(rng):
    mask = blobs(rng, 80, 90)
    radius = 0.15 * np.sqrt(mask.sum()) * 0.5
    assert 1 < radius < 16
    r = int(radius)
    at = np.mgrid[-r : r + 1, -r : r + 1]
    structure = (at**2).sum(0) <= radius**2
    assert np.array_equal(robot.opened(mask), ndimage.binary_opening(mask, structure))
    small = np.pad(np.ones((1, 90), bool), 3)  # no disk fits
    assert np.array_equal(robot.opened(small), small)


def test_scribbles_stay_inside_their_errors(rng):
    for _ in range(3):
        truth = blobs(rng, 60, 70).astype(np.uint8) + 2 * disk(60, 70, 30, 30, 12).astype(np.uint8)
        truth[:4, :20] = VOID
        labels = rng.integers(0, 4, (6, 7)).repeat(10, 0).repeat(10, 1).astype(np.uint8)
        edits = robot.scribbles(5, truth, labels)
        assert edits and {e.label for e in edits} <= set(np.unique(truth)) - {VOID}
        for edit in edits:
            line = region(edit, truth.shape)
            assert (truth[line] == edit.label).all() and (labels[line] != edit.label).all()
    # Around a sharp corner the curve would leave a narrow region, the path does not.
    narrow = np.zeros((60, 60), bool)
    narrow[5:55, 5:8] = narrow[5:8, 5:55] = True
    (edit,) = robot.scribbles(0, np.where(narrow, 1, VOID).astype(np.uint8), np.zeros((60, 60), np.uint8))
    assert edit.label == 1 and len(edit.points) > 80 and narrow[region(edit, narrow.shape)].all()
    curve = np.round(robot.bezier(np.array(edit.points))).astype(int)
    assert not narrow[tuple(curve.T)].all()
    # A disc's skeleton is a point; of what is hardly anything nothing is said.
    (edit,) = robot.scribbles(0, disk(40, 40, 20, 19, 9).astype(np.uint8), np.zeros((40, 40), np.uint8))
    assert edit.points == ((20, 19),) and edit.label == 1
    assert robot.scribbles(0, disk(40, 40, 20, 19, 1).astype(np.uint8), np.zeros((40, 40), np.uint8)) == []
    assert robot.scribbles(0, RING.astype(np.uint8), RING.astype(np.uint8)) == []


def test_scribbles_in_davis_form_come_back(tmp_path, rng):
    truth = blobs(rng).astype(np.uint8)
    edits = robot.scribbles(2, truth, np.full_like(truth, VOID))
    edits += [Edit("scribble", 0, 1, ((0, 0), (39, 49)))]
    path = tmp_path / "001.json"
    path.write_text(json.dumps(to_davis("clip", 4, edits, truth.shape)))
    found = davis_scribbles(path, truth.shape)
    assert sorted(found, key=str) == sorted(edits, key=str)
    shares = [x for frame in json.loads(path.read_text())["scribbles"] for s in frame for p in s["path"] for x in p]
    assert min(shares) >= 0 and max(shares) <= 1


# Whole runs


@pytest.fixture(scope="module")
def clip():
    """(frames, truth) of two squares that move over a background of two other colours, all a little noisy."""
    rng, truth = np.random.default_rng(0), np.zeros((FRAMES, 64, 96), np.uint8)
    for t in range(FRAMES):
        truth[t, 8:30, 10 + 5 * t : 34 + 5 * t], truth[t, 36:56, 50 - 4 * t : 80 - 4 * t] = 1, 2
    colours = np.array([[90, 120, 60], [150, 100, 70], [130, 60, 160], [70, 90, 130]], np.uint8)
    index = np.where(truth > 0, truth, np.where(np.arange(96) > 50, 3, 0))
    noise = rng.normal(0, 12, (FRAMES, 8, 12, 3)).repeat(8, 1).repeat(8, 2)
    return np.clip(colours[index] + noise, 0, 255).astype(np.uint8), truth


@pytest.fixture(scope="module")
def root(clip, tmp_path_factory):
    """The clip as a DAVIS-2017 root."""
    root = tmp_path_factory.mktemp("davis")
    pictures, masks, lists = (root / x for x in ("JPEGImages/480p/clip", "Annotations/480p/clip", "ImageSets/2017"))
    for folder in (pictures, masks, lists):
        folder.mkdir(parents=True)
    for i, (frame, labels) in enumerate(zip(*clip, strict=True)):
        Image.fromarray(frame).save(pictures / f"{i:05d}.png")
        (masks / f"{i:05d}.png").write_bytes(encode_labels(labels))
    (lists / "val.txt").write_text("clip\n")
    return root


@pytest.fixture(scope="module")
def color():
    return {"color": create("color")}


CLICKS = interactive.User("clicks", "worst", 6, 1)


def test_clicks_make_labels_better_and_nothing_is_computed_twice(root, color, tmp_path, monkeypatch):
    records = interactive.run(tmp_path, root, ["clip"], 2017, color, CLICKS, 2)
    for record in records:
        rows = interaction_curve.rows(record, 6)
        assert [row[3] for row in rows] == [1, 2, 3, 4, 5, 6] and rows[5][5] > rows[0][5] + 0.1
        clicks = [edit for step in record["steps"] for edit in step["inputs"]]
        assert len(clicks) == 6 and len({(c["frame"], c["y"], c["x"]) for c in clicks}) == 6
        assert clicks[0]["label"] > 0 and clicks[0]["frame"] == 0 and clicks[1]["label"] == 0
        assert all(0 < s["frame_seconds"] < s["seconds"] for s in record["steps"])
    assert records[0]["steps"][0]["inputs"] != records[1]["steps"][0]["inputs"]

    def never(*_):
        raise AssertionError("computed again")

    kept = {path: path.read_bytes() for path in (tmp_path / "runs").iterdir()}
    monkeypatch.setattr(interactive, "open_session", never)
    again = interactive.run(tmp_path, root, ["clip"], 2017, color, CLICKS, 2)
    assert again == json.loads(json.dumps(records)) and {p: p.read_bytes() for p in kept} == kept
    with pytest.raises(AssertionError, match="computed again"):  # other settings
        interactive.run(tmp_path, root, ["clip"], 2017, color, CLICKS._replace(every=2), 2)


def test_scribbles_in_one_frame_after_the_other(root, color, tmp_path):
    user = interactive.User("scribbles", "worst", 3, 2)
    (record,) = interactive.run(tmp_path, root, ["clip"], 2017, color, user, 1)
    frames = [step["frame"] for step in record["steps"]]
    assert all(frame % 2 == 0 for frame in frames) and len(set(frames[1:])) == 2
    assert {edit["label"] for edit in record["steps"][0]["inputs"]} == {0, 1, 2}
    assert len(record["steps"][0]["J"]) == 2 and np.mean(record["steps"][2]["J"]) > 0.5


def test_the_command(root, tmp_path, monkeypatch, capsys):
    command = ["", "--davis", str(root), "--split", "val", "--model", "color", "--interactions", "2", "--seeds", "1"]
    command += ["--frame", "current", "--every", "3", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", command)
    assert interactive.main() == 0
    assert "| color |" in capsys.readouterr().out and (tmp_path / "curve.png").stat().st_size > 1000
    lines = [line.split(",") for line in (tmp_path / "curve.csv").read_text().splitlines()]
    assert tuple(lines[0]) == interaction_curve.COLUMNS and [line[3:5] for line in lines[1:]] == [
        ["1", "0"],
        ["2", "0"],
    ]
    found = json.loads((tmp_path / "curve.json").read_text())["models"]["color"]
    assert found["J"][1] == pytest.approx(float(lines[2][5]), abs=1e-4)
    for option, value, expected in (
        ("--every", "0", "--every 0: expected 1"),
        ("--model", "none.safetensors", "none.safetensors"),
        ("--sequences", "cat", "--sequences cat: expected some of clip"),
        ("--split", "dev", "no such split"),
    ):
        monkeypatch.setattr(sys, "argv", [*command, option, value])
        assert interactive.main() == 2
        error = capsys.readouterr().err
        assert expected in error and error.count("\n") == 1


def test_curves_against_numbers_by_hand():
    assert interaction_curve.area(np.array([0.4, 0.8]), np.array([1.0, 2.0])) == pytest.approx((0.2 + 0.6) / 2)
    assert interaction_curve.area(np.array([0.4, 0.8, 0.8]), np.array([1, 3, 10])) == pytest.approx(
        (0.5 * 0.4 + 2 * 0.6 + 7 * 0.8) / 10
    )

    def record(seed, *steps):
        named = [{"frame": 7, "J": j, "F": f, "seconds": s, "frame_seconds": s / 2} for j, f, s in steps]
        return {"model": "m", "sequence": "s", "seed": seed, "embed": 1.0, "steps": named}

    # Objects first, then runs; the second run found no error after its first interaction.
    records = [
        record(0, ([0.2, 0.4], [0.1, 0.1], 10.0), ([0.6, 0.8], [0.3, 0.5], 30.0)),
        record(1, ([0.9], [0.7], 20.0)),
    ]
    assert [row[3:] for row in interaction_curve.rows(records[1], 2)] == [
        (1, 7, 0.9, 0.7, 20, 10),
        (2, 7, 0.9, 0.7, 20, 0),
    ]
    found = interaction_curve.summary(records, 2)
    assert found["J"] == pytest.approx([0.6, 0.8]) and found["F"] == pytest.approx([0.4, 0.55])
    assert found["seconds"] == pytest.approx([15, 30])
    both = [0.5, 0.675]
    assert found["area"]["interactions"] == pytest.approx((both[0] / 2 + sum(both) / 2) / 2)
    # The time axis ends at 2 × 30 s.
    by_time = 15 * both[0] / 2 + 15 * sum(both) / 2 + 30 * both[1]
    assert found["area"]["seconds"] == pytest.approx(by_time / 60) and found["J&F at 60 s"] == pytest.approx(both[1])
    assert interaction_curve.csv_curve(records, 2).splitlines()[2] == "m,s,0,2,7,0.7000,0.4000,40.0000,15.0000"


# The public package


def test_the_packages_loop(root, clip, tmp_path, monkeypatch, capsys):
    """Two sets of two interactions: what it hands out, each time only what is new, and what it gets."""
    handed, got = [], []
    dataset = SimpleNamespace(
        sets={"val": ["clip", "other"]}, dataset={"clip": {"num_scribbles": 3, "num_frames": FRAMES, "num_objects": 2}}
    )

    class Public:
        def __init__(self, **options):
            self.root, self.left = options["davis_root"], [(1, True), (1, False), (2, True), (2, False)]

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def next(self):
            return len(got) < len(self.left)

        def get_scribbles(self, only_last):
            number, new = self.left[len(got)]
            drawn = Path(self.root, "Scribbles", "clip", f"{number:03d}.json").read_text()
            given = json.loads(drawn) if new else {"scribbles": [[] for _ in range(FRAMES - 1)] + [[LINE]]}
            handed.append(given)
            return "clip", given, new

        def submit_masks(self, masks):
            got.append(masks)

        def get_global_summary(self):
            return {"auc": np.float64(0.5)}

    LINE = {"path": [[-0.01, 0.5], [1.0, 0.5]], "object_id": np.int64(0)}
    monkeypatch.setattr(adapter, "package", lambda: (Public, dataset))
    command = ["", "--davis-root", str(tmp_path / "made"), "--model", "color", "--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", command)
    assert adapter.main() == 2 and "001.json: no such file" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", [*command, "--sequences", "clip", "--made-from", str(root)])
    assert adapter.main() == 0
    assert json.loads((tmp_path / "out" / "summary.json").read_text()) == {"auc": 0.5}
    assert all(masks.dtype == np.uint8 and masks.shape == clip[1].shape for masks in got)
    for i, frame in ((0, 0), (2, FRAMES // 2)):  # the sets' own frames, and nothing of the set before
        (drawn,) = [f for f, lines in enumerate(handed[i]["scribbles"]) if lines]
        assert drawn == frame and (got[i][frame] == clip[1][frame]).mean() > 0.8
    assert (got[1][-1][31, 5:90] == 0).all()


def test_without_the_package_one_line_says_how_to_get_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(adapter, "find_spec", lambda _: None)
    monkeypatch.setattr(sys, "argv", ["", "--davis-root", str(tmp_path), "--model", "color"])
    assert adapter.main() == 2
    error = capsys.readouterr().err
    assert "pip install --no-build-isolation --no-deps davisinteractive" in error and error.count("\n") == 1
    assert not hasattr(np, "trapz")

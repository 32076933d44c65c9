"""Made clips: a function of the key, objects in view and named in depth order, a distractor, an occlusion."""

import functools

import jax
import numpy as np
import pytest

from pmljax.data.synthetic import clip


@functools.cache  # most tests look at the same ones
def make(seed, **options):
    made = clip(jax.random.key(seed), **{"frames": 17, "size": (72, 120), "objects": 3} | options)
    frames, labels = np.asarray(made.frames), np.asarray(made.labels)
    frames.flags.writeable = labels.flags.writeable = False
    return frames, labels


def test_a_function_of_the_key():
    a, b, c = make.__wrapped__(0), make(0), make(1)
    assert all(np.array_equal(x, y) for x, y in zip(a, b, strict=True)) and (a[0] != c[0]).mean() > 0.5
    assert a[0].shape == (17, 72, 120, 3) and a[0].dtype == np.uint8 == a[1].dtype and a[1].shape == (17, 72, 120)


def test_every_object_is_seen_first_and_moves():
    for seed in range(5):
        frames, labels = make(seed)
        assert set(np.unique(labels[0])) == {0, 1, 2, 3}
        assert all((labels[0] == k).mean() > 0.004 for k in (1, 2, 3))
        centre = [np.argwhere(labels[t] == 1).mean(0) for t in (0, 8)]
        assert np.linalg.norm(centre[1] - centre[0]) > 3
        assert 20 < frames.mean() < 235 and frames.std() > 10


def test_the_post_hides_a_part_of_object_1():
    """In some frame background stands between two parts of the object, in a column that it would fill."""
    split = 0
    for seed in range(5):
        _, labels = make(seed)
        for frame in labels == 1:
            columns = np.flatnonzero(frame.any(0))
            split += len(columns) > 0 and len(columns) < columns[-1] - columns[0] + 1
    assert split >= 5


def test_the_distractor_looks_like_object_1_and_is_background():
    """Where the ground has another colour than object 1, background of its colour comes into view in the clip."""
    tried = 0
    for seed in range(10):
        frames, labels = make(seed)
        colour = frames[0][labels[0] == 1].mean(0)
        alike = ((np.abs(frames.astype(int) - colour).sum(-1) < 60) & (labels == 0)).sum((1, 2))
        if alike[0] < 100:
            tried += 1
            assert alike.max() > alike[0] + 20, f"seed {seed}: {alike}"
    assert tried >= 4


def test_light_changes_the_whole_picture_and_no_label():
    for seed in range(3):
        (still, labels), (lit, same) = make(seed), make(seed, light=0.5)
        assert np.array_equal(labels, same)
        # One factor a frame and channel, where nothing is cut off at white.
        inside = (still > 60) & (lit < 255)
        factors = [lit[t][inside[t][..., 0], 0] / still[t][inside[t][..., 0], 0] for t in range(len(still))]
        assert max(f.std() for f in factors) < 0.02 and np.ptp([np.median(f) for f in factors]) > 0.1


def test_limits():
    with pytest.raises(ValueError, match="objects: found 9"):
        make(0, objects=9)

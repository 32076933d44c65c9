"""Clips from the device's memory against the pictures they come from, and pasted objects pixel by pixel."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pmljax import resident
from pmljax.data.clip_sources import SyntheticSource, VideoSource
from pmljax.data.stills import StillSource
from pmljax.errors import InputError
from pmljax.labels import VOID
from pmljax.resident import draw, hold, resident_batches
from pmljax.sampling import PASTED, SHARE, SIZE, Clip, paste
from tests.test_batches import H, W, box, coordinates, stills_root, video

CANVAS = (64, 96)


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    root = tmp_path_factory.mktemp("sources")
    pictures = {"p": (coordinates(), box()), "q": (coordinates(40, 50), box(40, 50, size=(9, 9), value=7))}
    return [
        VideoSource([video(root, "a", range(0, 20, 4)), video(root, "b", range(40, 43))], "davis"),
        StillSource(stills_root(root / "s", pictures), "train", name="stills"),
        SyntheticSource(0, 2, length=4, size=(24, 40), objects=2),
    ]


@pytest.fixture(scope="module")
def stores(sources):
    return hold(sources, canvas=CANVAS, views=4, seed=1)


def take(stores, weights, count, **options):
    """The first `count` clips, on the host."""
    batch = next(resident_batches(stores, weights, batch=count, canvas=CANVAS, seed=3, **options))
    return jax.tree.map(np.asarray, batch)


def test_clips_are_frames_of_one_video(stores):
    clips = take(stores, [1, 0, 0], 16)
    assert clips.frames.shape == (16, 3, *CANVAS, 3) and clips.labels.dtype == np.uint8
    assert clips.extent.tolist() == [[H, W]] * 16 and clips.number.tolist() == list(range(16))
    assert (clips.window == [0, 0, H, W]).all()
    seen = set()
    for frames, labels, numbers in zip(clips.frames, clips.labels, clips.numbers, strict=True):
        assert len(set(numbers)) == 3 and (set(numbers) <= set(range(0, 20, 4)) or set(numbers) == {40, 41, 42})
        seen.add(tuple(numbers))
        for frame, label, n in zip(frames, labels, numbers, strict=True):
            picture = coordinates()
            picture[..., 2] = n  # as in the file
            assert np.array_equal(frame[:H, :W], picture) and np.array_equal(label[:H, :W], box())
            assert not frame[H:].any() and not frame[:, W:].any()
            assert (label[H:] == VOID).all() and (label[:, W:] == VOID).all()
    assert len(seen) > 4


def test_sources_are_drawn_by_their_weights(stores):
    extents = [tuple(e) for e in take(stores, [2, 1, 1], 400).extent.tolist()]
    shares = [sum(e in sizes for e in extents) / 400 for sizes in ({(60, 90)}, {(40, 50)}, {(24, 40)})]
    # Half of the stills are as large as the videos.
    assert shares == pytest.approx([0.625, 0.125, 0.25], abs=0.06)


def test_clips_follow_from_their_numbers(stores):
    whole = take(stores, [1, 1, 1], 4, pasted=0.5)
    parts = [take(stores, [1, 1, 1], 4, pasted=0.5, host=host, hosts=2) for host in (0, 1)]
    for a, *b in zip(whole, *parts, strict=True):
        assert np.array_equal(a, np.concatenate(b))
    later = resident_batches(stores, [1, 1, 1], batch=2, canvas=CANVAS, seed=3, start=1, pasted=0.5)
    for a, b in zip(whole, next(later), strict=True):
        assert np.array_equal(a[2:], b)
    other = next(resident_batches(stores, [1, 1, 1], batch=4, canvas=CANVAS, seed=4, pasted=0.5))
    assert not np.array_equal(whole.frames, other.frames)


def test_what_is_larger_than_the_canvas_is_scaled_down(sources, tmp_path):
    (store,) = hold(sources[:1], canvas=(30, 100), views=3)
    assert store.extent.tolist() == [[30, 45]] * 8 and store.count.tolist() == [5, 3]
    (store,) = hold(sources[:1], canvas=CANVAS, short_side=20, views=3)
    assert store.extent.tolist() == [[20, 30]] * 8
    # Longer than the canvas where it is one pixel high.
    strip = video(tmp_path, "s", range(3), image=np.zeros((4, 2000, 3), np.uint8), labels=np.ones((4, 2000), np.uint8))
    (strip,) = hold([VideoSource([strip])], canvas=(30, 100), views=3)
    assert strip.extent.tolist() == [[1, 100]] * 3
    draw((strip,), jnp.ones(1), jax.random.key(0), jnp.zeros(1, jnp.uint32), frames=3, canvas=(30, 100))
    labels = np.asarray(store.pixels[0]) >> 24
    # Taken at the centres of three by three pixels.
    assert np.array_equal(labels, box()[1::3, 1::3])


def test_processes_read_the_same(sources, stores):
    for a, b in zip(hold(sources, canvas=CANVAS, views=4, seed=1, workers=1), stores, strict=True):
        for x, y in zip(a, b, strict=True):
            assert np.array_equal(x, y)


def test_views_follow_from_the_seed(sources, stores):
    again = hold(sources[1:2], canvas=CANVAS, views=4, seed=1)[0]
    other = hold(sources[1:2], canvas=CANVAS, views=4, seed=2)[0]
    assert np.array_equal(again.pixels, stores[1].pixels) and not np.array_equal(again.pixels, other.pixels)


def test_a_source_that_the_device_has_no_room_for_is_refused(sources, monkeypatch):
    pictures = 5 + 3  # of the two videos
    monkeypatch.setattr(resident, "free_memory", lambda: 4 * pictures * H * W - 1)
    with pytest.raises(InputError, match=f"found a source of {pictures} pictures, .* GiB free on the device; make"):
        hold(sources[:1], canvas=CANVAS)
    monkeypatch.setattr(resident, "free_memory", lambda: 4 * pictures * H * W)
    assert len(hold(sources[:1], canvas=CANVAS)) == 1


def test_bad_input(sources, stores):
    with pytest.raises(InputError, match="views 2"):
        hold(sources, canvas=CANVAS, views=2)
    with pytest.raises(InputError, match="found 3 frames of a video; expected the 4"):
        hold(sources, canvas=CANVAS, views=4, frames=4)
    with pytest.raises(InputError, match="batch 3"):
        next(resident_batches(stores, [1, 1, 1], batch=3, hosts=2, canvas=CANVAS, seed=0))


# Pasting


def clip_of(labels, blue, extent=(H, W)):
    """Red and green say where a pixel lies, blue whose it is."""
    picture = coordinates()
    picture[..., 2] = blue
    inside = (np.arange(H)[:, None] < extent[0]) & (np.arange(W) < extent[1])
    frames = np.where(inside[..., None], np.stack([picture] * len(labels)), 0).astype(np.uint8)
    labels = np.where(inside, np.stack(labels), VOID).astype(np.uint8)
    window = np.tile(np.float32([0, 0, *extent]), (len(labels), 1))
    return Clip(
        frames,
        labels,
        np.arange(len(labels), dtype=np.float32),
        window,
        np.array(extent, np.int32),
        np.uint32(0),
    )


run = jax.jit(paste)


def test_a_pasted_object_is_the_other_s():
    under = clip_of([box(at=(5, 5))] * 3, 10, extent=(50, 80))
    # Two objects: one that fits, one too large to be pasted. The first moves.
    labels = [
        box(at=(30, 10 + 10 * t), size=(15, 20), value=3) + box(at=(0, 0), size=(24, 90), value=1) for t in range(3)
    ]
    over = clip_of(labels, 200)
    areas, sides, whole = [], set(), 0
    for seed in range(12):
        found = jax.tree.map(np.asarray, run(jax.random.key(seed), under, over))
        before = found.labels == PASTED
        assert np.array_equal(found.labels[~before], under.labels[~before])
        assert np.array_equal(found.frames[~before], under.frames[~before])
        assert not before[:, 50:].any() and not before[:, :, 80:].any()  # nothing beyond the content
        for t in range(3):
            y, x = np.nonzero(before[t])
            if len(y) < 30:
                continue  # out of the picture
            colours = found.frames[t][y, x].astype(float)
            assert (colours[:, 2] == 200).all()
            source = colours[:, :2] / 2
            own = np.argwhere(labels[t] == 3)
            assert (source >= own.min(0) - 1).all() and (source <= own.max(0) + 1).all()
            # One scale for both axes, one direction for all of the picture.
            slope = [np.polyfit(at, source[:, k], 1)[0] for k, at in enumerate((y, x))]
            assert slope[0] == pytest.approx(abs(slope[1]), rel=0.1)
            assert SIZE[0] * 0.85 < 1 / slope[0] * 60 / 50 < SIZE[1] * 1.15  # beside that of the short sides
            sides.add(np.sign(slope[1]))
            if min(y) > 0 and max(y) < 49 and min(x) > 0 and max(x) < 79:  # all of it, where no edge cuts it
                whole += 1
                assert len(y) == pytest.approx(len(own) / slope[0] ** 2, rel=0.2)
        areas.append(before[0].sum())
    assert max(areas) > 100 and sides == {-1, 1} and whole > 3


def test_nothing_is_pasted_where_nothing_fits():
    under = clip_of([box()] * 3, 10)
    for labels in (np.zeros((H, W), np.uint8), np.full((H, W), VOID, np.uint8), np.full((H, W), 4, np.uint8)):
        found = run(jax.random.key(0), under, clip_of([labels] * 3, 200))
        for a, b in zip(found, under, strict=True):
            assert np.array_equal(a, b)
    assert SHARE[1] < 1  # what the last of them covers


def test_how_often_objects_are_pasted(stores):
    numbers, shares = jnp.arange(200, dtype=jnp.uint32), jnp.array([1.0, 0.0, 0.0])
    options = {"frames": 3, "canvas": CANVAS}
    clips = draw(stores, shares, jax.random.key(0), numbers, pasted=0.5, **options)
    share = (np.asarray(clips.labels) == PASTED).any((1, 2, 3)).mean()
    assert 0.35 < share < 0.6
    clips = draw(stores, shares, jax.random.key(0), numbers, **options)
    assert not (np.asarray(clips.labels) == PASTED).any()

"""Clips by number: what follows from (seed, i), where pixels lie, what is void, and that batches are always the same."""

import io
import itertools
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pmljax.data import davis, stills
from pmljax.data.batches import Clips, batches
from pmljax.data.clip_sources import Cache, SyntheticSource, VideoSource, long_enough, scale_down
from pmljax.data.stills import Motion, StillSource, make_views
from pmljax.data.tfds import tfds_source
from pmljax.errors import InputError
from pmljax.labels import VOID, encode_labels

H, W = 60, 90


def coordinates(h=H, w=W):
    """A picture whose red and green say where each pixel lies."""
    y, x = np.mgrid[:h, :w]
    return np.stack([2 * y, 2 * x, np.full_like(y, 50)], -1).astype(np.uint8)


def box(h=H, w=W, at=(20, 30), size=(15, 20), value=1):
    labels = np.zeros((h, w), np.uint8)
    labels[at[0] : at[0] + size[0], at[1] : at[1] + size[1]] = value
    return labels


def video(root: Path, name: str, numbers, annotated=None, image=None, labels=None) -> davis.Sequence:
    """One DAVIS sequence; blue holds the frame's number."""
    pictures, masks = (root / kind / "480p" / name for kind in ("JPEGImages", "Annotations"))
    pictures.mkdir(parents=True)
    masks.mkdir(parents=True)
    for n in numbers:
        frame = (coordinates() if image is None else image).copy()
        frame[..., 2] = n
        Image.fromarray(frame).save(pictures / f"{n:05d}.png")
        if annotated is None or n in annotated:
            (masks / f"{n:05d}.png").write_bytes(encode_labels(box() if labels is None else labels))
    return davis.open_sequence(root, name)


def test_all_objects_as_one(tmp_path):
    labels = np.zeros((H, W), np.uint8)
    labels[:9], labels[9:20], labels[20:24] = 1, 7, 255
    sequence = video(tmp_path, "a", range(3), labels=labels)
    apart, one = (
        Clips([VideoSource([sequence], merge=m)], [1], seed=0, canvas=(H, W))[0]["labels"] for m in (False, True)
    )
    assert np.array_equal(apart[0], labels)
    assert np.array_equal(one[0], np.where((labels > 0) & (labels < 255), 1, labels)) and one.dtype == np.uint8


def stills_root(root: Path, pictures: dict[str, tuple[np.ndarray, np.ndarray]]) -> Path:
    for folder in ("JPEGImages", "SegmentationObject", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    for name, (image, labels) in pictures.items():
        Image.fromarray(image).save(root / f"JPEGImages/{name}.png")
        (root / f"SegmentationObject/{name}.png").write_bytes(encode_labels(labels))
    (root / "ImageSets/Segmentation/train.txt").write_text("\n".join(pictures) + "\n")
    return root


def same(a, b):
    return all(np.array_equal(a[k], b[k]) and np.asarray(a[k]).dtype == np.asarray(b[k]).dtype for k in a)


@pytest.fixture
def clips(tmp_path):
    sources = [
        VideoSource([video(tmp_path, "a", range(0, 20, 4)), video(tmp_path, "b", range(5))], "davis", Cache()),
        StillSource(stills_root(tmp_path / "s", {"p": (coordinates(), box())}), "train", name="stills"),
    ]
    return Clips(sources, [3, 1], seed=5, canvas=(64, 96))


# Clips


def test_a_clip_follows_from_seed_and_number(clips, tmp_path):
    backwards = [clips[i] for i in reversed(range(12))][::-1]
    assert all(same(backwards[i], clips[i]) for i in range(12))
    other = Clips(clips.sources, [3, 1], seed=6, canvas=(64, 96))
    assert not all(same(backwards[i], other[i]) for i in range(12))
    last = clips[2**32 - 1]
    assert last["number"] == 2**32 - 1 and last["number"].dtype == np.uint32
    for i, clip in enumerate(backwards):
        words = clips.describe(i).split()
        if words[0] == "davis":
            assert [int(word) for word in words[2:]] == clip["numbers"].tolist()
        else:
            assert words == ["stills", "p"] and clip["numbers"].tolist() == [0, 1, 2]


def test_shapes_and_types(clips):
    clip = clips[0]
    found = {key: (value.shape, str(value.dtype)) for key, value in clip.items()}
    assert found == {
        "frames": ((3, 64, 96, 3), "uint8"),
        "labels": ((3, 64, 96), "uint8"),
        "numbers": ((3,), "float32"),
        "window": ((3, 4), "float32"),
        "extent": ((2,), "int32"),
        "number": ((), "uint32"),
    }
    assert clip["extent"].tolist() == [H, W] and clip["window"].tolist() == [[0, 0, H, W]] * 3
    assert not clip["frames"][:, H:].any() and not clip["frames"][:, :, W:].any()
    assert (clip["labels"][:, H:] == VOID).all() and (clip["labels"][:, :, W:] == VOID).all()


def test_frames_are_distinct_annotated_and_evenly_drawn(tmp_path):
    """As in YouTube-VOS and in DAVIS, whose bear lacks a mask: only some frames have one."""
    source = VideoSource([video(tmp_path, "a", range(0, 30, 3), annotated=(0, 9, 12, 27))])
    clips = Clips([source], [1], seed=0, canvas=(H, W))
    drawn = [clips[i] for i in range(200)]
    orders = [tuple(c["numbers"].tolist()) for c in drawn]
    assert set(orders) == set(itertools.permutations((0, 9, 12, 27), 3))
    assert all((c["frames"][:, 0, 0, 2] == c["numbers"]).all() for c in drawn)


def test_davis_masks_of_0_and_255_are_object_1(tmp_path):
    sequence = video(tmp_path, "a", range(3))
    for path in sequence.annotations.values():
        Image.fromarray(box(value=255)).save(path)
    clip = Clips([VideoSource([sequence])], [1], seed=0, canvas=(H, W))[0]
    assert np.array_equal(clip["labels"], np.stack([box()] * 3))


def test_void_alone_in_a_grey_mask_beside_others_with_ids(tmp_path):
    """Whichever of the video's masks has them, the first or a later one."""
    sequence = video(tmp_path, "a", range(4))
    for path, labels in zip(
        sequence.annotations.values(), (box() * 0, box(value=255), box(value=2), box()), strict=True
    ):
        Image.fromarray(labels).save(path)
    reel = VideoSource([sequence]).reel(0, np.random.default_rng(0), 4, None)
    assert [np.unique(labels).tolist() for labels in reel.labels] == [[0], [0, 255], [0, 2], [0, 1]]


def test_short_sequences(tmp_path):
    long, short = video(tmp_path, "long", range(4)), video(tmp_path, "short", range(6), annotated=(0, 5))
    with pytest.raises(InputError, match="video short: found 2 annotated frames; expected 3 or more"):
        VideoSource([long, short])
    assert long_enough([long, short]) == ([long], 1)
    with pytest.raises(InputError, match="no sequences"):
        VideoSource([])
    with pytest.raises(InputError, match=r"frames: found 5 a clip; expected 1…4"):
        Clips([VideoSource([long])], [1], seed=0, canvas=(H, W), frames=5)


@pytest.mark.parametrize("short_side", [None, 28])
@pytest.mark.parametrize("canvas", [(64, 96), (25, 20), (20, 96)])
def test_window_says_where_pixels_lie(tmp_path, short_side, canvas):
    """Colours tell each pixel's place in the original; the window must tell the same, scaled, cut, or both."""
    labels = box(at=(40, 70), size=(12, 14), value=9)
    clips = Clips(
        [VideoSource([video(tmp_path, "a", range(3), labels=labels)])],
        [1],
        seed=0,
        canvas=canvas,
        short_side=short_side,
    )
    whole = (H, W) if short_side is None else (28, 42)
    corners = set()
    for i in range(20):
        clip = clips[i]
        (top, left, height, width), (h, w) = clip["window"][0], clip["extent"]
        assert (clip["window"] == clip["window"][0]).all() and (height, width) == whole
        assert (h, w) == (min(whole[0], canvas[0]), min(whole[1], canvas[1]))
        y = (top + np.arange(h) + 0.5) / height * H - 0.5
        x = (left + np.arange(w) + 0.5) / width * W - 0.5
        content = clip["frames"][0, :h, :w]
        assert np.abs(content[..., 0] / 2 - y[:, None]).max() <= 0.5
        assert np.abs(content[..., 1] / 2 - x[None]).max() <= 0.5
        nearest = labels[np.ix_(np.floor(y + 0.5).astype(int), np.floor(x + 0.5).astype(int))]
        assert np.array_equal(clip["labels"][0, :h, :w], nearest)
        assert (clip["labels"][0] == 9).any()  # the object is in view
        corners.add((top, left))
    assert (len(corners) > 1) == (whole[0] > canvas[0] or whole[1] > canvas[1])


def test_windows_without_an_object(tmp_path):
    clips = Clips(
        [VideoSource([video(tmp_path, "a", range(3), labels=np.zeros((H, W), np.uint8))])],
        [1],
        seed=0,
        canvas=(20, 30),
    )
    corners = np.array([clips[i]["window"][0, :2] for i in range(60)])
    assert corners.min() < 8 and corners[:, 0].max() > 30 and corners[:, 1].max() > 50


def test_scaling_averages_and_keeps_small_pictures():
    image = np.zeros((8, 8, 3), np.uint8)
    image[::2] = 200
    assert (scale_down(image, 4) == 100).all() and scale_down(image, 8) is image and scale_down(image, None) is image
    assert scale_down(np.zeros((30, 61, 3), np.uint8), 10).shape == (10, 20, 3)


def test_weights(tmp_path):
    sources = [VideoSource([video(tmp_path, name, range(3))], name) for name in "abc"]
    clips = Clips(sources, [2, 0, 6], seed=1, canvas=(H, W))
    drawn = [clips.describe(i)[0] for i in range(800)]
    assert abs(drawn.count("a") - 200) < 40 and drawn.count("b") == 0
    for weights in ([1, 1], [1, -1, 1], [0, 0, 0]):
        with pytest.raises(InputError, match="weights: found"):
            Clips(sources, weights, seed=0, canvas=(H, W))


def test_synthetic():
    source = SyntheticSource(0, 2, length=4, size=(24, 40), objects=1)
    clips = Clips([source], [1], seed=0, canvas=(24, 40))
    clip = clips[0]
    _, which, *frames = clips.describe(0).split()
    assert sorted(set(frames)) == sorted(frames) and clip["numbers"].tolist() == [float(n) for n in frames]
    assert np.array_equal(clip["frames"][0], source.pool[int(which)][0][int(frames[0])])
    assert set(np.unique(clip["labels"])) == {0, 1}


# Stills

FAR = Motion(rotation=20.0, scale=(0.8, 1.25), shift=0.15, shear=0.1, elastic=0.02)


def clear_of_edges(labels):
    """Where the label is that of all pixels two steps around."""
    wide = np.pad(labels, 2, mode="constant", constant_values=77)
    h, w = labels.shape
    around = [wide[i : i + h, j : j + w] for i in range(5) for j in range(5)]
    return np.logical_and.reduce([a == labels for a in around])


def origin(frame):
    """Where each pixel of a view of `coordinates` comes from."""
    return np.rint(frame[..., 0] / 2).astype(int), np.rint(frame[..., 1] / 2).astype(int)


def test_labels_stay_on_their_pixels(rng):
    """Objects before a background: wherever a label is given, the colour beneath comes from a pixel of that label."""
    image, labels = coordinates(), box()
    labels[38:50, 40:52] = 7
    labels[33:38, 28:52] = VOID
    image[labels > 0, 2] = 250
    clear = clear_of_edges(labels)
    moved, known = [], 0
    for frame, found in make_views(rng, image, labels, 30, FAR):
        assert set(np.unique(found)) <= {0, 1, 7, VOID}
        y, x = origin(frame)
        sure = (found < VOID) & clear[y, x] & clear_of_edges(found)
        assert (labels[y, x] == found)[sure].all()
        known += sure.sum()
        # What the objects hid is seen where they were, and is never called background.
        old = (frame[..., 2] > 245) & clear_of_edges((frame[..., 2] > 245).astype(np.uint8))
        assert (found[old] > 0).all()
        moved.append(((found == VOID) & old).mean())
    assert known > 30 * 0.4 * H * W and np.mean(moved) > 0.01


def test_objects_move_against_the_background(rng):
    """Without a background's own motion all but the objects and what they hid stays, to the bit."""
    image, labels = coordinates(), box()
    motion = Motion(background=0.0)
    centres = []
    for frame, found in make_views(rng, image, labels, 8, motion):
        still = (found == 0) & clear_of_edges(found)
        assert (frame == image)[still].all() and (found == VOID).sum() <= (labels == 1).sum()
        assert (found[labels == 1] > 0).all()
        centres.append(np.argwhere(found == 1).mean(0))
    assert np.ptp(centres, 0).min() > 4


def test_pictures_of_segments_move_whole(rng):
    image = coordinates()
    labels = (1 + np.arange(H)[:, None] // 20 * 4 + np.arange(W)[None] // 25).astype(np.uint8)
    clear = clear_of_edges(labels)
    void = []
    for frame, found in make_views(rng, image, labels, 20, FAR):
        y, x = origin(frame)
        sure = (found < VOID) & clear[y, x]
        assert (labels[y, x] == found)[sure].all() and sure.any() and not (found == 0).any()
        void.append((found == VOID).mean())
    assert 0 < np.mean(void) < 0.4


def test_no_motion_is_the_picture_itself(rng):
    none = Motion(rotation=0.0, scale=(1.0, 1.0), shift=0.0, shear=0.0, elastic=0.0)
    image = rng.integers(0, 256, (H, W, 3), np.uint8)
    for labels in (box(), box() + np.uint8(1), np.full((H, W), VOID, np.uint8), np.zeros((H, W), np.uint8)):
        for frame, found in make_views(rng, image, labels, 2, none):
            assert np.array_equal(frame, image) and np.array_equal(found, labels)


def test_scaling_keeps_pixel_centres(rng):
    """Twice as large about the middle: pixel p shows what lies at (p + ½ − c)/2 + c − ½."""
    double = Motion(rotation=0.0, scale=(2.0, 2.0), shift=0.0, shear=0.0, elastic=0.0)
    labels = (1 + np.add.outer(np.arange(H), np.arange(W)) % 5).astype(np.uint8)
    ((frame, found),) = make_views(rng, coordinates(), labels, 1, double)
    y, x = ((np.arange(n) + 0.5 - n / 2) / 2 + n / 2 - 0.5 for n in (H, W))
    assert np.abs(frame[..., 0] - 2 * y[:, None]).max() <= 0.5 and np.abs(frame[..., 1] - 2 * x[None]).max() <= 0.5
    assert np.array_equal(found, labels[np.ix_(np.floor(y + 0.5).astype(int), np.floor(x + 0.5).astype(int))])


def test_tiny_pictures(rng):
    for size in ((1, 1), (3, 40)):
        for frame, found in make_views(rng, np.zeros((*size, 3), np.uint8), np.ones(size, np.uint8), 2, FAR):
            assert frame.shape[:2] == size == found.shape


def test_merged_parts(tmp_path):
    labels = box(value=254)
    labels[22:30, 32:40] = 7
    pictures = {"person": (coordinates(), labels), "segments": (coordinates(), labels + np.uint8(1) * (labels == 0))}
    root = stills_root(tmp_path, pictures)
    (root / "ImageSets/Segmentation/one.txt").write_text("person\n")

    def ids(split, merge):
        clips = Clips([StillSource(root, split, merge=merge)], [1], seed=0, canvas=(H, W))
        return {tuple(i for i in np.unique(clips[n]["labels"]).tolist() if 0 < i < VOID) for n in range(20)}

    assert ids("one", 0.0) == {(7, 254)} and ids("one", 1.0) == {(1,)} and ids("one", 0.5) == {(1,), (7, 254)}
    assert ids("train", 1.0) == {(1,), (1, 7, 254)}  # without background nothing is merged


def test_stills_that_are_refused(tmp_path):
    root = stills_root(tmp_path, {"p": (coordinates(), box())})
    listed = root / "ImageSets/Segmentation"
    (listed / "empty.txt").write_text("\n")
    (listed / "more.txt").write_text("p\nq\n")
    for split, word in (
        ("val", r"val\.txt: no such split; expected one of empty, more, train"),
        ("empty", "empty list"),
        ("more", r"q\.jpg: no such file; expected that of q, which more\.txt lists"),
    ):
        with pytest.raises(InputError, match=word):
            StillSource(root, split)
    (root / "SegmentationObject/p.png").write_bytes(encode_labels(box(h=50)))
    with pytest.raises(InputError, match=r"p\.png: the mask is 90×50, the frame 90×60"):
        Clips([StillSource(root, "train")], [1], seed=0, canvas=(H, W))[0]


# Cache


def test_cache_is_bounded_and_drops_the_oldest():
    cache, made = Cache(max_bytes=300), []

    def get(key, size=100):
        return cache.get(key, lambda: made.append(key) or np.full(size, key, np.uint8))

    for key in (1, 2, 3, 1, 4, 1, 3, 2):
        assert get(key)[0] == key and cache.bytes <= 300
    assert made == [1, 2, 3, 4, 2]
    assert not get(1).flags.writeable and get(9, 400).size == 400 and cache.bytes <= 300
    threads = [threading.Thread(target=lambda: [get(k % 5 + 10) for k in range(200)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert cache.bytes == 300


def test_the_cache_changes_nothing(tmp_path):
    sequence = video(tmp_path, "a", range(5))
    cached, plain = (
        Clips([VideoSource([sequence], cache=cache)], [1], seed=0, canvas=(H, W), short_side=30)
        for cache in (Cache(20000), None)
    )
    assert all(same(cached[i], plain[i]) for i in range(10))
    for path in sequence.files:
        path.unlink()
    with pytest.raises(InputError, match="no such file"):
        plain[0]


# Batches


def take(clips, n, **options):
    stream = batches(clips, **options)
    found = list(itertools.islice(stream, n))
    stream.close()
    return found


def test_batches_are_clips_in_order(clips):
    pytest.importorskip("grain")
    for s, found in enumerate(take(clips, 4, batch=3)):
        assert found["number"].tolist() == [3 * s, 3 * s + 1, 3 * s + 2] and found["number"].dtype == np.uint32
        for j in range(3):
            assert same({k: v[j] for k, v in found.items()}, clips[3 * s + j])


def test_resume_and_threads(clips):
    pytest.importorskip("grain")
    expected = take(clips, 6, batch=2)
    for options in ({"threads": 0}, {"threads": 5, "prefetch": 9}, {"start": 0}):
        assert all(map(same, take(clips, 6, batch=2, **options), expected))
    for start in (1, 4):
        assert all(map(same, take(clips, 6 - start, batch=2, start=start), expected[start:]))
    assert take(clips, 1, batch=2, start=10**9)[0]["number"].tolist() == [2 * 10**9, 2 * 10**9 + 1]


def test_hosts_have_their_slices(clips):
    pytest.importorskip("grain")
    whole = take(clips, 3, batch=4, start=2)
    parts = [take(clips, 3, batch=4, start=2, host=h, hosts=2) for h in range(2)]
    for s in range(3):
        assert same(whole[s], {k: np.concatenate([part[s][k] for part in parts]) for k in whole[s]})
    for bad in ({"batch": 3, "hosts": 2}, {"batch": 4, "host": 2, "hosts": 2}, {"batch": 0}, {"batch": 1, "start": -1}):
        with pytest.raises(InputError, match="expected a batch that is a multiple of the hosts"):
            batches(clips, **bad)


def test_processes_give_the_same(clips):
    pytest.importorskip("grain")
    assert all(map(same, take(clips, 4, batch=2, start=3, workers=2), take(clips, 4, batch=2, start=3)))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_picture_is_named(tmp_path, workers):
    pytest.importorskip("grain")
    sequence = video(tmp_path, "a", range(3))
    data = sequence.files[1].read_bytes()
    sequence.files[1].write_bytes(data[: len(data) // 2])
    clips = Clips([VideoSource([sequence])], [1], seed=0, canvas=(H, W))
    with pytest.raises(InputError, match=r"00001\.png: broken or truncated picture") as caught:
        take(clips, 1, batch=2, workers=workers)
    assert "\n" not in str(caught.value)


def test_without_grain(clips, monkeypatch):
    monkeypatch.setitem(sys.modules, "grain", None)
    monkeypatch.setitem(sys.modules, "grain.python", None)
    with pytest.raises(InputError, match=r"pip install 'pmljax\[train\]'") as caught:
        batches(clips, batch=2)
    assert "\n" not in str(caught.value)


# Real data


def test_real_davis(davis):
    from pmljax.data.davis import find_split, open_sequence

    _, names = find_split(davis, "fit")
    clips = Clips([VideoSource([open_sequence(davis, n) for n in names])], [1], seed=0, canvas=(480, 854))
    for i in range(3):
        clip = clips[i]
        assert clip["extent"].tolist() == [480, 854] and len(set(clip["numbers"])) == 3
        assert set(np.unique(clip["labels"])) <= {0, 1}


def test_real_stills(davis):
    root = davis.parent / "static"
    if not root.is_dir():
        pytest.skip("real data is not here: data/static")
    for split in ("clothes", "bsds500"):
        clip = Clips([stills.StillSource(root, split)], [1], seed=0, canvas=(600, 600))[0]
        h, w = clip["extent"]
        inside = clip["labels"][:, :h, :w]
        assert (inside != VOID).mean() > 0.4 and ((inside == 0).any() == (split == "clothes"))


# TFDS


def made_tfds(root: Path, videos: dict[str, int]) -> Path:
    """A prepared `davis/480p` as TFDS writes it, made without TensorFlow."""
    pytest.importorskip("array_record")
    tfds = pytest.importorskip("tensorflow_datasets")
    from array_record.python.array_record_module import ArrayRecordWriter
    from tensorflow_datasets.proto import tf_example_pb2

    folder = root / "davis/480p/2.1.0"
    folder.mkdir(parents=True)
    path = folder / "davis-train.array_record-00000-of-00001"
    writer = ArrayRecordWriter(str(path), "group_size:1")
    for name, count in videos.items():
        example = tf_example_pb2.Example()
        feature = example.features.feature
        feature["metadata/video_name"].bytes_list.value.append(name.encode())
        feature["metadata/num_frames"].int64_list.value.append(count)
        for n in range(count):
            frame = coordinates()
            frame[..., 2] = n
            for key, picture in (("frames", frame), ("segmentations", box(value=2))):
                held = io.BytesIO()
                Image.fromarray(picture).save(held, "PNG")
                feature[f"video/{key}"].bytes_list.value.append(held.getvalue())
        writer.write(example.SerializeToString())
    writer.close()
    split = tfds.core.SplitInfo(name="train", shard_lengths=[len(videos)], num_bytes=path.stat().st_size)
    image = tfds.features.Image
    tfds.folder_dataset.write_metadata(
        data_dir=str(folder),
        features=tfds.features.FeaturesDict(
            {
                "video": tfds.features.Sequence(
                    {"frames": image(shape=(None, None, 3)), "segmentations": image(shape=(None, None, 1))}
                ),
                "metadata": {"num_frames": np.int64, "video_name": np.str_},
            }
        ),
        split_infos=[split],
        check_data=False,
    )
    return root


def test_tfds_is_read_without_tensorflow(tmp_path):
    root = made_tfds(tmp_path, {"a": 4, "b": 6})
    sources = [tfds_source(root, "train", cache=cache) for cache in (None, Cache())]
    plain, cached = (Clips([source], [1], seed=0, canvas=(H, W), short_side=30) for source in sources)
    names = set()
    for i in range(12):
        clip = plain[i]
        _, name, *frames = plain.describe(i).split()
        names.add(name)
        assert clip["numbers"].tolist() == [float(n) for n in frames] and len(set(frames)) == 3
        assert (clip["frames"][:, 0, 0, 2] == clip["numbers"]).all() and clip["extent"].tolist() == [30, 45]
        assert np.array_equal(clip["labels"][0, :30, :45], scale_down(box(value=2), 30)) and same(clip, cached[i])
    assert names == {"a", "b"}
    for workers in (0, 1):
        for s, found in enumerate(take(plain, 2, batch=2, threads=2, workers=workers)):
            assert np.array_equal(found["frames"][1], plain[2 * s + 1]["frames"])
    assert "tensorflow" not in sys.modules


def test_tfds_that_is_not_there(tmp_path, monkeypatch):
    with pytest.raises(
        InputError, match=r"2\.1\.0: found no prepared data set; expected what experiments/prepare_tfds"
    ):
        tfds_source(tmp_path)
    root = made_tfds(tmp_path, {"a": 4})
    with pytest.raises(InputError, match="found no split test; expected one of train"):
        tfds_source(root, "test")
    with pytest.raises(InputError, match="found 2 frames of b"):
        tfds_source(made_tfds(tmp_path / "short", {"a": 4, "b": 2}))
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(InputError, match=r"pip install 'pmljax\[train\]'"):
        tfds_source(root)

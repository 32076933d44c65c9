"""Semantic pre-training: the pyramid, its loss, its step, the pictures, and the way of the trunk to the embedding."""

import dataclasses
import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from pmljax.config import NAMED, ModelConfig
from pmljax.data.batches import Clips, batches
from pmljax.data.clip_sources import Cache
from pmljax.data.semantic import (
    CocoPictures,
    VocPictures,
    decode_counts,
    decode_mask,
    fill_polygon,
    read_classes,
)
from pmljax.errors import InputError
from pmljax.labels import encode_labels
from pmljax.loss import semantic_loss
from pmljax.model import abstract
from pmljax.parallel import split
from pmljax.sampling import Augment, Clip
from pmljax.semantic import (
    Pyramid,
    SemanticNet,
    count_pairs,
    create_variables,
    evaluate,
    predict,
    score,
    semantic_objective,
)
from pmljax.train import TrainConfig, create_state, train_step
from pmljax.weights.carry import carry_into, carry_over
from tests.filled import filled

GROUP = ModelConfig("tiny", 10, 8, norm="group", taps=(2, 3, 4), head=((1, 16), (1, 8)), position="yx")
BATCH = dataclasses.replace(GROUP, norm="batch", width=3)
CONFIG = TrainConfig(
    GROUP, Augment(crop=32, scale=(0.9, 1.1)), steps=30, batch=4, optimiser="adamw", rate=3e-3, head=1.0, clip=1.0
)
RATES = (1, 2)
STEP = jax.jit(partial(train_step, CONFIG, objective=semantic_objective(3, RATES)))


def random(net):
    """Variables of which nothing has to be compiled."""
    return filled(jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 33, 33, 3))), head=0.01)


@pytest.fixture(scope="module")
def variables():
    return create_variables(SemanticNet(GROUP, 3, RATES), jax.random.key(0))


# The network


def test_pyramid_is_a_sum_of_dilated_convolutions(rng):
    x = rng.normal(size=(1, 5, 7, 3))
    net = Pyramid(2, (2, 3), jnp.float32, jnp.float32)
    variables = net.init(jax.random.key(0), jnp.asarray(x, jnp.float32))
    variables = jax.tree.map(lambda v: jnp.asarray(rng.normal(size=v.shape), jnp.float32), variables)
    expected = np.zeros((5, 7, 2))
    for name, rate in (("c0", 2), ("c1", 3)):
        kernel, bias = (np.asarray(variables["params"][name][k], float) for k in ("kernel", "bias"))
        expected += bias
        for i in range(5):
            for j in range(7):
                for dy in (-1, 0, 1):
                    for dx in (-1, 0, 1):
                        y, z = i + rate * dy, j + rate * dx
                        if 0 <= y < 5 and 0 <= z < 7:
                            expected[i, j] += x[0, y, z] @ kernel[dy + 1, dx + 1]
    assert np.allclose(net.apply(variables, jnp.asarray(x, jnp.float32))[0], expected, atol=1e-4)


@pytest.mark.parametrize(("classes", "count"), [(21, 44_048_532), (182, 55_919_384)])
def test_parameters_of_deeplab(classes, count):
    net = SemanticNet(NAMED["paper"], classes)
    shapes = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 33, 33, 3)))
    assert sum(x.size for x in jax.tree.leaves(shapes["params"])) == count
    assert shapes["params"]["head"]["c3"]["kernel"].shape == (3, 3, 2048, classes)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_logits(variables, dtype):
    net = SemanticNet(dataclasses.replace(GROUP, dtype=dtype), 3, RATES)
    with jax.numpy_dtype_promotion("standard"):  # Flax scales norms of bfloat16 by float32
        logits = jax.eval_shape(net.apply, variables, jnp.zeros((2, 321, 321, 3)))
    assert logits.shape == (2, 41, 41, 3) and logits.dtype == jnp.float32


def test_beginning_of_the_classifier():
    head = Pyramid(9, (1, 2), jnp.float32, jnp.float32).init(jax.random.key(0), jnp.zeros((1, 5, 5, 64)))["params"]
    assert set(head) == {"c0", "c1"} and not head["c0"]["bias"].any()
    assert 0.009 < np.std(head["c0"]["kernel"]) < 0.011


# The loss


def made_logits(rng):
    logits, labels = rng.normal(size=(4, 5, 3)) * 3, rng.integers(0, 3, (4, 5))
    labels[1, 1:4] = 255
    return logits, labels


def test_loss_is_the_mean_over_known_cells(rng):
    logits, labels = made_logits(rng)
    total = count = 0.0
    for i in range(4):
        for j in range(5):
            if labels[i, j] != 255:
                total += np.log(sum(np.exp(logits[i, j]))) - logits[i, j, labels[i, j]]
                count += 1
    got = semantic_loss(jnp.asarray(logits, jnp.float32), jnp.asarray(labels, jnp.int32))
    assert np.isclose(got, total / count, rtol=1e-6)


def test_loss_of_nothing_but_void_is_zero(rng):
    logits, _ = made_logits(rng)
    void = jnp.full((4, 5), 255, jnp.int32)
    value, gradient = jax.value_and_grad(semantic_loss)(jnp.asarray(logits, jnp.float32), void)
    assert value == 0 and not gradient.any()


def test_loss_beside_pytorch(rng):
    torch = pytest.importorskip("torch")
    logits, labels = made_logits(rng)
    x = torch.tensor(logits, requires_grad=True)
    theirs = torch.nn.functional.cross_entropy(x.reshape(-1, 3), torch.tensor(labels).reshape(-1), ignore_index=255)
    theirs.backward()
    ours = jax.value_and_grad(semantic_loss)(jnp.asarray(logits, jnp.float32), jnp.asarray(labels, jnp.int32))
    assert np.isclose(ours[0], theirs.item(), rtol=1e-6)
    assert np.allclose(ours[1], x.grad.numpy(), atol=1e-6)


# The step


def pictures(b=4, seed=0):
    """Grey ground (0), a red box (1), a green one (2), a void corner."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((b, 1, 40, 48), np.uint8)
    labels[:, :, 4:24, 6:26], labels[:, :, 16:36, 28:44], labels[:, :, :4, :4] = 1, 2, 255
    colours = np.uint8([[100, 100, 100], [200, 40, 40], [40, 200, 40]])
    frames = colours[np.where(labels == 255, 0, labels)] + rng.integers(0, 40, (*labels.shape, 3)).astype(np.uint8)
    window, extent = np.tile(np.float32([0, 0, 40, 48]), (b, 1, 1)), np.tile(np.int32([40, 48]), (b, 1))
    numbers = np.arange(b, dtype=np.uint32) + np.uint32(b * seed)
    return Clip(frames, labels, np.zeros((b, 1), np.float32), window, extent, numbers)


def test_a_few_steps_lower_the_loss(variables):
    state, seen = create_state(CONFIG, variables), []
    for n in range(10):
        state, metrics = STEP(state, pictures(seed=n), jax.random.key(0))
        seen.append((float(metrics["loss"]), float(metrics["accuracy"])))
    assert np.isclose(seen[0][0], np.log(3), atol=0.3)
    assert seen[-1][0] < 0.6 * seen[0][0] and seen[-1][1] > 0.75
    frame, truth = pictures(1, 50).frames[0, 0], pictures(1, 50).labels[0, 0]
    net = SemanticNet(GROUP, 3, RATES)
    found = evaluate(net, state.variables, [(frame, truth)])
    assert found.mean_iou > evaluate(net, variables, [(frame, truth)]).mean_iou + 0.2


def test_void_pictures_teach_nothing(variables):
    batch, state = pictures(), create_state(CONFIG, variables)
    batch.labels[1:] = 255
    _, metrics = STEP(state, batch, jax.random.key(0))
    assert metrics["each"][0] > 0 and not metrics["each"][1:].any()
    batch.labels[:] = 255
    _, metrics = STEP(state, batch, jax.random.key(0))
    assert metrics["norm"] == metrics["loss"] == metrics["accuracy"] == 0


def run_objective(norm, variables, batch, axis_name=None):
    config = dataclasses.replace(CONFIG, model=BATCH, norm=norm)
    return semantic_objective(3, RATES)(config, variables, batch, jax.random.key(0), axis_name)


def test_synced_batch_norm_is_the_same_on_four_devices():
    """The way forward; the way back is that of test_train.py."""
    variables = random(SemanticNet(BATCH, 3, RATES))
    one = jax.jit(partial(run_objective, "synced"))(variables, pictures())
    many = jax.pmap(partial(run_objective, "synced", axis_name="devices"), "devices", in_axes=(None, 0))
    four = many(variables, split(pictures(), 4))
    assert np.allclose(four.each[:, 0], one.each, rtol=1e-4)
    for a, b in zip(jax.tree.leaves(four.batch_stats), jax.tree.leaves(one.batch_stats), strict=True):
        assert np.allclose(a, b[None], atol=1e-4 * max(1, np.abs(b).max()))
    before, after = (v["trunk"]["stem"]["norm1"]["mean"] for v in (variables["batch_stats"], one.batch_stats))
    assert not np.allclose(before, after)


def test_frozen_batch_norm_stays():
    def run(variables, batch):
        found = run_objective("frozen", variables, batch)
        pairs = zip(jax.tree.leaves(found.batch_stats), jax.tree.leaves(variables["batch_stats"]), strict=True)
        assert all(a is b for a, b in pairs)

    jax.eval_shape(run, random(SemanticNet(BATCH, 3, RATES)), pictures())


# How good it is


def test_scores():
    truth = np.uint8([[0, 0, 0, 1], [1, 1, 255, 255]])
    found = np.uint8([[0, 0, 1, 1], [1, 0, 3, 0]])
    pairs = count_pairs(truth, found, 4)
    assert pairs.sum() == 6 and pairs[0, 1] == 1 and pairs[1, 0] == 1
    got = score(pairs + count_pairs(np.uint8([[2]]), np.uint8([[0]]), 4))
    assert np.allclose(got.each[:3], [2 / 5, 2 / 4, 0]) and np.isnan(got.each[3])
    assert np.isclose(got.mean_iou, 0.3) and np.isclose(got.accuracy, 4 / 7)
    assert score(np.zeros((3, 3), int)).mean_iou == 0


def test_prediction_grows_from_the_cells_centres(variables):
    from pmljax.labels import grow_matrix
    from pmljax.preprocess import preprocess

    frame = pictures(1).frames[0, 0].repeat(2, 0).repeat(2, 1)  # 80×96, which the network sees as 40×48
    net = SemanticNet(GROUP, 3, RATES)
    logits = np.asarray(jax.jit(net.apply)(variables, preprocess(GROUP, frame[None], 40))[0], float)
    whole = np.einsum("hy,yxc,wx->hwc", grow_matrix(6, 80, 8, 40), logits, grow_matrix(7, 96, 8, 48))
    assert (predict(net, variables, frame, short_side=40) == whole.argmax(-1)).mean() > 0.999


# Pictures


def write_voc(root, labels, *, size=None, name="a"):
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    h, w = size or labels.shape
    rng = np.random.default_rng(1)
    Image.fromarray(rng.integers(0, 255, (h, w, 3)).astype(np.uint8)).save(root / "JPEGImages" / f"{name}.png")
    (root / "SegmentationClass" / f"{name}.png").write_bytes(encode_labels(labels))
    (root / "ImageSets/Segmentation/train.txt").write_text(f"{name}\n")
    return root / "SegmentationClass" / f"{name}.png"


def test_voc_reads_ids_as_they_are(tmp_path):
    labels = np.zeros((6, 9), np.uint8)
    labels[1:3, 2:5], labels[4], labels[0, 0] = 1, 255, 20
    mask = write_voc(tmp_path, labels)
    frame, got = VocPictures(tmp_path, "train").read(0)
    assert frame.shape == (6, 9, 3) and np.array_equal(got, labels)
    only = np.where(labels == 255, 255, 0).astype(np.uint8)  # a mask of 0 and 255 would be an object here
    Image.fromarray(only).save(mask)
    assert np.array_equal(read_classes(mask, 21), only)


def test_voc_refuses(tmp_path):
    labels = np.full((6, 9), 5, np.uint8)
    mask = write_voc(tmp_path, labels, size=(7, 9))
    with pytest.raises(InputError, match=r"a.png: found 9×6, the picture is 9×7"):
        VocPictures(tmp_path, "train").read(0)
    with pytest.raises(InputError, match=r"a.png: found class 5, expected 0…3"):
        VocPictures(tmp_path, "train", 4).read(0)
    with pytest.raises(InputError, match=r"val.txt: no such split; expected one of train"):
        VocPictures(tmp_path, "val")
    with pytest.raises(InputError, match="found 1 classes"):
        VocPictures(tmp_path, "train", 1)
    for made, word in (
        (Image.fromarray(np.zeros((6, 9), np.uint16)), "16 bits"),
        (Image.fromarray(np.zeros((6, 9, 3), np.uint8)), "mode RGB"),
        (Image.fromarray(np.zeros((6, 9), bool)), "mode 1"),
    ):
        made.save(mask)
        with pytest.raises(InputError, match=f"a.png: found .*{word}"):
            read_classes(mask, 21)
    Image.fromarray(labels).save(mask, "JPEG")
    with pytest.raises(InputError, match="JPEG"):
        read_classes(mask, 21)
    mask.write_bytes(b"\x89PNG\r\n broken")
    with pytest.raises(InputError, match="no readable image"):
        read_classes(mask, 21)
    mask.unlink()
    with pytest.raises(InputError, match=r"a.png: no such file; expected that of a, which train.txt lists"):
        VocPictures(tmp_path, "train")


def encode_counts(counts):
    """COCO's string of run lengths, from the format's description: the decoder's oracle."""
    text = ""
    for i, count in enumerate(counts):
        x = count - (counts[i - 2] if i > 2 else 0)
        while True:
            bits, x = x & 31, x >> 5
            more = x != (-1 if bits & 16 else 0)
            text += chr(48 + bits + 32 * more)
            if not more:
                break
    return text


def test_run_lengths(rng):
    assert decode_counts("231N") == [2, 3, 1, 1] and decode_counts("061") == [0, 6, 1]
    for _ in range(20):
        mask = rng.random((23, 31)) < rng.uniform(0.02, 0.5)
        flat = mask.T.ravel()
        edges = np.flatnonzero(np.diff(flat.astype(int))) + 1
        counts = np.diff([0, *([0] if flat[0] else []), *edges, flat.size]).tolist()
        for form in (counts, encode_counts(counts)):
            assert np.array_equal(decode_mask({"counts": form, "size": [23, 31]}, (23, 31)), mask)
    long = [100_000, 3, 250_000, 7]
    assert decode_counts(encode_counts(long)) == long
    for wrong in (
        {"counts": [3, 4], "size": [2, 3]},
        {"counts": "!!", "size": [2, 3]},
        {"counts": "o", "size": [2, 3]},
    ):
        with pytest.raises(ValueError, match="run lengths"):
            decode_mask(wrong, (2, 3))


def test_polygons_hold_the_pixels_whose_centres_they_hold():
    box = np.array([[2, 1], [6, 1], [6, 4], [2, 4]], float)
    assert np.array_equal(np.argwhere(fill_polygon(box, (5, 8))), [(y, x) for y in (1, 2, 3) for x in (2, 3, 4, 5)])
    for seed in range(30):
        rng = np.random.default_rng(seed)
        corners = rng.uniform(-4, 24, (int(rng.integers(3, 9)), 2)).round(1)
        expected = np.zeros((20, 18), bool)
        for y in range(20):
            for x in range(18):
                inside = False
                for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, 0), strict=True):
                    if (y0 <= y + 0.5) != (y1 <= y + 0.5) and x + 0.5 >= x0 + (y + 0.5 - y0) / (y1 - y0) * (x1 - x0):
                        inside = not inside
                expected[y, x] = inside
        assert np.array_equal(fill_polygon(corners, (20, 18)), expected)


def write_coco(root, **changes):
    rng = np.random.default_rng(2)
    (root / "images").mkdir(exist_ok=True)
    Image.fromarray(rng.integers(0, 255, (10, 12), np.uint8)).save(root / "images" / "1.jpg")  # grey, as some are
    crowd = np.zeros((10, 12), bool)
    crowd[6:9, 1:11] = True
    flat = crowd.T.ravel()
    counts = np.diff([0, *(np.flatnonzero(np.diff(flat.astype(int))) + 1), flat.size]).tolist()
    box = [[2, 2, 10, 2, 10, 8, 2, 8]]
    small = [[4, 3, 6, 3, 6, 5, 4, 5], [8, 3, 9, 3, 9, 5, 8, 5]]
    annotations = [
        {"image_id": 7, "category_id": 90, "iscrowd": 0, "segmentation": small},
        {"image_id": 7, "category_id": 3, "iscrowd": 0, "segmentation": box},
        {"image_id": 7, "category_id": 3, "iscrowd": 1, "segmentation": {"counts": counts, "size": [10, 12]}},
    ]
    found = {
        "images": [{"id": 7, "file_name": "1.jpg", "height": 10, "width": 12}],
        "categories": [{"id": 90, "name": "toothbrush"}, {"id": 3, "name": "car"}],
        "annotations": annotations,
    } | changes
    (root / "instances.json").write_text(json.dumps(found))
    return root / "images", root / "instances.json", annotations, counts


def test_coco(tmp_path):
    images, path, annotations, counts = write_coco(tmp_path)
    expected = np.zeros((10, 12), np.uint8)
    expected[6:9, 1:11] = 255  # a crowd, below the instance that lies over it
    expected[2:8, 2:10] = 1  # category 3
    expected[3:5, 4:6] = expected[3:5, 8] = 2  # category 90, smaller, in two parts
    pictures = CocoPictures(images, path)
    frame, labels = pictures.read(0)
    assert frame.shape == (10, 12, 3) and np.array_equal(labels, expected)
    assert pictures.classes == 3 and pictures.names == ["background", "car", "toothbrush"]
    annotations[2]["segmentation"]["counts"] = encode_counts(counts)
    write_coco(tmp_path, annotations=annotations)
    assert np.array_equal(CocoPictures(images, path).read(0)[1], expected)


def test_coco_refuses(tmp_path):
    images, path, annotations, _ = write_coco(tmp_path)
    (images / "1.jpg").unlink()
    with pytest.raises(InputError, match=r"1.jpg: no such file"):
        CocoPictures(images, path).read(0)
    wrong = [{"id": 7, "file_name": "1.jpg", "height": 11, "width": 12}]
    write_coco(tmp_path, images=wrong)
    with pytest.raises(InputError, match=r"1.jpg: found 12×10, instances.json says 12×11"):
        CocoPictures(images, path).read(0)
    for segmentation, word in (([[1, 2, 3]], "polygon of 3 numbers"), ({"counts": [5], "size": [10, 12]}, "120")):
        write_coco(tmp_path, annotations=[annotations[0] | {"segmentation": segmentation}])
        with pytest.raises(InputError, match=f"instances.json: 1.jpg: .*{word}"):
            CocoPictures(images, path).read(0)
    write_coco(tmp_path, annotations=[annotations[0] | {"category_id": 4}])
    with pytest.raises(InputError, match=r"instances.json: found no instances of COCO \(KeyError: 4\)"):
        CocoPictures(images, path)
    path.write_text("{")
    with pytest.raises(InputError, match="JSONDecodeError"):
        CocoPictures(images, path)
    path.unlink()
    with pytest.raises(InputError, match=r"instances.json: no such file"):
        CocoPictures(images, path)


def test_training_pictures(tmp_path):
    labels = np.zeros((30, 50), np.uint8)
    labels[20:, 40:] = 3
    write_voc(tmp_path, labels)
    source = VocPictures(tmp_path, "train", 4, cache=Cache())
    stream = Clips([source], [1], seed=0, canvas=(20, 16), short_side=15, frames=1)
    one = stream[5]
    assert one["frames"].shape == (1, 20, 16, 3) and one["labels"].shape == (1, 20, 16)
    assert list(one["extent"]) == [15, 16] and list(one["window"][0][2:]) == [15, 25]
    assert (one["labels"][0, :15] != 255).all() and (one["labels"][0, 15:] == 255).all()
    assert (one["labels"] == 3).any() and not one["frames"][0, 15:].any()
    assert stream.describe(5) == "voc train a" and one["number"] == 5
    batch = Clip(**next(batches(stream, batch=2, start=3, threads=0)))
    assert batch.frames.shape == (2, 1, 20, 16, 3) and list(batch.number) == [6, 7]
    assert np.array_equal(batch.labels[0], stream[6]["labels"])


# To the embedding


def test_the_trunk_carries_over(variables):
    new, report = carry_over(variables, GROUP, jax.random.key(1))
    assert jax.tree.structure(new) == jax.tree.structure(abstract(GROUP).variables)
    assert jax.tree.all(jax.tree.map(np.array_equal, new["params"]["trunk"], variables["params"]["trunk"]))
    assert new["params"]["head"]["conv1"]["kernel"].std() > 0.01 and not new["params"]["head"]["conv1"]["bias"].any()
    assert len(report.taken) == len(jax.tree.leaves(variables["params"]["trunk"]))
    assert set(report.fresh) == {f"params/head/conv{i}/{k}" for i in (1, 2) for k in ("kernel", "bias")}
    assert set(report.left_over) == {f"params/head/c{i}/{k}" for i in (0, 1) for k in ("kernel", "bias")}
    lines = report.text().splitlines()
    assert lines[0] == f"taken: {len(report.taken)} variables (trunk {len(report.taken)})"
    assert lines[1].startswith("fresh: params/head/conv1/") and lines[2].startswith("no place for: params/head/c0/")


def test_other_shapes_are_named():
    def kernels(*shapes, stats=0):
        layers = {f"conv{i}": {"kernel": np.full(shape, i + 1.0, np.float32)} for i, shape in enumerate(shapes)}
        many = {f"norm{i}": {"mean": np.zeros(2)} for i in range(stats)}
        return {"params": {"head": layers}, "batch_stats": {"trunk": many}}

    given, fresh = kernels((1, 1, 8, 16), (1, 1, 16, 8), stats=9), kernels((1, 1, 8, 16), (1, 1, 16, 4))
    new, report = carry_into(fresh, given)
    assert report.fresh == ("params/head/conv1/kernel (found (1, 1, 16, 8), new (1, 1, 16, 4))",)
    assert report.left_over[0] == report.fresh[0] and len(report.left_over) == 10
    assert report.text().endswith("and 4 more (head 1, trunk 9)")
    assert np.array_equal(new["params"]["head"]["conv0"]["kernel"], given["params"]["head"]["conv0"]["kernel"])
    same, report = carry_into(fresh, fresh)
    assert report.text() == "taken: 2 variables (head 2)" and same["params"]["head"].keys() == {"conv0", "conv1"}


def test_weights_of_another_trunk_are_refused(variables):
    with pytest.raises(InputError, match="found no weight that fits"):
        carry_into(variables, {"params": {"trunk": {"conv": jnp.zeros(3)}}})


def test_a_finer_stride_keeps_the_field_of_view():
    """Dilated as at the stride of training, as EmbeddingNet's trunk is: without it the same weights see less."""
    variables = random(SemanticNet(GROUP, 3, RATES))
    finer = [dataclasses.replace(GROUP, stride=4, trained_stride=t) for t in (None, 8)]
    images = jax.random.normal(jax.random.key(1), (1, 64, 64, 3))
    bare, kept = (jax.jit(SemanticNet(c, 3, RATES).apply)(variables, images) for c in finer)
    assert bare.shape == kept.shape and not np.allclose(bare, kept)

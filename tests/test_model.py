"""Configurations, preprocessing, position, unit length, embedding; weights in a file."""

import dataclasses
import json
import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import pmljax
from pmljax.config import NAMED, ModelConfig
from pmljax.errors import InputError
from pmljax.labels import area_matrix
from pmljax.model import (
    Model,
    abstract,
    at_stride,
    create,
    embed,
    embed_stages,
    parameter_count,
    unit_length,
    with_dtype,
)
from pmljax.preprocess import position, preprocess
from pmljax.weights import bundled
from tests.filled import network

TINY = ModelConfig("tiny", 10, 8, norm="group", taps=(2, 3, 4), head=((1, 16), (1, 12)))


def test_counts_of_the_reproductions():
    count = {n: parameter_count(abstract(n)) for n in ("sydney0zq", "bfvos", "color", "small")}
    assert count["sydney0zq"] == 44_894_912
    assert count["bfvos"] == 42_779_328
    assert count["color"] == 0
    # Heads alone, counted in the reproductions themselves.
    assert count["sydney0zq"] - 42_500_160 == 2_394_752 and count["bfvos"] - 42_500_160 == 279_168
    assert count["small"] * 2 < 8e6  # in half precision, within the 8 MB of a bundled file


def test_unit_length(rng):
    @partial(jax.grad, has_aux=True)
    def both(x):
        y = unit_length(x)
        return y[..., 0].sum(), y

    x = rng.normal(size=(5, 7)).astype(np.float32)
    x[2] = 0
    gradient, y = map(np.asarray, jax.jit(both)(x))
    assert np.allclose(np.linalg.norm(y, axis=-1), [1, 1, 0, 1, 1])
    assert np.allclose(y[0], x[0] / np.linalg.norm(x[0]))
    assert np.isnan(jax.jit(unit_length)(np.float32([np.nan, 1, 1]))).all()  # a network that diverged says so
    assert np.isfinite(gradient).all() and not gradient[2].any()


def test_preprocessing(rng):
    frame = rng.integers(0, 256, (1, 24, 32, 3), np.uint8)
    x = frame[0].astype(np.float64)
    same = {
        name: dataclasses.replace(NAMED[name], input_size=None) for name in ("paper", "small", "sydney0zq", "bfvos")
    }
    seen = jax.jit(lambda frame: {name: preprocess(config, frame) for name, config in same.items()})
    one = {name: np.asarray(images)[0] for name, images in seen(frame).items()}
    bgr = x[..., ::-1] - [104.00698793, 116.66876762, 122.67891434]
    assert np.allclose(one["paper"], bgr, atol=1e-4)
    assert np.allclose(one["small"], (x / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225], atol=1e-5)
    assert np.allclose(one["sydney0zq"], x - [122.675, 116.669, 104.008], atol=1e-4)
    assert np.allclose(one["bfvos"], (x - x.mean()) / x.std(), atol=1e-4)
    flat = np.full_like(frame, 9)
    assert np.isfinite(seen(flat)["bfvos"]).all()


def test_sizes_as_the_network_sees_them(rng):
    frame = rng.integers(0, 256, (1, 96, 160, 3), np.uint8)
    color, network = NAMED["color"], dataclasses.replace(NAMED["small"], scaling="bgr")

    @jax.jit  # all at once: one compilation
    def each(frame):
        return (
            preprocess(color, frame, 480),
            preprocess(color, frame, 48),
            preprocess(color, frame.swapaxes(1, 2), 48),
            preprocess(color, frame[:, :95, :153], 41),
            preprocess(network, frame, (144, 480)),
            preprocess(dataclasses.replace(NAMED["sydney0zq"], input_size=(64, 128)), frame),
        )

    same, small, high, odd, larger, resized = (np.asarray(seen)[0] for seen in each(frame))
    assert same.shape == (96, 160, 3)  # never enlarged
    assert color.seen((96, 160), (480, 480)) == (96, 160)  # nor for whoever asks, without a network
    assert np.allclose(small, frame[0].reshape(48, 2, 80, 2, 3).mean((1, 3)), atol=1e-3)
    assert high.shape == (80, 48, 3)
    dense = np.einsum("yh,xw,hwc->yxc", area_matrix(95, 41), area_matrix(153, 66), frame[0, :95, :153].astype(float))
    assert odd.shape == (41, 66, 3) and np.allclose(odd, dense, atol=1e-3)
    assert [network.seen((240, 427), s) for s in (480, (480, 480), (300, 480), (90, 120), None)] == [
        (240, 427), (480, 854), (300, 534), (120, 214), (240, 427)
    ]  # fmt: skip
    assert network.seen((154, 95), (480, None)) == (308, 190)  # twice, at most
    images = [Image.fromarray(frame[0, ..., c].astype(np.float32)) for c in (2, 1, 0)]
    pillow = np.stack([np.array(i.resize((240, 144), Image.Resampling.BILINEAR)) for i in images], -1)
    assert np.allclose(larger, pillow - np.float32([104.00698793, 116.66876762, 122.67891434]), atol=1e-3)
    pillow = np.array(Image.fromarray(frame[0]).resize((128, 64), Image.Resampling.NEAREST), np.float32)
    assert np.allclose(resized, pillow - np.float32([122.675, 116.669, 104.008]), atol=1e-4)


def test_position():
    @partial(jax.jit, static_argnums=(0, 1))
    def at(name, size, number):
        return position(NAMED[name], size, number)

    place = np.asarray(at("paper", (480, 854), 30))
    assert place.shape == (61, 107, 3)
    assert np.allclose(place[3, 5], [24 / 480, 40 / 854, 0.3])
    assert np.asarray(at("paper", (480, 854), 250))[0, 0, 2] == 1
    assert place[60, 0, 0] == 1  # the last row of cells lies one pixel past the image
    assert not np.asarray(at("sydney0zq", (480, 854), 30)).any()
    assert np.asarray(at("bfvos", (256, 256), 30))[4, 7].tolist() == [4, 7, 30]
    assert jax.eval_shape(partial(at, "small", (480, 854)), 30).shape == (61, 107, 0)


def test_color_is_mean_colour_and_cell(rng):
    frame = rng.integers(0, 256, (2, 39, 50, 3), np.uint8)
    out = np.asarray(embed(create("color"), frame, np.zeros(2, np.float32)))
    assert out.shape == (2, 6, 7, 5)  # 39 is 7 mod 8: n + 2
    assert out[1, 2, 3, 3:].tolist() == [2, 3]
    # Cell (2, 3) is centred on pixel (16, 24): half of pixels 12 and 20, all between.
    weight = np.array([0.5, 1, 1, 1, 1, 1, 1, 1, 0.5]) / 8
    mean = np.einsum("h,w,hwc->c", weight, weight, frame[1, 12:21, 20:29].astype(float))
    assert np.allclose(out[1, 2, 3, :3], mean, atol=1e-3)
    # The last row of cells is past the end by one pixel, and takes what is left of its box: rows 36…38.
    edge = np.einsum("h,w,hwc->c", np.array([0.5, 1, 1]) / 2.5, weight, frame[0, 36:39, 20:29].astype(float))
    assert np.allclose(out[0, 5, 3, :3], edge, atol=1e-3)


@pytest.mark.parametrize("size, and_half", [((39, 47), True), ((40, 48), False)])
def test_embedding_and_activations(size, and_half, rng):
    model = network(TINY)
    frames = rng.integers(0, 256, (2, *size, 3), np.uint8)
    out = jax.tree.map(np.asarray, jax.jit(embed_stages)(model, frames, np.arange(2)))
    y, x = TINY.grid(size)
    assert out.embedding.shape == (2, y, x, 12) and out.embedding.dtype == jnp.float32
    assert np.allclose(np.linalg.norm(out.embedding, axis=-1), 1, atol=1e-5)
    assert set(out.stages) == {"stem", "stage1", "stage2", "stage3", "stage4", "head", "embedding"}
    assert np.allclose(jax.jit(embed)(model, frames[1:], np.arange(1)), out.embedding[1:], atol=1e-5)
    if not and_half:
        return
    with jax.numpy_dtype_promotion("standard"):  # flax's own norms mix bfloat16 and float32
        half = np.asarray(jax.jit(embed)(with_dtype(model, "bfloat16"), frames, np.arange(2)))
    assert half.dtype == jnp.float32 and 0 < np.abs(half - out.embedding).max() < 0.2


def test_what_embed_takes_and_refuses(rng):
    model, frames = create("color"), rng.integers(0, 256, (2, 20, 30, 3), np.uint8)
    assert np.array_equal(embed(model, frames, [0, 1]), embed(model, frames, np.arange(2)))
    for size in (0, -5, (7, None)):
        with pytest.raises(InputError, match=r"size .*: expected 8 pixels or more"):
            embed(model, frames, np.arange(2), size)
    with pytest.raises(InputError, match=r"numbers: found \[3\], expected \[2\]"):
        embed(model, frames, [0, 1, 2])


def test_position_reaches_the_embedding(rng):
    config = dataclasses.replace(TINY, position="yxt")
    model = network(config)
    frames = np.repeat(rng.integers(0, 256, (1, 33, 33, 3), np.uint8), 2, 0)
    out = np.asarray(jax.jit(embed)(model, frames, np.array([0, 90])))
    assert np.abs(out[0] - out[1]).max() > 1e-3


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"depth": 20}, "depth 20"),
        ({"stride": 32}, "stride 32"),
        ({"taps": (1, 4)}, "taps"),
        ({"taps": ()}, "taps"),
        ({"dtype": "int8"}, "dtype"),
        ({"head": ((2, 16), (1, 8))}, "odd kernels"),
        ({"width": 7, "norm": "group"}, "width 7 with group norm: expected a multiple of 8"),
    ],
)
def test_configurations_that_make_no_sense(fields, word):
    with pytest.raises(InputError, match=word):
        ModelConfig("x", **fields)


def test_float64_needs_jax_to_have_it():
    with pytest.raises(InputError, match="dtype float64: found JAX without jax_enable_x64"):
        with_dtype(create("color"), "float64")
    with jax.enable_x64(True):
        assert with_dtype(create("color"), "float64").config.dtype == "float64"


# Names and files


def test_load_by_name(monkeypatch):
    assert pmljax.load().config.name == bundled.DEFAULT
    monkeypatch.setitem(NAMED, "tiny", TINY)  # initialising `small` takes a second
    a, b, c = (pmljax.load("random:tiny", seed=s) for s in (0, 0, 1))
    assert a.config == TINY
    assert bundled.fingerprint(a) == bundled.fingerprint(b) != bundled.fingerprint(c)
    assert pmljax.load("color", dtype="bfloat16").config.dtype == "bfloat16"
    for name in ("nope", "base", "random:nope", "weights.safetensors"):
        with pytest.raises(InputError, match=r"model.*expected"):
            pmljax.load(name)


def test_a_folder_with_a_bundled_name_is_not_taken_for_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small").mkdir()
    assert pmljax.load("small").config.name == "small"  # any folder but a run's or an import's
    bundled.write(tmp_path / "small/model.safetensors", network(TINY), commit="")
    with pytest.raises(InputError, match=r"model small: found a name of ours, .*expected \./small for the folder"):
        pmljax.load("small")
    assert pmljax.load("./small").config == TINY


def test_weights_survive_a_file(tmp_path, rng):
    model = network(TINY)
    path = tmp_path / "tiny.safetensors"
    bundled.write(path, model, commit="abc")
    back = pmljax.load(path)
    assert back.config == TINY
    for a, b in zip(jax.tree.leaves(model.variables), jax.tree.leaves(back.variables), strict=True):
        assert b.dtype == jnp.float32 and np.array_equal(np.float16(a), b)
    bundled.write(path, model, dtype=np.float32)
    assert bundled.fingerprint(pmljax.load(path)) == bundled.fingerprint(model)
    assert list(tmp_path.iterdir()) == [path]


def test_weights_that_are_refused(tmp_path):
    from safetensors.numpy import save_file

    model = network(TINY)
    path = tmp_path / "w.safetensors"
    flat = {"/".join(k.key for k in p): np.asarray(v) for p, v in jax.tree.leaves_with_path(model.variables)}
    good = {"format": "1", "config": json.dumps(dataclasses.asdict(TINY)), "commit": ""}
    name = "params/head/conv1/kernel"
    for arrays, metadata, word in [
        (flat, {}, "format None"),
        (flat, good | {"format": "9"}, "format 9"),
        ({k: v for k, v in flat.items() if k != name}, good, f"{name}: found nothing"),
        (flat | {"params/extra": np.zeros(3)}, good, "params/extra.*expected nothing"),
        (flat | {name: flat[name][..., :3]}, good, "expected"),
        (flat | {name: np.full_like(flat[name], np.nan)}, good, "NaN"),
        (flat, {"format": "1"}, "no configuration"),
        (flat, good | {"config": "{"}, "no configuration"),
        (flat, good | {"config": "{}"}, "no configuration"),
        (flat, good | {"config": json.dumps(dataclasses.asdict(TINY) | {"wings": 2})}, "wings"),
    ]:
        save_file(arrays, path, metadata)
        with pytest.raises(InputError, match=word):
            pmljax.load(path)
    bad = network(dataclasses.replace(TINY, norm="batch"))
    bad.variables["batch_stats"]["trunk"]["stem"]["norm1"]["var"] -= 2
    bundled.write(path, bad)
    with pytest.raises(InputError, match="stem/norm1/var: found a variance below 0"):
        pmljax.load(path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match="no readable weights"):
        pmljax.load(path)


def test_flip_is_the_mean_with_the_mirrored_frame(rng):
    """Where a cell is centred on the last column, mirroring a frame mirrors its cells; elsewhere its edge goes on to one."""
    model = network(ModelConfig("m", 10, 8, taps=(2, 4), head=((1, 8),)))
    frame = rng.integers(0, 255, (1, 39, 49, 3), dtype=np.uint8)
    number = np.zeros(1, "f")

    @jax.jit  # both in one compilation, as they share most of the work
    def both(model, frame):
        return embed(model, frame, number), embed(model, frame, number, flip=True)

    (plain, flipped), (mirrored, _) = (jax.tree.map(np.asarray, both(model, f)) for f in (frame, frame[:, :, ::-1]))
    mean = (plain + mirrored[:, :, ::-1]) / 2
    expected = mean / np.linalg.norm(mean, axis=-1, keepdims=True)
    np.testing.assert_allclose(flipped, expected, atol=1e-5)
    wide = rng.integers(0, 255, (1, 39, 51, 3), dtype=np.uint8)
    for cut in (wide[:, :, :47], wide):  # the last cell is centred on 48 in both: filled up to it, or cut
        filled = np.pad(cut, ((0, 0), (0, 0), (0, max(49 - cut.shape[2], 0)), (0, 0)), "edge")[:, :, :49]
        other = np.asarray(both(model, filled[:, :, ::-1])[0])[:, :, ::-1]
        plain, flipped = both(model, cut)
        mean = (np.asarray(plain) + other) / 2
        expected = mean / np.linalg.norm(mean, axis=-1, keepdims=True)
        np.testing.assert_allclose(flipped, expected, atol=1e-5)
    with pytest.raises(InputError, match="flip with color: expected a network without position"):
        embed(create("color"), frame, number, flip=True)


def test_a_finer_stride_has_more_cells_and_no_coarser_one():
    small = at_stride(Model({}, NAMED["small"]), 4)  # of the weights nothing is said
    assert (small.config.stride, small.config.trained_stride) == (4, 8)
    assert at_stride(small, 4) is small and small.config.grid((480, 854)) == (121, 214)
    with pytest.raises(InputError, match="stride 8: expected at most 4"):
        at_stride(small, 8)


def test_configurations_that_there_are_not():
    """Files of weights carry one: a word that a later version knows would be computed as another. Without the tests' checks."""
    given = [
        *({name: "zz"} for name in ("geometry", "norm", "scaling", "position")),
        *({"head": head} for head in ((), ((1,),), ((1, 0),))),
        *({"width": 0}, {"width": 2.5}, {"input_size": (4,)}, {"unit": 1}),
    ]
    script = f"""
import dataclasses
from pmljax import InputError
from pmljax.config import NAMED
for given in {given!r}:
    try:
        dataclasses.replace(NAMED["small"], **given)
    except InputError as error:
        print(error)
"""
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert len(told.splitlines()) == len(given) and told.startswith(
        "geometry zz: expected one of deeplab, torchvision\n"
    )

"""PyTorch's files: every layout in and out unchanged, everything that does not fit refused with its own message.

The state_dicts are made here, name by name as the files have them (docs/sources.md), not with the tables that are tested.
"""

import dataclasses
import errno
import io
import pickle
import re
import sys
import warnings
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from pmljax import cli
from pmljax.config import NAMED
from pmljax.errors import InputError
from pmljax.model import Model, abstract, create
from pmljax.weights import load
from pmljax.weights.carry import carry_into
from pmljax.weights.layouts import LAYOUTS, counters, names, recognise
from pmljax.weights.torch import MODEL, RECORD, differences, match, read_kept, state_dict, to_model
from pmljax.weights.torch_files import read_tensors, write_tensors

PLANS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
DEPTHS = {"isht7": 18, "torchvision": 18}  # of the narrow files; 50 otherwise


def bn(name, n, counted=True):
    shapes = {f"{name}.{leaf}": (n,) for leaf in ("weight", "bias", "running_mean", "running_var")}
    return shapes | ({f"{name}.num_batches_tracked": ()} if counted else {})


def style_r(depth=50, width=8, prefix="", counted=True):
    """{name: shape} of torchvision's names."""
    p, w = prefix, width
    out = {f"{p}conv1.weight": (w, 3, 7, 7), **bn(f"{p}bn1", w, counted)}
    inside = w
    for s, blocks in enumerate(PLANS[depth]):
        mid = w * 2**s
        for b in range(blocks):
            at = f"{p}layer{s + 1}.{b}"
            end = 4 * mid if depth >= 50 else mid
            kernels = (
                [(mid, inside, 1), (mid, mid, 3), (end, mid, 1)] if depth >= 50 else [(mid, inside, 3), (mid, mid, 3)]
            )
            for i, (o, c, k) in enumerate(kernels, 1):
                out |= {f"{at}.conv{i}.weight": (o, c, k, k), **bn(f"{at}.bn{i}", o, counted)}
            if b == 0 and (depth >= 50 or s > 0):
                out |= {f"{at}.downsample.0.weight": (end, inside, 1, 1), **bn(f"{at}.downsample.1", end, counted)}
            inside = end
    return out


def style_k(depth=50, width=8, prefix="", shortcut="shortcut", counted=True):
    """{name: shape} of kazuto1011's names: the stem is layer 1, blocks from 1."""
    p, w = prefix, width
    out = {f"{p}layer1.conv1.conv.weight": (w, 3, 7, 7), **bn(f"{p}layer1.conv1.bn", w, counted)}
    inside = w
    for s, blocks in enumerate(PLANS[depth]):
        mid, end = w * 2**s, 4 * w * 2**s
        for b in range(1, blocks + 1):
            at = f"{p}layer{s + 2}.block{b}"
            parts = [("reduce", mid, inside, 1), ("conv3x3", mid, mid, 3), ("increase", end, mid, 1)]
            parts += [(shortcut, end, inside, 1)] if b == 1 else []
            for name, o, c, k in parts:
                out |= {f"{at}.{name}.conv.weight": (o, c, k, k), **bn(f"{at}.{name}.bn", o, counted)}
            inside = end
    return out


def with_bias(name, *shape):
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def pyramid(name, classes, inside):
    return {k: v for i in range(4) for k, v in with_bias(f"{name}{i}", classes, inside, 3, 3).items()}


def deeplabv3_head(inside, aux):
    out = {}
    for i, size in enumerate((1, 3, 3, 3)):
        out |= {f"classifier.0.convs.{i}.0.weight": (256, inside, size, size), **bn(f"classifier.0.convs.{i}.1", 256)}
    out |= {"classifier.0.convs.4.1.weight": (256, inside, 1, 1), **bn("classifier.0.convs.4.2", 256)}
    out |= {"classifier.0.project.0.weight": (256, 1280, 1, 1), **bn("classifier.0.project.1", 256)}
    out |= {
        "classifier.1.weight": (256, 256, 3, 3),
        **bn("classifier.2", 256),
        **with_bias("classifier.4", 21, 256, 1, 1),
    }
    out |= {"aux_classifier.0.weight": (256, aux, 3, 3), **bn("aux_classifier.1", 256)}
    return out | with_bias("aux_classifier.4", 21, 256, 1, 1)


def shapes_of(case, depth=50, width=8):
    """The names and shapes of one kind of file."""
    c = width * (32 if depth >= 50 else 8)  # channels of the trunk
    if case in ("sydney0zq", "sydney0zq module."):
        e = "embedding_head."
        out = style_r(depth, width, "base_extractor.")
        out |= with_bias(e + "conv1", 128, c + 2, 3, 3) | with_bias(e + "conv2", 128, 128, 1, 1)
        out |= with_bias(e + "eh_layer", 128, 128, 1, 1)
        return {f"module.{k}": v for k, v in out.items()} if "module" in case else out
    if case == "bfvos":
        e = "embedding_head."
        out = style_k(depth, width, "feature_extractor.fe_", "proj")
        return out | with_bias(e + "conv1", 128, c + 3, 1, 1) | with_bias(e + "eh_layer2", 128, 128, 1, 1)
    if case == "bfvos-2018":
        out = style_k(depth, width, "fe_", "proj", counted=False)
        return out | with_bias("eh_layer1.conv1", 128, c, 1, 1) | with_bias("eh_layer2", 128, 128, 1, 1)
    if case == "isht7":  # older than the counters
        return style_r(depth, width, "Scale.", counted=False) | pyramid("Scale.layer5.conv2d_list.", 21, c)
    if case == "speedinghzl":
        return style_r(depth, width, "") | pyramid("layer5.conv2d_list.", 21, c)
    if case == "kazuto1011":
        return style_k(depth, width, "base.") | pyramid("base.aspp.c", 182, c)
    if case == "kazuto1011-2018":
        return style_k(depth, width, "scale.", "proj") | pyramid("scale.aspp.stages.c", 182, c)
    if case == "kazuto1011-coco":
        return style_k(depth, width) | with_bias("fc", 91, c, 1, 1)
    if case == "torchvision":
        return style_r(depth, width) | {"fc.weight": (1000, c), "fc.bias": (1000,)}
    assert case == "deeplabv3"
    return style_r(depth, width, "backbone.") | deeplabv3_head(c, c // 2)


def fill(shapes, dtype=np.float32, seed=0):
    rng = np.random.default_rng(seed)

    def draw(name, shape):
        if name.endswith("num_batches_tracked"):
            return np.array(rng.integers(1, 99999), np.int64)
        x = rng.standard_normal(shape, np.float32)
        return (np.abs(x) + 0.5 if "running_var" in name else x).astype(dtype)

    return {name: draw(name, shape) for name, shape in shapes.items()}


def file_of(case):
    return fill(shapes_of(case, DEPTHS.get(case, 50)), np.float64 if "bfvos" in case else np.float32)


CASES = ["sydney0zq module.", *LAYOUTS]
TRUNKS = ("isht7", "speedinghzl", "kazuto1011", "kazuto1011-2018", "kazuto1011-coco", "torchvision", "deeplabv3")


def same(a, b):
    return list(sorted(a)) == list(sorted(b)) and all(
        a[k].dtype == b[k].dtype and a[k].shape == b[k].shape and np.array_equal(a[k], b[k]) for k in a
    )


def run(*args, capsys):
    status = cli.main([str(a) for a in args])
    out, err = capsys.readouterr()
    return status, out, err


# In, out, in


@pytest.mark.parametrize("case", CASES)
def test_every_layout_comes_in_and_goes_out_unchanged(case, tmp_path, capsys):
    """By the commands, in .safetensors: no PyTorch is needed. The model is read by `load`, as --model reads it."""
    tensors, layout = file_of(case), case.split()[0]
    save_file(tensors, tmp_path / "in.safetensors")
    status, out, err = run("import-torch", tmp_path / "in.safetensors", "--out", tmp_path / "a", capsys=capsys)
    assert (status, err) == (0, "") and f"layout: {layout} " in out
    assert f"ResNet-{DEPTHS.get(case, 50)}, " in out
    more = ["--parallel"] if "module" in case else []
    back = tmp_path / "back.safetensors"
    status, out, _ = run("export-torch", tmp_path / "a", "--layout", layout, "--out", back, *more, capsys=capsys)
    assert status == 0 and same(load_file(back), tensors)
    assert run("import-torch", back, "--out", tmp_path / "b", capsys=capsys)[0] == 0
    one, two = load(tmp_path / "a"), load(tmp_path / "b")
    assert one.config == two.config
    assert all(np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (one.variables, two.variables)), strict=True))


@pytest.mark.parametrize("case", CASES)
def test_the_configuration_is_the_codes_own(case):
    tensors = file_of(case)
    found = match(tensors)
    c, layout = found.config, found.layout.name
    geometry = "torchvision" if layout in ("torchvision", "deeplabv3") else "deeplab"
    assert (c.depth, c.width, c.geometry, c.norm) == (DEPTHS.get(case, 50), 8, geometry, "batch")
    if layout in TRUNKS:
        assert c.scaling == ("imagenet" if geometry == "torchvision" else "bgr")
        assert c.head == NAMED["paper"].head and any("head" in name for name in found.fresh)
        assert "fresh, from random weights: params/head/conv1/" in found.text()
    else:
        like = NAMED["bfvos" if "bfvos" in layout else layout]
        assert (c.scaling, c.head, c.input_size, c.half_pixel) == (like.scaling, like.head, like.input_size, True)
        assert c.position == ("none" if layout == "bfvos-2018" else like.position) and not found.fresh
    model = to_model(tensors, found, jax.random.key(0))
    stem = next(x for k, x in tensors.items() if re.search(r"conv1\.(conv\.)?weight", k) and x.shape[2:] == (7, 7))
    kernel = np.asarray(model.variables["params"]["trunk"]["stem"]["conv1"]["kernel"])
    assert kernel[2, 5, 1, 3] == stem[3, 1, 2, 5].astype(np.float32)


def test_full_size_reproductions_are_their_named_configurations():
    for case, entries, elements in (("sydney0zq", 630, 45_000_360), ("bfvos", 628, 42_884_776)):
        shapes = shapes_of(case, 101, 64)
        assert len(shapes) == entries and sum(int(np.prod(s)) for s in shapes.values()) == elements
        # As far as names and shapes go, numbers do not matter: a view of one zero.
        tensors = {k: np.broadcast_to(np.float32(0), s) for k, s in shapes.items()}
        found = match(tensors)
        assert found.config == NAMED[case] and found.refusal() is None and not found.fresh
        ours, theirs = names(LAYOUTS[case], 101), shapes.keys()
        assert set(ours.values()) | set(counters(LAYOUTS[case], 101)) == theirs
    trunk = names(LAYOUTS["speedinghzl"], 101)
    assert len(trunk) == 520 and len(trunk) + len(counters(LAYOUTS["speedinghzl"], 101)) == 624


@pytest.mark.parametrize("depth", [18, 34, 50, 101, 152])
def test_depths_of_torchvision(depth):
    found = match({k: np.broadcast_to(np.float32(0), s) for k, s in shapes_of("torchvision", depth, 64).items()})
    assert found.refusal() is None and (found.config.depth, found.config.width) == (depth, 64)
    assert set(found.left) >= {"fc.weight", "fc.bias"} and not found.unplaced
    counts = {18: 11_176_512, 34: 21_284_672, 50: 23_508_032, 101: 42_500_160, 152: 58_143_808}
    expected = dict(style_r(depth, 64, counted=False))
    assert (
        sum(int(np.prod(expected[theirs])) for ours, theirs in found.taken if ours.startswith("params"))
        == counts[depth]
    )


def test_float64_is_cast(tmp_path):
    tensors = fill(shapes_of("bfvos"), np.float64)
    tensors = {k: x + 1e-12 * (x.dtype.kind == "f") for k, x in tensors.items()}  # no float32 any more
    model = to_model(tensors, match(tensors), jax.random.key(0))
    assert {x.dtype.name for x in jax.tree.leaves(model.variables)} == {"float32"}
    out = state_dict(model, "bfvos")
    assert all(x.dtype == (np.int64 if "tracked" in k else np.float64) for k, x in out.items())
    assert all(np.allclose(x, tensors[k], rtol=1e-6, atol=1e-7) for k, x in out.items() if "tracked" not in k)


def test_biases_of_which_the_sources_say_nothing():
    tensors = {k: x for k, x in file_of("bfvos-2018").items() if k not in LAYOUTS["bfvos-2018"].loose}
    found = match(tensors)
    assert found.refusal() is None and "absent, zero: eh_layer1.conv1.bias, eh_layer2.bias" in found.text()
    assert not to_model(tensors, found, jax.random.key(0)).variables["params"]["head"]["conv2"]["bias"].any()


# The trap


def test_a_bare_trunk_must_be_named(tmp_path, capsys):
    tensors = fill(style_r())
    save_file(tensors, tmp_path / "bare.safetensors")
    out = tmp_path / "out"
    status, _, err = run("import-torch", tmp_path / "bare.safetensors", "--out", out, capsys=capsys)
    assert status == 2 and not out.exists() and err.count("\n") == 1
    assert "the same in torchvision and in the DeepLab-v2 ports" in err and "--layout torchvision" in err
    for layout, geometry in (("torchvision", "torchvision"), ("speedinghzl", "deeplab")):
        to = tmp_path / layout
        args = ("import-torch", tmp_path / "bare.safetensors", "--out", to, "--layout", layout)
        assert run(*args, capsys=capsys)[0] == 0
        assert load(to).config.geometry == geometry


def test_a_wrong_layout_is_refused():
    tensors = file_of("speedinghzl")
    with pytest.raises(InputError, match=r"found no place for layer5\.conv2d_list\.0\.weight"):
        to_model(tensors, match(tensors, "torchvision"), jax.random.key(0))
    with pytest.raises(InputError, match="expected those of ResNet-"):
        match(tensors, "isht7")
    with pytest.raises(InputError, match="layout resnet: expected one of sydney0zq"):
        match(tensors, "resnet")


# What is refused


def spoil(kind):
    """(tensors, what the message must say)."""
    tensors = file_of("sydney0zq")
    name = "base_extractor.layer3.2.conv2.weight"
    if kind == "missing":
        del tensors[name]
        return tensors, [f"found no weight for {name}; expected the names of layout sydney0zq"]
    if kind == "renamed":
        tensors["base_extractor.layer3.2.convolution2.weight"] = tensors.pop(name)
        return tensors, [f"found no weight for {name} and found no place for", "convolution2", "was a tensor renamed"]
    if kind == "shape":
        tensors[name] = tensors[name][:-1].copy()
        return tensors, [f"{name}: found (31, 32, 3, 3), expected (32, 32, 3, 3)", "ResNet-50"]
    if kind == "stem's shape":
        tensors["base_extractor.conv1.weight"] = np.zeros((4, 3, 7, 7), np.float32)
        return tensors, ["base_extractor.conv1.weight: found (4, 3, 7, 7), expected (8, 3, 7, 7)"]
    if kind in ("nan", "inf"):
        tensors[name][1, 2, 0, 0] = float(kind)
        return tensors, [f"{name}: found NaN or infinity, expected finite weights"]
    if kind == "too large":
        tensors[name] = tensors[name].astype(np.float64)
        tensors[name][1, 2, 0, 0] = 1e300
        return tensors, [f"{name}: found numbers that float32 does not hold, expected finite weights"]
    if kind == "integers":
        tensors[name] = tensors[name].astype(np.int64)
        return tensors, [f"{name}: found int64, expected floating point"]
    if kind == "head of another":
        return {k: x for k, x in tensors.items() if "eh_layer" not in k}, [
            "found no weight for embedding_head.eh_layer"
        ]
    if kind == "a second head":
        return tensors | {"decoder.weight": np.zeros(3, np.float32)}, ["found no place for decoder.weight"]
    if kind == "fewer blocks":
        gone = [k for k in tensors if re.search(r"layer3\.[345]\.", k)]
        return {k: x for k, x in tensors.items() if k not in gone}, ["found 3-4-3-3 bottlenecks", "ResNet-"]
    assert kind == "foreign"
    return {"encoder.weight": np.zeros(3, np.float32)}, ["encoder.weight", "no known layout", "sydney0zq"]


KINDS = ["missing", "renamed", "shape", "stem's shape", "nan", "inf", "integers", "head of another", "a second head"]


@pytest.mark.parametrize("kind", [*KINDS, "too large", "fewer blocks", "foreign"])
def test_what_does_not_fit_is_refused_in_one_line(kind, tmp_path, capsys):
    tensors, words = spoil(kind)
    path, out = tmp_path / "bad.safetensors", tmp_path / "out"
    save_file(tensors, path)
    status, _, err = run("import-torch", path, "--out", out, capsys=capsys)
    assert status == 2 and err.count("\n") == 1 and err.startswith(f"pmljax: {path}: ") and not out.exists()
    assert all(word in err for word in words), err


def test_all_names_are_listed_before_the_refusal(tmp_path, capsys):
    whole = file_of("speedinghzl")
    tensors = {k.replace("layer2.1", "stage2.1"): x for k, x in whole.items() if "layer4.1" not in k}
    save_file(tensors, tmp_path / "bad.safetensors")
    status, out, err = run("import-torch", tmp_path / "bad.safetensors", "--out", tmp_path / "out", capsys=capsys)
    assert status == 2 and re.search(r"and \d+ more", err)
    missing = [k for k in whole if k not in tensors and "tracked" not in k]
    assert all(name in out for name in [*missing, *(k for k in tensors if "stage2" in k)]) and len(missing) == 30


def test_a_damaged_safetensors_file(tmp_path, capsys):
    path = tmp_path / "w.safetensors"
    save_file(file_of("isht7"), path)
    for keep in (0, 5, 3000, path.stat().st_size - 100):
        cut = tmp_path / "cut.safetensors"
        cut.write_bytes(path.read_bytes()[:keep])
        status, _, err = run("import-torch", cut, "--out", tmp_path / "out", capsys=capsys)
        assert status == 2 and "cut short" in err and err.count("\n") == 1
    for missing, words in ((tmp_path / "nothing.pth", "no such file"), (tmp_path, "found a folder")):
        status, _, err = run("import-torch", missing, "--out", tmp_path / "out", capsys=capsys)
        assert status == 2 and words in err


def test_without_pytorch(tmp_path, capsys, monkeypatch):
    class Without:
        @staticmethod
        def find_spec(name, path=None, target=None):
            if name == "torch":
                raise ImportError

    # Not as None in sys.modules, where tyro would find it.
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Without, *sys.meta_path])
    (tmp_path / "w.pth").write_bytes(b"PK\x03\x04 and so on")
    status, _, err = run("import-torch", tmp_path / "w.pth", "--out", tmp_path / "out", capsys=capsys)
    assert status == 2 and err.count("\n") == 1
    assert "pip install 'pmljax[torch]'" in err and "Python 3.11" in err and ".safetensors needs none" in err
    with pytest.raises(InputError, match=r"pip install 'pmljax\[torch\]'"):
        write_tensors(tmp_path / "out.pth", {"a": np.zeros(1)})
    assert not (tmp_path / "out.pth").exists()


def test_folders_that_are_not_empty(tmp_path, capsys):
    save_file(file_of("isht7"), tmp_path / "w.safetensors")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/notes.txt").write_text("mine")
    args = ("import-torch", tmp_path / "w.safetensors", "--out")
    for more in ((), ("--overwrite",)):
        status, _, err = run(*args, tmp_path / "full", *more, capsys=capsys)
        assert status == 2 and "not empty" in err
    assert run(*args, tmp_path / "a", capsys=capsys)[0] == 0
    status, _, err = run(*args, tmp_path / "a", capsys=capsys)
    assert status == 2 and "--overwrite" in err
    assert run(*args, tmp_path / "a", "--overwrite", capsys=capsys)[0] == 0
    (tmp_path / "a/rest.safetensors").unlink()
    status, _, err = run("export-torch", tmp_path / "a", "--layout", "isht7", "--out", tmp_path / "b", capsys=capsys)
    assert status == 2 and "a/rest.safetensors: no such file" in err and err.count("\n") == 1


def test_an_import_that_fails_leaves_the_one_before(tmp_path, capsys, monkeypatch):
    save_file(file_of("isht7"), tmp_path / "w.safetensors")
    args = ("import-torch", tmp_path / "w.safetensors", "--out", tmp_path / "a")
    assert run(*args, capsys=capsys)[0] == 0
    before = {p.name: p.read_bytes() for p in (tmp_path / "a").iterdir()}

    def full(path, data):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr("pmljax.weights.torch.write_file", full)
    status, _, err = run(*args, "--overwrite", capsys=capsys)
    assert status == 2 and "model.safetensors" in err and "No space left" in err and err.count("\n") == 1
    assert before == {p.name: p.read_bytes() for p in (tmp_path / "a").iterdir()}
    monkeypatch.undo()
    (tmp_path / "a/model.safetensors").unlink()  # killed before the model had its name
    assert run(*args, "--overwrite", capsys=capsys)[0] == 0
    assert before.keys() == {p.name for p in (tmp_path / "a").iterdir()}
    status, _, err = run(*args, "--overwrite", "--seed", "-1", capsys=capsys)
    assert status == 2 and "--seed -1: expected" in err


# Out


def narrow(name, **changes):
    """A narrow model with numbers that compiling nothing gives, all above 0, as variances are."""
    config = dataclasses.replace(NAMED[name], depth=50, width=8, **changes)
    shapes, leaves = jax.tree.flatten(abstract(config).variables)[::-1]
    rng = np.random.default_rng(0)
    return Model(shapes.unflatten([jax.device_put(rng.random(x.shape, np.float32)) for x in leaves]), config)


def test_exports_that_do_not_fit(tmp_path, capsys):
    paper = narrow("paper")
    cases = [
        (create("color"), "sydney0zq", "found no network"),
        (narrow("base"), "torchvision", "found group normalisation"),
        (paper, "torchvision", "found deeplab geometry, expected torchvision"),
        (paper, "sydney0zq", "found a head of 2 layers, expected 3"),
        (paper, "bfvos", "params/head/conv1/kernel: found (3, 3, 259, 512), expected (1, 1, 259, 128)"),
        (
            narrow("sydney0zq", head=((3, 128), (1, 128), (1, 128), (1, 64))),
            "sydney0zq",
            "a head of 4 layers, expected 3",
        ),
        (paper, "resnet", "expected one of"),
    ]
    for model, layout, words in cases:
        with pytest.raises(InputError, match=re.escape(words)):
            state_dict(model, layout)
    assert differences(paper.config, "isht7") == []  # of a trunk, position and head do not matter
    status, _, err = run("export-torch", "color", "--layout", "sydney0zq", "--out", "no/w.pth", capsys=capsys)
    assert status == 2 and "in a folder that is there" in err
    with pytest.raises(InputError, match=r"ends in \.pth, \.pt or \.safetensors"):
        write_tensors(tmp_path / "w.bin", {})


def test_an_export_says_what_the_file_does_not():
    trained = narrow("sydney0zq", position="yx", scaling="bgr")
    assert differences(trained.config, "sydney0zq") == [
        "scaling bgr (sydney0zq: rgb)",
        "position yx (sydney0zq: zeros)",
    ]
    out = state_dict(trained, "sydney0zq")
    counted = [k for k in out if k.endswith("num_batches_tracked")]
    assert len(counted) == 53 and all(out[k].shape == () and out[k].dtype == np.int64 for k in counted)


def test_a_trunk_begins_a_training(tmp_path):
    """`pmljax train --init` is load and carry_over (`carry_into` a new network): the trunk is taken, whatever the head."""
    tensors = file_of("kazuto1011")
    model = to_model(tensors, match(tensors), jax.random.key(0))
    variables, report = carry_into(narrow("paper", head=((1, 32),), position="none").variables, model.variables)
    assert len([n for n in report.taken if "/trunk/" in n]) == len(names(LAYOUTS["kazuto1011"], 50))
    assert all("/head/" in name for name in report.fresh)
    assert np.array_equal(
        variables["params"]["trunk"]["stage3"]["block4"]["conv2"]["kernel"],
        tensors["base.layer4.block4.conv3x3.conv.weight"].transpose(2, 3, 1, 0),
    )


# With PyTorch


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


@pytest.mark.parametrize("legacy", [False, True])
def test_pth_with_pytorch(torch, legacy, tmp_path, capsys):
    tensors = file_of("sydney0zq module.")
    path = tmp_path / "w.pth"
    torch.save({k: torch.tensor(x) for k, x in tensors.items()}, path, _use_new_zipfile_serialization=not legacy)
    assert zipfile.is_zipfile(path) != legacy and same(read_tensors(path), tensors)
    assert run("import-torch", path, "--out", tmp_path / "a", capsys=capsys)[0] == 0
    args = ("export-torch", tmp_path / "a", "--layout", "sydney0zq", "--out", tmp_path / "out.pth", "--parallel")
    assert run(*args, capsys=capsys)[0] == 0
    assert same(read_tensors(tmp_path / "out.pth"), tensors)
    wrapped = {"epoch": 3, "state_dict": {k: torch.tensor(x) for k, x in tensors.items()}, "optimizer": {"state": {}}}
    torch.save(wrapped, path, _use_new_zipfile_serialization=not legacy)
    assert same(read_tensors(path), tensors)
    for inner in (
        {"net": wrapped["state_dict"], "epoch": 3},
        {"model": wrapped},
    ):  # under whatever name; one in another
        torch.save(inner, path, _use_new_zipfile_serialization=not legacy)
        assert same(read_tensors(path), tensors)
    ema = {k: x + 1 for k, x in wrapped["state_dict"].items()}
    torch.save({"ema": ema, "model": wrapped["state_dict"]}, path, _use_new_zipfile_serialization=not legacy)
    told: list[str] = []
    assert same(read_tensors(path, told.append), tensors) and told == [f"{path}: model is taken; not looked at: ema"]


def test_what_pytorch_warns_of_is_one_line(torch, tmp_path):
    """Files that are whole, but hold what cannot be taken: said as what they are, and by nobody else."""
    with warnings.catch_warnings(action="ignore"):
        torch.save({"a": torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.quint8)}, tmp_path / "q.pth")
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), str(tmp_path / "j.pth"))
    with pytest.raises(InputError, match="tensors that are no arrays"):
        read_tensors(tmp_path / "q.pth")
    with pytest.raises(InputError, match="found a TorchScript archive, expected a state_dict"):
        read_tensors(tmp_path / "j.pth")
    from safetensors.torch import save_file

    save_file({"a": torch.ones(3).to(torch.float8_e4m3fn)}, tmp_path / "f.safetensors")
    with pytest.raises(InputError, match="tensors that are no arrays"):
        read_tensors(tmp_path / "f.safetensors")


@pytest.mark.parametrize("legacy", [False, True])
def test_truncated_pth_with_pytorch(torch, legacy, tmp_path):
    path = tmp_path / "w.pth"
    torch.save({"a": torch.zeros(5000)}, path, _use_new_zipfile_serialization=not legacy)
    whole = path.read_bytes()
    for keep in (0, 3, 100, len(whole) // 2, len(whole) - 30):
        path.write_bytes(whole[:keep])
        with pytest.raises(InputError, match="cut short"):
            read_tensors(path)


class Evil:
    def __reduce__(self):
        import os

        return os.system, ("touch ran",)


def test_a_pickle_that_would_run_code_with_pytorch(torch, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "evil.pth"
    for legacy in (False, True):
        torch.save({"a": torch.zeros(3), "b": Evil()}, path, _use_new_zipfile_serialization=not legacy)
        with pytest.raises(InputError, match=r"would run (posix|nt)\.system, so it was not read"):
            read_tensors(path)
    path.write_bytes(pickle.dumps(Evil(), protocol=2))
    with pytest.raises(InputError, match="was not read"):
        read_tensors(path)
    torch.save(torch.nn.Linear(2, 2), path)  # a whole module
    with pytest.raises(InputError, match=r"Linear, so it was not read; expected a state_dict"):
        read_tensors(path)
    assert not (tmp_path / "ran").exists()
    for content, words in (
        ([1, 2], "found a list"),
        ({"a": 1}, r"a dict of int \(a\)"),
        ({}, "a dict of nothing"),
        ({"ema": {"w": torch.zeros(3)}, "net": {"w": torch.zeros(3)}}, r"dict of dict \(ema, net\)"),  # which is meant?
    ):
        torch.save(content, path)
        with pytest.raises(InputError, match=words):
            read_tensors(path)


def test_half_precision_with_pytorch(torch, tmp_path):
    data = io.BytesIO()
    torch.save({"a": torch.arange(4, dtype=torch.bfloat16), "b": torch.ones(2, dtype=torch.half)}, data)
    (tmp_path / "h.pth").write_bytes(data.getvalue())
    got = read_tensors(tmp_path / "h.pth")
    assert got["a"].dtype == np.float32 and got["b"].dtype == np.float16 and got["a"].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("name", ["sydney0zq", "bfvos"])
def test_exports_load_strictly_into_modules_with_pytorch(torch, name):
    from tests.torch_reference import Net

    model = narrow(name)
    kept = state_dict(model, name)
    net = Net(50, 8, head=name, style={"sydney0zq": "R", "bfvos": "K"}[name])
    net = net.double() if name == "bfvos" else net
    net.load_state_dict({k: torch.tensor(x) for k, x in kept.items()}, strict=True)
    back = {k: x.numpy() for k, x in net.state_dict().items()}
    assert list(back) == list(kept) or sorted(back) == sorted(kept)
    assert same(back, kept)
    found = match(back)
    again = to_model(back, found, jax.random.key(0))
    assert found.config == model.config and found.left
    assert all(
        np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (again.variables, model.variables)), strict=True)
    )


def test_recognise_needs_no_numbers():
    for case in CASES:
        shapes = {k.removeprefix("module."): v for k, v in shapes_of(case).items()}
        assert recognise(shapes).name == case.split()[0]


def test_bfloat16_of_safetensors(torch, tmp_path):
    from safetensors.torch import save_file

    tensors = {k: torch.tensor(x) for k, x in file_of("sydney0zq").items()}
    halves = {k: x.to(torch.bfloat16) if x.is_floating_point() else x for k, x in tensors.items()}
    save_file(halves, tmp_path / "h.safetensors")
    torch.save(halves, tmp_path / "h.pth")
    found = read_tensors(tmp_path / "h.safetensors")
    assert same(found, read_tensors(tmp_path / "h.pth")) and match(found, "sydney0zq").refusal() is None


def test_a_models_name_is_no_import_of_the_folder(tmp_path, monkeypatch):
    (tmp_path / MODEL).write_bytes(b"")
    (tmp_path / RECORD).write_text("{}")
    monkeypatch.chdir(tmp_path)
    assert read_kept(Path("random:paper")) is None
    with pytest.raises(InputError, match="import the file again"):
        read_kept(tmp_path / MODEL)

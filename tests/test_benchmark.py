"""The benchmark: its table, what it says of peers that are not here, how it goes on; and what its floors count."""

import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import benchmark, benchmark_rows, benchmark_table, peers
from experiments.benchmark import Config, main
from experiments.floor import Limits, floor, operations, product_operations
from experiments.made_inputs import embeddings, moving, picture
from experiments.side_by_side import Missing, Row, Spread, from_json, interleaved
from pmljax.config import ModelConfig
from pmljax.conv import conv as by_platform
from pmljax.model import create, embed

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def one_thread():
    """PyTorch's threads wait for each other: beside other tests, for ten times as long as the work takes."""
    try:
        import torch
    except ModuleNotFoundError:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


HERE = {
    "devices": ["cpu cpu"],
    "processor": "a test's",
    "cores": 2,
    "memory": "",
    "python": "3",
    "versions": {"jax": "0"},
    "peers": {},
    "commit": "abc",
}


@pytest.mark.slow
def test_a_quick_run(tmp_path, monkeypatch, capsys):
    """Two groups one after the other into one folder, FAISS and OpenCV away, and what is there already stays."""

    def need(module):
        if module in ("faiss", "cv2"):
            raise Missing(f"not installed ({module})")
        return original(module)

    original = peers.need
    monkeypatch.setattr(peers, "need", need)
    monkeypatch.setattr(benchmark, "machine", lambda: HERE)
    assert main(Config(out=tmp_path, rows=("solver",), quick=True)) == 0
    assert main(Config(out=tmp_path, rows=("retrieval", "solver"), quick=True)) == 0
    out, err = capsys.readouterr()
    assert "solver: there already" in err and "retrieval: there already" not in err
    text = (tmp_path / "table.md").read_text()
    assert out.endswith(text)
    record = json.loads((tmp_path / "benchmark.json").read_text())
    assert list(record["groups"]) == ["retrieval", "solver"]  # in their own order
    assert main(Config(out=tmp_path / "some", rows=("retrieval", "solver", "click"), quick=True, only="k 5 |3 ch")) == 0
    some = json.loads((tmp_path / "some" / "benchmark.json").read_text())["groups"]
    names = {name: [row["name"] for row in group["rows"]] for name, group in some.items()}
    assert names == {"retrieval": ["nearest, 66 × 66, D 128, k 5"], "solver": ["solver, 96×160, 3 channels"]}
    capsys.readouterr()
    assert main(Config(out=tmp_path, rows=("solver",), quick=True, only="3 ch")) == 2  # it would take the place of all
    assert "holds other rows of solver than --only '3 ch'" in capsys.readouterr().err
    assert main(Config(rows=("solver",), quick=True, only="no such row")) == 2
    assert "found in no row's name" in capsys.readouterr().err
    rows = [r for group in record["groups"].values() for r in group["rows"]]
    assert len(rows) == 3 + 2 + 2
    for row in rows:
        assert f"| {row['name']} | {row['precision']} |" in text
        measured = {name: p["median"] for name, p in row["peers"].items() if isinstance(p, dict)}
        if measured:
            assert row["ratio"] == pytest.approx(row["ours"]["median"] / min(measured.values()))
        else:
            assert row["ratio"] is None
        assert row["ours"]["low"] <= row["ours"]["median"] <= row["ours"]["high"]
        assert row["compile"] > 0 and row["memory"] >= 0 and row["exact"]
        assert row["reached"] == pytest.approx(row["floor"]["ms"] / row["ours"]["median"])
        assert from_json(row).as_json() == row
    assert "FAISS IndexFlatL2 –" in text and "OpenCV –" in text
    assert "FAISS IndexFlatL2: not installed (faiss)" in text and "OpenCV: not installed (cv2)" in text
    assert "--quick" in text and "abc" in text

    monkeypatch.setattr(benchmark, "machine", lambda: {**HERE, "devices": ["gpu another"]})
    assert main(Config(out=tmp_path, rows=("solver",), quick=True)) == 2
    assert "found" not in capsys.readouterr().out
    assert json.loads((tmp_path / "benchmark.json").read_text()) == record


def test_a_bad_expression_is_named(capsys):
    assert main(Config(only="k (5")) == 2
    assert "--only k (5: found " in capsys.readouterr().err


def test_a_video_needs_its_mask(capsys, tmp_path):
    assert main(Config(video=tmp_path)) == 2
    assert "--mask" in capsys.readouterr().err


# What the floors count


def conv(x, kernel, stride=1):
    return jax.lax.conv_general_dilated(x, kernel, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def test_operations_against_a_hand_count():
    x, kernel = jnp.ones((2, 9, 8, 3)), jnp.ones((3, 3, 3, 5))
    assert operations(conv, x, kernel) == 2 * (2 * 9 * 8 * 5) * (3 * 3 * 3)
    assert operations(lambda x, k: conv(x, k, 2), x, kernel) == 2 * (2 * 5 * 4 * 5) * (3 * 3 * 3)
    a, b = jnp.ones((4, 6)), jnp.ones((6, 7))
    assert operations(jnp.matmul, a, b) == product_operations(4, 6, 7) == 2 * 4 * 6 * 7
    assert operations(jax.jit(lambda a, b: jax.lax.map(lambda row: row @ b, a)), a, b) == 2 * 4 * 6 * 7
    either = jax.lax.cond
    assert operations(lambda a, b: either(a[0, 0] > 0, lambda: a @ b, lambda: jnp.zeros((4, 7))), a, b) == 2 * 4 * 6 * 7
    batched = jnp.ones((5, 4, 6)), jnp.ones((5, 6, 7))
    assert operations(jnp.matmul, *batched) == 5 * 2 * 4 * 6 * 7
    assert operations(jnp.sin, x) == 0


def by_hand(h: int, w: int) -> int:
    """Multiply-adds, times two, of a ResNet-10 of 8 channels at stride 8 with a head 1×1→16, layer by layer."""

    def layer(cells, size, inside, out):
        return 2 * cells * size * size * inside * out

    def half(n):
        return -(-n // 2)

    def area(n):
        cells = [half(h), half(w)]
        cells = [n // 2 + 1 for n in cells]  # the pool rounds up, padded by one
        if n == 8:
            cells = [half(c) for c in cells]
        return cells[0] * cells[1]

    total = layer(half(h) * half(w), 7, 3, 8)
    inside = 8
    for stage, (out, cells) in enumerate([(8, area(4)), (16, area(8)), (32, area(8)), (64, area(8))]):
        total += layer(cells, 3, inside, out) + layer(cells, 3, out, out)
        total += layer(cells, 1, inside, out) if stage else 0  # the shortcut where the channels change
        inside = out
    return total + layer(area(8), 1, inside, 16)


def test_a_network_against_a_hand_count():
    config = ModelConfig("toy", 10, 8, head=((1, 16),))
    assert benchmark_rows.embed_operations(config, 1, (48, 80)) == by_hand(48, 80)
    assert benchmark_rows.embed_operations(config, 3, (48, 80)) == 3 * by_hand(48, 80)
    stem = 2 * 24 * 24 * 7 * 7 * 3 * 8
    assert benchmark_rows.step_operations(config, 1, 48) == 3 * by_hand(48, 48) - stem


@pytest.mark.parametrize(
    ("size", "i", "o", "options"), [(7, 3, 32, {"stride": 2, "padding": 3}), (3, 128, 128, {"padding": 1})]
)
def test_of_a_form_for_each_platform_the_plain_one_counts(size, i, o, options):
    """One that computes more channels than it gives, and Winograd's, which computes less."""
    shapes = (jax.ShapeDtypeStruct(s, jnp.float32) for s in ((1, 32, 32, i), (size, size, i, o)))
    cells = (32 // options.get("stride", 1)) ** 2
    assert operations(partial(by_platform, **options), *shapes) == 2 * cells * size * size * i * o


def test_the_larger_of_the_two_floors():
    limits = Limits({"float32": {"XLA": 1e9, "PyTorch": 2e9}}, bandwidth=1e6)
    assert floor(limits, "float32", 4e9, 1e6) == floor(limits, "float32", 4e9)
    assert (floor(limits, "float32", 4e9).ms, floor(limits, "float32", 4e9).bound) == (2000, "operations")
    assert (floor(limits, "float32", 4e9, 3e6).ms, floor(limits, "float32", 4e9, 3e6).bound) == (3000, "bytes")


# What is compared


def test_rounding_is_told_from_a_wrong_neighbour(rng):
    q, r = rng.normal(size=(5, 8)).astype(np.float32), rng.normal(size=(40, 8)).astype(np.float32)
    distance = ((q[:, None].astype(np.float64) - r) ** 2).sum(-1)
    rows = benchmark_rows.exact_rows(q, r, 3)
    assert (rows == distance.argsort(-1)[:, :3]).all()
    assert benchmark_rows.disagreement(q, r, rows, rows) == (0, 0)
    wrong = rows.copy()
    wrong[2, 1] = distance[2].argmax()
    differ, worst = benchmark_rows.disagreement(q, r, wrong, rows)
    assert differ == 1 and worst > 1
    twins = np.concatenate([r, r[:1] + np.float32(1e-7)])
    differ, worst = benchmark_rows.disagreement(q, twins, np.full((5, 1), 40), np.zeros((5, 1), int))
    assert differ == 5 and worst < 1


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["batch", "group"])
def test_pytorch_has_the_same_network(norm):
    pytest.importorskip("torch")
    taps, position = ((2, 3, 4), "none") if norm == "group" else ((4,), "yxt")
    model = create(ModelConfig("toy", 10, 8, norm=norm, taps=taps, head=((1, 16), (1, 8)), position=position))
    frames = picture((40, 64))[None]
    ours = jax.jit(embed)(model, frames, np.zeros(1, np.float32))
    for form in (peers.TORCH, peers.CHANNELS_LAST):
        theirs = peers.torch_embed(model, (40, 64), "float32", form)(frames)
        assert np.abs(theirs.permute(0, 2, 3, 1).numpy() - np.asarray(ours)).max() < 1e-4


def test_made_inputs():
    frame = picture((60, 90))
    assert frame.shape == (60, 90, 3) and frame.dtype == np.uint8 and 20 < frame.std() < 90
    frames, labels = moving(3, (60, 90))
    assert frames.shape == (3, 60, 90, 3) and (labels.max((1, 2)) == 1).all() and (frames[0] != frames[1]).any()
    x = embeddings(2, (5, 9), 16)
    assert x.shape == (90, 16) and np.allclose(np.linalg.norm(x, axis=-1), 1, atol=1e-5)


# How it is shown


def test_calls_take_turns():
    order = []
    found = interleaved({name: lambda name=name: order.append(name) for name in "ab"}, 3)
    assert order == list("ab") * 5  # two of them warm up
    assert found["a"].rounds == 3


def test_a_row_without_peers_and_a_median_alone():
    row = Row("click", "a click", "float32", Spread(5.0, None, None, 50, 8.0), {"PyTorch": "not installed"})
    assert (row.best, row.ratio, row.reached) == (None, None, None)
    assert benchmark_table.cells(row)[2:4] == ["5.00 (slowest 8.00)", "PyTorch –"]
    assert [benchmark_table.number(x) for x in (1234.5, 45.67, 4.567, 0.4567)] == ["1,234", "45.7", "4.57", "0.457"]

"""The step: the same on any number of devices, hosts and parts; the optimiser beside PyTorch's; what frozen means."""

import dataclasses
import os
import subprocess
import sys
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.extend.core import jaxprs_in_params

from pmljax.config import NAMED, ModelConfig
from pmljax.errors import InputError
from pmljax.parallel import AXIS, replicate, split, spread
from pmljax.sampling import Augment, Clip
from pmljax.train import (
    TrainConfig,
    clip_loss,
    create_state,
    evaluated,
    learning_rate,
    optimiser,
    train_step,
)

GROUP = ModelConfig("tiny", 10, 8, norm="group", taps=(2, 3, 4), head=((1, 16), (1, 8)), position="yx")
BATCH = dataclasses.replace(GROUP, norm="batch")
SMALL = TrainConfig(
    GROUP, Augment(crop=32, scale=(0.8, 1.2)), steps=10, batch=4, optimiser="adamw", rate=1e-3, anchors=32, average=0.9
)


def clips(b=4, seed=0, size=(40, 48)):
    rng = np.random.default_rng(seed)
    h, w = size
    labels = np.zeros((b, 3, h, w), np.uint8)
    labels[:, :, 8:30, 10:34] = 1
    frames = rng.integers(0, 100, (b, 3, h, w, 3)).astype(np.uint8) + np.uint8(120) * (labels[..., None] == 1)
    return Clip(
        frames,
        labels,
        np.zeros((b, 3), np.float32),
        np.tile(np.float32([0, 0, h, w]), (b, 3, 1)),
        np.tile(np.int32([h, w]), (b, 1)),
        np.arange(b, dtype=np.uint32) + np.uint32(10 * seed),
    )


def run_steps(step, config, shape, steps=2):
    """(state, metrics of every step) from the same beginning."""
    state, seen = replicate(create_state(config)), []
    for n in range(steps):
        state, metrics = step(state, shape(clips(config.batch, seed=n)), jax.random.key(config.seed))
        seen.append(jax.tree.map(np.asarray, metrics))
    return jax.tree.map(np.asarray, state), seen


def assert_same(a, b, tolerance):
    """Of every part of the state and of every metric: max|a − b| ≤ tolerance · max|b|."""
    for (path, x), y in zip(parts_of(a), [part for _, part in parts_of(b)], strict=True):
        assert x.shape == y.shape
        assert np.abs(x - y).max(initial=0) <= tolerance * np.abs(y).max(initial=0), path


def parts_of(result):
    """(name, all its numbers) of the variables, their average, the optimiser's moments, and of each step's metrics."""
    state, seen = result
    kinds = {f.name: getattr(state, f.name) for f in dataclasses.fields(state)}
    kinds |= {f"params {n}": kinds["variables"][n] for n in kinds["variables"]}
    kinds |= {f"{name} {n}": value for n, metrics in enumerate(seen) for name, value in metrics.items()}
    return [
        (name, np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)] or [np.zeros(1)]))
        for name, tree in kinds.items()
    ]


def alone(config):
    return jax.jit(partial(train_step, config))


# Momentum keeps differences as small as they are; Adam divides by gradients that may be nothing but rounding.
PLAIN = dataclasses.replace(SMALL, optimiser="sgd", rate=1e-2, clip=1.0)


@pytest.fixture(scope="module")
def on_one_device():
    return run_steps(alone(PLAIN), PLAIN, lambda c: c)


def test_four_devices_equal_one(on_one_device):
    assert jax.local_device_count() == 4
    got = run_steps(spread(PLAIN), PLAIN, lambda c: split(c, 4))
    assert_same(got, on_one_device, 1e-5)
    assert got[1][0]["each"].shape == (4,) and got[0].step == 2


@pytest.mark.slow
def test_four_devices_equal_one_with_trained_batch_norm():
    config = dataclasses.replace(PLAIN, model=BATCH, norm="synced")
    many = run_steps(spread(config), config, lambda c: split(c, 4))
    one = run_steps(alone(config), config, lambda c: c)
    assert_same(many, one, 1e-4)  # a variance is a difference of means, summed in another order
    begin = create_state(config).variables["batch_stats"]
    assert not np.allclose(
        begin["trunk"]["stem"]["norm1"]["mean"], one[0].variables["batch_stats"]["trunk"]["stem"]["norm1"]["mean"]
    )


@pytest.mark.slow
def test_jit_with_shardings_in_place_of_pmap(on_one_device):
    mesh = jax.make_mesh((4,), (AXIS,), axis_types=(jax.sharding.AxisType.Auto,))
    whole, parts = (jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axis)) for axis in ((), (AXIS,)))
    step = jax.jit(partial(train_step, PLAIN), in_shardings=(whole, parts, whole), out_shardings=whole)
    assert_same(run_steps(step, PLAIN, lambda c: c), on_one_device, 1e-5)


@pytest.mark.slow
def test_parts_equal_the_large_batch(on_one_device):
    config = dataclasses.replace(PLAIN, accumulate=2)
    assert_same(run_steps(alone(config), config, lambda c: c), on_one_device, 1e-5)


@pytest.mark.slow
def test_computing_activations_again_changes_nothing(on_one_device):
    config = dataclasses.replace(PLAIN, remat=True)
    assert_same(run_steps(alone(config), config, lambda c: c), on_one_device, 1e-5)


@pytest.mark.slow
def test_half_precision_computes_nearly_the_same(on_one_device):
    config = dataclasses.replace(PLAIN, model=dataclasses.replace(GROUP, dtype="bfloat16"))
    with jax.numpy_dtype_promotion("standard"):  # within flax's norms
        (state, seen), (other, expected) = run_steps(alone(config), config, lambda c: c), on_one_device
    assert {x.dtype for x in jax.tree.leaves((state.variables, state.average))} == {jnp.dtype("float32")}
    assert all(np.allclose(a["each"], b["each"], atol=0.05) for a, b in zip(seen, expected, strict=True))
    moved = [
        np.concatenate([(x - y).ravel() for x, y in zip(*map(jax.tree.leaves, (s.variables, begun)), strict=True)])
        for begun in [create_state(PLAIN).variables]
        for s in (state, other)
    ]
    assert np.dot(*moved) > 0.95 * np.prod([np.linalg.norm(m) for m in moved])  # the same way, near enough


# What does not depend on the network is tried on a small objective.


def plain_objective(config, variables, batch, key, axis_name):
    from pmljax.train import Outcome

    p = variables["params"]
    x = jnp.einsum("bi,ij->bj", batch.frames, p["trunk"]["conv1"]["kernel"]) * p["trunk"]["norm1"]["scale"][None]
    each = ((x @ p["head"]["conv1"]["kernel"]) ** 2).sum(-1) + p["head"]["conv1"]["bias"].sum()
    return Outcome(each, {}, variables["batch_stats"])


VARIABLES = {
    "params": {
        "trunk": {"conv1": {"kernel": jnp.array([[1.0, 2.0], [3.0, -1.0]])}, "norm1": {"scale": jnp.array([1.0, 0.5])}},
        "head": {"conv1": {"kernel": jnp.array([[0.5], [-0.25]]), "bias": jnp.array([0.1])}},
    },
    "batch_stats": {},
}


def plain_batch(values=((1.0, 2.0), (0.5, -1.0))):
    frames = jnp.array(values)
    return Clip(frames, *(jnp.zeros(len(frames)) for _ in range(5)))


def gradient_of(params):
    def loss(p):
        config = TrainConfig(BATCH, batch=2)
        return plain_objective(config, {"params": p, "batch_stats": {}}, plain_batch(), None, None).each.mean()

    return jax.jit(jax.grad(loss))(params)


@cache
def plain_step(config):
    return jax.jit(partial(train_step, config, objective=plain_objective))


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_updates_beside_pytorch(kind):
    """torch.optim with parameter groups: head at ten times the rate, no decay of norms and biases, poly or cosine."""
    torch = pytest.importorskip("torch")
    schedule = {"sgd": "poly", "adamw": "cosine"}[kind]
    config = TrainConfig(GROUP, steps=20, batch=2, optimiser=kind, schedule=schedule, rate=0.003, decay=0.1, warmup=3)
    step = jax.jit(partial(train_step, config, objective=plain_objective))
    state = create_state(config, VARIABLES)
    leaves = {
        (path[0].key, path[1].key, path[-1].key): torch.nn.Parameter(torch.tensor(np.asarray(x)))
        for path, x in jax.tree.leaves_with_path(VARIABLES["params"])
    }
    groups = [
        {"params": [p], "factor": 10.0 if k[0] == "head" else 1.0, "weight_decay": 0.1 if k[2] == "kernel" else 0.0}
        for k, p in leaves.items()
    ]
    make = torch.optim.SGD if kind == "sgd" else torch.optim.AdamW
    other = make(groups, lr=1.0, **({"momentum": 0.9} if kind == "sgd" else {"betas": (0.9, 0.999), "eps": 1e-8}))
    x = torch.tensor(np.asarray(plain_batch().frames))
    for n in range(6):
        state, metrics = step(state, plain_batch(), jax.random.key(0))
        rise = min((n + 1) / 4, 1)
        fall = (1 - n / 20) ** 0.9 if schedule == "poly" else 0.5 * (1 + np.cos(np.pi * n / 20))
        rate = 0.003 * rise * fall
        assert np.isclose(metrics["rate"], rate)
        for group in other.param_groups:
            group["lr"] = rate * group["factor"]
        other.zero_grad()
        y = x @ leaves["trunk", "conv1", "kernel"] * leaves["trunk", "norm1", "scale"]
        loss = ((y @ leaves["head", "conv1", "kernel"]) ** 2).sum(-1) + leaves["head", "conv1", "bias"].sum()
        loss.mean().backward()
        other.step()
        assert np.isclose(metrics["loss"], loss.mean().item(), rtol=1e-5, atol=1e-5)
    for path, value in jax.tree.leaves_with_path(state.variables["params"]):
        expected = leaves[path[0].key, path[1].key, path[-1].key].detach().numpy()
        assert np.allclose(value, expected, rtol=2e-5, atol=1e-6), jax.tree_util.keystr(path)


def test_frozen_norms_do_not_move():
    config = TrainConfig(BATCH, batch=2, rate=0.1, clip=0.5)
    state, _ = plain_step(config)(create_state(config, VARIABLES), plain_batch(), jax.random.key(0))
    before, after = VARIABLES["params"]["trunk"], state.variables["params"]["trunk"]
    assert np.array_equal(before["norm1"]["scale"], after["norm1"]["scale"])
    assert not np.allclose(before["conv1"]["kernel"], after["conv1"]["kernel"])
    # They do not count in the norm that is clipped either.
    gradient = gradient_of(VARIABLES["params"])
    gradient["trunk"]["norm1"]["scale"] = jnp.zeros(2)
    state = create_state(config, VARIABLES).optimiser
    moved = jax.jit(optimiser(config).update)(gradient, state, VARIABLES["params"])[0]
    assert np.allclose(
        after["conv1"]["kernel"] - before["conv1"]["kernel"], moved["trunk"]["conv1"]["kernel"], atol=1e-6
    )
    free = dataclasses.replace(config, norm="synced")
    state, _ = plain_step(free)(create_state(free, VARIABLES), plain_batch(), jax.random.key(0))
    assert not np.allclose(before["norm1"]["scale"], state.variables["params"]["trunk"]["norm1"]["scale"])


def test_clipping_bounds_the_gradient():
    base = TrainConfig(GROUP, batch=2, rate=1.0, head=1.0, decay=0.0, momentum=0.0)
    for limit in (0.5, 1e6):
        config = dataclasses.replace(base, clip=limit)
        state, metrics = plain_step(config)(create_state(config, VARIABLES), plain_batch(), jax.random.key(0))
        moved = jax.tree.map(lambda a, b: b - a, VARIABLES["params"], state.variables["params"])
        assert np.isclose(jax.jit(optax.tree.norm)(moved), min(limit, metrics["norm"]), rtol=1e-5)


def test_average_over_time():
    config = TrainConfig(GROUP, batch=2, rate=0.01, average=0.5)
    state = create_state(config, VARIABLES)
    expected = np.asarray(VARIABLES["params"]["head"]["conv1"]["kernel"])
    for n in range(4):
        state, _ = plain_step(config)(state, plain_batch(), jax.random.key(0))
        kept = min(0.5, (1 + n) / (10 + n))
        expected = kept * expected + (1 - kept) * np.asarray(state.variables["params"]["head"]["conv1"]["kernel"])
    assert np.allclose(evaluated(config, state).variables["params"]["head"]["conv1"]["kernel"], expected, rtol=1e-5)
    without = dataclasses.replace(config, average=0.0)
    state = create_state(without, VARIABLES)
    assert evaluated(without, state).variables["params"] is state.variables["params"] and state.average == {}


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_step_that_is_not_finite_changes_nothing(bad):
    config = TrainConfig(GROUP, batch=2, average=0.9)
    state = create_state(config, VARIABLES)
    after, metrics = plain_step(config)(state, plain_batch(((1.0, 2.0), (bad, 0.0))), jax.random.key(0))
    assert list(np.isfinite(metrics["each"])) == [True, False]
    assert int(after.step) == 1
    same = dataclasses.replace(after, step=state.step)
    assert all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(same), jax.tree.leaves(state), strict=True))


def test_rates():
    config = TrainConfig(GROUP, steps=100, rate=2.0, schedule="poly")
    assert np.isclose(learning_rate(config, jnp.int32(0)), 2)
    assert np.isclose(learning_rate(config, jnp.int32(50)), 2 * 0.5**0.9)
    assert learning_rate(config, jnp.int32(100)) == learning_rate(config, jnp.int32(200)) == 0
    wave = dataclasses.replace(config, schedule="cosine", warmup=4)
    assert np.isclose(learning_rate(wave, jnp.int32(50)), 1) and np.isclose(learning_rate(wave, jnp.int32(100)), 0)
    assert np.isclose(learning_rate(wave, jnp.int32(1)), 2 * 2 / 5, rtol=1e-3)


def test_the_second_step_compiles_nothing():
    traced = []

    def counting(config, variables, batch, key, axis_name):
        traced.append(axis_name)
        return plain_objective(config, variables, batch, key, axis_name)

    config = TrainConfig(GROUP, batch=4)
    step, state = spread(config, counting), replicate(create_state(config, VARIABLES))
    batch = split(plain_batch(((1.0, 2.0),) * 4), 4)
    rates = []
    for steps in (100, 100, 1000):  # nor does another number of steps
        state, metrics = step(state, batch, jax.random.key(0), steps)
        rates.append(float(metrics["rate"]))
    assert len(traced) == 1
    assert rates == pytest.approx(
        [float(learning_rate(config, jnp.int32(i), n)) for i, n in ((0, 100), (1, 100), (2, 1000))]
    )
    assert rates[1] < rates[2] < rates[0]


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"steps": 0}, "steps 0: expected 1"),
        ({"accumulate": 3}, "accumulate 3: expected a divisor"),
        ({"rate": 0.0}, "rate"),
        ({"model": ModelConfig("color", depth=0, unit=False)}, "no network to train"),
        ({"model": BATCH, "norm": "synced", "accumulate": 2}, "accumulate"),
    ],
)
def test_recipes_that_are_refused(change, word):
    with pytest.raises(InputError, match=word):
        dataclasses.replace(PLAIN, **change)


def test_a_batch_that_does_not_divide_is_refused():
    with pytest.raises(InputError, match="batch 4: expected a multiple of the 3 devices"):
        split(clips(4), 3)
    of_four = dataclasses.replace(PLAIN, batch=4 * jax.device_count(), accumulate=8)  # four clips of each device
    with pytest.raises(InputError, match="accumulate 8: expected a divisor of the 4 clips of each of 4 devices"):
        spread(of_four)


HOST = """
import sys, jax
jax.config.update("jax_num_cpu_devices", {devices})
jax.config.update("jax_disable_most_optimizations", True)
if {hosts} > 1:
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize("localhost:{port}", {hosts}, int(sys.argv[1]))
import numpy as np
sys.path.insert(0, {here!r})
from test_train import PLAIN, clips, run_steps, split, spread
part = PLAIN.batch // {hosts}
mine = slice(int(sys.argv[1]) * part, (int(sys.argv[1]) + 1) * part)
shape = lambda c: split(jax.tree.map(lambda x: x[mine], c), jax.local_device_count())
np.savez(sys.argv[2], *jax.tree.leaves(run_steps(spread(PLAIN), PLAIN, shape)))
"""


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path, on_one_device):
    """Two hosts of one device each, over Gloo, each with its half of every batch."""
    import socket

    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    code = HOST.format(devices=1, hosts=2, port=port, here=os.path.dirname(__file__))
    commands = [[sys.executable, "-c", code, str(i), str(tmp_path / f"{i}.npz")] for i in range(2)]
    run = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for command in commands]
    errors = [p.communicate(timeout=240)[1] for p in run]
    assert all(p.returncode == 0 for p in run), errors[0][-2000:]
    for i in range(2):
        got = np.load(tmp_path / f"{i}.npz")
        leaves, shape = jax.tree.flatten(on_one_device)
        assert_same(jax.tree.unflatten(shape, [got[f"arr_{k}"] for k in range(len(leaves))]), on_one_device, 1e-5)


def test_every_frame_has_the_anchors_in_turn(rng):
    embedding = jnp.asarray(rng.normal(size=(3, 12, 4)), jnp.float32)
    labels = jnp.asarray(rng.integers(0, 3, (3, 12)), jnp.uint8)
    config = dataclasses.replace(SMALL, loss="soft", turns=True)
    once = dataclasses.replace(config, turns=False)
    orders = [[0, 1, 2], [1, 2, 0], [2, 0, 1]]
    loss = jax.jit(clip_loss, static_argnums=0)
    each = [loss(once, jax.random.key(0), embedding[np.array(o)], labels[np.array(o)]).loss for o in orders]
    found = loss(config, jax.random.key(0), embedding, labels)
    assert np.isclose(found.loss, np.mean(each), rtol=1e-6) and len({float(x) for x in each}) == 3


@pytest.mark.parametrize(("dtype", "expected"), [("float32", "HIGHEST"), ("bfloat16", "HIGH")])
def test_the_soft_loss_asks_for_tf32_of_networks_in_bfloat16_alone(dtype, expected):
    config = dataclasses.replace(SMALL, model=dataclasses.replace(GROUP, dtype=dtype), loss="soft")
    embedding, labels = jnp.zeros((3, 16, 8)), jnp.zeros((3, 16), jnp.uint8)

    def products(jaxpr):
        """The precision of every product, of inner functions too."""
        for equation in jaxpr.eqns:
            if equation.primitive.name == "dot_general":
                yield equation.params["precision"]
            for inner in jaxprs_in_params(equation.params):
                yield from products(inner)

    gradient = jax.grad(lambda e: clip_loss(config, jax.random.key(0), e, labels).loss)
    found = list(products(jax.make_jaxpr(gradient)(embedding).jaxpr))
    asked = jax.lax.Precision[expected]
    assert len(found) >= 3 and set(found) == {(asked, asked)}


def test_crops_have_the_size_that_a_network_gives_its_pictures():
    with pytest.raises(InputError, match="crop 321: found a network whose pictures are"):
        TrainConfig(NAMED["bfvos"], Augment(crop=321))
    assert TrainConfig(NAMED["bfvos"], Augment(crop=256)).augment.crop == 256


def test_recipes_that_there_are_not():
    for name, value in [("average", 1.0), ("clip", -1.0), ("momentum", np.nan), ("temperature", 0.0), ("rate", np.inf)]:
        with pytest.raises(InputError, match=f"{name} .*: expected"):
            TrainConfig(GROUP, **{name: value})
    # What the types of the tests would refuse by themselves, as it comes to whoever has none of them.
    for made, name, value in [
        (SMALL, "optimiser", "adam"),
        (SMALL, "loss", "contrastive"),
        (SMALL, "hinge", "both"),
        (SMALL.augment, "place", "Each"),
    ]:
        wrong = dataclasses.replace(made)
        object.__setattr__(wrong, name, value)
        with pytest.raises(InputError, match=f"{name} {value}: expected"):
            wrong.__post_init__()

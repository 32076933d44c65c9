"""How fast this machine could be: operations over a measured peak, bytes over a measured bandwidth.

The peak is the best rate of a large matrix product, the bandwidth that of an array read and written, both on the device that
is measured, in the run that uses them. The peak is the better of all libraries at hand: where another one multiplies
faster than XLA, the machine can do that.

A kind names how products are computed: "float32" (the device's default, TF32 on recent NVIDIA GPUs), "float32 highest",
"bfloat16". Operations count a multiply-add as two; of bytes only what has to travel is counted: inputs read once, results
written once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import prod
from typing import Any, Literal

import jax
import jax.numpy as jnp

Kind = Literal["float32", "float32 highest", "bfloat16"]
KINDS: tuple[Kind, ...] = ("float32", "float32 highest", "bfloat16")
Product = Callable[[int, Kind], Callable[[], object]]  # (n, kind) → a finished product of two n × n matrices


@dataclass(frozen=True)
class Limits:
    """peaks: operations a second, by kind and by whose product.  bandwidth: bytes a second, read plus written."""

    peaks: dict[str, dict[str, float]]
    bandwidth: float

    def peak(self, kind: Kind) -> float:
        return max(self.peaks[kind].values())


@dataclass(frozen=True)
class Floor:
    """The least milliseconds, and which of the two says so: "operations" or "bytes"."""

    ms: float
    bound: str


def floor(limits: Limits, kind: Kind, operations: float, moved: float = 0) -> Floor:
    """What `operations` in products of `kind` and `moved` bytes take at least; the two may overlap."""
    compute, memory = 1e3 * operations / limits.peak(kind), 1e3 * moved / limits.bandwidth
    return Floor(compute, "operations") if compute >= memory else Floor(memory, "bytes")


def measure_limits(products: dict[str, Product], *, quick: bool = False) -> Limits:
    """products: of other libraries, by name; XLA's is always there.  quick: smaller than what a measurement needs."""
    every = {"XLA": xla_product, **products}
    least = 0.005 if quick else 0.2
    peaks = {kind: {name: product_rate(product, kind, least) for name, product in every.items()} for kind in KINDS}
    return Limits(peaks, copy_rate(2**24 if quick else 2**29))


def product_rate(product: Product, kind: Kind, least: float = 0.2, largest: int = 16384) -> float:
    """Operations a second of the best call; n doubles until a call takes `least` seconds."""
    n, best = 512, 0.0
    while True:
        call = product(n, kind)
        call()
        seconds = min(_seconds(call) for _ in range(5))
        best = max(best, product_operations(n, n, n) / seconds)
        if seconds >= least or n >= largest:
            return best
        n *= 2


def xla_product(n: int, kind: Kind) -> Callable[[], object]:
    dtype = jnp.bfloat16 if kind == "bfloat16" else jnp.float32
    a, b = jax.random.normal(jax.random.key(0), (2, n, n), dtype)
    multiply = jax.jit(lambda a, b: jnp.matmul(a, b, precision="highest" if kind == "float32 highest" else None))
    return lambda: jax.block_until_ready(multiply(a, b))


def copy_rate(size: int = 2**29) -> float:
    """Bytes a second, read plus written, of the best pass over an array of `size` bytes, more than caches hold.

    In place: a fresh result would measure the system's page faults as well."""
    step = jax.jit(lambda x: x + 1, donate_argnums=0)
    x = jax.block_until_ready(step(jnp.ones(size // 4, jnp.float32)))
    best = 0.0
    for _ in range(7):
        begin = time.perf_counter()
        x = jax.block_until_ready(step(x))
        best = max(best, 2 * size / (time.perf_counter() - begin))
    return best


def _seconds(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


# What there is to do


def product_operations(rows: int, inner: int, columns: int) -> int:
    """Of `[rows, inner] @ [inner, columns]`."""
    return 2 * rows * inner * columns


def operations(function: Callable[..., Any], *arguments: Any) -> int:
    """Of all matrix products and convolutions of one call, counted in its jaxpr; zeros around a picture count as all else.

    arguments: arrays or `jax.ShapeDtypeStruct`s; nothing is computed. Of a form for each platform the plain one counts, which
    may be more than the fast one does (Winograd's), of other alternatives the largest. A `while` loop's body counts once."""
    return _of(jax.make_jaxpr(function)(*arguments).jaxpr)


def _of(jaxpr: Any) -> int:
    return sum(_of_equation(e) for e in jaxpr.eqns)


def _of_equation(equation: Any) -> int:
    name, parameters = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = parameters["dimension_numbers"]
        left = equation.invars[0].aval.shape
        return 2 * prod(equation.outvars[0].aval.shape) * prod(left[i] for i in contracted)
    if name == "conv_general_dilated":
        kernel, out_channels = equation.invars[1].aval.shape, parameters["dimension_numbers"].rhs_spec[0]
        return 2 * prod(equation.outvars[0].aval.shape) * prod(kernel) // kernel[out_channels]
    if name == "cond":
        counts = [_of(branch.jaxpr) for branch in parameters["branches"]]
        return counts[-1] if parameters.get("branches_platforms") else max(counts)
    times = parameters["length"] if name == "scan" else 1
    return times * sum(_of(inner) for inner in _inside(parameters.values()))


def _inside(values: Iterable[Any]) -> Iterable[Any]:
    """The jaxprs among an equation's parameters."""
    for value in values:
        if isinstance(value, (tuple, list)):
            yield from _inside(value)
        elif hasattr(value, "eqns"):
            yield value
        elif hasattr(value, "jaxpr") and hasattr(value.jaxpr, "eqns"):
            yield value.jaxpr

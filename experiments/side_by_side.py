"""Calls measured side by side: ours, then each peer's, in every round; what a row of the benchmark holds.

Times are milliseconds of finished calls, compilation and warm-up left out.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.floor import Floor

# The threads of one side's pool wait for work, spinning, for some milliseconds after its call: not in the other's time.
PAUSE = 0.02


class Missing(Exception):
    """Why a peer cannot take part: a few words."""


@dataclass(frozen=True)
class Spread:
    """ms: median, 10 % and 90 % (None where only more is known: `slowest`).  rounds: how many calls were measured."""

    median: float
    low: float | None
    high: float | None
    rounds: int
    slowest: float | None = None


def spread(seconds: list[float]) -> Spread:
    low, median, high = (1e3 * float(q) for q in np.quantile(seconds, (0.1, 0.5, 0.9)))
    return Spread(median, low, high, len(seconds), 1e3 * max(seconds))


def interleaved(calls: Mapping[str, Callable[[], object]], rounds: int, budget: float = 180) -> dict[str, Spread]:
    """Every call once a round, one after the other, after one or two calls that warm up.

    budget: seconds; where `rounds` would take longer there are fewer, but three."""
    once = {name: _timed(call) for name, call in calls.items()}
    if sum(once.values()) < 2:  # short calls are still getting faster in their second
        once = {name: _timed(call) for name, call in calls.items()}
    rounds = min(rounds, max(3, int(budget / sum(once.values()))))
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            time.sleep(PAUSE)
            seconds[name].append(_timed(call))
    return {name: spread(found) for name, found in seconds.items()}


def _timed(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - begin


class Compiled(NamedTuple):
    """call: the executable, of the arguments that are not static.  seconds: of tracing and compiling.  memory: bytes of
    temporaries by XLA's own analysis, None where the platform has none."""

    call: Any
    seconds: float
    memory: int | None


def compiled(jitted: Any, *arguments: Any, **static: Any) -> Compiled:
    jax.clear_caches()  # an earlier row may have compiled the same
    begin = time.perf_counter()
    call = jitted.lower(*arguments, **static).compile()
    seconds = time.perf_counter() - begin
    analysis = call.memory_analysis()
    return Compiled(call, seconds, getattr(analysis, "temp_size_in_bytes", None))


@dataclass(frozen=True)
class Row:
    """One line of the table.

    precision: how products are computed (floor.py).  peers: by name, their times, or why there are none.
    memory: bytes, `memory_of` says of what.  compile: seconds.  note: what was checked, and what else there is to say.
    exact: False where a check failed.  axis, at: of a point of growth, what grows and how far.
    """

    group: str
    name: str
    precision: str
    ours: Spread
    peers: dict[str, Spread | str] = field(default_factory=dict)
    floor: Floor | None = None
    memory: int | None = None
    memory_of: str = "temporaries"
    compile: float | None = None
    note: str = ""
    exact: bool = True
    axis: str | None = None
    at: float | None = None

    @property
    def best(self) -> str | None:
        """The fastest peer."""
        there = {name: s.median for name, s in self.peers.items() if isinstance(s, Spread)}
        return min(there, key=lambda name: there[name]) if there else None

    @property
    def ratio(self) -> float | None:
        """Our median over the best peer's."""
        best = self.peers.get(self.best) if self.best else None
        return self.ours.median / best.median if isinstance(best, Spread) else None

    @property
    def reached(self) -> float | None:
        """The floor over our median: 1 is all that the machine can do."""
        return self.floor.ms / self.ours.median if self.floor else None

    def as_json(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "best": self.best, "ratio": self.ratio, "reached": self.reached}


def from_json(record: Mapping[str, Any]) -> Row:
    fields = {f.name: record[f.name] for f in dataclasses.fields(Row)}
    fields["ours"] = Spread(**record["ours"])
    fields["peers"] = {n: p if isinstance(p, str) else Spread(**p) for n, p in record["peers"].items()}
    fields["floor"] = Floor(**record["floor"]) if record["floor"] else None
    return Row(**fields)


def compare(
    group: str,
    name: str,
    precision: str,
    ours: Callable[[], object],
    peers: Mapping[str, Callable[[], object] | str],
    rounds: int,
    **rest: Any,
) -> Row:
    """The row of a call beside its peers', each a call or the reason why there is none.  rest: of `Row`."""
    calls = {"": ours, **{n: p for n, p in peers.items() if not isinstance(p, str)}}
    found = interleaved(calls, rounds)
    times = {n: p if isinstance(p, str) else found[n] for n, p in peers.items()}
    return Row(group, name, precision, found[""], times, **rest)


def attempt(make: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """What `make` returns, or why it cannot, as text."""
    try:
        return make(*arguments, **options)
    except Missing as why:
        return str(why)

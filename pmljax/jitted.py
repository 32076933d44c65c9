"""`jax.jit` that editors and type checkers see through (to them what it returns takes anything and gives anything), and that
may be handed arrays which their owner goes on writing to."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np

F = TypeVar("F", bound=Callable[..., Any])


def jitted(*, owned: bool = False, **options: Any) -> Callable[[F], F]:
    """A decorator: `jax.jit` with these options (static_argnames, inline, …); its result has the function's own type.

    owned: arrays of NumPy are copied first. On a CPU JAX reads the caller's own memory, and may come to it after the call has
    returned: of a camera that fills one buffer again and again, another frame than the one that was handed over.
    """

    def jit(function: F) -> F:
        compiled = jax.jit(function, **options)
        if not owned:
            return compiled  # pyright: ignore[reportReturnType]

        def own(x: Any) -> Any:
            return x.copy() if isinstance(x, np.ndarray) else x

        @functools.wraps(function)
        def call(*args: Any, **given: Any) -> Any:
            return compiled(*map(own, args), **{name: own(x) for name, x in given.items()})

        for name in ("lower", "clear_cache", "_cache_size"):
            setattr(call, name, getattr(compiled, name))
        return call  # pyright: ignore[reportReturnType]

    return jit

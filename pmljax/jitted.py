"""`jax.jit` that editors and type checkers see through: to them what it returns takes anything and gives anything."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import jax

F = TypeVar("F", bound=Callable[..., Any])


def jitted(**options: Any) -> Callable[[F], F]:
    """A decorator: `jax.jit` with these options (static_argnames, inline, …); its result has the function's own type."""

    def jit(function: F) -> F:
        return jax.jit(function, **options)  # pyright: ignore[reportReturnType]

    return jit

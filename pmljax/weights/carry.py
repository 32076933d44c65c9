"""Weights from one network to another: what has the same name and shape is kept, the rest is new, and all of it is said."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import PRNGKeyArray

from pmljax.config import ModelConfig
from pmljax.errors import InputError
from pmljax.model import create

SHOWN = 6  # names in a line of the report


@dataclass(frozen=True)
class Carried:
    """taken: names that found their place.  fresh: variables of the new network that found no weight.  left_over: weights
    that found no place.  A name whose two shapes differ is in both, with the shapes."""

    taken: tuple[str, ...]
    fresh: tuple[str, ...]
    left_over: tuple[str, ...]

    def text(self) -> str:
        """A few lines to print."""
        lines = [f"taken: {len(self.taken)} variables ({_rooms(self.taken)})" if self.taken else "taken: nothing"]
        for what, names in (("fresh", self.fresh), ("no place for", self.left_over)):
            if names:
                more = f" and {len(names) - SHOWN} more ({_rooms(names)})" if len(names) > SHOWN else ""
                lines.append(f"{what}: {', '.join(names[:SHOWN])}{more}")
        return "\n".join(lines)


def _rooms(names: tuple[str, ...]) -> str:
    """How many of them lie in trunk, head, …: "trunk 60, head 4"."""
    rooms = [name.split("/")[1] for name in names]
    return ", ".join(f"{room} {rooms.count(room)}" for room in dict.fromkeys(rooms))


def check_sight(given: ModelConfig, config: ModelConfig, where: str, recipe: str) -> None:
    """InputError, beginning with `where`, for weights of a network of another geometry or scaling of colours, neither of which
    shows in names or shapes. recipe: what `config` is of."""
    for name in ("geometry", "scaling"):
        found, expected = getattr(given, name), getattr(config, name)
        if found != expected:
            raise InputError(
                f"{where}: found a network of {name} {found}, expected {expected}, as in recipe {recipe}: its weights would"
                " fit and compute something else"
            )


def carry_over(variables: dict[str, Any], config: ModelConfig, key: PRNGKeyArray) -> tuple[dict[str, Any], Carried]:
    """A new embedding network's variables with every weight of `variables` that fits; InputError if none does.

    `variables`: of an embedding network, or of any network with the same trunk (`semantic.SemanticNet`).
    """
    return carry_into(create(config, key).variables, variables)


def carry_into(fresh: dict[str, Any], variables: dict[str, Any]) -> tuple[dict[str, Any], Carried]:
    """`fresh` with every weight of `variables` that has the same name and shape."""
    new: dict[str, Any] = flatten_dict(fresh, sep="/")  # pyright: ignore
    given: dict[str, Any] = flatten_dict(variables, sep="/")  # pyright: ignore
    taken = [name for name in new if name in given and given[name].shape == new[name].shape]
    if not taken:
        there = f"no weight that fits ({', '.join(list(given)[:3])}, …)" if given else "a network without weights"
        raise InputError(f"found {there}; expected those of the same trunk")
    kept = set(taken)
    for name in taken:
        # By way of NumPy: buffers of its own, on no device in particular.
        new[name] = jax.device_put(np.array(given[name], new[name].dtype))

    def named(name: str) -> str:
        return f"{name} (found {given[name].shape}, new {new[name].shape})" if name in new and name in given else name

    report = Carried(
        tuple(taken),
        tuple(named(name) for name in new if name not in kept),
        tuple(named(name) for name in given if name not in kept),
    )
    return unflatten_dict(new, sep="/"), report

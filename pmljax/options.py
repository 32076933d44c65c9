"""The commands' options, as dataclasses of tyro have them: their help, and which of them go together."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin

from pmljax.errors import InputError

if TYPE_CHECKING:
    from tyro.constructors import ConstructorRegistry


def check_together(options: Any, needed: Mapping[str, str]) -> None:
    """InputError where a dataclass of options has one changed that has no effect without another: {option: the other}."""
    defaults = {field.name: field.default for field in dataclasses.fields(options)}
    for name, other in needed.items():
        if getattr(options, name) != defaults[name] and not getattr(options, other):
            this, missing = (f"--{n.replace('_', '-')}" for n in (name, other))
            raise InputError(
                f"{this} {getattr(options, name)}: found no {missing}; expected both, as it has no effect alone"
            )


def plain_help() -> ConstructorRegistry:
    """For `tyro.cli`: the help of each option as one paragraph, however its docstring's lines are broken (tyro breaks the
    terminal's lines there too), and without what goes without saying: `{None}|` and defaults that are nothing."""
    from tyro.conf import arg
    from tyro.constructors import ConstructorRegistry, StructConstructorSpec, StructFieldSpec, StructTypeInfo

    registry, asking = ConstructorRegistry(), False

    @registry.struct_rule
    def rule(info: StructTypeInfo) -> StructConstructorSpec | None:
        nonlocal asking
        if asking:  # the rules of tyro itself
            return None
        asking = True
        try:
            found = ConstructorRegistry.get_struct_spec(info)
        finally:
            asking = False
        if not isinstance(found, StructConstructorSpec):
            return None
        return dataclasses.replace(found, fields=tuple(map(plain, found.fields)))

    def plain(field: StructFieldSpec) -> StructFieldSpec:
        field = dataclasses.replace(field, helptext=partial(_flowing, field.helptext))
        if field.default is not None and field.default is not False and field.default not in ((), []):
            return field
        hidden = arg(metavar=_metavar(field.type), help_behavior_hint="")
        return dataclasses.replace(field, type=Annotated[field.type, hidden])

    return registry


def _metavar(kind: Any) -> str | None:
    """What an option that may be left out takes, in words; None: what tyro says."""
    asked = [one for one in get_args(kind) if one is not type(None)]
    if len(asked) != 1 or len(get_args(kind)) != 2:
        return None
    (one,), several = asked, get_args(asked[0])
    if get_origin(one) is Literal:
        return "{" + ",".join(map(str, several)) + "}"
    return "{True,False}" if one is bool else " ".join(each.__name__.upper() for each in several or asked)


def _flowing(text: str | Callable[[], str | None] | None) -> str | None:
    text = text() if callable(text) else text
    return text and " ".join(text.split())

"""The one error that a user can cause, and what is said of input that is taken all the same. Every message names the file or
argument, what was found, what was expected."""

from __future__ import annotations

import json
from typing import Any


class InputError(ValueError):
    """Bad input: a file, a folder or an argument. The command line prints it as one line and exits with status 2."""


class DamageWarning(UserWarning):
    """A video that can be decoded but is not whole. The command line prints it as one line and goes on."""


def differing(name: str, was: Any, now: Any) -> str:
    """The first place where two JSON values differ, in words: "preset.k: found 5, now 10"."""
    while isinstance(was, dict) and isinstance(now, dict):
        key = min(k for k in was.keys() | now.keys() if was.get(k) != now.get(k))
        name, was, now = f"{name}.{key}", was.get(key), now.get(key)
    return f"{name}: found {json.dumps(was)[:80]}, now {json.dumps(now)[:80]}"

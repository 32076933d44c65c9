"""Whole numbers of a command line."""

from __future__ import annotations

import argparse


def positive(text: str) -> int:
    """A whole number above 0, as argparse asks for it."""
    if not text.strip().isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"found {text}, expected a whole number above 0")
    return int(text)

"""Argument types whose errors say what to write, and the commands' exit codes."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from enum import IntEnum


class Exit(IntEnum):
    """Exit codes of the commands."""

    OK = 0
    BROKEN = 1
    USAGE = 2
    UNKNOWN = 3
    NOT_READY = 4
    INTERNAL = 5
    INTERRUPTED = 130
    OUTPUT_CLOSED = 141


def whole(what: str, least: int, most: int) -> Callable[[str], int]:
    """Return an argparse type for a whole number from ``least`` to ``most``, named ``what`` in errors."""

    def parse(text: str) -> int:
        try:
            # int() would also accept "1_000", " 7 " and digits of other scripts.
            if not text.isascii() or "_" in text or text != text.strip():
                raise ValueError
            number = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number; {what} is {least} to {most}.") from None
        if not least <= number <= most:
            raise argparse.ArgumentTypeError(f"{text} is out of range; {what} is {least} to {most}.")
        return number

    parse.__name__ = what
    return parse


def filled(text: str) -> str:
    """Refuse an empty value for argparse, such as a shell makes of a variable that is not set."""
    if not text.strip():
        raise argparse.ArgumentTypeError("the value is empty; give one, or leave the option out")
    return text


def seconds(text: str) -> float:
    """Parse a pause for argparse: 0.01 to 60 seconds."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.01 <= value <= 60:
        raise argparse.ArgumentTypeError(f"{text!r} is not a pause; write 0.01 to 60 seconds")
    return value

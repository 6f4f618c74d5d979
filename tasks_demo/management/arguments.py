"""Argument types that say what is wrong and what to write, and the exit codes that scripts rely on."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from enum import IntEnum


class Exit(IntEnum):
    """Exit codes of our commands."""

    OK = 0
    BROKEN = 1
    USAGE = 2
    UNKNOWN = 3
    NOT_READY = 4
    INTERNAL = 5
    INTERRUPTED = 130


def whole(what: str, least: int, most: int) -> Callable[[str], int]:
    """An argparse type: a whole number from ``least`` to ``most``."""

    def parse(text: str) -> int:
        try:
            # Plain ASCII digits: int() would also take "1_000", " 7 " and digits of other scripts.
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

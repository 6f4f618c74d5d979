"""Numbers in sentences. Pure."""

from __future__ import annotations


def counted(number: int, noun: str, plural: str = "") -> str:
    """``no jobs``, ``1 job``, ``2 jobs``."""
    return f"{number or 'no'} {noun if number == 1 else plural or noun + 's'}"

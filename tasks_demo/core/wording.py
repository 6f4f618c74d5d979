"""Format numbers, names and untrusted text for messages. Pure."""

from __future__ import annotations

from collections.abc import Sequence


def counted(number: int, noun: str, plural: str = "") -> str:
    """Return the number with its noun: ``no jobs``, ``1 job``, ``2 jobs``."""
    return f"{number or 'no'} {named(number, noun, plural)}"


def named(number: int, noun: str, plural: str = "") -> str:
    """Return the noun alone, in the form for this number: ``job`` for 1, else ``jobs``."""
    return noun if number == 1 else plural or noun + "s"


def times(number: int) -> str:
    """Return ``never``, ``once``, ``twice``, ``3 times``."""
    return {0: "never", 1: "once", 2: "twice"}.get(number, f"{number} times")


def listed(names: Sequence[str], most: int) -> str:
    """Return the first ``most`` names, and how many there are besides: ``a, b and 3 more``."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def first_line(error: BaseException) -> str:
    """Return the first line of the error's message: databases append hints, statements and traces."""
    return str(error).partition("\n")[0]


def escaped(text: str) -> str:
    """Return the text with unprintable characters escaped: control characters, newlines, bidirectional marks."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode("ascii") for one in text)


def shown(value: object, most: int = 2000) -> str:
    """Return the value as one printable line of at most ``most`` characters; a longer one is cut, and its length appended."""
    text = str(value)
    line = escaped(text[:most])[:most]
    return line if len(text) <= most else f"{line}… ({len(text):,} characters in all)"

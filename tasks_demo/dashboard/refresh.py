"""How new the effects on a screen are. A screen is only read: the books are read by others, or when its button is pressed."""

from __future__ import annotations

from dataclasses import dataclass

from tasks_demo.core.exceptions import InvalidSetting
from tasks_demo.ledger.reading import State, states


@dataclass(frozen=True, slots=True)
class Freshness:
    """The registered books, and ``trouble``: those that were never read, or cannot be read now."""

    books: list[State]
    trouble: list[State]


def freshness() -> Freshness:
    """Ask the ledger how the books were read last."""
    try:
        books = states()
    except InvalidSetting:
        books = []  # `manage.py check` says what is wrong with the setting
    return Freshness(books, [state for state in books if state.trouble or state.as_of is None])

"""Tells how recent the effects on a page are. Opening a page does not read the books; other processes or its button do."""

from __future__ import annotations

from dataclasses import dataclass

from tasks_demo.core.exceptions import InvalidSetting
from tasks_demo.ledger.reading import BooksState, states


@dataclass(frozen=True, slots=True)
class Freshness:
    """The registered books, and in ``trouble`` those that were never read or cannot be read."""

    books: list[BooksState]
    trouble: list[BooksState]


def freshness() -> Freshness:
    """Ask the ledger when and how the books were last read. Returns no books if their setting is invalid."""
    try:
        books = states()
    except InvalidSetting:
        books = []  # `manage.py check` reports the invalid setting
    return Freshness(books, [state for state in books if state.trouble or state.as_of is None])

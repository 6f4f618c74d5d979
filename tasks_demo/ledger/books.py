"""Books: records of effects outside Celery, such as a table of payments, from which the ledger counts effects.

A project registers them, ``TASKS_DEMO_BOOKS = {"payments": "shop.books.Payments"}``, and tasks name theirs,
``books="payments"``. ``manage.py relay`` and ``manage.py read_books`` read them, and on request the dashboard and
``manage.py timeline``. A task may be called lost only if its books were read to their end after it had ended.

A task without books can call ``record_effect`` in its body.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any, ClassVar

from django.apps import apps
from django.db import connections, models, router
from django.utils.module_loading import import_string

from tasks_demo.core import clock
from tasks_demo.core.conf import settings
from tasks_demo.core.exceptions import InvalidSetting

logger = logging.getLogger(__name__)
#: Numbers before the last one that are read again, unless the books override ``resume``.
OVERLAP = 100
#: How many entries back PostgreSQL is searched for late commits. It searches this many in 0.15 s.
REACH = 1_000_000
#: The name for effects that tasks record themselves. No books may have it.
RECORDED = "recorded"


@dataclass(frozen=True, slots=True)
class Effect:
    """One entry. ``number`` orders the book; ``at`` is seconds since the epoch; ``detail`` is shown in timelines."""

    number: int
    operation: str
    task_id: str = ""
    at: float = 0.0
    detail: dict[str, Any] = field(default_factory=dict)


class Books:
    """Base class of books. Override ``effects``. If it raises, these books are read again later; others are not affected."""

    def effects(self, after: int) -> Iterable[Effect]:
        """The entries with numbers above ``after``, in the order of their numbers."""
        raise NotImplementedError

    def identity(self) -> str:
        """Distinguishes these books from others of the same name, up to 60 characters. Books with a new identity are read from
        their beginning.
        """
        return ""

    def snapshot(self) -> str:
        """Stored before the books are read, and passed to ``resume`` by the next reader. Up to 60 characters."""
        return ""

    def resume(self, number: int, snapshot: str) -> int:
        """The number after which to read, when all up to ``number`` was read and ``snapshot`` was stored before that.

        By default the last OVERLAP numbers are read again. Entries with lower numbers that are committed later are not found.
        """
        return max(0, number - OVERLAP)


class ModelBooks(Books):
    """A table of the project as books: one row is one effect. Name the fields in the class.

    Rows that are committed after others with higher numbers are found, on PostgreSQL by the transaction ID (xmin) of each row.
    What is **not** guaranteed: that a row is found if it is committed after REACH later ones were read. While a transaction stays
    open, every reader reads all rows since its beginning again.
    """

    model: ClassVar[type[models.Model] | str]
    number: ClassVar[str] = "id"
    operation: ClassVar[str] = "operation"
    task_id: ClassVar[str] = ""
    at: ClassVar[str] = ""
    detail: ClassVar[tuple[str, ...]] = ()

    def _model(self) -> type[models.Model]:
        return apps.get_model(self.model) if isinstance(self.model, str) else self.model

    @property
    def _alias(self) -> str:
        # Not db_for_read: what a replica does not have yet would be called lost.
        return router.db_for_write(self._model())

    def operation_of(self, row: Any) -> str:
        """The operation key of a row. Override it if no column holds the key as it is."""
        return str(getattr(row, self.operation))

    def effects(self, after: int) -> Iterator[Effect]:
        rows = (
            self._model()
            ._default_manager.using(self._alias)
            .filter(**{f"{self.number}__gt": after})
            .order_by(self.number)
        )
        for row in rows.iterator(chunk_size=500):
            yield Effect(
                number=getattr(row, self.number),
                operation=self.operation_of(row),
                task_id=str(getattr(row, self.task_id)) if self.task_id else "",
                at=clock.aware(getattr(row, self.at)).timestamp() if self.at else 0.0,
                detail={name: getattr(row, name) for name in self.detail},
            )

    def snapshot(self) -> str:
        """The oldest open transaction; empty on databases with one writer, where numbers become visible in order."""
        connection = connections[self._alias]
        if connection.vendor != "postgresql":
            return ""
        return str(self._one("SELECT pg_snapshot_xmin(pg_current_snapshot())::text"))

    def resume(self, number: int, snapshot: str) -> int:
        connection = connections[self._alias]
        if connection.vendor != "postgresql":
            return number
        if not snapshot:  # it is not known what was open when this number was read
            return super().resume(number, snapshot)
        meta = self._model()._meta
        field: Any = meta.get_field(self.number)
        table, column = connection.ops.quote_name(meta.db_table), connection.ops.quote_name(field.column)
        # xmin has 32 bits and wraps around; age(), the distance from the newest transaction, does not.
        lowest = self._one(
            f"SELECT COALESCE(min({column}), %s) FROM {table} "  # noqa: S608  (names of a model)
            f"WHERE {column} > %s AND {column} <= %s AND age(xmin) <= age(%s::xid8::xid)",
            number + 1,
            number - REACH,
            number,
            snapshot,
        )
        return int(lowest) - 1

    def _one(self, statement: str, *values: int | str) -> Any:
        with connections[self._alias].cursor() as cursor:
            cursor.execute(statement, values)
            (value,) = cursor.fetchone()
        return value


def names() -> frozenset[str]:
    """The names of the registered books."""
    return frozenset(settings.BOOKS)


def counted_by(name: str) -> str:
    """The name if books are registered under it, else an empty text: nobody counts. Raises nothing."""
    if not name:
        return ""
    try:
        return name if name in settings.BOOKS else ""
    except InvalidSetting:
        return ""


def registered(name: str) -> Books:
    """The books of that name. Raises InvalidSetting if there are none, or if they are not Books."""
    return _imported(name, str(settings.BOOKS.get(name, "")))


@cache
def _imported(name: str, path: str) -> Books:
    where = f"TASKS_DEMO_BOOKS[{name!r}] is {path!r}"
    if name == RECORDED or not name.isidentifier() or len(name) > 40:
        raise InvalidSetting(f"{where}: a name of books is a short word, and {RECORDED!r} is taken.")
    try:
        found = import_string(path)
        books = found() if isinstance(found, type) else found
    except Exception as error:
        raise InvalidSetting(f"{where}, which cannot be imported or made: {type(error).__name__}: {error}.") from error
    if not isinstance(books, Books):
        raise InvalidSetting(f"{where}, which is no subclass of tasks_demo.ledger.books.Books, nor an instance of one.")
    return books

"""Books: records of effects outside Celery, such as a table of payments, from which the ledger counts effects.

A project registers books with ``TASKS_DEMO_BOOKS = {"payments": "shop.books.Payments"}``, and a task names its books with
``books="payments"``. ``manage.py relay`` and ``manage.py read_books`` read them; so do the dashboard and ``manage.py timeline``
on request. A task may be called lost only if its books were read to their end after it had ended.

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
#: How many numbers before the last one are read again, unless the books override ``resume``.
OVERLAP = 100
#: How many numbers back ModelBooks searches for late commits on PostgreSQL. Searching this many takes 0.15 s.
REACH = 1_000_000
#: The name for effects that tasks record themselves. No books may have it.
RECORDED = "recorded"


@dataclass(frozen=True, slots=True)
class Effect:
    """One entry. ``number`` orders the entries; ``at`` is seconds since the epoch (0.0: unknown); ``detail`` is shown in
    timelines.
    """

    number: int
    operation: str
    task_id: str = ""
    at: float = 0.0
    detail: dict[str, Any] = field(default_factory=dict)


class Books:
    """Base class of books. Override ``effects``. If it raises, these books are read again later; other books are not affected."""

    def effects(self, after: int) -> Iterable[Effect]:
        """Yield the entries with numbers above ``after``, in the order of their numbers."""
        raise NotImplementedError

    def identity(self) -> str:
        """Distinguish these books from others of the same name, in at most 60 characters. Books with a new identity are read
        from the beginning.
        """
        return ""

    def snapshot(self) -> str:
        """Return a text, at most 60 characters, that is stored before the books are read and passed to ``resume`` by the next
        reader.
        """
        return ""

    def resume(self, number: int, snapshot: str) -> int:
        """Return the number after which to read. Entries up to ``number`` were read, and ``snapshot`` was stored before that.

        By default the last OVERLAP numbers are read again. Entries below these that are committed later are not found.
        """
        return max(0, number - OVERLAP)


class ModelBooks(Books):
    """Reads a table of the project as books: one row is one effect. Name the fields in the class.

    Finds rows that are committed after rows with higher numbers; on PostgreSQL it uses the transaction ID (xmin) of each row.
    Does **not** guarantee to find a row that is committed after REACH later rows were read. While a transaction stays open, every
    reading reads all rows since the transaction's beginning again.
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
        # Not db_for_read: on a lagging replica an effect would be missing, and its job be called lost.
        return router.db_for_write(self._model())

    def operation_of(self, row: Any) -> str:
        """Return the operation key of a row. Override this if no column holds the key itself."""
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
        """Return the oldest open transaction on PostgreSQL. Returns "" on databases with one writer, where numbers become
        visible in order.
        """
        connection = connections[self._alias]
        if connection.vendor != "postgresql":
            return ""
        return str(self._one("SELECT pg_snapshot_xmin(pg_current_snapshot())::text"))

    def resume(self, number: int, snapshot: str) -> int:
        connection = connections[self._alias]
        if connection.vendor != "postgresql":
            return number
        if not snapshot:  # unknown which transactions were open when this number was read
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
    """Return the names of the registered books."""
    return frozenset(settings.BOOKS)


def counted_by(name: str) -> str:
    """Return the name if books are registered under it, else "" (effects are not counted). Never raises."""
    if not name:
        return ""
    try:
        return name if name in settings.BOOKS else ""
    except InvalidSetting:
        return ""


def registered(name: str) -> Books:
    """Return the books of that name. Raises InvalidSetting if there are none, or if they are not Books."""
    return _imported(name, str(settings.BOOKS.get(name, "")))


@cache
def _imported(name: str, path: str) -> Books:
    where = f"TASKS_DEMO_BOOKS[{name!r}] is {path!r}"
    if name == RECORDED or not name.isidentifier() or len(name) > 40:
        raise InvalidSetting(
            f"{where}: the name must be one word of at most 40 characters, and {RECORDED!r} is reserved."
        )
    try:
        found = import_string(path)
        books = found() if isinstance(found, type) else found
    except Exception as error:
        raise InvalidSetting(
            f"{where}, which cannot be imported or instantiated: {type(error).__name__}: {error}."
        ) from error
    if not isinstance(books, Books):
        raise InvalidSetting(
            f"{where}, which is not a subclass of tasks_demo.ledger.books.Books, nor an instance of one."
        )
    return books

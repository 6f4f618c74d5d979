"""Books: who outside counts effects, and how they are read.

A project registers its own: ``TASKS_DEMO_BOOKS = {"payments": "shop.books.Payments"}``, and tasks name them with
``books="payments"``. They are read by ``manage.py relay`` and ``manage.py read_books``, and on request by the dashboard and by
``manage.py timeline``. Only such a task may be called lost whose own books were read to their end after it had ended.

Who has no books may call ``record_effect`` in the body. That is the worker's own word: whoever is killed between effect and
record leaves none, so a missing record is never called a loss, and executions are judged.
"""

from __future__ import annotations

import hashlib
import logging
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any, ClassVar

from billiard.exceptions import SoftTimeLimitExceeded
from django.apps import apps
from django.db import connections, models, router, transaction
from django.utils.module_loading import import_string

from tasks_demo.core import clock
from tasks_demo.core.conf import settings
from tasks_demo.core.exceptions import InvalidSetting
from tasks_demo.core.lifecycle import current, described, job_fields
from tasks_demo.ledger.database import off_in_tests

logger = logging.getLogger(__name__)
#: Numbers read again before the last one known, where books say nothing of entries that become visible late.
OVERLAP = 100
#: Entries among which those that were committed late are looked for: PostgreSQL looks through that many in 0.15 s.
REACH = 1_000_000
#: The name under which a task's own records of its effects are kept; no books may have it.
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
    """Base of all books. Override ``effects``; it may raise anything: these books are then read later, and others now."""

    def effects(self, after: int) -> Iterable[Effect]:
        """The entries with numbers above ``after``, in the order of their numbers."""
        raise NotImplementedError

    def identity(self) -> str:
        """What tells these books from others of the same name, up to 60 characters: new ones are read from their beginning."""
        return ""

    def snapshot(self) -> str:
        """Noted before the books are read, and given to ``resume`` by the next reader. Up to 60 characters."""
        return ""

    def resume(self, number: int, snapshot: str) -> int:
        """Up to which number nothing can have become visible since that snapshot, when all up to ``number`` was read.

        By default the last OVERLAP numbers are read again: entries with lower ones that are committed later are not found.
        """
        return max(0, number - OVERLAP)


class ModelBooks(Books):
    """A table of the project as books: one row is one effect. Name the fields in the class.

    Rows that are committed after others with higher numbers are found, on PostgreSQL by its own number of the transaction in
    each row. What is **not** guaranteed: that a row is found which is committed after REACH later ones were read. A
    transaction that stays open has all rows since its beginning read again by every reader until it ends.
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
        """The operation key of a row, where no column holds it as it is."""
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
        """The oldest transaction that is open now; empty: this database has one writer, and numbers appear in their order."""
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
        # A row's number of a transaction is cut to 32 bits: what does not wrap around is its distance from the newest.
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
    """The name, if books are registered under it; else nobody counts, and an empty text. Raises nothing."""
    if not name:
        return ""
    try:
        return name if name in settings.BOOKS else ""
    except InvalidSetting:
        return ""


def registered(name: str) -> Books:
    """The books of that name. Raises InvalidSetting if they are not there, or are no books."""
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


def record_effect(operation: str | None = None, *, key: str = "", **detail: Any) -> bool:
    """Record that an effect was made, in the body of a task that has no books. Whether the ledger has it now; raises nothing.

    ``operation``: the operation key, by default that of the delivery that runs here. ``key``: names this effect (a receipt's
    number, say): recorded again under the same key it counts once; without a key each call is one effect. Inside a transaction
    it is recorded after the commit, and not at all after a rollback. It waits for the ledger as long as publishing does
    (TASKS_DEMO_LEDGER_WAIT_SECONDS), and for one that is away not at all: then it is kept, written later, and False is returned.

    What is **not** guaranteed: that an effect is recorded. This is the worker's own word: killed in between, or without a
    ledger, nothing is, and the dashboard judges executions.
    """
    try:
        return _record(operation, key, detail)
    except SoftTimeLimitExceeded:
        raise  # of the body in which this is called
    except Exception as error:  # noqa: BLE001  (the effect is there: nothing of ours may fail its job)
        logger.error("An effect was not recorded: %s", described(error), extra=job_fields())
        return False


def _record(operation: str | None, key: str, detail: dict[str, Any]) -> bool:
    subject = current()
    if operation is None:
        operation = subject.operation if subject else ""
    if not operation or not settings.LEDGER or off_in_tests():
        return False
    if subject and counted_by(subject.books):
        logger.warning(
            "%s[%s]: record_effect was ignored: the books %r count its effects, and it would count twice.",
            subject.task, subject.task_id, subject.books, extra=job_fields(),
        )  # fmt: skip
        return False
    from tasks_demo.ledger.recorder import recorder  # which knows the names of books

    key = str(key)
    name = hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest() if key else uuid.uuid4().hex
    record = partial(
        recorder.effect, f"{RECORDED}:{name}", str(operation), {"source": f"{RECORDED}:{key or name}", **detail}
    )
    # In a transaction there may be no effect yet, and never be one.
    open_here = [each for each in connections.all(initialized_only=True) if each.in_atomic_block]
    if open_here:
        transaction.on_commit(record, using=open_here[0].alias, robust=True)
        return False
    return record()

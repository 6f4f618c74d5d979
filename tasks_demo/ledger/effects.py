"""Effects enter the ledger from the books of the outside world, never from a worker's word.

Books are read by number, from the newest copy on. The bank's numbers become visible in their order. The shop's do not on
PostgreSQL: a booking is made inside the job's transaction, and others with higher numbers may be committed while that stays
open. So a copy carries ``open_since``, the oldest transaction that was open before its reader began: of the bookings with
lower numbers, all that were made by older transactions are copied, too. The next reader looks for those of younger ones, by
PostgreSQL's own number of the transaction in each row, and reads again from the first.

What is **not** guaranteed: that a booking is found which is committed after REACH later ones were copied; if the newest copy
was made by a version without ``open_since``, after OVERLAP. A transaction that stays open, whosesoever it is, has all bookings
since its beginning read again by every reader until it ends: that costs time, and counts nothing twice.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any, Protocol

from django.apps import apps
from django.db import DatabaseError, connections, router
from django.db.models import Count, Exists, F, OuterRef, Subquery
from django.db.models.functions import Coalesce

from tasks_demo import clock
from tasks_demo.bank.client import BankClient
from tasks_demo.conf import settings
from tasks_demo.exceptions import LedgerUnavailable
from tasks_demo.ledger.rows import EFFECT, SETTLED, Row
from tasks_demo.ledger.store import store
from tasks_demo.models import IN_A_RUN, UNSETTLED, Event, Tally

#: Events of one transaction: long enough to be quick, short enough not to keep other writers waiting.
BATCH = 500
#: Entries read again before the newest one known, where nothing is known about open transactions.
OVERLAP = 100
#: Bookings among which those that were committed late are looked for: PostgreSQL looks through that many in 0.15 s.
REACH = 1_000_000


class Entry(Protocol):
    """One entry in somebody's books, numbered in the order of that book; ``created_at`` is seconds since the epoch."""

    @property
    def id(self) -> int: ...
    @property
    def account(self) -> str: ...
    @property
    def amount(self) -> int: ...
    @property
    def reference(self) -> str: ...
    @property
    def source(self) -> str: ...
    @property
    def created_at(self) -> float: ...


def read_books(client: BankClient) -> int:
    """Copy the entries that the ledger does not have yet, the bank's debits and the shop's bookings; returns how many.

    Reading twice, or from two processes at once, counts nothing twice: the books' identity and the entry's number
    are the event's source. Raises BankUnavailable, LedgerUnavailable.
    """
    copied = _read("bank", client.books(), lambda after: client.debits(after=after))
    return copied + read_bookings()


def read_bookings() -> int:
    """Copy the shop's bookings only; a project without the demo's shop has none. Raises LedgerUnavailable."""
    if not apps.is_installed("tasks_demo.shop"):
        return 0
    from tasks_demo.shop.books import bookings, identity

    try:
        return _read("shop", identity(), bookings, _Late())
    except DatabaseError as error:
        raise LedgerUnavailable(
            f"The shop's bookings cannot be read: {str(error).partition(chr(10))[0]}. Is its database there and migrated "
            "(`manage.py migrate --database shop`, or `migrate` where it is the default one)?"
        ) from error


class _Late:
    """Finds the bookings that became visible after others with higher numbers; on SQLite, which has one writer, there are none.

    Made before the books are read, because it notes which transactions are open now.
    """

    def __init__(self) -> None:
        from tasks_demo.shop.models import Booking

        self._table = Booking._meta.db_table
        self._connection = connections[router.db_for_read(Booking)]
        #: All transactions with lower numbers have ended; 0: this database does not number them.
        self.open_since = 0
        if self._connection.vendor == "postgresql":
            self.open_since = self._number("SELECT pg_snapshot_xmin(pg_current_snapshot())::text")

    def first(self, to: int, open_since: int) -> int:
        """The lowest number up to ``to`` that a transaction not older than ``open_since`` booked; none: the next number."""
        # A row's number of a transaction is cut to 32 bits: what does not wrap around is its distance from the newest.
        return self._number(
            f"SELECT COALESCE(min(id), %s) FROM {self._table} "  # noqa: S608  (the name of our own table)
            "WHERE id > %s AND id <= %s AND age(xmin) <= age(%s::xid8::xid)",
            to + 1,
            to - REACH,
            to,
            str(open_since),
        )

    def _number(self, statement: str, *values: int | str) -> int:
        with self._connection.cursor() as cursor:
            cursor.execute(statement, values)
            (number,) = cursor.fetchone()
        return int(number)


def _read(book: str, identity: str, entries: Callable[[int], Iterable[Entry]], late: _Late | None = None) -> int:
    prefix = f"{book}:{identity}:"
    newest = (
        Event.objects.filter(kind=EFFECT, source__startswith=prefix)
        .order_by("-id")
        .values_list("source", "detail")
        .first()
    )
    to = int(newest[0].removeprefix(prefix)) if newest else 0
    after = max(0, to - OVERLAP)
    note: dict[str, Any] = {}
    if late and late.open_since:
        note = {"open_since": late.open_since}
        if newest and "open_since" in newest[1]:
            after = late.first(to, newest[1]["open_since"]) - 1
    copied = 0
    batch: list[Entry] = []
    for entry in entries(after):
        batch.append(entry)
        if len(batch) >= BATCH:
            copied += _copy(book, prefix, batch, note)
            batch = []
    return copied + _copy(book, prefix, batch, note)


def _copy(book: str, prefix: str, debits: Sequence[Entry], note: dict[str, Any]) -> int:
    return _append(lambda: _unknown(book, prefix, debits, note))


def _append(missing: Callable[[], Sequence[Row]]) -> int:
    """Append the rows that are missing; returns how many. Another reader may append some of them at the same moment."""
    rows = missing()
    try:
        store.append(rows)
    except LedgerUnavailable:
        rows = missing()
        store.append(rows)
    return len(rows)


def _unknown(book: str, prefix: str, debits: Sequence[Entry], note: dict[str, Any]) -> list[Row]:
    """The entries that the ledger does not have yet, as its rows."""
    sources = [f"{prefix}{debit.id}" for debit in debits]
    known = set(Event.objects.filter(source__in=sources).values_list("source", flat=True))
    operations = {debit.reference for debit in debits}
    homes = {
        operation: (pattern, run)
        for operation, pattern, run in Tally.objects.filter(operation__in=operations)
        .order_by("first_at")
        .values_list("operation", "pattern", "run")
    }
    rows = []
    for source, debit in zip(sources, debits, strict=True):
        if source not in known:
            pattern, run = homes.get(debit.reference, ("", ""))
            rows.append(
                Row(
                    at=debit.created_at,
                    kind=EFFECT,
                    source=source,
                    task_id=debit.source,
                    operation=debit.reference,
                    pattern=pattern,
                    run=run,
                    detail={
                        "source": f"{book}:{debit.id}",
                        "amount": debit.amount,
                        "account": debit.account,
                        **note,
                    },
                )
            )
    return rows


def settle(before: float | None = None, *, run: str | None = None) -> int:
    """Note that the books were read for tasks that have come to an end; returns for how many.

    Only a settled task may be called lost: before, its debit may simply not have been read yet. Either ``before``
    (seconds since the epoch): up to 500 tasks without an effect that ended before then, the oldest first, for a caller
    that has read the books since; not while an execution of the same operation may still go on. Or ``run``: every task
    of that run, for a caller that has seen that all is quiet there.
    """
    if run is not None:
        quiet = Tally.objects.filter(IN_A_RUN, settled=0, run=run).exclude(books="")
    elif before is not None:
        moment = clock.moment(before)
        quiet = Tally.objects.filter(UNSETTLED, ~_still_running(moment), run="", last_at__lt=moment).order_by(
            "first_at"
        )[:BATCH]
    else:
        raise ValueError("settle() needs a moment or a run.")
    known = list(quiet.values_list("task_id", flat=True))
    return sum(
        _append(lambda part=known[start : start + BATCH]: _settlements(part))  # type: ignore[misc]
        for start in range(0, len(known), BATCH)
    )


def _settlements(task_ids: Sequence[str]) -> list[Row]:
    unsettled = Tally.objects.filter(task_id__in=task_ids, settled=0)
    return [
        Row(
            at=time.time(),
            kind=SETTLED,
            source=_settlement(task_id),
            task_id=task_id,
            operation=operation,
            pattern=pattern,
            run=in_run,
        )
        for task_id, operation, pattern, in_run in unsettled.values_list("task_id", "operation", "pattern", "run")
    ]


def _still_running(moment: datetime) -> Exists:
    """Whether an execution of the same operation has begun that nobody has seen end, if it may be alive: one that is older than
    TASKS_DEMO_OUTBOX_UNFINISHED_SECONDS is not.

    What was killed looks the same, which is why this has an end.
    """
    given_up = Event.objects.filter(task_id=OuterRef("task_id"), kind__in=["retried", "lease_lost"]).order_by()
    counted = given_up.values("task_id").annotate(count=Count("id")).values("count")
    seen = F("ended") - F("suppressed") - F("quarantined") + Coalesce(Subquery(counted), 0)
    oldest = moment - timedelta(seconds=settings.OUTBOX_UNFINISHED_SECONDS)
    return Exists(
        Tally.objects.filter(operation=OuterRef("operation"), last_at__gt=oldest, executions__gt=seen).exclude(
            operation=""
        )
    )


def _settlement(task_id: str) -> str:
    """The source of a task's settlement, in 120 characters: what is too long is hashed, never cut, which two could share."""
    source = f"settled:{task_id}"
    # Another prefix: whoever publishes chooses task IDs, and may choose one that reads like another's hash.
    return source if len(source) <= 120 else f"settled#{sha256(task_id.encode()).hexdigest()}"

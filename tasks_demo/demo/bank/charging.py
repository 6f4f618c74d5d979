"""Make debits: their transactions, and the promise of an idempotency key.

With a key: the debit is stored with its key in one transaction, and the database takes each key once. Which keys are in flight is
in this process's memory, so a process that dies leaves none in flight, and either the debit or nothing. If two banks share a
database by mistake, one of them makes the debit, and that of the other is rolled back.

With a fencing token: the highest token under which a reference was charged, or its debit replayed, is stored in the same
transaction. A lower token is refused with any key, even if the request would be a replay. A refused request stores neither its
token nor its key. A request without a token is not checked.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
from django.db import IntegrityError, InterfaceError, InternalError, OperationalError, connections, transaction

from tasks_demo.demo.bank import fault_injection
from tasks_demo.demo.bank.apps import BANK
from tasks_demo.demo.bank.incoming import DebitRequest, Headers
from tasks_demo.demo.bank.models import Debit, Identity
from tasks_demo.demo.bank.problems import InFlight, KeyReused, StaleFence, Unavailable, Unconfirmed

#: Maximum time that a transaction waits for others before the response is 503. Seconds; below the caller's timeout.
BUSY_SECONDS = 3.0
#: Number of the PostgreSQL advisory lock under which transactions are written.
_WRITING = 7_231_400_117

# Raw SQL, because Django takes longer to build the statements than the database to execute them.
_NEWER = "SELECT highest FROM bank_fencingtoken WHERE reference = %s AND highest > %s"
_UNDER = "SELECT * FROM bank_debit WHERE key = %s"
_ADVANCE = """
    INSERT INTO bank_fencingtoken (reference, highest) VALUES (%s, %s)
    ON CONFLICT (reference) DO UPDATE SET highest = excluded.highest WHERE bank_fencingtoken.highest <= excluded.highest
"""

_UNUSABLE = (OperationalError, InternalError, InterfaceError)

# SQLite has one writer; waiting for this lock costs less than its busy handler, which sleeps.
_writer = threading.Lock()
#: The debits that threads of this process are making, by key.
_in_flight: dict[str, DebitRequest] = {}


def charge(request: DebitRequest, headers: Headers) -> tuple[Debit, bool]:
    """Make the debit; with a key, at most once for that key. Returns it, and whether it is a replay.

    Raises InFlight (409), StaleFence (412), KeyReused (422), Unavailable (503: nothing was charged), Unconfirmed (504: it is
    unknown whether the debit was made).
    """
    with reading():
        _refuse_stale(request.reference, headers.fence)
    if headers.key is None:
        return _make(request, headers), False
    with _working_on(headers.key, request) as alone:
        if debit := _made_under(headers.key, request):
            if headers.fence is not None:
                with _writing():
                    _advance_fence(request.reference, headers.fence)
            return debit, True
        if not alone:
            raise InFlight
        try:
            return _make(request, headers), False
        except IntegrityError as error:
            # Another bank on this database made the debit in the meantime.
            raise InFlight from error


def identity() -> str:
    """Return the identity of this database, which is created on first use."""
    with reading():
        found = Identity.objects.first()
    if found is None:
        with _writing():
            found, _ = Identity.objects.get_or_create(id=1)
    return str(found.identity)


def check_writable() -> None:
    """Execute an UPDATE that changes no row, to check that debits can be written. Raises Unavailable."""
    with _writing():
        Debit.objects.filter(pk=0).update(key=None)


@contextmanager
def _working_on(key: str, request: DebitRequest) -> Iterator[bool]:
    """Yield whether no other thread works on the key. Not alone: another thread makes the debit, or replays its response."""
    first = _in_flight.setdefault(key, request)
    if first != request:
        raise KeyReused
    alone = first is request
    try:
        yield alone
    finally:
        if alone:
            del _in_flight[key]


def _made_under(key: str, request: DebitRequest) -> Debit | None:
    with reading():
        debit = next(iter(Debit.objects.raw(_UNDER, [key])), None)
    if debit and DebitRequest(debit.account, debit.amount, debit.reference) != request:
        raise KeyReused
    return debit


def _make(request: DebitRequest, headers: Headers) -> Debit:
    fault_injection.slow_down(request.reference)
    with _writing():
        # Checks again, because a newer holder may have been served while this request waited.
        _advance_fence(request.reference, headers.fence)
        return Debit.objects.create(**msgspec.structs.asdict(request), source=headers.source, key=headers.key)


def _refuse_stale(reference: str, fence: int | None) -> None:
    if fence is None:
        return
    with connections[BANK].cursor() as cursor:
        cursor.execute(_NEWER, [reference, fence])
        newer = cursor.fetchone()
    if newer:
        raise StaleFence(fence, newer[0])


def _advance_fence(reference: str, fence: int | None) -> None:
    """Store the token, or raise StaleFence. Nothing comes in between, because there is one writer at a time."""
    if fence is None:
        return
    with connections[BANK].cursor() as cursor:
        cursor.execute(_ADVANCE, [reference, fence])
        if cursor.rowcount:
            return
    _refuse_stale(reference, fence)


@contextmanager
def reading() -> Iterator[None]:
    """Raise Unavailable if the database does not answer."""
    try:
        yield
    except _UNUSABLE as error:
        raise Unavailable(_why(error)) from error


@contextmanager
def _writing() -> Iterator[None]:
    """Run one transaction, with no other at the same time, so that the numbers of debits become visible in order.

    A reader that pages by number then misses none. Does not guarantee durability on a disk that loses acknowledged writes.
    """
    sqlite = connections[BANK].vendor == "sqlite"
    if sqlite and not _writer.acquire(timeout=BUSY_SECONDS):
        raise Unavailable("database is busy")
    at_commit = False
    try:
        with transaction.atomic(using=BANK):
            if not sqlite:
                with connections[BANK].cursor() as cursor:
                    cursor.execute("SELECT pg_advisory_xact_lock(%s)", [_WRITING])
            yield
            at_commit = True
    except _UNUSABLE as error:
        # A failed COMMIT on SQLite was rolled back; a server may have committed although its reply was lost.
        if at_commit and not sqlite:
            raise Unconfirmed(_why(error)) from error
        raise Unavailable(_why(error)) from error
    finally:
        if sqlite:
            _writer.release()


def _why(error: Exception) -> str:
    return str(error).partition("\n")[0].strip()[:200] or type(error).__name__

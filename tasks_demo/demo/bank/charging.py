"""Make debits: their transactions, and the promise of an idempotency key.

With a key: the key is first claimed in a separate, committed transaction, so that others see it in flight; then the debit and the
key's response are committed together. A process that dies in between leaves a key in flight under which nothing was charged; the
next request with that key takes it over. This holds even if two banks share a database by mistake: only the owner of the claim
writes the response, so the debit of an owner that was replaced is rolled back.

With a fencing token: the highest token under which a reference was charged, or its debit replayed, is stored in the same
transaction. A lower token is refused with any key, even if the request would be a replay. A refused request stores neither its
token nor its key. A request without a token is not checked.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from django.db import IntegrityError, InterfaceError, InternalError, OperationalError, connections, transaction

from tasks_demo.demo.bank import fault_injection
from tasks_demo.demo.bank.apps import BANK
from tasks_demo.demo.bank.models import Debit, FencingToken, IdempotencyKey, Identity
from tasks_demo.demo.bank.problems import InFlight, KeyReused, StaleFence, Unavailable, Unconfirmed

#: Maximum time that a transaction waits for others before the response is 503. Seconds; below the caller's timeout.
BUSY_SECONDS = 3.0
#: Identifies this process as the owner of keys in flight.
OWNER = secrets.token_hex(16)
#: Number of the PostgreSQL advisory lock under which debits are numbered.
_NUMBERING = 7_231_400_117

_UNUSABLE = (OperationalError, InternalError, InterfaceError)

# SQLite has one writer; waiting for this lock costs less than its busy handler, which sleeps.
_writer = threading.Lock()
#: Fingerprints of the keys that threads of this process are working on.
_working: dict[str, str] = {}
_working_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class DebitRequest:
    """A debit to make. ``amount`` is in cents, ``source`` the caller's task ID."""

    account: str
    amount: int
    reference: str
    source: str = ""
    fence: int | None = None


def charge(asked: DebitRequest, key: str | None = None, fingerprint: str = "") -> tuple[dict[str, Any], bool]:
    """Make the debit; with a key, at most once for that key. Returns it as JSON, and whether it is a replay.

    Raises InFlight (409), StaleFence (412), KeyReused (422), Unavailable (503: nothing was charged), Unconfirmed (504: it is
    unknown whether the debit was made).
    """
    _refuse_stale(asked)
    if key is None:
        fault_injection.slow_down(asked.reference)
        with _writing():
            return _debit(asked, None), False
    with _only_thread(key, fingerprint) as alone:
        # Not alone: another thread is working on the key, or replaying its response.
        record = _claim(key, fingerprint) if alone else _look_up(key)
        if record is not None and record.response is not None:
            return _replay(record, record.response, fingerprint, asked), True
        if record is None or not alone:
            raise InFlight
        fault_injection.slow_down(asked.reference)
        mine = IdempotencyKey.objects.filter(pk=record.pk, response__isnull=True, owner=OWNER)
        try:
            with _writing():
                debit = _debit(asked, record)
                if not mine.update(response=debit):
                    raise InFlight
        except IntegrityError as error:
            # Another bank took over the key and has already made the debit: ours was rolled back.
            raise InFlight from error
        except StaleFence:
            # A newer holder was served while this one waited.
            with _writing():
                mine.delete()
            raise
        return debit, False


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
        IdempotencyKey.objects.filter(pk=0).update(owner=OWNER)


def _replay(record: IdempotencyKey, response: dict[str, Any], fingerprint: str, asked: DebitRequest) -> dict[str, Any]:
    if record.fingerprint != fingerprint:
        raise KeyReused
    if asked.fence is not None:
        with _writing():
            _advance_fence(asked)
    return response


@contextmanager
def _only_thread(key: str, fingerprint: str) -> Iterator[bool]:
    """Yield whether no other thread of this process works on the key. A key in flight without such a thread was abandoned."""
    with _working_lock:
        alone = key not in _working
        other = _working.setdefault(key, fingerprint)
    if other != fingerprint:
        raise KeyReused
    try:
        yield alone
    finally:
        if alone:
            with _working_lock:
                del _working[key]


def _look_up(key: str) -> IdempotencyKey | None:
    with reading():
        return IdempotencyKey.objects.filter(key=key).first()


def _claim(key: str, fingerprint: str) -> IdempotencyKey:
    """Return the key's row: either in flight, committed with this process as its owner, or with its response."""
    try:
        with _writing():
            return IdempotencyKey.objects.create(key=key, fingerprint=fingerprint, owner=OWNER)
    except IntegrityError:
        # The key exists; read it in a new transaction, because the first one was rolled back.
        pass
    with _writing():
        record = IdempotencyKey.objects.get(key=key)
        if record.fingerprint != fingerprint:
            raise KeyReused
        if record.response is None and record.owner != OWNER:
            dead = IdempotencyKey.objects.filter(pk=record.pk, response__isnull=True, owner=record.owner)
            if not dead.update(owner=OWNER):
                raise InFlight
    return record


def _refuse_stale(asked: DebitRequest) -> None:
    """Refuse a stale token before the key is claimed. A newer token may still arrive later; :func:`_advance_fence` decides."""
    if asked.fence is None:
        return
    with reading():
        newer = FencingToken.objects.filter(reference=asked.reference, highest__gt=asked.fence).first()
    if newer:
        raise StaleFence(asked.fence, newer.highest)


def _advance_fence(asked: DebitRequest) -> None:
    """Store the token, or raise StaleFence. Locks the reference until the transaction ends; on SQLite, the whole database."""
    if asked.fence is None:
        return
    locked = FencingToken.objects.select_for_update()
    token, _ = locked.get_or_create(reference=asked.reference, defaults={"highest": asked.fence})
    if asked.fence < token.highest:
        raise StaleFence(asked.fence, token.highest)
    if asked.fence > token.highest:
        token.highest = asked.fence
        token.save(update_fields=["highest"])


def _debit(asked: DebitRequest, record: IdempotencyKey | None) -> dict[str, Any]:
    _advance_fence(asked)
    connection = connections[BANK]
    if connection.vendor == "postgresql":
        # Makes numbers visible in order, so that a reader that pages by number misses none.
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", [_NUMBERING])
    debit = Debit.objects.create(
        account=asked.account, amount=asked.amount, reference=asked.reference, source=asked.source, idempotency=record
    )
    return debit.as_json()


@contextmanager
def reading() -> Iterator[None]:
    """Raise Unavailable if the database does not answer."""
    try:
        yield
    except _UNUSABLE as error:
        raise Unavailable(_why(error)) from error


@contextmanager
def _writing() -> Iterator[None]:
    """Run one transaction. Does not guarantee durability on a disk that loses acknowledged writes."""
    sqlite = connections[BANK].vendor == "sqlite"
    if sqlite and not _writer.acquire(timeout=BUSY_SECONDS):
        raise Unavailable("database is busy")
    at_commit = False
    try:
        with transaction.atomic(using=BANK):
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

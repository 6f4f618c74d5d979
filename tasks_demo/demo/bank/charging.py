"""Making debits: the transactions, and the promise behind an idempotency key.

With a key: the key is claimed in a committed transaction of its own, so that others see it in flight; then the
debit and the key's ``done`` commit together. A process that dies in between leaves a key in flight, which the next
request with that key takes over: nothing was charged under it. That stays true while two banks share a database by
mistake: ``done`` is only written by the owner of the claim, so a claim that was taken over rolls its debit back.

With a fencing token: the highest token that was answered with a debit is kept per reference, in the same transaction
as the debit. A lower one is refused, whatever key it brings: also when it asks for an answer that it could have again.
A refused request leaves nothing behind: neither its token nor its key. A request without a token is not checked.
"""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

from django.db import IntegrityError, InterfaceError, InternalError, OperationalError, connections, transaction

from tasks_demo.demo.bank import fault_injection
from tasks_demo.demo.bank.apps import BANK
from tasks_demo.demo.bank.models import Account, Books, Debit, Fence, IdempotencyKey
from tasks_demo.demo.bank.problems import InFlight, KeyReused, StaleFence, Unavailable, Unconfirmed

#: How long a transaction waits for others before it is answered with 503. Seconds; below the caller's patience.
BUSY_SECONDS = 3.0
#: Number of the PostgreSQL advisory lock under which debits are numbered.
_NUMBERING = 7_231_400_117

_IN_FLIGHT, _DONE = IdempotencyKey.Status.IN_FLIGHT, IdempotencyKey.Status.DONE
_UNUSABLE = (OperationalError, InternalError, InterfaceError)

# SQLite has one writer: waiting here costs less than its busy handler, which sleeps.
_turn = threading.Lock()
_in_hand: dict[str, str] = {}
_in_hand_lock = threading.Lock()
_token: tuple[int, str] = (0, "")


@dataclass(frozen=True, slots=True)
class Order:
    """A debit to make. ``amount`` is in cents."""

    account: str
    amount: int
    reference: str
    source: str = ""
    fence: int | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """The debit as JSON; ``replayed`` if it was made by an earlier request."""

    debit: dict[str, Any]
    replayed: bool = False


def charge(order: Order, key: str | None = None, fingerprint: str = "") -> Answer:
    """Make the debit; with a key, at most once for that key.

    Raises InFlight (409), StaleFence (412), KeyReused (422), Unavailable (503: nothing was charged), Unconfirmed (504:
    not known).
    """
    _refuse_stale(order)
    if key is None:
        fault_injection.dawdle(order.reference)
        with _writing():
            return Answer(_debit(order, None))
    with _holding(key, fingerprint) as held:
        # Not held: another thread works on it, or is only giving its old answer again.
        record = _claim(key, fingerprint) if held else _look_up(key)
        if record is not None and record.status == _DONE:
            return _again(record, fingerprint, order)
        if record is None or not held:
            raise InFlight
        fault_injection.dawdle(order.reference)
        mine = IdempotencyKey.objects.filter(pk=record.pk, status=_IN_FLIGHT, owner=_owner())
        try:
            with _writing():
                debit = _debit(order, record)
                if not mine.update(status=_DONE, response=debit):
                    raise InFlight
        except IntegrityError as error:
            # Another bank took the key over and has made its debit already: ours was rolled back.
            raise InFlight from error
        except StaleFence:
            # A newer holder was served while this one waited.
            with _writing():
                mine.delete()
            raise
        return Answer(debit)


def identity() -> str:
    """The identity of these books, made when first asked for."""
    with reading():
        books = Books.objects.first()
    if books is None:
        with _writing():
            books, _ = Books.objects.get_or_create(id=1)
    return str(books.identity)


def check_writable() -> None:
    """Write nothing, but in a way that needs everything a debit needs. Raises Unavailable."""
    with _writing():
        IdempotencyKey.objects.filter(pk=0).update(status=_IN_FLIGHT)


def _again(record: IdempotencyKey, fingerprint: str, order: Order) -> Answer:
    if record.fingerprint != fingerprint:
        raise KeyReused
    if order.fence is not None:
        with _writing():
            _pass_fence(order)
    # A done key has its response: the database checks that.
    return Answer(cast("dict[str, Any]", record.response), replayed=True)


@contextmanager
def _holding(key: str, fingerprint: str) -> Iterator[bool]:
    """Whether this thread got the key. What is in flight in our name but not held was given up: it may be taken."""
    with _in_hand_lock:
        other = _in_hand.get(key)
        if other is None:
            _in_hand[key] = fingerprint
    if other is not None:
        if other != fingerprint:
            raise KeyReused
        yield False
        return
    try:
        yield True
    finally:
        with _in_hand_lock:
            del _in_hand[key]


def _look_up(key: str) -> IdempotencyKey | None:
    with reading():
        return IdempotencyKey.objects.filter(key=key).first()


def _claim(key: str, fingerprint: str) -> IdempotencyKey:
    """The key's row, committed in flight in our name, or already done."""
    try:
        with _writing():
            return IdempotencyKey.objects.create(key=key, fingerprint=fingerprint, owner=_owner())
    except IntegrityError:
        # Known already: read it in a transaction of its own, the first one is spoilt.
        pass
    with _writing():
        record = IdempotencyKey.objects.get(key=key)
        if record.fingerprint != fingerprint:
            raise KeyReused
        if record.status == _IN_FLIGHT and record.owner != _owner():
            dead = IdempotencyKey.objects.filter(pk=record.pk, status=_IN_FLIGHT, owner=record.owner)
            if not dead.update(owner=_owner()):
                raise InFlight
    return record


def _refuse_stale(order: Order) -> None:
    """Before anything is claimed. Only :func:`_pass_fence` decides for good: a newer token may still overtake this."""
    if order.fence is None:
        return
    with reading():
        newer = Fence.objects.filter(reference=order.reference, token__gt=order.fence).first()
    if newer:
        raise StaleFence(order.fence, newer.token)


def _pass_fence(order: Order) -> None:
    """Keep the token, or raise StaleFence. Locks the reference until the transaction ends: SQLite locks everything."""
    if order.fence is None:
        return
    locked = Fence.objects.select_for_update()
    fence, _ = locked.get_or_create(reference=order.reference, defaults={"token": order.fence})
    if order.fence < fence.token:
        raise StaleFence(order.fence, fence.token)
    if order.fence > fence.token:
        fence.token = order.fence
        fence.save(update_fields=["token"])


def _debit(order: Order, record: IdempotencyKey | None) -> dict[str, Any]:
    _pass_fence(order)
    connection = connections[BANK]
    if connection.vendor == "postgresql":
        # Numbers then become visible in their order: a reader that pages by number misses none.
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", [_NUMBERING])
    account, _ = Account.objects.get_or_create(name=order.account)
    debit = Debit.objects.create(
        account=account, amount=order.amount, reference=order.reference, source=order.source, idempotency=record
    )
    return debit.as_json()


@contextmanager
def reading() -> Iterator[None]:
    """Turns a database that does not answer into Unavailable."""
    try:
        yield
    except _UNUSABLE as error:
        raise Unavailable(_why(error)) from error


@contextmanager
def _writing() -> Iterator[None]:
    """One transaction. Nothing is claimed about a disk that loses what it confirmed."""
    sqlite = connections[BANK].vendor == "sqlite"
    if sqlite and not _turn.acquire(timeout=BUSY_SECONDS):
        raise Unavailable("database is busy")
    through = False
    try:
        with transaction.atomic(using=BANK):
            yield
            through = True
    except _UNUSABLE as error:
        # SQLite reports a failed COMMIT itself, and it was rolled back; a server may have committed unheard.
        if through and not sqlite:
            raise Unconfirmed(_why(error)) from error
        raise Unavailable(_why(error)) from error
    finally:
        if sqlite:
            _turn.release()


def _why(error: Exception) -> str:
    return str(error).partition("\n")[0].strip()[:200] or type(error).__name__


def _owner() -> str:
    """A token of this process, another one in every fork."""
    global _token
    if _token[0] != os.getpid():
        _token = (os.getpid(), secrets.token_hex(16))
    return _token[1]

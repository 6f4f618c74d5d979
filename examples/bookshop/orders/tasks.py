"""The shop's jobs, one for each pattern, and two that use none."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from celery import Task, shared_task
from celery.exceptions import Ignore, Reject

from orders.models import Payment
from tasks_demo.outbox import Outbox
from tasks_demo.patterns import AcksEarly, AcksLate, ClaimFirst, DedupLock, Inbox


def pay(order_id: Any, cents: int, by: str) -> int:
    """Charge: the effect of the jobs below. Returns the number of the payment."""
    return Payment.objects.create(order_id=str(order_id), cents=cents, by=by).pk


@DedupLock.task(bind=True, name="orders.charge", operation=lambda order_id, **_: f"charge:{order_id}")
def charge(self: DedupLock, order_id: str, cents: int = 100) -> int:
    """Charge an order once, however often the button was clicked."""
    return pay(order_id, cents, self.name)


@Inbox.task(bind=True, name="orders.book", operation=lambda order_id, **_: f"book:{order_id}")
def book(self: Inbox, order_id: str, cents: int = 100) -> int:
    """Book a payment in the shop's own database, once."""
    return pay(order_id, cents, self.name)


@ClaimFirst.task(bind=True, name="orders.mail_receipt", operation=lambda order_id, **_: f"receipt:{order_id}")
def mail_receipt(self: ClaimFirst, order_id: str, cents: int = 100) -> int:
    """Send a receipt at most once; routed to a queue of its own."""
    return pay(order_id, cents, self.name)


@AcksLate.task(bind=True, name="orders.index")
def index(self: AcksLate, order_id: str, cents: int = 100) -> int:
    """Put an order into the search index: may be done twice, must not be lost."""
    return pay(order_id, cents, self.name)


@AcksEarly.task(bind=True, name="orders.count_view")
def count_view(self: AcksEarly, order_id: str, cents: int = 100) -> int:
    """Count a page view: may be lost."""
    return pay(order_id, cents, self.name)


@Outbox.task(bind=True, name="orders.ship")
def ship(self: Outbox, order_id: str, cents: int = 100, work: float = 0.0) -> int:
    """Ship an order whose row was committed together with the job; ``work`` in seconds."""
    time.sleep(work)  # the job's own work, not a wait for something
    return pay(order_id, cents, self.name)


@Outbox.task(bind=True, name="orders.ship_when_packed", max_retries=None)
def ship_when_packed(self: Outbox, order_id: str, seconds: float, cents: int = 100) -> int:
    """Ship an order that is not packed yet: tried again once, after ``seconds``."""
    if not self.request.retries:
        raise self.retry(countdown=seconds)
    return pay(order_id, cents, self.name)


@shared_task(name="orders.plain")
def plain(order_id: str, cents: int = 100) -> int:
    """A task without any pattern."""
    return pay(order_id, cents, "orders.plain")


@shared_task(name="orders.plain_late", acks_late=True, reject_on_worker_lost=True)
def plain_late(order_id: str, cents: int = 100) -> int:
    """A task without any pattern, acknowledged late."""
    return pay(order_id, cents, "orders.plain_late")


@shared_task(name="orders.fail")
def fail(order_id: str) -> None:
    """A task that always fails."""
    raise ValueError(f"order {order_id} cannot be charged")


@DedupLock.task(bind=True, name="orders.charge_slowly", operation=lambda order_id, **_: f"slowly:{order_id}")
def charge_slowly(self: DedupLock, order_id: str, gate: str) -> int:
    """Charge when the file ``gate`` is there. It writes its process number to ``gate``.pid first, so that a test can kill it."""
    return _at_gate(self, order_id, gate)


@AcksEarly.task(bind=True, name="orders.text_slowly")
def text_slowly(self: AcksEarly, order_id: str, gate: str) -> int:
    """As ``charge_slowly``, at most once."""
    return _at_gate(self, order_id, gate)


@AcksLate.task(bind=True, name="orders.index_slowly")
def index_slowly(self: AcksLate, order_id: str, gate: str) -> int:
    """As ``charge_slowly``, at least once."""
    return _at_gate(self, order_id, gate)


@Inbox.task(bind=True, name="orders.book_slowly")
def book_slowly(self: Inbox, order_id: str, gate: str) -> int:
    """As ``charge_slowly``, in the shop's own database."""
    return _at_gate(self, order_id, gate)


def _at_gate(task: Any, order_id: Any, gate: str) -> int:
    with open(f"{gate}.pid", "a") as pids:
        pids.write(f"{os.getpid()}\n")
    while not Path(gate).exists():
        time.sleep(0.01)
    return pay(order_id, 100, task.name)


ENDS = {"cancelled": asyncio.CancelledError, "closed": GeneratorExit}


@shared_task(bind=True, name="orders.awkward", max_retries=3)
def awkward(self: Task[..., Any], order_id: str, how: str) -> int:
    """A task without any pattern that ends in one of the ways that Celery knows."""
    return _awkwardly(self, order_id, how)


@shared_task(bind=True, name="orders.awkward_late", max_retries=3, acks_late=True, reject_on_worker_lost=True)
def awkward_late(self: Task[..., Any], order_id: str, how: str) -> int:
    """As ``awkward``, acknowledged late."""
    return _awkwardly(self, order_id, how)


@AcksLate.task(bind=True, name="orders.index_awkwardly", max_retries=3)
def index_awkwardly(self: AcksLate, order_id: str, how: str) -> int:
    """As ``awkward``, at least once."""
    return _awkwardly(self, order_id, how)


class Stopped(BaseException):
    """What is no Exception, and nothing that Celery or Python know."""


def _awkwardly(task: Any, order_id: Any, how: str) -> int:
    again = task.request.delivery_info.get("redelivered")
    if how in ENDS:
        raise ENDS[how]
    if how == "exit":
        sys.exit(3)
    if how == "terminated" and not again:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
        finally:
            raise ValueError("the connection was closed already")
    if how == "retry" and not task.request.retries:
        raise task.retry(countdown=0)
    if how == "retry later":
        raise task.retry(countdown=600)
    if how == "ignore":
        raise Ignore
    if how == "reject":
        raise Reject("not ours", requeue=False)
    if how == "requeue" and not again:
        raise Reject("not now", requeue=True)
    if how == "replace":
        raise task.replace(plain.si(order_id))
    if how == "hang":
        time.sleep(60)
    if how == "die" or (how == "die once" and not again):
        os.kill(os.getpid(), signal.SIGKILL)
    return pay(order_id, 100, task.name)


ENDS["stopped"] = Stopped
for pattern in (AcksEarly, ClaimFirst, DedupLock, Inbox, Outbox):
    pattern.task(bind=True, name=f"orders.{pattern.pattern}_awkwardly", operation=lambda order_id, **_: str(order_id))(
        _awkwardly
    )


@DedupLock.task(name="orders.ship_to", operation=lambda order_id, **_: f"ship:{order_id}")
def ship_to(order_id: Any, cents: int = 100, *, when: str | None = None) -> int:
    """Ship an order once; ``order_id`` may be of any type that JSON carries."""
    return pay(order_id, cents, "orders.ship_to")


def _counted(order_id: str, log: str, **_: Any) -> str:
    with open(log, "a") as calls:
        calls.write(f"{os.getpid()}\n")
    return f"counted:{order_id}"


@DedupLock.task(name="orders.charge_counted", operation=_counted)
def charge_counted(order_id: str, log: str) -> int:
    """Charge once; its operation writes down the process that computes it."""
    return pay(order_id, 100, "orders.charge_counted")


def _hidden(body: Callable[..., Any]) -> Callable[..., Any]:
    def pass_on(*args: Any, **kwargs: Any) -> Any:
        return body(*args, **kwargs)

    pass_on.__name__ = body.__name__
    return pass_on


@DedupLock.task(name="orders.charge_async", operation=lambda order_id: f"async:{order_id}")
@_hidden
async def charge_async(order_id: str) -> int:
    """A mistake that no declaration shows: the decorator hides that the body is asynchronous."""
    return pay(order_id, 100, "orders.charge_async")


@Inbox.task(name="orders.book_and_notify", operation=lambda order_id, **_: f"notify:{order_id}")
def book_and_notify(order_id: str) -> int:
    """A mistake: publishes from inside the transaction of the inbox."""
    count_view.delay(order_id)
    return pay(order_id, 100, "orders.book_and_notify")

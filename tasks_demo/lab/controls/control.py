"""A control: a task that is wrong on purpose, or one of another library, and the cells in which the lab must see what it does.

``@control(...)`` registers the body as a Celery task without a pattern. The body gets the task and ``charge``, which debits the
customer at the bank, or with ``books="shop"`` books the charge in our own database, and announces the points of an effect.
Nothing here is for production.
"""

from __future__ import annotations

import inspect
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import redis as redis_py
from celery import current_app

from tasks_demo.core.lifecycle import Point, about, reached
from tasks_demo.core.semantics import EFFECTIVELY_ONCE, Promise
from tasks_demo.demo.conf import settings
from tasks_demo.demo.shop.models import Booking
from tasks_demo.demo.tasks import bank
from tasks_demo.leases.redis_client import connect
from tasks_demo.patterns.subjects import subject_of


@dataclass(frozen=True, slots=True)
class Exposure:
    """A cell in which the control is run. ``shows``: "lost" or "duplicated", which must be seen; "": its promise holds there."""

    fault: str
    point: str
    shows: str


@dataclass(frozen=True, slots=True)
class Control:
    """``believed``: what its author thinks that it keeps. ``why``: what is wrong with it, the end of its module's docstring."""

    name: str
    believed: Promise
    why: str
    exposures: tuple[Exposure, ...]
    task: Any
    keeps_results: bool

    @property
    def early(self) -> bool:
        """Whether its messages are acknowledged before the body."""
        return not self.task.acks_late


def control(
    *exposures: tuple[str, str, str],
    believed: Promise = EFFECTIVELY_ONCE,
    books: str = "bank",
    keeps_results: bool = False,
    **options: Any,
) -> Callable[[Callable[[Any, Callable[..., None]], Any]], Control]:
    """Declare the body of a control. ``exposures``: fault, point and what must be seen there; ``options``: of the Celery task."""

    def declare(body: Callable[[Any, Callable[..., None]], Any]) -> Control:
        effect = book if books == "shop" else charge

        def run(self: Any, customer: str, amount: int, work_ms: int = 0, operation: str | None = None) -> Any:
            with about(subject_of(self, (), {}, self.request.id, self.request.hostname or "")):
                return body(self, partial(effect, self, customer, amount, work_ms))

        name = body.__name__
        register: Any = current_app.task(
            bind=True,
            shared=False,  # a task of this app only: whatever else is finalized in this process need not have it
            name=f"tasks_demo.lab.{name}",
            books=books,
            Request="tasks_demo.hooks.request:ObservedRequest",
            **options,
        )
        module = inspect.getmodule(body)
        paragraphs = ((module and module.__doc__) or name).strip().split("\n\n")
        why = " ".join(paragraphs[-1].split())
        return Control(name, believed, why, tuple(Exposure(*one) for one in exposures), register(run), keeps_results)

    return declare


def charge(task: Any, customer: str, amount: int, work_ms: int, key: str | None = None) -> None:
    """Debit the customer at the bank; ``key``: the idempotency key."""
    reached(Point.EFFECT_BEGUN)
    if work_ms:
        time.sleep(work_ms / 1000)  # the job's own work, not a wait for something
    receipt = bank().debit(
        account=customer, amount=amount, reference=task.request.id, idempotency_key=key, source=task.request.id
    )
    reached(Point.EFFECT_DONE, debit=receipt.id, replayed=receipt.replayed)


def book(task: Any, customer: str, amount: int, work_ms: int) -> None:
    """Book the charge in the shop's own database, in a transaction of its own."""
    reached(Point.EFFECT_BEGUN)
    if work_ms:
        time.sleep(work_ms / 1000)  # the job's own work, not a wait for something
    booking = Booking.objects.create(
        operation=task.request.id, task_id=task.request.id, customer=customer, amount=amount
    )
    reached(Point.EFFECT_DONE, booking=booking.pk)


def redis() -> redis_py.Redis:
    """The Redis of this cell."""
    return _client(os.getpid(), settings.REDIS_URL)


def key(task: Any, what: str) -> str:
    """A key of this job."""
    return f"{settings.KEY_PREFIX}{what}:{task.request.id}"


def lease_milliseconds() -> int:
    """How long a lease lasts in this cell."""
    return int(settings.LEASE_SECONDS * 1000)


@cache
def _client(pid: int, url: str) -> redis_py.Redis:
    return connect(url, settings.REDIS_TIMEOUT_SECONDS)

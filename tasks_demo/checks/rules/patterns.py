"""Rules about the settings, tables, keys and locks that the patterns, and locks of other libraries, depend on."""

from __future__ import annotations

import difflib
import gc
import sys
import uuid
from collections.abc import Iterator
from typing import Any

from django.apps import apps

from tasks_demo.checks.queues import schedule_of
from tasks_demo.checks.rules.base import Finding, rule, seconds
from tasks_demo.checks.setup import Setup, retry_delay, tables_of
from tasks_demo.core.conf import settings
from tasks_demo.core.exceptions import InvalidSetting
from tasks_demo.leases.stores import lease_place
from tasks_demo.ledger.books import registered
from tasks_demo.outbox.enqueue import Outbox

#: celery-once's default timeout, seconds (celery_once/tasks.py).
ONCE_TIMEOUT = 3600
#: Methods of ``date`` and ``datetime`` that read the clock.
CLOCKS = frozenset({"now", "utcnow", "today"})


@rule("W006")
def outlives_its_lock(setup: Setup) -> Iterator[Finding]:
    for task in setup.locking_tasks:
        limit, cap = setup.hard_limit(task), settings.LEASE_CAP_SECONDS
        if limit is None or limit > cap:
            yield Finding(
                f"it runs {setup.limit_in_words(task)}, but its lease is not renewed after TASKS_DEMO_LEASE_CAP_SECONDS "
                f"({seconds(cap)}): if it runs for longer, another worker takes over the operation while it is running.",
                f"Write CELERY_TASK_TIME_LIMIT, or time_limit on the task, of at most {cap:.10g}; or raise "
                "TASKS_DEMO_LEASE_CAP_SECONDS to the time limit.",
                task.name,
            )
    for task in setup.tasks:
        yield from _foreign_lock(setup, task)


def _foreign_lock(setup: Setup, task: Any) -> Iterator[Finding]:
    """Judge locks of celery-once and celery-singleton, recognised by their task attributes. Neither library renews its locks."""
    once = getattr(task, "once", None)
    if isinstance(once, dict) and not once.get("unlock_before_run"):
        defaults = (setup.conf.get("ONCE") or {}).get("settings") or {}
        held, source = once.get("timeout") or defaults.get("default_timeout") or ONCE_TIMEOUT, "once"
    elif hasattr(task, "lock_expiry"):
        held, source = task.lock_expiry or setup.conf.get("singleton_lock_expiry"), "lock_expiry"
    else:
        return
    limit = setup.soft_limit(task)
    if held is None:
        yield Finding(
            f"its lock never expires ({source}): after its worker was killed, the job is refused indefinitely.",
            f"Write {source} above the task's time limit, or use DedupLock, whose lease expires.",
            task.name,
        )
    elif limit is None or limit > float(held):
        may = (
            f"it runs without a time limit{setup.unenforced and ' that the pool enforces'}"
            if limit is None
            else f"it runs with a time limit of {seconds(limit)}"
        )
        yield Finding(
            f"{may}, but its lock expires after {seconds(float(held))} ({source}) and is not renewed: after that a copy can run "
            "at the same time.",
            f"Write a soft_time_limit of at most {float(held):.10g} or a longer lock, or use DedupLock, whose lease is "
            "renewed while the body runs.",
            task.name,
        )


@rule("W010")
def renews_too_late(setup: Setup) -> Iterator[Finding]:
    timeout, lease = settings.REDIS_TIMEOUT_SECONDS, settings.LEASE_SECONDS
    for task in setup.locking_tasks if timeout > lease / 3 else ():
        yield Finding(
            f"TASKS_DEMO_REDIS_TIMEOUT_SECONDS is {seconds(timeout)}, more than a third of the lease of "
            f"{seconds(lease)}: a renewal that times out leaves no time for another, and a running job loses its lease.",
            f"Write TASKS_DEMO_LEASE_SECONDS of at least {3 * timeout:.10g}, or a shorter timeout.",
            task.name,
        )


@rule("W011")
def forgets_too_early(setup: Setup) -> Iterator[Finding]:
    kept = settings.RETENTION_SECONDS
    for task in setup.remembering_tasks:
        horizon = max(setup.visibility_timeout or 0.0, retry_delay(task)[0], settings.DEFER_MAX_SECONDS * 1.1)
        if kept <= horizon:
            yield Finding(
                f"TASKS_DEMO_RETENTION_SECONDS is {seconds(kept)}, but a message may be redelivered after "
                f"{seconds(horizon)}: its marker, claim or entry is deleted by then, and the job runs a second time.",
                f"Write TASKS_DEMO_RETENTION_SECONDS well above {horizon:.10g}; the default is 7 days.",
                task.name,
            )


@rule("W012")
def counts_as_dead_too_early(setup: Setup) -> Iterator[Finding]:
    patience = settings.OUTBOX_UNFINISHED_SECONDS
    for task in setup.tasks:
        limit = setup.hard_limit(task)
        if not isinstance(task, Outbox) or (limit is not None and patience > limit):
            continue
        yield Finding(
            f"it runs {setup.limit_in_words(task)}, but a process that cannot renew its report (it is suspended, C code holds "
            "the GIL, or the outbox's database does not answer) counts as dead after TASKS_DEMO_OUTBOX_UNFINISHED_SECONDS "
            f"({seconds(patience)}): a second copy then runs at the same time.",
            f"Write TASKS_DEMO_OUTBOX_UNFINISHED_SECONDS above {limit:.10g}, or a shorter time_limit."
            if limit is not None
            else f"Write a time_limit below {patience:.10g} that the pool enforces.",
            task.name,
        )


@rule("W013")
def has_no_lease_store(setup: Setup) -> Iterator[Finding]:
    for task in setup.locking_tasks:
        try:
            lease_place(1.0)  # does not connect yet
        except InvalidSetting as error:
            yield Finding(
                f"TASKS_DEMO_REDIS_URL does not name a usable Redis, so every job is deferred and none runs: {error}",
                "Write TASKS_DEMO_REDIS_URL = 'redis://host:6379/0', a Redis with persistence and noeviction.",
                task.name,
            )


@rule("W019")
def has_no_tables(setup: Setup) -> Iterator[Finding]:
    for task in setup.tasks if not apps.is_installed("tasks_demo.records") else ():
        needed = tables_of(task)
        if needed:
            names = " and ".join(str(model._meta.verbose_name_plural) for model in needed)
            yield Finding(
                f"the pattern {task.pattern} stores its {names} in tables of tasks_demo.records, which is not installed: every "
                "job is deferred, and none runs.",
                "Write 'tasks_demo.records' into INSTALLED_APPS, and run `python manage.py migrate`.",
                task.name,
            )


@rule("W023")
def scheduled_with_constant_key(setup: Setup) -> Iterator[Finding]:
    kept = seconds(settings.RETENTION_SECONDS)
    for name, field, task in schedule_of(setup.app, setup.remembering_tasks):
        if task is None or task.operation is None:
            continue
        try:
            if not _is_constant(task, field("args") or (), field("kwargs") or {}):
                continue
        except Exception as error:  # noqa: BLE001  (the operation function is the project's and can raise anything)
            yield Finding(
                f"no operation key can be computed for the arguments of beat entry {name!r} ({type(error).__name__}: {error}), "
                "so its jobs never run.",
                "Write args and kwargs that fit the task and its `operation` into the entry.",
                task.name,
            )
            continue
        yield Finding(
            f"beat entry {name!r} sends the same operation key each time, so only the first job runs, and every later one is "
            f"suppressed as its duplicate, for at least TASKS_DEMO_RETENTION_SECONDS ({kept}).",
            "Write a key that contains the period, for example f'report:{day}' with the day as an argument "
            "(docs/reference/patterns/dedup_lock.md: a periodic task); or leave `operation` out, so that each job has its own "
            "key.",
            task.name,
        )


def _is_constant(task: Any, args: Any, kwargs: Any) -> bool:
    """Return whether these arguments always give the same operation key: one without task ID, time or random value."""
    reads_clock = False

    def watch(_: Any, event: str, called: Any) -> None:
        nonlocal reads_clock
        if event == "c_call":
            reads_clock |= called.__name__ in CLOCKS or getattr(called, "__module__", "") == "time"

    before, collecting = sys.getprofile(), gc.isenabled()
    gc.disable()  # its callbacks and finalizers may read the clock, too
    sys.setprofile(watch)
    try:
        keys = {task.operation_key(list(args), dict(kwargs), str(uuid.uuid4())) for _ in range(2)}
    finally:
        sys.setprofile(before)
        if collecting:
            gc.enable()
    return len(keys) == 1 and not reads_clock


@rule("W017")
def names_unregistered_books(setup: Setup) -> Iterator[Finding]:
    known = settings.BOOKS
    for task in setup.tasks:
        books = getattr(task, "books", "")
        if isinstance(books, str) and books and books not in known:
            near = difflib.get_close_matches(books, known, 1)
            yield Finding(
                f"books={books!r}, but TASKS_DEMO_BOOKS registers no books of that name: its effects are not counted, and the "
                "dashboard judges executions instead.",
                f"Write books={near[0]!r}."
                if near
                else f"Register them, TASKS_DEMO_BOOKS = {{{books!r}: 'shop.books.Payments'}}, or leave books out.",
                task.name,
            )
    for name, path in known.items():
        try:
            registered(name)
        except InvalidSetting as error:
            yield Finding(
                f"{error} The effects in these books are not counted, and no task with these books is ever called lost.",
                f"Write the path of a subclass of tasks_demo.ledger.books.Books instead of {path!r}.",
            )

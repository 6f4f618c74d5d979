"""Asks the running servers and workers whether they can keep the promises. ``manage.py doctor`` shows the result.

Does **not** guarantee that the state stays as it is, or that workers on other machines use the same servers and settings. The
doctor only reads, with three exceptions: a key in each Redis that expires after one second, an empty transaction in each SQLite
file, and a broadcast to the workers, which answer through a queue that expires.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from django.apps import apps
from django.conf import settings as django_settings
from django.core.checks import run_checks
from django.db import connections as databases

from tasks_demo.checks import import_tasks
from tasks_demo.checks.setup import Setup
from tasks_demo.core.wording import counted
from tasks_demo.doctor import celery_app, workers
from tasks_demo.doctor.connections import PART, RedisUser, broker, connected, leases, results
from tasks_demo.doctor.database import database
from tasks_demo.doctor.findings import Finding, Question, State, ok, side_by_side, unusable, warn
from tasks_demo.doctor.rabbitmq import rabbitmq
from tasks_demo.doctor.records import PART as RECORDS
from tasks_demo.doctor.records import records
from tasks_demo.doctor.redis_server import examine as examine_redis
from tasks_demo.doctor.redis_server import group, title

__all__ = ["Finding", "State", "examine"]


def examine(named: str = "") -> list[Finding]:
    """Examine every part in parallel and return the findings. Takes at most three times ``DEADLINE``.

    Errors of servers do not raise: they become findings. ``named``: the Celery app, as for ``celery -A``; empty: the project's
    own. Raises EnvironmentNotReady if there is no app of that name.
    """
    app, judged = celery_app.application(named)
    list(import_tasks(app))  # the system checks report import errors
    try:
        setup = Setup.of(app)
    except Exception:  # noqa: BLE001  (a declaration can raise anything; the system checks report it)
        setup = Setup(app, ())
    users: list[RedisUser] = []
    questions: dict[Question, Callable[[], list[Finding]]] = {
        ("settings", "system checks"): partial(_settings, app),
        (PART, "broker"): lambda: broker(app, users),
        (PART, "results"): lambda: results(app, users),
        (PART, "leases"): lambda: leases(app, users),
    }
    for config in apps.get_app_configs():  # a Django app may add its own questions
        questions.update(getattr(config, "doctor", dict)())
    questions[RECORDS, "tables"] = partial(records, setup)
    private = {alias for config in apps.get_app_configs() for alias in getattr(config, "private_databases", ())}
    for alias in sorted(set(django_settings.DATABASES) - private):
        questions[f"database {alias}", "answers"] = partial(database, alias)
    found = side_by_side(questions)
    try:
        order = [what for part, what in questions if part == PART]
        servers = group(sorted(users, key=lambda user: order.index(user.role)))
        works = any((row.part, row.what, row.state) == (PART, "broker", State.OK) for row in found)
        jobs, consumed = _jobs(app, setup, users) if works else ([], frozenset())
        queues = _names(setup) | consumed
        more = side_by_side({(title(its), "answers"): partial(examine_redis, its, queues) for its in servers})
    finally:
        for user in users:
            user.client.connection_pool.disconnect()
    return [judged, *found, *jobs, *more]


def _jobs(app: Any, setup: Setup, users: list[RedisUser]) -> tuple[list[Finding], frozenset[str]]:
    """Examine workers, queues and RabbitMQ; return the findings and the names of the consumed queues."""
    consumed: list[frozenset[str]] = []

    def ask() -> list[Finding]:
        try:
            rows, queues = workers.jobs(app, setup, next((user for user in users if user.role == "broker"), None))
        finally:
            databases.close_all()  # this thread's own, opened to read the ledger
        consumed.append(queues)
        return rows

    def rabbit() -> list[Finding]:
        with connected(app) as connection:
            connection.connect()
            return list(rabbitmq(setup, connection))

    questions: dict[Question, Callable[[], list[Finding]]] = {(workers.PART, "workers"): ask}
    if setup.is_rabbitmq:
        questions["RabbitMQ", "answers"] = rabbit
    return side_by_side(questions), next(iter(consumed), frozenset())


def _names(setup: Setup) -> frozenset[str]:
    """Return the names of the app's queues and exchanges."""
    return frozenset({name for queue in setup.queues.values() for name in (queue.name, queue.exchange.name) if name})


def _settings(app: Any) -> list[Finding]:
    app.set_current()  # the current app is per thread; without this the checks would judge another app
    messages = [message for message in run_checks(tags=["celery"]) if not message.is_silenced()]
    if not messages:
        return [ok("settings", "system checks", "no warning")]
    ids = ", ".join(sorted({str(message.id) for message in messages}))
    errors, fix = sum(message.is_serious() for message in messages), "Run `python manage.py check --tag celery`."
    if errors:
        seen = f"{counted(errors, 'error')}, {counted(len(messages) - errors, 'warning')}: {ids}"
        return [unusable("settings", "system checks", seen, fix)]
    return [warn("settings", "system checks", f"{counted(len(messages), 'warning')}: {ids}", fix)]

"""The doctor: asks the parts that are running whether they can keep the promises. ``manage.py doctor`` shows the answer.

Everything is read, except one key that ends after a second in each Redis and a transaction without content in each SQLite
file: otherwise nobody knows whether writes are taken. Not guaranteed: that what is well now stays so, and that the workers,
which may run elsewhere, see the same servers and the same settings.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

from celery import current_app
from django.conf import settings as django_settings
from django.core.checks import run_checks

from tasks_demo.bank.client import BankClient, BankError
from tasks_demo.conf import settings
from tasks_demo.doctor.connections import PART, RedisUser, broker, leases, results
from tasks_demo.doctor.database import database
from tasks_demo.doctor.redis_server import examine as examine_redis
from tasks_demo.doctor.redis_server import group, title
from tasks_demo.doctor.rows import PATIENCE, Asked, Row, State, address, side_by_side

__all__ = ["Row", "State", "examine"]


def examine() -> list[Row]:
    """Ask everybody, side by side. Never raises for a server's sake; takes two deadlines at most."""
    proxy: Any = current_app
    app = proxy._get_current_object()  # in another thread the proxy may mean another app
    users: list[RedisUser] = []
    asked: dict[Asked, Callable[[], list[Row]]] = {
        ("settings", "system checks"): _settings,
        (PART, "broker"): lambda: broker(app, users),
        (PART, "results"): lambda: results(app, users),
        (PART, "leases"): lambda: leases(app, users),
        (PART, "bank"): _bank,
    }
    # The bank's own database is the bank's business.
    for alias in sorted(set(django_settings.DATABASES) - {"bank"}):
        asked[f"database {alias}", "answers"] = partial(database, alias)
    found = side_by_side(asked)
    order = [what for part, what in asked if part == PART]
    servers = group(sorted(users, key=lambda user: order.index(user.role)))
    queues = _queues(app)
    try:
        return found + side_by_side({(title(its), "answers"): partial(examine_redis, its, queues) for its in servers})
    finally:
        for user in users:
            user.client.connection_pool.disconnect()


def _queues(app: Any) -> frozenset[str]:
    declared = app.amqp.queues.values()
    return frozenset({name for queue in declared for name in (queue.name, queue.exchange.name) if name})


def _settings() -> list[Row]:
    ids = Counter(str(message.id) for message in run_checks(tags=["celery"]) if not message.is_silenced())
    if not ids:
        return [Row("settings", "system checks", State.OK, "no warning")]
    seen = f"{ids.total()} warning(s): {', '.join(sorted(ids))}"
    return [Row("settings", "system checks", State.WARN, seen, "Run `python manage.py check --tag celery`.")]


def _bank() -> list[Row]:
    """For information: only the demo jobs need it."""
    url = settings.BANK_URL
    try:
        BankClient(url, PATIENCE).health()
    except (BankError, ValueError):
        fix = "Only the demo jobs need it: `python manage.py bank`, or `make up` for everything."
        return [Row(PART, "bank", State.WARN, f"no answer from {address(url) or 'BANK_URL'}", fix)]
    return [Row(PART, "bank", State.OK, address(url))]

"""What the lab assumes of the Celery app whose jobs it runs, whatever the project has set."""

from __future__ import annotations

import os
from typing import Any

from django.conf import settings as django_settings
from django.db import connections

from tasks_demo.core.conf import settings
from tasks_demo.ledger import database

#: One queue, because a lane knows one; no prefetching, because a worker that dies may hold only what it runs; no limits, because
#: a job at its failpoint waits. Everything else (acknowledgement, serializers, retries) is what the project has set.
ASSUMED: dict[str, Any] = {
    "task_always_eager": False,
    "task_default_queue": "celery",
    "task_default_exchange": None,
    "task_default_routing_key": None,
    "task_queues": None,
    "task_routes": None,
    "task_create_missing_queues": True,
    "task_time_limit": None,
    "task_soft_time_limit": None,
    "task_default_rate_limit": None,
    "worker_prefetch_multiplier": 1,
    "worker_max_tasks_per_child": None,
    "worker_max_memory_per_child": None,
    "worker_direct": False,
    "worker_state_db": None,
    "broker_read_url": None,
    "broker_write_url": None,
    "broker_transport": None,
    "broker_transport_options": {},
    "broker_use_ssl": None,
    "broker_login_method": None,
    "broker_connection_retry_on_startup": True,
    "redis_backend_use_ssl": None,
}
#: For a ledger in SQLite: its many writers wait for each other. (Nothing that stays in the file, as WAL mode would.)
LEDGER = {"transaction_mode": "IMMEDIATE", "timeout": 30}
#: What counts the effects of the demo's jobs.
BOOKS = {"bank": "tasks_demo.demo.ledger_books.Bank", "shop": "tasks_demo.demo.ledger_books.Bookings"}
#: Where a task itself names a queue or a limit.
OF_A_TASK = ("queue", "exchange", "routing_key", "time_limit", "soft_time_limit", "rate_limit")
#: Celery reads these before its settings (celery/app/utils.py): a worker of the lab would consume the project's own queue.
VARIABLES = ("CELERY_BROKER_URL", "CELERY_BROKER_READ_URL", "CELERY_BROKER_WRITE_URL", "CELERY_RESULT_BACKEND")


def assume(app: Any) -> None:
    """Set all this in this process, after the app's modules were imported and before it has opened anything."""
    django_settings.TASKS_DEMO_BOOKS = {**settings.BOOKS, **BOOKS}
    if connections[database.alias()].vendor == "sqlite":
        options = connections.settings[database.alias()]
        options["OPTIONS"] = {**options["OPTIONS"], **LEDGER}
    connections.close_all()  # modules of the project may have opened some
    for name in VARIABLES:
        os.environ.pop(name, None)
    app.conf.update(ASSUMED)
    app.__dict__.pop("amqp", None)  # has queues and routes of the project if a module asked for them
    app._backend_cache = None
    app._local.__dict__.pop("backend", None)
    for task in app.tasks.values():
        task._exec_options = None
        for name in OF_A_TASK:
            if getattr(task, name, None) is not None:
                setattr(task, name, None)

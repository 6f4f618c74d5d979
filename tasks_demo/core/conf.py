"""Typed settings under one prefix, ``TASKS_DEMO_``: read lazily, validated when read.

``settings.LEASE_SECONDS`` is ``django.conf.settings.TASKS_DEMO_LEASE_SECONDS`` or the default below. All
durations are seconds.
"""

from __future__ import annotations

import json
import math
import sys
from typing import Any

from django.conf import settings as django_settings

from tasks_demo.core.exceptions import InvalidSetting


class Settings:
    """The defaults. Reading a setting with an invalid value raises InvalidSetting."""

    #: How long a lease lasts without renewal. The heartbeat renews it after a third of this.
    LEASE_SECONDS: float = 30.0
    #: The heartbeat stops renewing after this long, so that a hung task cannot hold an operation forever.
    LEASE_CAP_SECONDS: float = 3600.0
    #: How long completed markers, stored results and fences are kept. It must exceed every redelivery horizon: the visibility
    #: timeout, the longest countdown, the oldest message that may still be published again.
    RETENTION_SECONDS: float = 7 * 86400.0
    #: Larger results, in bytes of JSON, are not stored with the completed marker; a duplicate then gets None.
    RESULT_MAX_BYTES: int = 65536
    #: Maximum delay of a deferred delivery.
    DEFER_MAX_SECONDS: float = 60.0
    #: Timeout of one Redis call of the lease store.
    REDIS_TIMEOUT_SECONDS: float = 5.0
    #: The server's value of RabbitMQ's ``consumer_timeout``. The checks compare time limits and delays with it.
    CONSUMER_TIMEOUT_SECONDS: float = 1800.0
    #: Where leases live: ``redis://``, ``rediss://``, ``unix://``, or ``sentinel://host1:26379,host2:26379/0?master=NAME``
    #: (leases/sentinel.py). Required by dedup_lock. ``memory://``: the memory of this process, in tests and eager mode only.
    REDIS_URL: str = ""
    #: Prefix of every Redis key of this package.
    KEY_PREFIX: str = "tasks_demo:"
    #: Late-acknowledging patterns park a message after this many deliveries that started and never ended.
    MAX_ATTEMPTS: int = 5
    #: False: the ledger records nothing.
    LEDGER: bool = True
    #: True: the ledger also writes while Django's test environment is set up. It uses its own connection, which does not see a
    #: test's open transaction and must be closed before the test databases are dropped. False: in tests nothing is written.
    LEDGER_IN_TESTS: bool = False
    #: True: every point is committed when it is reached. False: only those that must precede the body; the others in batches.
    LEDGER_WRITE_THROUGH: bool = False
    #: Maximum time that publishing or the start of a body waits for the ledger. After a failure nothing waits until the ledger
    #: answers again.
    LEDGER_WAIT_SECONDS: float = 1.0
    #: True: no body runs unless its start is recorded. False: this applies only to tasks with ``needs_ledger``.
    LEDGER_REQUIRED: bool = False
    #: Which task IDs are recorded: glob of task names -> True, False, or a share like 0.01. The first match decides; without
    #: one, the task's attribute ``ledger``. All processes must have the same value.
    LEDGER_TASKS: dict[str, Any] = {}
    #: Books, which count effects: name -> the path of a subclass of ``tasks_demo.ledger.books.Books``.
    BOOKS: dict[str, str] = {}
    #: Pause between two readings of the books by ``manage.py relay``.
    BOOKS_SECONDS: float = 5.0
    #: Maximum time to wait for the next entry of a set of books; after that the books are skipped until the next reading.
    BOOKS_TIMEOUT_SECONDS: float = 10.0
    #: ``manage.py prune`` deletes jobs from the ledger that ended longer ago than this; 0 or None: it deletes none.
    LEDGER_RETENTION_SECONDS: float = 30 * 86400.0
    #: Where a worker serves its metrics (``tasks_demo.metrics``), as ``host:port``; empty: nowhere.
    METRICS_ADDRESS: str = ""
    #: What to do when a job is published while a transaction is open: "warn" (log it), "error" or "off".
    PUBLISH_IN_TRANSACTION: str = "warn"
    #: The relay looks for a published message that has not started after this long, and then at growing intervals. It publishes
    #: it again only on evidence of loss; waiting in a long queue is not evidence of loss.
    OUTBOX_UNSTARTED_SECONDS: float = 60.0
    #: Without evidence of loss the message is published again after this long, then after twice as long, and so on.
    OUTBOX_LOST_SECONDS: float = 86400.0
    #: A worker renews its report on a started message after a third of this. A worker on another machine counts as dead after
    #: this long without a report; one on the same machine, when its process has ended.
    OUTBOX_LEASE_SECONDS: float = 60.0
    #: A process on the same machine that still exists but sends no report counts as dead after this long. Also the maximum time
    #: between two publications of a job whose worker dies every time.
    OUTBOX_UNFINISHED_SECONDS: float = 7200.0

    #: Pages and commands hide the values of arguments whose name contains one of these (case-insensitive).
    MASKED: list[str] = [
        "password",
        "passwd",
        "secret",
        "token",
        "authorization",
        "apikey",
        "api_key",
        "card",
        "cvc",
        "iban",
    ]
    #: Tasks that people may publish in the admin, by name or glob; empty: none.
    PUBLISHABLE: list[str] = []

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("_"):
            return super().__getattribute__(name)
        default = getattr(type(self), name)
        value = getattr(django_settings, f"TASKS_DEMO_{name}", default)
        return _checked(name, value, default)


#: Settings for which 0 and None mean "never".
_MAY_BE_NEVER = frozenset({"LEDGER_RETENTION_SECONDS"})
_CHOICES = {"PUBLISH_IN_TRANSACTION": ("warn", "error", "off")}


def _checked(name: str, value: Any, default: Any) -> Any:
    kind = type(default)
    if name in _MAY_BE_NEVER and value in (None, 0, "0", "", "None"):
        return 0.0
    if isinstance(value, str) and kind is not str:
        value = _parsed(name, value, kind)
    if kind is list:
        value = list(value) if isinstance(value, tuple) else value
        if not isinstance(value, list) or not all(isinstance(each, str) and each.strip() for each in value):
            raise InvalidSetting(f"TASKS_DEMO_{name} is {value!r}; it must be a list of names, for example ['a', 'b'].")
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise InvalidSetting(f"TASKS_DEMO_{name} is {value!r}; it must be {kind.__name__}, for example {default!r}.")
    if name in _CHOICES and value not in _CHOICES[name]:
        raise InvalidSetting(f"TASKS_DEMO_{name} is {value!r}; it must be one of {', '.join(_CHOICES[name])}.")
    if kind in (int, float) and not (math.isfinite(value) and value > 0):
        raise InvalidSetting(f"TASKS_DEMO_{name} is {value!r}; it must be a finite number above zero.")
    return value


def _parsed(name: str, text: str, kind: type) -> Any:
    if kind is bool:
        if text.lower() in {"0", "false", "1", "true"}:
            return text.lower() in {"1", "true"}
    elif kind is list and not text.lstrip().startswith("["):
        return [each.strip() for each in text.split(",") if each.strip()]
    else:
        try:
            return json.loads(text) if kind in (dict, list) else kind(text)
        except ValueError:
            pass
    raise InvalidSetting(f"TASKS_DEMO_{name} is {text!r}; it must be {kind.__name__}.")


settings = Settings()


def in_tests() -> bool:
    """Whether Django's test environment is set up in this process: by ``manage.py test``, pytest-django or by hand."""
    utils = sys.modules.get("django.test.utils")  # only test runners import it
    return utils is not None and hasattr(utils._TestState, "saved_data")

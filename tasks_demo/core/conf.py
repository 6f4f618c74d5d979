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
    """The defaults. A missing setting takes them; one that cannot work raises InvalidSetting when read."""

    #: How long a claim lasts without a renewal. Renewed at a third of it.
    LEASE_SECONDS: float = 30.0
    #: The heartbeat stops renewing after this long, so that a hung task cannot hold an operation for ever.
    LEASE_CAP_SECONDS: float = 3600.0
    #: How long a completed marker, its stored result and the fence are kept. It must exceed every redelivery horizon:
    #: the visibility timeout, the longest countdown, the oldest message that anybody may still replay.
    RETENTION_SECONDS: float = 7 * 86400.0
    #: Results larger than this are not stored with the completed marker (a duplicate then gets None). Bytes of JSON.
    RESULT_MAX_BYTES: int = 65536
    #: Upper bound of the delay with which a delivery is requeued.
    DEFER_MAX_SECONDS: float = 60.0
    #: Bound on one Redis call of the lock.
    REDIS_TIMEOUT_SECONDS: float = 5.0
    #: RabbitMQ's ``consumer_timeout`` as the server has it: the checks compare time limits and delays with it.
    CONSUMER_TIMEOUT_SECONDS: float = 1800.0
    #: Where leases live: ``redis://``, ``rediss://``, ``unix://``, or ``sentinel://host1:26379,host2:26379/0?master=NAME``
    #: (leases/sentinel.py). Required by dedup_lock. ``memory://``, in tests and eager mode only: in the memory of this process.
    REDIS_URL: str = ""
    #: Prefix of every Redis key of ours.
    KEY_PREFIX: str = "tasks_demo:"
    #: Deliveries that began and never ended before a late-acknowledging pattern parks the message.
    MAX_ATTEMPTS: int = 5
    #: False: the ledger is not armed at all.
    LEDGER: bool = True
    #: True: it also writes while Django's test environment is set up, on a connection of its own, which sees no transaction of
    #: a test and must be closed before the test databases are dropped. False: in tests nothing is written.
    LEDGER_IN_TESTS: bool = False
    #: True: every point is committed when it is reached. False: only what must precede the body; the rest follows it.
    LEDGER_WRITE_THROUGH: bool = False
    #: So long, seconds, publishing, or a job about to begin, waits for the ledger; after a failure nobody waits until it is back.
    LEDGER_WAIT_SECONDS: float = 1.0
    #: True: no body runs whose start is not recorded. False: only tasks with ``needs_ledger`` ask for that.
    LEDGER_REQUIRED: bool = False
    #: Which task IDs are recorded, by patterns of task names, the first that matches: True, False, or a share like 0.01.
    #: Where none matches, the task's own attribute ``ledger`` counts. Every process must have the same.
    LEDGER_TASKS: dict[str, Any] = {}
    #: Who outside counts effects: name -> the path of a subclass of ``tasks_demo.ledger.books.Books``.
    BOOKS: dict[str, str] = {}
    #: Pause between two readings of the books by ``manage.py relay``. Seconds.
    BOOKS_SECONDS: float = 5.0
    #: Books that give no entry for this long are given up until the next reading. Seconds.
    BOOKS_TIMEOUT_SECONDS: float = 10.0
    #: What ended longer ago leaves the ledger with ``manage.py prune``; 0 or None: nothing does.
    LEDGER_RETENTION_SECONDS: float = 30 * 86400.0
    #: Where a worker serves its metrics (``tasks_demo.metrics``), as ``host:port``; empty: it does not.
    METRICS_ADDRESS: str = ""
    #: What happens when a job is published while a transaction is open: "warn" in the log, "error" or "off".
    PUBLISH_IN_TRANSACTION: str = "warn"
    #: A message of the outbox that was published and not begun is looked at after this long, and then ever less often. It is
    #: published again only on evidence that it was lost; waiting in a long queue is none.
    OUTBOX_UNSTARTED_SECONDS: float = 60.0
    #: Without any evidence it is published again after this long, then after twice as long, and so on.
    OUTBOX_LOST_SECONDS: float = 86400.0
    #: A worker that has begun a message says so again at a third of this. One on another machine that is silent for longer
    #: counts as dead; one on the same machine when its process is gone.
    OUTBOX_LEASE_SECONDS: float = 60.0
    #: A process that exists on the same machine and is silent counts as dead after this long. Also the longest wait between two
    #: publications of a job whose worker dies every time.
    OUTBOX_UNFINISHED_SECONDS: float = 7200.0

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("_"):
            return super().__getattribute__(name)
        default = getattr(type(self), name)
        value = getattr(django_settings, f"TASKS_DEMO_{name}", default)
        return _checked(name, value, default)


#: Where 0 and None say "never".
_MAY_BE_NEVER = frozenset({"LEDGER_RETENTION_SECONDS"})
_CHOICES = {"PUBLISH_IN_TRANSACTION": ("warn", "error", "off")}


def _checked(name: str, value: Any, default: Any) -> Any:
    kind = type(default)
    if name in _MAY_BE_NEVER and value in (None, 0, "0", "", "None"):
        return 0.0
    if isinstance(value, str) and kind is not str:
        value = _parsed(name, value, kind)
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
    else:
        try:
            return json.loads(text) if kind is dict else kind(text)
        except ValueError:
            pass
    raise InvalidSetting(f"TASKS_DEMO_{name} is {text!r}; it must be {kind.__name__}.")


settings = Settings()


def in_tests() -> bool:
    """Whether Django's test environment is set up in this process: by ``manage.py test``, pytest-django or by hand."""
    utils = sys.modules.get("django.test.utils")  # imported by whoever runs tests, and by nobody else
    return utils is not None and hasattr(utils._TestState, "saved_data")

"""Examines workers and queues: which workers answer, the backlog of each queue, and its age."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import redis
from django.db import DatabaseError
from django.utils.timezone import now
from kombu.exceptions import ContentDisallowed, SerializerNotInstalled

from tasks_demo.checks.setup import Setup
from tasks_demo.core.wording import counted, listed, shown
from tasks_demo.doctor.connections import RedisUser, connected
from tasks_demo.doctor.findings import Finding, ok, reason, unusable, warn
from tasks_demo.doctor.rabbitmq import depth

PART = "jobs"
#: Time for workers to answer, seconds. Each broadcast takes this long, because the number of answers is unknown.
ANSWER = 1.0
#: The doctor warns about a backlog that is older than this, seconds.
OLD = 300.0
#: Number of oldest messages per list that are looked up in the ledger and the outbox; maximum number of workers in a row.
LOOKED_UP, NAMED = 20, 5
#: kombu's default priority steps (kombu/transport/redis.py).
PRIORITIES = (0, 3, 6, 9)


@dataclass(frozen=True)
class Waiting:
    """The backlog of one queue: messages, age of the oldest in seconds (None: unknown), consumers by the broker's count."""

    many: int
    age: float | None = None
    consumers: int | None = None
    missing: bool = False


def jobs(app: Any, setup: Setup, broker: RedisUser | None) -> tuple[list[Finding], frozenset[str]]:
    """Return the findings, and the queues that the answering workers consume."""
    if not broker and not setup.is_rabbitmq:
        seen = f"the workers and queues of {setup.transport} cannot be asked"
        return [warn(PART, "workers", seen, "See the broker's own console.")], frozenset()
    asked = _asks(app)
    try:
        pools, consumed = _workers(app)
    except Exception as error:  # noqa: BLE001  (each transport has its own errors)
        seen = f"cannot be asked: {reason(error)}"
        rows = [warn(PART, "workers", seen, _why_not_asked(error))]
        pools, consumed, asked = {}, {}, False
    else:
        rows = [_answering(app, pools, limited=any(setup.declared_limit(task) for task in setup.tasks))]
    used = {str(name) for name in setup.queues}
    routed = _routed(setup)
    for name in sorted(used | set(consumed)):
        found = _on_redis(broker, setup, name) if broker else depth(app, setup.queues.get(name, name))
        if not broker and found.many:
            found = replace(found, age=_age_by_the_ledger(setup, name, found.many))
        by = consumed.get(name, [])
        rows.append(_queue(name, found, by, routed=name in routed, asked=asked, anybody=bool(pools)))
    if broker:
        rows += _unacknowledged(broker, setup)
    return rows, frozenset(consumed)


# -- workers -----------------------------------------------------------------------------------------------------------------


def _asks(app: Any) -> bool:
    return bool(app.conf.worker_enable_remote_control)


def _why_not_asked(error: BaseException) -> str:
    """Return the fix: remote control is encoded by this project's serializer, and reads only content that it accepts."""
    if isinstance(error, ContentDisallowed):  # which is a SerializerNotInstalled, too
        return "Add this content type to CELERY_ACCEPT_CONTENT: the workers answer in it."
    if isinstance(error, SerializerNotInstalled):
        return "Install that serializer's library, or correct the spelling of CELERY_TASK_SERIALIZER."
    return "Repair the broker, and run the doctor again."


def _workers(app: Any) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Return the pool of each worker and the workers of each queue.

    Both are empty if no worker runs, if only busy solo workers do, or if remote control is off.
    """
    if not _asks(app):
        return {}, {}
    with connected(app) as connection:
        inspect = app.control.inspect(timeout=ANSWER, connection=connection)
        alive = sorted(inspect.ping() or {})
        if not alive:
            return {}, {}
        stats = inspect.stats() or {}
        queues = inspect.active_queues() or {}
    consumed: dict[str, list[str]] = {}
    for worker, its in sorted(queues.items()):
        for queue in its or ():
            consumed.setdefault(str(queue["name"]), []).append(worker)
    return {worker: _pool((stats.get(worker) or {}).get("pool") or {}) for worker in alive}, consumed


def _pool(stats: Mapping[str, Any]) -> str:
    name = str(stats.get("implementation", "")).partition(":")[0].removeprefix("celery.concurrency.")
    many = stats.get("max-concurrency")
    return f"{name or 'pool unknown'}{f', {many}' if many else ''}"


def _answering(app: Any, pools: Mapping[str, str], *, limited: bool) -> Finding:
    if not _asks(app):
        seen = "not asked: worker_enable_remote_control is off"
        return warn(PART, "workers", seen, "Check by hand whether workers are running.")
    if not pools:
        seen = f"none answers within {ANSWER:g} s (a worker with the solo pool does not answer while it runs a job)"
        return warn(PART, "workers", seen, "Start one: `celery -A … worker`.")
    named = listed([f"{_plain(worker)} ({pool})" for worker, pool in pools.items()], NAMED)
    seen = f"{len(pools)} answer{'s' if len(pools) == 1 else ''}: {named}"
    boundless = [worker for worker, pool in pools.items() if not pool.startswith(("prefork", "pool unknown"))]
    if boundless and limited:
        seen += f". The time limits of our tasks are not enforced on {listed(list(map(_plain, boundless)), NAMED)}"
        return warn(PART, "workers", seen, "See tasks_demo.W024 in docs/reference/checks.md, and the worker's log.")
    return ok(PART, "workers", seen)


# -- queues ------------------------------------------------------------------------------------------------------------------


def _routed(setup: Setup) -> set[str]:
    """Return the queues that receive jobs of our tasks."""
    return {queue.name for queue in (setup.queue(task) for task in setup.tasks) if queue is not None}


def _queue(name: str, found: Waiting, by: list[str], *, routed: bool, asked: bool, anybody: bool) -> Finding:
    what = f"queue {_plain(name)}"
    who = f"consumed by {listed(list(map(_plain, by)), NAMED)}" if by else "no worker that answers consumes it"
    if not asked:
        who = "its consumers are unknown"
    if not by and found.consumers:
        who = f"{counted(found.consumers, 'consumer')}, according to RabbitMQ"
    nobody = asked and not by and not found.consumers
    fix = f"Start a worker for it: `celery -A … worker -Q {_plain(name)}`."
    if found.many:
        age = f"the oldest for {_duration(found.age)}" if found.age is not None else "for an unknown time"
        seen = f"{found.many} wait{'s' if found.many == 1 else ''}, {age}; {who}"
        if nobody:
            return unusable(PART, what, seen, fix)
        if found.age is not None and found.age > OLD:
            return warn(PART, what, seen, "Start more workers, or find out what these are busy with.")
        return ok(PART, what, seen)
    empty = "not declared yet" if found.missing else "empty"
    if nobody and routed and anybody:
        return warn(PART, what, f"{empty}; {who}, although tasks of this project are routed to it", fix)
    return ok(PART, what, f"{empty}; {who}")


def _on_redis(broker: RedisUser, setup: Setup, name: str) -> Waiting:
    steps = setup.options.get("priority_steps", PRIORITIES)
    many, oldest = 0, []
    for step in steps:
        key = f"{broker.prefix}{name}{f'{broker.separator}{step}' if step else ''}"
        with suppress(redis.ResponseError):  # another application's key of that name
            many += int(broker.client.llen(key))
            oldest += broker.client.lrange(key, -LOOKED_UP, -1)  # kombu pops from the right: the oldest are there
    return Waiting(many, _age(_task_ids(oldest)))


def _task_ids(messages: Iterable[bytes]) -> Iterator[str]:
    for raw in messages:
        with suppress(ValueError, TypeError, AttributeError):
            yield str(json.loads(raw)["headers"]["id"])


def _age(task_ids: Iterable[str]) -> float | None:
    """Return the age of the oldest of these jobs in seconds, from the ledger or the outbox; None: neither has them."""
    from tasks_demo.ledger.models import Tally
    from tasks_demo.records.models import OutboxMessage

    known = list(task_ids)
    moments = []
    for moment, rows in (("first_at", Tally.objects), ("published_at", OutboxMessage.objects)):
        with suppress(DatabaseError):  # the database has its own row
            found = rows.filter(task_id__in=known, **{f"{moment}__isnull": False}).order_by(moment)
            moments += list(found.values_list(moment, flat=True)[:1]) if known else []
    return max((now() - min(moments)).total_seconds(), 0.0) if moments else None


def _age_by_the_ledger(setup: Setup, queue: str, many: int) -> float | None:
    """Estimate the age of the oldest message in seconds, for a broker that does not report it. None: unknown.

    Assumes that the backlog is the ``many`` latest jobs of this queue that the ledger counts as waiting.
    """
    from tasks_demo.ledger.models import Outcome, Tally

    names = [task.name for task in setup.tasks if getattr(setup.queue(task), "name", None) == queue]
    with suppress(DatabaseError):
        waiting = Tally.objects.filter(outcome=Outcome.WAITING, deliveries=0, task__in=names).order_by("-first_at")
        moments = list(waiting.values_list("first_at", flat=True)[many - 1 : many])
        return max((now() - moments[0]).total_seconds(), 0.0) if moments else None
    return None


def _unacknowledged(broker: RedisUser, setup: Setup) -> list[Finding]:
    """Report the messages that workers hold unacknowledged, or held when they were killed."""
    key = broker.prefix + str(setup.options.get("unacked_key", "unacked"))
    index = broker.prefix + str(setup.options.get("unacked_index_key", "unacked_index"))
    try:
        many = int(broker.client.hlen(key))
        first: Any = broker.client.zrange(index, 0, 0, withscores=True)
    except redis.RedisError as error:
        return [warn(PART, "unacknowledged", f"unknown: {reason(error)}", "Allow this user +hlen and +zrange.")]
    if not many:
        return [ok(PART, "unacknowledged", "none")]
    age = max(time.time() - float(first[0][1]), 0.0) if first else 0.0
    seen = f"{many} held by workers, running or killed; the oldest for {_duration(age)}"
    timeout = setup.visibility_timeout
    if timeout is not None and age > timeout:
        fix = "Start a worker, which redelivers them. If one is running, one of its jobs takes longer than the timeout (W001)."
        return [warn(PART, "unacknowledged", f"{seen}, beyond the visibility timeout of {timeout:g} s", fix)]
    return [ok(PART, "unacknowledged", seen)]


def _duration(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _plain(text: str) -> str:
    return shown(text, 80)

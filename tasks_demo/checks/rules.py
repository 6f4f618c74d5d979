"""The rules: each looks at a Setup and yields what is unsafe. docs/checks.md says why, one row per rule.

Adding one: a generator under ``@rule`` with the next number. Numbers are never used again, because projects silence them.
Findings with the same words become one warning that names their tasks, so a cause that is shared is said once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from tasks_demo.checks.setup import Setup, hard_limit, is_quarantined, most_retries, retry_delay, soft_limit
from tasks_demo.conf import settings
from tasks_demo.delivery import Outbox
from tasks_demo.delivery.base import PatternTask
from tasks_demo.exceptions import InvalidSetting
from tasks_demo.locks.redis_store import connect

#: Seconds from which a task counts as long: jobs that wait behind it then wait noticeably.
LONG = 60
#: celery-once's own default (celery_once/tasks.py).
ONCE_TIMEOUT = 3600
#: Serializers that kombu keeps disabled (kombu/serialization.py ``disable_insecure_serializers``), by name and content type.
PICKLE = ("pickle", "application/x-python-serialize")
YAML = ("yaml", "application/x-yaml")


class Finding(NamedTuple):
    """What is unsafe, what to write instead, and the task; without a task it is the app's."""

    said: str
    hint: str
    task: str = ""


Rule = Callable[[Setup], Iterator[Finding]]
RULES: dict[str, Rule] = {}


def rule(number: str) -> Callable[[Rule], Rule]:
    """Register a rule under its number."""

    def register(judge: Rule) -> Rule:
        RULES[number] = judge
        return judge

    return register


def seconds(number: float) -> str:
    """A duration for people: without a trailing ``.0``."""
    return f"{number:.10g} s"


@rule("W001")
def outlives_the_visibility_timeout(setup: Setup) -> Iterator[Finding]:
    timeout = setup.visibility_timeout
    for task in setup.late if timeout is not None else ():
        limit = hard_limit(task)
        if timeout is not None and (limit is None or limit >= timeout):
            had = "without a hard time limit" if limit is None else f"with a hard time limit of {seconds(limit)}"
            yield Finding(
                f"acknowledged late {had}, so a run that lasts as long as the visibility timeout of {seconds(timeout)} "
                "is delivered again and runs twice at the same time.",
                f"Write CELERY_TASK_TIME_LIMIT, or time_limit on the task, below {timeout:.10g}; or raise the "
                f"visibility_timeout in CELERY_BROKER_TRANSPORT_OPTIONS above the time limit.",
                task.name,
            )


@rule("W002")
def waits_beyond_the_visibility_timeout(setup: Setup) -> Iterator[Finding]:
    timeout = setup.visibility_timeout
    if timeout is None:
        return

    def judged(delay: float, source: str, task: Any) -> Iterator[Finding]:
        # A late-acknowledged message is held while it waits and while it runs. A limit that is too long is W001's.
        run = (hard_limit(task) or 0.0) if task is not None and task.acks_late else 0.0
        run = 0.0 if run >= timeout else run
        if delay + run >= timeout:
            then = f" and the run may take {seconds(run)}" if run else ""
            yield Finding(
                f"{source} makes a message wait {seconds(delay)}{then}, and after the visibility timeout of "
                f"{seconds(timeout)} the broker delivers it a second time.",
                "Write a visibility_timeout in CELERY_BROKER_TRANSPORT_OPTIONS above "
                f"{delay + run:.10g} s, or a shorter delay; keep long delays in the database and let beat look there.",
                getattr(task, "name", ""),
            )

    for task in setup.tasks:
        delay, source = retry_delay(task)
        if delay:
            yield from judged(delay, source, task)
        if isinstance(task, PatternTask):
            # put_back adds up to a tenth.
            yield from judged(settings.DEFER_MAX_SECONDS * 1.1, "TASKS_DEMO_DEFER_MAX_SECONDS", task)
    tasks = {task.name: task for task in setup.tasks}
    for name, entry in dict(setup.conf.beat_schedule or {}).items():
        asks = entry.get if isinstance(entry, dict) else lambda key, entry=entry: getattr(entry, key, None)
        delay = float((asks("options") or {}).get("countdown") or 0)
        if delay:
            yield from judged(delay, f"the countdown of beat entry {name!r}", tasks.get(str(asks("task"))))


@rule("W003")
def is_lost_with_its_pool_process(setup: Setup) -> Iterator[Finding]:
    for task in setup.late if setup.has_children else ():
        if not task.reject_on_worker_lost and not task.retry_on_worker_lost:
            yield Finding(
                "acks_late without reject_on_worker_lost: Celery acknowledges the message of a killed pool process, "
                "and the job is lost.",
                "Write reject_on_worker_lost=True on the task, or CELERY_TASK_REJECT_ON_WORKER_LOST = True for all.",
                task.name,
            )


@rule("W004")
def comes_back_for_ever(setup: Setup) -> Iterator[Finding]:
    for task in setup.late if not setup.broker_counts_deliveries else ():
        capped = is_quarantined(task) or (task.retry_on_worker_lost and most_retries(task) is not None)
        if task.reject_on_worker_lost and not capped:
            yield Finding(
                "reject_on_worker_lost without a quarantine: a job that kills its worker is delivered again for ever, "
                "because Celery does not count deliveries.",
                "Declare it with a pattern and max_attempts, for example @AcksLate.task(max_attempts=5); on RabbitMQ "
                "a quorum queue with x-delivery-limit and a dead-letter exchange does the same.",
                task.name,
            )


@rule("W005")
def promises_neither(setup: Setup) -> Iterator[Finding]:
    for task in setup.early:
        if most_retries(task) == 0:
            continue
        if task.retry_on_worker_lost and setup.has_children:
            yield Finding(
                "acknowledged early with retry_on_worker_lost: a killed pool process starts the job a second time, "
                "and a killed worker loses it all the same.",
                "Write retry_on_worker_lost=False if the job must not run twice, or acks_late=True and "
                "reject_on_worker_lost=True if it must not be lost.",
                task.name,
            )
        if getattr(task, "autoretry_for", ()):
            yield Finding(
                "acknowledged early with autoretry_for: an error runs the job again, and a killed worker loses it, so "
                "it is neither at-most-once nor at-least-once.",
                "Leave autoretry_for out if the job must not run twice, or write acks_late=True and "
                "reject_on_worker_lost=True if it must not be lost. If neither matters, silence tasks_demo.W005.",
                task.name,
            )


@rule("W006")
def outlives_its_lock(setup: Setup) -> Iterator[Finding]:
    for task in setup.locked:
        limit, cap = hard_limit(task), settings.LEASE_CAP_SECONDS
        if limit is None or limit > cap:
            may = "without a hard time limit" if limit is None else f"with a hard time limit of {seconds(limit)}"
            yield Finding(
                f"{may}, but its lease is not renewed after TASKS_DEMO_LEASE_CAP_SECONDS ({seconds(cap)}): a longer "
                "run loses the operation to another worker while it works.",
                f"Write CELERY_TASK_TIME_LIMIT, or time_limit on the task, of at most {cap:.10g}; or raise "
                "TASKS_DEMO_LEASE_CAP_SECONDS to the time limit.",
                task.name,
            )
    for task in setup.tasks:
        yield from _foreign_lock(setup, task)


def _foreign_lock(setup: Setup, task: Any) -> Iterator[Finding]:
    """Locks of other libraries, known by the attributes that their users declare; none of them is renewed."""
    once = getattr(task, "once", None)
    if isinstance(once, dict) and not once.get("unlock_before_run"):
        defaults = (setup.conf.get("ONCE") or {}).get("settings") or {}
        held, source = once.get("timeout") or defaults.get("default_timeout") or ONCE_TIMEOUT, "once"
    elif hasattr(task, "lock_expiry"):
        held, source = task.lock_expiry or setup.conf.get("singleton_lock_expiry"), "lock_expiry"
    else:
        return
    limit = soft_limit(task)
    if held is None:
        yield Finding(
            f"a lock that never ends ({source}): when its worker is killed, the job is refused from then on.",
            f"Write {source} above the task's time limit, or use DedupLock, whose lease ends with its worker.",
            task.name,
        )
    elif limit is None or limit > float(held):
        may = "without a time limit" if limit is None else f"with a time limit of {seconds(limit)}"
        yield Finding(
            f"{may}, but its lock ends after {seconds(float(held))} ({source}) and nothing renews it: a copy then runs "
            "beside it.",
            f"Write a soft_time_limit of at most {float(held):.10g} or a longer lock, or use DedupLock, whose lease is "
            "renewed while the body runs.",
            task.name,
        )


@rule("W007")
def deduplicates_nothing(setup: Setup) -> Iterator[Finding]:
    if not setup.conf.worker_deduplicate_successful_tasks:
        return
    backend = str(setup.conf.result_backend or "disabled")
    kept = not backend.startswith(("disabled", "rpc", "cache+memory", "memory"))
    for task in setup.late:
        if not kept:
            why = f"the result backend ({backend.partition(':')[0]}) keeps no result that another worker can read"
        elif task.ignore_result:
            why = "ignore_result is set, so no success is ever stored"
        else:
            continue
        yield Finding(
            f"worker_deduplicate_successful_tasks recognises nothing here, because {why}: every redelivered copy runs.",
            "Write a CELERY_RESULT_BACKEND that lasts (Redis, a database) and ignore_result=False; or use DedupLock, "
            "which needs no results.",
            task.name,
        )


@rule("W008")
def waits_behind_a_long_one(setup: Setup) -> Iterator[Finding]:
    prefetch = setup.conf.worker_prefetch_multiplier
    alone = setup.conf.worker_disable_prefetch and setup.transport in {"redis", "rediss", "sentinel"}
    if prefetch == 1 or alone:
        return
    many = f"fetches {prefetch} messages per pool process" if prefetch else "fetches every message there is"
    for task in setup.late:
        limit = soft_limit(task)
        if limit is None or limit > LONG:
            yield Finding(
                f"acknowledged late and long (no time limit, or one above {LONG} s) while a worker {many}: jobs wait "
                "behind it, out of reach of idle workers, and come back late when the worker dies.",
                "Write CELERY_WORKER_PREFETCH_MULTIPLIER = 1.",
                task.name,
            )


@rule("W009")
def reads_insecure_content(setup: Setup) -> Iterator[Finding]:
    said = {
        PICKLE: "takes pickle: whoever can write there runs code of their own in your processes.",
        YAML: "takes yaml, which kombu keeps disabled as insecure: whoever can write there reaches its parser.",
    }
    hint = "Write ['json'], and 'json' as CELERY_TASK_SERIALIZER and CELERY_RESULT_SERIALIZER."
    for option in ("accept_content", "result_accept_content"):
        accepted = {str(kind).lower() for kind in setup.conf.get(option) or ()}
        for kinds, what in said.items():
            if accepted & set(kinds):
                yield Finding(f"CELERY_{option.upper()} {what}", hint)
    pickled = "is pickle: its readers must take pickle, and then run the code of whoever can write to the broker."
    for option in ("task_serializer", "result_serializer"):
        if setup.conf.get(option) in PICKLE:
            yield Finding(f"CELERY_{option.upper()} {pickled}", hint)
    for task in setup.tasks:
        if task.serializer in PICKLE and task.serializer != setup.conf.task_serializer:
            yield Finding(f"the serializer {pickled}", "Write serializer='json', or leave it out.", task.name)


@rule("W010")
def renews_too_late(setup: Setup) -> Iterator[Finding]:
    timeout, lease = settings.REDIS_TIMEOUT_SECONDS, settings.LEASE_SECONDS
    for task in setup.locked if timeout > lease / 3 else ():
        yield Finding(
            f"TASKS_DEMO_REDIS_TIMEOUT_SECONDS is {seconds(timeout)}, more than a third of the lease of "
            f"{seconds(lease)}: one renewal that times out leaves no time for another, and a running job loses its lease.",
            f"Write TASKS_DEMO_LEASE_SECONDS of at least {3 * timeout:.10g}, or a shorter timeout.",
            task.name,
        )


@rule("W011")
def forgets_too_early(setup: Setup) -> Iterator[Finding]:
    kept = settings.RETENTION_SECONDS
    for task in setup.remembering:
        horizon = max(setup.visibility_timeout or 0.0, retry_delay(task)[0], settings.DEFER_MAX_SECONDS * 1.1)
        if kept <= horizon:
            yield Finding(
                f"TASKS_DEMO_RETENTION_SECONDS is {seconds(kept)}, but a message may come again after "
                f"{seconds(horizon)}: its marker, claim or entry is gone by then, and the job runs a second time.",
                f"Write TASKS_DEMO_RETENTION_SECONDS well above {horizon:.10g}; the default is 7 days.",
                task.name,
            )


@rule("W012")
def gives_up_too_early(setup: Setup) -> Iterator[Finding]:
    patience = settings.OUTBOX_UNFINISHED_SECONDS
    for task in setup.tasks:
        limit = hard_limit(task)
        longest = (limit or 0.0) + (setup.visibility_timeout or 0.0)
        if isinstance(task, Outbox) and patience <= longest:
            yield Finding(
                f"TASKS_DEMO_OUTBOX_UNFINISHED_SECONDS is {seconds(patience)}, but a run and a redelivery may take "
                f"{seconds(longest)}: the reconciler publishes again what is still running.",
                f"Write TASKS_DEMO_OUTBOX_UNFINISHED_SECONDS above {longest:.10g}.",
                task.name,
            )


@rule("W013")
def cannot_lock(setup: Setup) -> Iterator[Finding]:
    for task in setup.locked:
        try:
            connect(settings.REDIS_URL, 1.0)  # connects nothing yet
        except InvalidSetting as error:
            yield Finding(
                f"TASKS_DEMO_REDIS_URL names no Redis that can be used, so every job is put back and none runs: {error}",
                "Write TASKS_DEMO_REDIS_URL = 'redis://host:6379/0', a Redis with persistence and noeviction.",
                task.name,
            )

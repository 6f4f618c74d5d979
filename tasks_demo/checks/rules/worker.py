"""Rules about acknowledgement, prefetching, time limits and crashes of workers, and about accepted content types."""

from __future__ import annotations

from collections.abc import Iterator

from tasks_demo.checks.rules.base import Finding, rule
from tasks_demo.checks.setup import STOCK_REDIS, Setup, is_quarantined, most_retries

#: A task whose limit is above this, in seconds, counts as long: jobs that are prefetched behind it wait noticeably.
LONG = 60
#: Serializers that kombu disables by default, by name and content type (kombu/serialization.py
#: ``disable_insecure_serializers``).
PICKLE = ("pickle", "application/x-python-serialize")
YAML = ("yaml", "application/x-yaml")


@rule("W003")
def is_lost_with_its_pool_process(setup: Setup) -> Iterator[Finding]:
    for task in setup.late_tasks if setup.has_children else ():
        if not task.reject_on_worker_lost and not getattr(task, "retry_on_worker_lost", False):
            yield Finding(
                "acks_late without reject_on_worker_lost: Celery acknowledges the message of a killed pool process, "
                "and the job is lost.",
                "Write reject_on_worker_lost=True on the task, or CELERY_TASK_REJECT_ON_WORKER_LOST = True for all.",
                task.name,
            )


@rule("W004")
def redelivered_indefinitely(setup: Setup) -> Iterator[Finding]:
    for task in setup.late_tasks if not setup.broker_counts_deliveries else ():
        capped = is_quarantined(task) or (
            getattr(task, "retry_on_worker_lost", False) and most_retries(task) is not None
        )
        if task.reject_on_worker_lost and not capped:
            yield Finding(
                "reject_on_worker_lost without a quarantine: a job that kills its worker is redelivered indefinitely, because "
                "Celery does not count deliveries.",
                "Declare the task with a pattern and max_attempts, for example @AcksLate.task(max_attempts=5). On RabbitMQ, a "
                "quorum queue with x-delivery-limit and a dead-letter exchange is an alternative.",
                task.name,
            )


@rule("W005")
def retried_although_acknowledged_early(setup: Setup) -> Iterator[Finding]:
    for task in setup.early_tasks:
        if most_retries(task) == 0:
            continue
        if getattr(task, "retry_on_worker_lost", False) and setup.has_children:
            yield Finding(
                "acknowledged early with retry_on_worker_lost: if a pool process is killed the job starts a second time, and if "
                "the whole worker is killed the job is lost.",
                "Write retry_on_worker_lost=False if the job must not run twice, or acks_late=True and "
                "reject_on_worker_lost=True if it must not be lost.",
                task.name,
            )
        if getattr(task, "autoretry_for", ()):
            yield Finding(
                "acknowledged early with autoretry_for: after an error the job runs again, and if its worker is killed the job "
                "is lost, so it is neither at-most-once nor at-least-once.",
                "Leave autoretry_for out if the job must not run twice, or write acks_late=True and "
                "reject_on_worker_lost=True if it must not be lost. If neither matters, silence tasks_demo.W005.",
                task.name,
            )


@rule("W007")
def deduplicates_nothing(setup: Setup) -> Iterator[Finding]:
    if not setup.conf.worker_deduplicate_successful_tasks:
        return
    backend = str(setup.conf.result_backend or "disabled")
    kept = not backend.startswith(("disabled", "rpc", "cache+memory", "memory"))
    for task in setup.late_tasks:
        if not kept:
            why = f"the result backend ({backend.partition(':')[0]}) stores no results that another worker can read"
        elif task.ignore_result:
            why = "ignore_result is set, so no success is ever stored"
        else:
            continue
        yield Finding(
            f"worker_deduplicate_successful_tasks has no effect, because {why}: every redelivered copy runs.",
            "Write a persistent CELERY_RESULT_BACKEND (Redis, a database) and ignore_result=False; or use DedupLock, which needs "
            "no results.",
            task.name,
        )


@rule("W008")
def prefetches_behind_long_task(setup: Setup) -> Iterator[Finding]:
    prefetch = setup.prefetch
    # The reliable transport claims up to the prefetch limit at once, whatever this setting says.
    alone = setup.conf.get("worker_disable_prefetch") and setup.transport in STOCK_REDIS
    if prefetch == 1 or alone:
        return
    without = "no time limit that the pool enforces" if setup.unenforced else "no time limit"
    many = f"prefetches {prefetch} messages per pool process" if prefetch else "prefetches without limit"
    for task in setup.late_tasks:
        limit = setup.soft_limit(task)
        if limit is None or limit > LONG:
            yield Finding(
                f"acknowledged late and long ({without}, or one above {LONG} s) while a worker {many}: other jobs wait behind "
                "it although workers are idle, and are redelivered late if the worker dies.",
                "Write CELERY_WORKER_PREFETCH_MULTIPLIER = 1.",
                task.name,
            )


@rule("W009")
def accepts_insecure_content(setup: Setup) -> Iterator[Finding]:
    dangers = {
        PICKLE: "allows pickle: anyone who can write there can run code in your processes.",
        YAML: "allows yaml, which kombu disables as insecure: anyone who can write there can attack its parser.",
    }
    hint = "Write ['json'], and 'json' as CELERY_TASK_SERIALIZER and CELERY_RESULT_SERIALIZER."
    for option in ("accept_content", "result_accept_content"):
        accepted = {str(kind).lower() for kind in setup.conf.get(option) or ()}
        for kinds, what in dangers.items():
            if accepted & set(kinds):
                yield Finding(f"CELERY_{option.upper()} {what}", hint)
    pickled = "is pickle: readers must allow pickle, and then anyone who can write to the broker can run code in them."
    for option in ("task_serializer", "result_serializer"):
        if setup.conf.get(option) in PICKLE:
            yield Finding(f"CELERY_{option.upper()} {pickled}", hint)
    for task in setup.tasks:
        if task.serializer in PICKLE and task.serializer != setup.conf.task_serializer:
            yield Finding(f"the serializer {pickled}", "Write serializer='json', or leave it out.", task.name)


@rule("W024")
def limit_not_enforced(setup: Setup) -> Iterator[Finding]:
    for task in setup.tasks if setup.unenforced else ():
        given = {"time_limit": setup.declared_limit(task), "soft_time_limit": task.soft_time_limit}
        limits = [f"{name} of {float(limit):.10g} s" for name, limit in given.items() if limit]
        if limits:
            yield Finding(
                f"it has a {' and a '.join(limits)}{setup.unenforced}: a body that hangs keeps its slot in the pool, and its "
                "message or lease, indefinitely. These checks treat it as having no limit.",
                "Run the worker with the prefork pool; or leave the limit out and write timeouts into the body (for requests "
                "and queries).",
                task.name,
            )

"""Rules about acknowledgement, prefetching, time limits and crashes of workers, and about the content that they accept."""

from __future__ import annotations

from collections.abc import Iterator

from tasks_demo.checks.rules.base import Finding, rule
from tasks_demo.checks.setup import Setup, is_quarantined, most_retries

#: Seconds above which a task counts as long, because jobs prefetched behind it wait noticeably.
LONG = 60
#: Serializers that kombu disables by default, by name and content type (kombu/serialization.py
#: ``disable_insecure_serializers``).
PICKLE = ("pickle", "application/x-python-serialize")
YAML = ("yaml", "application/x-yaml")


@rule("W003")
def is_lost_with_its_pool_process(setup: Setup) -> Iterator[Finding]:
    for task in setup.late if setup.has_children else ():
        if not task.reject_on_worker_lost and not getattr(task, "retry_on_worker_lost", False):
            yield Finding(
                "acks_late without reject_on_worker_lost: Celery acknowledges the message of a killed pool process, "
                "and the job is lost.",
                "Write reject_on_worker_lost=True on the task, or CELERY_TASK_REJECT_ON_WORKER_LOST = True for all.",
                task.name,
            )


@rule("W004")
def comes_back_for_ever(setup: Setup) -> Iterator[Finding]:
    for task in setup.late if not setup.broker_counts_deliveries else ():
        capped = is_quarantined(task) or (
            getattr(task, "retry_on_worker_lost", False) and most_retries(task) is not None
        )
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
        if getattr(task, "retry_on_worker_lost", False) and setup.has_children:
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
    prefetch = setup.prefetch
    alone = setup.conf.get("worker_disable_prefetch") and setup.transport in {"redis", "rediss", "sentinel"}
    if prefetch == 1 or alone:
        return
    without = "no time limit that the pool enforces" if setup.unenforced else "no time limit"
    many = f"fetches {prefetch} messages per pool process" if prefetch else "fetches every message there is"
    for task in setup.late:
        limit = setup.soft_limit(task)
        if limit is None or limit > LONG:
            yield Finding(
                f"acknowledged late and long ({without}, or one above {LONG} s) while a worker {many}: jobs wait "
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


@rule("W024")
def is_never_ended(setup: Setup) -> Iterator[Finding]:
    for task in setup.tasks if setup.unenforced else ():
        given = {"time_limit": setup.declared_limit(task), "soft_time_limit": task.soft_time_limit}
        limits = [f"{name} of {float(limit):.10g} s" for name, limit in given.items() if limit]
        if limits:
            yield Finding(
                f"it has a {' and a '.join(limits)}{setup.unenforced}: a body that hangs holds its place, and its message or "
                "lease, for as long as it likes. These checks count the limit as none.",
                "Run the worker with the prefork pool; or write timeouts into the body (of its requests, its queries) and "
                "leave the limit out.",
                task.name,
            )

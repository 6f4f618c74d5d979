"""Rules about how the broker treats unacknowledged messages and confirms published ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tasks_demo.checks.queues import schedule_of
from tasks_demo.checks.rules.base import Finding, rule, seconds
from tasks_demo.checks.setup import Setup, delivery_limit, is_quorum, retry_delay
from tasks_demo.core.conf import settings
from tasks_demo.core.wording import counted
from tasks_demo.patterns.base import PatternTask

#: Default x-delivery-limit of a quorum queue in RabbitMQ 4 and newer.
DELIVERIES = 20
#: Part of the hints of W001 and W020: what a hard time limit does to a late-acknowledged job.
KILLED_BY_ITS_LIMIT = (
    "A job that is killed by its hard time limit is not run again, unless its task is declared with acks_on_timeout=False "
    "(docs/reference/patterns/acks_late.md): also write a soft_time_limit well below the hard one, so that the body can end or "
    "retry in time."
)


@rule("W001")
def outlives_the_visibility_timeout(setup: Setup) -> Iterator[Finding]:
    bound = setup.visibility
    if bound is None:
        return
    for task in setup.late_tasks:
        limit = setup.hard_limit(task)
        if limit is None or limit >= bound.seconds:
            enforced = "" if setup.enforces_limits else ", and a pool that enforces it (prefork)"
            yield Finding(
                f"acknowledged late {setup.limit_in_words(task)}, so a job that runs for longer than the visibility timeout of "
                f"{seconds(bound.seconds)} is delivered again and runs twice at the same time.",
                f"Write a {bound.option} in CELERY_BROKER_TRANSPORT_OPTIONS above the longest run time, and a time_limit "
                f"(CELERY_TASK_TIME_LIMIT for all tasks) between the two{enforced}. {KILLED_BY_ITS_LIMIT}",
                task.name,
            )


@rule("W002")
def waits_beyond_the_visibility_timeout(setup: Setup) -> Iterator[Finding]:
    bound = setup.visibility
    if bound is None:
        return
    for delay, source, task in _delays(setup):
        run = _run_time(setup, task, bound.seconds)
        if delay + run >= bound.seconds:
            then = f", and the job may run for {seconds(run)}" if run else ""
            yield Finding(
                f"{source} makes a message wait {seconds(delay)}{then}, but after the visibility timeout of "
                f"{seconds(bound.seconds)} the broker delivers it a second time.",
                f"Write a {bound.option} in CELERY_BROKER_TRANSPORT_OPTIONS above {delay + run:.10g} s, or a shorter delay. For "
                "long delays, store the due time in the database and let a beat task publish due jobs.",
                getattr(task, "name", ""),
            )


@rule("W020")
def outlives_the_consumer_timeout(setup: Setup) -> Iterator[Finding]:
    if not setup.is_rabbitmq:
        return
    then = "RabbitMQ closes the worker's channel, the worker stops, and everything that it held is delivered again."
    where = (
        "if the server's value is different (rabbitmqctl environment), write it as TASKS_DEMO_CONSUMER_TIMEOUT_SECONDS or as "
        "x-consumer-timeout on the queue"
    )
    for task in setup.late_tasks:
        bound, limit = setup.consumer_timeout(task), setup.hard_limit(task)
        if bound is not None and (limit is None or limit >= bound):
            yield Finding(
                f"acknowledged late {setup.limit_in_words(task)}, but a message may stay unacknowledged for at most "
                f"{seconds(bound)} (consumer_timeout). A job that runs for longer runs twice: {then}",
                f"Write a time_limit below {bound:.10g} s{'' if setup.enforces_limits else ', with the prefork pool'}, "
                f"or raise consumer_timeout in rabbitmq.conf; {where}. {KILLED_BY_ITS_LIMIT}",
                task.name,
            )
    for delay, source, task in () if setup.delays_natively else _delays(setup):
        bound = setup.consumer_timeout(task) or settings.CONSUMER_TIMEOUT_SECONDS
        run = _run_time(setup, task, bound)
        if delay + run >= bound:
            and_runs = f", and the job may run for {seconds(run)}" if run else ""
            yield Finding(
                f"{source} makes a message wait {seconds(delay)} unacknowledged in a worker{and_runs}, but a message may stay "
                f"unacknowledged for at most {seconds(bound)} (consumer_timeout). After that {then}",
                "Write a shorter delay; store the due time in the database and let a beat task publish due jobs; use quorum "
                f"queues, with which the delay is spent in RabbitMQ; or raise consumer_timeout in rabbitmq.conf. Also, {where}.",
                getattr(task, "name", ""),
            )


@rule("W021")
def quorum_queue_drops_messages(setup: Setup) -> Iterator[Finding]:
    for queue in setup.queues.values() if setup.is_rabbitmq and setup.tasks else ():
        arguments = queue.queue_arguments or {}
        unlimited = int(arguments.get("x-delivery-limit", 0)) < 0
        if is_quorum(queue) and not unlimited and not arguments.get("x-dead-letter-exchange"):
            limit = delivery_limit(queue)
            after = (
                f"{DELIVERIES} deliveries (RabbitMQ 4; older versions have no limit)"
                if limit is None
                else counted(int(limit), "delivery", "deliveries")
            )
            yield Finding(
                f"The quorum queue {queue.name!r} has no dead-letter exchange: a message that is delivered again and again is "
                f"dropped after {after}, and nothing is logged.",
                "Write x-dead-letter-exchange in its queue_arguments and bind a queue to that exchange; or write "
                "x-delivery-limit: -1, and max_attempts on its tasks. If a server policy sets this, silence tasks_demo.W021.",
            )


@rule("W022")
def publishes_unconfirmed(setup: Setup) -> Iterator[Finding]:
    if setup.is_rabbitmq and setup.tasks and not setup.options.get("confirm_publish"):
        yield Finding(
            "confirm_publish is not set: apply_async returns before RabbitMQ has the job, and a job that is lost on the way "
            "raises no error.",
            "Write CELERY_BROKER_TRANSPORT_OPTIONS = {'confirm_publish': True}.",
        )


def _run_time(setup: Setup, task: Any, bound: float) -> float:
    """Return for how many seconds a message may stay unacknowledged after its delay: one that is acknowledged late, while its
    job runs. 0 if that limit alone reaches the bound, which W001 and W020 report.
    """
    run = (setup.hard_limit(task) or 0.0) if task is not None and task.acks_late else 0.0
    return 0.0 if run >= bound else run


def _delays(setup: Setup) -> Iterator[tuple[float, str, Any]]:
    """Yield every declared delay of a message: seconds, where it is declared, and the task (None: unknown to this app)."""
    for task in setup.tasks:
        delay, source = retry_delay(task)
        if delay:
            yield delay, source, task
        if isinstance(task, PatternTask):
            # defer adds up to 10 % jitter.
            yield settings.DEFER_MAX_SECONDS * 1.1, "TASKS_DEMO_DEFER_MAX_SECONDS", task
    for name, field, task in schedule_of(setup.app, setup.tasks):
        delay = float((field("options") or {}).get("countdown") or 0)
        if delay:
            yield delay, f"the countdown of beat entry {name!r}", task

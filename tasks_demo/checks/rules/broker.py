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
#: What a hard time limit does to a late-acknowledged job; part of the hints of W001 and W020.
KILLED_BY_ITS_LIMIT = (
    "A job that its hard limit kills does not run again by itself, unless its pattern is declared with "
    "acks_on_timeout=False (docs/reference/patterns/acks_late.md): give it a soft_time_limit well "
    "below, so that the body ends in time or asks for a retry."
)


@rule("W001")
def outlives_the_visibility_timeout(setup: Setup) -> Iterator[Finding]:
    bound = setup.visibility
    if bound is None:
        return
    for task in setup.late:
        limit = setup.hard_limit(task)
        if limit is None or limit >= bound.seconds:
            enforced = "" if setup.enforces_limits else ", and a pool that enforces it (prefork)"
            yield Finding(
                f"acknowledged late {setup.said_limit(task)}, so a run that lasts as long as the visibility timeout of "
                f"{seconds(bound.seconds)} is delivered again and runs twice at the same time.",
                f"Write a {bound.option} in CELERY_BROKER_TRANSPORT_OPTIONS above the longest run, and a time_limit "
                f"(CELERY_TASK_TIME_LIMIT for all) between the two{enforced}. {KILLED_BY_ITS_LIMIT}",
                task.name,
            )


@rule("W002")
def waits_beyond_the_visibility_timeout(setup: Setup) -> Iterator[Finding]:
    bound = setup.visibility
    if bound is None:
        return
    for delay, source, task in _delays(setup):
        # A late-acknowledged message is held while it waits and while it runs. W001 reports a limit that is too long.
        run = (setup.hard_limit(task) or 0.0) if task is not None and task.acks_late else 0.0
        run = 0.0 if run >= bound.seconds else run
        if delay + run >= bound.seconds:
            then = f" and the run may take {seconds(run)}" if run else ""
            yield Finding(
                f"{source} makes a message wait {seconds(delay)}{then}, and after the visibility timeout of "
                f"{seconds(bound.seconds)} the broker delivers it a second time.",
                f"Write a {bound.option} in CELERY_BROKER_TRANSPORT_OPTIONS above "
                f"{delay + run:.10g} s, or a shorter delay; keep long delays in the database and let beat look there.",
                getattr(task, "name", ""),
            )


@rule("W020")
def outlives_the_consumer_timeout(setup: Setup) -> Iterator[Finding]:
    if not setup.is_rabbitmq:
        return
    then = "RabbitMQ closes the worker's channel, the worker stops, and all that it held comes again."
    where = (
        "write the server's own value as TASKS_DEMO_CONSUMER_TIMEOUT_SECONDS if it is another (rabbitmqctl environment), "
        "or as x-consumer-timeout on the queue"
    )
    for task in setup.late:
        bound, limit = setup.consumer_timeout(task), setup.hard_limit(task)
        if bound is not None and (limit is None or limit >= bound):
            yield Finding(
                f"acknowledged late {setup.said_limit(task)}, but a message may stay unacknowledged for {seconds(bound)} "
                f"(consumer_timeout): a longer run ends in a second one, because {then}",
                f"Write a time_limit below {bound:.10g} s{'' if setup.enforces_limits else ', with the prefork pool'}, "
                f"raise consumer_timeout in rabbitmq.conf, or {where}. {KILLED_BY_ITS_LIMIT}",
                task.name,
            )
    for delay, source, task in () if setup.delays_natively else _delays(setup):
        bound = setup.consumer_timeout(task) or settings.CONSUMER_TIMEOUT_SECONDS
        run = (setup.hard_limit(task) or 0.0) if task is not None and task.acks_late else 0.0
        run = 0.0 if run >= bound else run
        if delay + run >= bound:
            and_runs = f" and the run may take {seconds(run)}" if run else ""
            yield Finding(
                f"{source} makes a message wait {seconds(delay)} unacknowledged in a worker{and_runs}, but it may do so for "
                f"{seconds(bound)} (consumer_timeout): {then}",
                "Write a shorter delay, or keep it in the database and let beat look there; with quorum queues Celery lets "
                f"RabbitMQ itself do the waiting. Or raise consumer_timeout in rabbitmq.conf, and {where}.",
                getattr(task, "name", ""),
            )


@rule("W021")
def drops_what_came_too_often(setup: Setup) -> Iterator[Finding]:
    for queue in setup.queues.values() if setup.is_rabbitmq and setup.tasks else ():
        arguments = queue.queue_arguments or {}
        unlimited = int(arguments.get("x-delivery-limit", 0)) < 0
        if is_quorum(queue) and not unlimited and not arguments.get("x-dead-letter-exchange"):
            limit = delivery_limit(queue)
            after = (
                f"{DELIVERIES} deliveries (RabbitMQ 4; none before)"
                if limit is None
                else counted(int(limit), "delivery", "deliveries")
            )
            yield Finding(
                f"The quorum queue {queue.name!r} has no dead-letter exchange: a message that was delivered and came back "
                f"is dropped after {after}, and nothing is logged.",
                "Write x-dead-letter-exchange in its queue_arguments, and a queue bound to it; or x-delivery-limit: -1 and "
                "max_attempts on its tasks. If a policy on the server does it, silence tasks_demo.W021.",
            )


@rule("W022")
def publishes_unconfirmed(setup: Setup) -> Iterator[Finding]:
    if setup.is_rabbitmq and setup.tasks and not setup.options.get("confirm_publish"):
        yield Finding(
            "confirm_publish is not set: apply_async returns before RabbitMQ has the job, and one that is lost on the way "
            "is lost without an error.",
            "Write CELERY_BROKER_TRANSPORT_OPTIONS = {'confirm_publish': True}.",
        )


def _delays(setup: Setup) -> Iterator[tuple[float, str, Any]]:
    """Yield every declared delay of a message: seconds, where it is declared, and the task; None: the app does not have it."""
    for task in setup.tasks:
        delay, source = retry_delay(task)
        if delay:
            yield delay, source, task
        if isinstance(task, PatternTask):
            # defer adds jitter of up to a tenth.
            yield settings.DEFER_MAX_SECONDS * 1.1, "TASKS_DEMO_DEFER_MAX_SECONDS", task
    tasks = {task.name: task for task in setup.tasks}
    for name, field in schedule_of(setup.app):
        delay = float((field("options") or {}).get("countdown") or 0)
        if delay:
            yield delay, f"the countdown of beat entry {name!r}", tasks.get(str(field("task")))

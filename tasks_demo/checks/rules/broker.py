"""What the broker does with a message that is not acknowledged."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tasks_demo.checks.rules.base import Finding, rule, seconds
from tasks_demo.checks.setup import Setup, hard_limit, retry_delay
from tasks_demo.conf import settings
from tasks_demo.delivery.base import PatternTask


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

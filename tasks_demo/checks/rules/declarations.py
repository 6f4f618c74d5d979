"""Rules about tasks changed after their declaration, app task classes that a pattern bypasses, and refused beat options."""

from __future__ import annotations

from collections.abc import Iterator

from celery import Task
from celery.contrib.django.task import DjangoTask

from tasks_demo.checks.queues import schedule_of
from tasks_demo.checks.rules.base import Finding, rule
from tasks_demo.checks.setup import Setup
from tasks_demo.core.exceptions import ContradictoryDeclaration
from tasks_demo.patterns.base import PatternTask


@rule("W014")
def is_not_what_was_declared(setup: Setup) -> Iterator[Finding]:
    for task in setup.tasks:
        if not isinstance(task, PatternTask):
            continue
        try:
            type(task).check_final(settled=True)
            task.check_requires({name: getattr(task, name, None) for name in task.requires})
            if hasattr(task, "_orig_run"):
                task.check_requires({"autoretry_for": (Exception,)} if "autoretry_for" in task.requires else {})
        except ContradictoryDeclaration as error:
            yield Finding(
                f"what it is now is not what was checked when it was declared. {error}",
                "Correct the annotation, the setting or the line that changes it after its declaration.",
                task.name,
            )


@rule("W015")
def takes_away_what_the_app_gives(setup: Setup) -> Iterator[Finding]:
    given = setup.app.Task
    own = {
        name
        for owner in given.__mro__
        if not owner.__module__.startswith("celery.") and owner not in (object, given)
        for name in vars(owner)
        if name == "__call__" or not name.startswith("__")
    }
    own = {
        name for name in own if not (hasattr(DjangoTask, name) and getattr(DjangoTask, name) is getattr(given, name))
    }
    base = next((owner for owner in given.__mro__[1:] if not owner.__module__.startswith("celery.")), None)
    if not own or base in (None, object, Task, DjangoTask):
        return
    for task in setup.tasks:
        if isinstance(task, PatternTask) and not isinstance(task, base):
            yield Finding(
                f"the app's own task class {base.__module__}.{base.__qualname__} has {', '.join(sorted(own))}, which the "
                "pattern does not inherit.",
                f"Write a base of your own, class Mine({_pattern(task).__name__}, {base.__qualname__}): abstract = True, and "
                "declare the task with it. Its __call__ is then called around the body.",
                task.name,
            )


def _pattern(task: PatternTask) -> type:
    return next(owner for owner in type(task).__mro__ if owner.__module__.startswith("tasks_demo.patterns."))


@rule("W016")
def is_scheduled_with_what_is_refused(setup: Setup) -> Iterator[Finding]:
    tasks = {task.name: task for task in setup.tasks if isinstance(task, PatternTask)}
    for name, field in schedule_of(setup.app):
        task = tasks.get(str(field("task")))
        if task is None:
            continue
        options = dict(field("options") or {})
        try:
            task.check_call(options)
        except ContradictoryDeclaration as error:
            yield Finding(
                f"beat entry {name!r} has options that the pattern refuses, so beat cannot send it: {error}",
                f"Take the option out of the entry {name!r}, or use another pattern.",
                task.name,
            )

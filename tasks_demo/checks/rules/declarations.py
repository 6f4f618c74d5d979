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
def changed_after_declaration(setup: Setup) -> Iterator[Finding]:
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
                f"it was changed after its declaration was checked. {error}",
                "Correct the annotation, the setting or the line of code that changes it.",
                task.name,
            )


@rule("W015")
def bypasses_app_task_class(setup: Setup) -> Iterator[Finding]:
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
                f"Write a base class of your own, class Mine({_pattern(task).__name__}, {base.__qualname__}): abstract = True, "
                "and declare the task with it. The pattern then calls its __call__ around the body.",
                task.name,
            )


def _pattern(task: PatternTask) -> type:
    return next(owner for owner in type(task).__mro__ if owner.__module__.startswith("tasks_demo.patterns."))


@rule("W016")
def scheduled_with_refused_options(setup: Setup) -> Iterator[Finding]:
    for name, field, task in schedule_of(setup.app, setup.tasks):
        if not isinstance(task, PatternTask):
            continue
        options = dict(field("options") or {})
        try:
            task.check_call(options)
        except ContradictoryDeclaration as error:
            yield Finding(
                f"beat entry {name!r} has options that the pattern refuses, so beat cannot send it: {error}",
                f"Remove the option from the entry {name!r}, or use another pattern.",
                task.name,
            )

"""Django system checks on settings and declarations that break a delivery promise: ``manage.py check --tag celery``.

They judge every task of the Celery app, whoever wrote it, from its configuration alone: no broker, no database. What is
asked for only when a job is sent (``apply_async(countdown=...)``) they cannot see; what a worker's command line asks for
(its pool, its limits) is judged by the worker, into its log. They never raise: what could not be judged is said as
tasks_demo.W000. ``manage.py doctor`` asks the running servers.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Container, Iterator
from typing import Any

from celery import signals
from django.core.checks import CheckMessage, Warning, register

from tasks_demo.checks import applications
from tasks_demo.checks.rules import RULES, Finding
from tasks_demo.checks.setup import Setup

__all__ = ["check_delivery", "import_tasks", "judge"]

logger = logging.getLogger(__name__)
#: How many tasks a warning names; the rest is counted.
NAMED = 5
#: Celery's own switch against Django's checks (celery/fixups/django.py ``validate_models``).
SKIP = "CELERY_SKIP_CHECKS"


@register("celery")
def check_delivery(app_configs: Any = None, **_: Any) -> list[CheckMessage]:
    """Every unsafe setting and declaration of the project's Celery apps."""
    app, messages = applications.current(), []
    if applications.is_celery_s_own(app):
        found = applications.hidden()
        if found is None:
            return [_nobody_looked()]
        app, name = found
        messages.append(_not_imported(name))
    messages += import_tasks(app)
    others = list(applications.others(app))
    for other, _name in others:  # first: Celery registers what one declares with the others, too
        messages += import_tasks(other)
    messages += judge(app)
    for other, name in others:
        own = {name.partition(":")[0], *other.loader.task_modules}
        for message in judge(other, modules=own):
            messages.append(Warning(f"Celery app {name}: {message.msg}", hint=message.hint, id=message.id))
    return messages


def judge(app: Any, worker: Any = None, modules: Container[str] | None = None) -> list[CheckMessage]:
    """The warnings and errors about this app and the tasks it knows now, one for each cause. Never raises.

    ``worker``: the one that judges itself, by the pool and the limits that it really has. ``modules``: only what is declared
    there is judged, and nothing is said of an app that has no task there.
    """
    try:
        setup = Setup.of(app, worker, modules)
        if modules is not None and not setup.tasks:
            return []
    except Exception as error:  # noqa: BLE001 (a declaration or a setting can raise anything)
        return [_not_judged("The tasks of the Celery app cannot be built", error)]
    messages: list[CheckMessage] = []
    for number, found in sorted(RULES.items()):
        try:
            messages += _messages(number, list(found(setup)))
        except Exception as error:  # noqa: BLE001 (a check that raises takes every command down)
            messages.append(_not_judged(f"tasks_demo.{number} could not be judged", error))
    return messages


def _not_imported(name: str) -> CheckMessage:
    return Warning(
        f"Nothing here imports the Celery app {name}: `delay()` in this project's commands and web processes publishes with "
        "Celery's default settings, to amqp://localhost.",
        hint=applications.how_to_import(name),
        id="tasks_demo.W000",
    )


def _nobody_looked() -> CheckMessage:
    return Warning(
        "Only Celery's default app is there: no task of yours was judged.",
        hint="Import your app in the package of your settings (`from .celery import app as celery_app` in its __init__.py).",
        id="tasks_demo.W000",
    )


def _messages(number: str, findings: list[Finding]) -> Iterator[CheckMessage]:
    causes: dict[tuple[str, str, int], list[str]] = {}
    for said, hint, task, level in findings:
        causes.setdefault((said, hint, level), []).append(task)
    for (said, hint, level), names in causes.items():
        yield CheckMessage(level, _who(names) + said, hint=hint, id=f"tasks_demo.{number}")


def _who(names: list[str]) -> str:
    if not any(names):
        return ""
    if len(names) == 1:
        return f"Task {names[0]}: "
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{len(names)} tasks ({', '.join(names[:NAMED])}{more}): "


def _not_judged(what: str, error: Exception) -> CheckMessage:
    return Warning(
        f"{what}: {type(error).__name__}: {str(error).partition(chr(10))[0]}",
        hint="Correct what it names; until then nobody has looked whether jobs can be lost or run twice there.",
        id="tasks_demo.W000",
    )


def import_tasks(app: Any) -> Iterator[CheckMessage]:
    """Import the task modules as a worker does; a manage.py command has not, and would judge nothing."""
    # Celery's Django fixup answers the import with a run of all system checks: of this one too.
    already = SKIP in os.environ
    os.environ.setdefault(SKIP, "1")
    try:
        if not app.loader.task_modules:
            app.loader.import_default_modules()
    except Exception as error:  # noqa: BLE001 (a module can raise anything)
        yield _not_judged("A task module cannot be imported, so its tasks were not judged", error)
    finally:
        if not already:
            del os.environ[SKIP]


@signals.celeryd_after_setup.connect(weak=False, dispatch_uid="tasks_demo.checks")
def _log_at_worker_boot(instance: Any = None, **_: Any) -> None:
    # Celery runs Django's checks when a worker boots and throws the result away. Said here, when logging is set up; Django's
    # levels are those of logging.
    for message in judge(instance.app, instance):
        if not message.is_silenced():
            logger.log(message.level, "%s: %s %s", message.id, message.msg, message.hint)

"""Django system checks for settings and declarations that break a delivery promise: ``manage.py check --tag celery``.

They judge every task of the project's Celery apps, including tasks of other libraries, from configuration alone. They do not
connect to the broker or a database (``manage.py doctor`` does), and do not see the options of a single call
(``apply_async(countdown=...)``). When a worker boots, it judges the options of its own command line (pool, limits) and logs the
result. The checks never raise: tasks_demo.W000 reports what could not be judged.
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
from tasks_demo.core.wording import first_line, listed

__all__ = ["check_delivery", "import_tasks", "judge"]

logger = logging.getLogger(__name__)
#: Maximum number of tasks that a warning names; the others are counted.
NAMED = 5
#: The variable with which Celery skips Django's checks (celery/fixups/django.py ``validate_models``).
SKIP = "CELERY_SKIP_CHECKS"


@register("celery")
def check_delivery(app_configs: Any = None, **_: Any) -> list[CheckMessage]:
    """Return a message for every unsafe setting and declaration of the project's Celery apps."""
    app, messages = applications.current(), []
    if applications.is_default_app(app):
        found = applications.not_imported()
        if found is None:
            return [_no_app()]
        app, name = found
        messages.append(_not_imported(name))
    messages += import_tasks(app)
    others = list(applications.others(app))
    for other, _name in others:  # before any judging, because Celery registers a task of one app with the others, too
        messages += import_tasks(other)
    messages += judge(app)
    for other, name in others:
        own = {name.partition(":")[0], *other.loader.task_modules}
        for message in judge(other, modules=own):
            messages.append(Warning(f"Celery app {name}: {message.msg}", hint=message.hint, id=message.id))
    return messages


def judge(app: Any, worker: Any = None, modules: Container[str] | None = None) -> list[CheckMessage]:
    """Return the warnings and errors about this app and its registered tasks, one message per cause. Never raises.

    ``worker``: the running worker, whose actual pool and limits replace those of the settings. ``modules``: judge only tasks
    declared in these modules; if there are none, the result is empty.
    """
    try:
        setup = Setup.of(app, worker, modules)
        if modules is not None and not setup.tasks:
            return []
    except Exception as error:  # noqa: BLE001 (declarations and settings can raise anything)
        return [_not_judged("The tasks of the Celery app cannot be built, so none was judged", error)]
    messages: list[CheckMessage] = []
    for number, found in sorted(RULES.items()):
        try:
            messages += _messages(number, list(found(setup)))
        except Exception as error:  # noqa: BLE001 (a check that raises would make every command fail)
            messages.append(_not_judged(f"tasks_demo.{number} could not be judged", error))
    return messages


def _not_imported(name: str) -> CheckMessage:
    return Warning(
        f"Commands and web processes of this project do not import the Celery app {name}: `delay()` there publishes with "
        "Celery's default settings, to amqp://localhost.",
        hint=applications.how_to_import(name),
        id="tasks_demo.W000",
    )


def _no_app() -> CheckMessage:
    return Warning(
        "Only Celery's default app was found, so none of your tasks was judged.",
        hint="Import your app in the package of your settings (`from .celery import app as celery_app` in its __init__.py).",
        id="tasks_demo.W000",
    )


def _messages(number: str, findings: list[Finding]) -> Iterator[CheckMessage]:
    causes: dict[tuple[str, str, int], list[str]] = {}
    for what, hint, task, level in findings:
        causes.setdefault((what, hint, level), []).append(task)
    for (what, hint, level), names in causes.items():
        yield CheckMessage(level, _who(names) + what, hint=hint, id=f"tasks_demo.{number}")


def _who(names: list[str]) -> str:
    if not any(names):
        return ""
    if len(names) == 1:
        return f"Task {names[0]}: "
    return f"{len(names)} tasks ({listed(names, NAMED)}): "


def _not_judged(what: str, error: Exception) -> CheckMessage:
    return Warning(
        f"{what}: {type(error).__name__}: {first_line(error)}",
        hint="Correct this error. Until then it is unknown whether jobs can be lost or run twice here.",
        id="tasks_demo.W000",
    )


def import_tasks(app: Any) -> Iterator[CheckMessage]:
    """Import the task modules as a worker does, because a management command does not. Yields a warning if one fails."""
    # Celery's Django fixup reacts to the import by running all system checks, including this one.
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
    # Celery runs Django's checks when a worker boots and discards the result. This runs after logging is set up. Django's levels
    # equal those of logging.
    for message in judge(instance.app, instance):
        if not message.is_silenced():
            logger.log(message.level, "%s: %s %s", message.id, message.msg, message.hint)

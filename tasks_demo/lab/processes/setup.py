"""Makes Django and the Celery app ready in a process of the lab.

Under ``manage.py experiment`` that is the project's own business. ``python -m tasks_demo.lab`` has its processes do it as the
variable VARIABLE says: in a Django project that need not have the lab in its settings, or for a Celery app without Django,
which does not notice that Django is there. The ledger is then a file of its own.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tasks_demo.core.exceptions import EnvironmentNotReady

#: Holds a Setup as JSON, for this process and those that it starts.
VARIABLE = "TASKS_DEMO_LAB_SETUP"
#: What is added to the project's apps.
APPS = (
    "tasks_demo", "tasks_demo.records", "tasks_demo.demo", "tasks_demo.demo.shop", "tasks_demo.demo.bank", "tasks_demo.lab",
)  # fmt: skip
LEDGER = "tasks_demo_ledger"


@dataclass(frozen=True)
class Setup:
    """How to set up a process.

    :param folder: of the ledger and of the runs.
    :param settings: the project's settings module; empty: there is no Django project.
    :param app: the Celery app, as ``celery -A`` takes it; empty: the one that the project imports.
    :param databases: alias → name, for databases that are not those of the settings, such as a test's.
    """

    folder: str
    settings: str = ""
    app: str = ""
    databases: dict[str, str] = field(default_factory=dict)

    def publish(self) -> None:
        """Have this process and those that it starts be set up like this."""
        os.environ[VARIABLE] = json.dumps(asdict(self))


def set_up() -> None:
    """Set up this process. Raises EnvironmentNotReady if the Celery app cannot be imported."""
    import django

    given = os.environ.get(VARIABLE)
    if given is None:
        django.setup()
        return
    setup = Setup(**json.loads(given))
    _configure(setup)
    django.setup()
    _own_ledger(Path(setup.folder))
    if setup.app:
        _adopt(setup.app)


def _configure(setup: Setup) -> None:
    from django.conf import settings

    if not setup.settings:
        settings.configure(**_alone(Path(setup.folder)))
        return
    os.environ["DJANGO_SETTINGS_MODULE"] = setup.settings
    settings.INSTALLED_APPS = [
        *settings.INSTALLED_APPS,
        *(name for name in APPS if name not in settings.INSTALLED_APPS),
    ]
    settings.STATE_DIR = Path(setup.folder)
    settings.REDIS_IS_EMBEDDED = True  # --broker names another one
    for alias, name in setup.databases.items():
        settings.DATABASES[alias]["NAME"] = name


def _alone(folder: Path) -> dict[str, Any]:
    """The settings where there is no project."""
    from tasks_demo.demo.defaults import sqlite_file

    return {
        "INSTALLED_APPS": APPS,
        "STATE_DIR": folder,
        "DATABASES": {"default": sqlite_file(folder / "patterns.sqlite3")},
        "DEFAULT_AUTO_FIELD": "django.db.models.BigAutoField",
        "SECRET_KEY": "nothing is signed with it",
        "USE_TZ": True,
        "LOGGING_CONFIG": None,
    }


def _own_ledger(folder: Path) -> None:
    from tasks_demo.demo.defaults import sqlite_file
    from tasks_demo.demo.routing import add_database

    add_database(LEDGER, sqlite_file(folder / "ledger.sqlite3"), ["tasks_demo"])


def make_tables() -> None:
    """Create the ledger's tables, and those of the patterns where there is no project."""
    from django.core.management import call_command

    call_command("migrate", "tasks_demo", database=LEDGER, verbosity=0, interactive=False)
    if not json.loads(os.environ[VARIABLE])["settings"]:
        call_command("migrate", "tasks_demo_records", verbosity=0, interactive=False)


def _adopt(name: str) -> None:
    from celery.app.utils import find_app

    try:
        app = find_app(name)
    except (Exception, SystemExit) as error:
        raise EnvironmentNotReady(
            f"--app {name} cannot be imported: {type(error).__name__}: {error}. Write it as for `celery -A`, and run this where "
            "the module can be imported."
        ) from error
    app.set_current()
    app.set_default()

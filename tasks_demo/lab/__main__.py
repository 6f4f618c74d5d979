"""``python -m tasks_demo.lab --task NAME``: the experiment of ``manage.py experiment``, without a change of settings.

In a Django project DJANGO_SETTINGS_MODULE names the settings. Without it, ``--app`` names a Celery app that has no Django.
The ledger and the runs are in STATE_DIR, or else in ``.state`` here.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the experiment. Exit codes: those of ``manage.py experiment``."""
    try:
        return _run(arguments)
    except KeyboardInterrupt:
        sys.stderr.write("Interrupted before anything ran.\n")
        return 130


def _run(arguments: Sequence[str] | None) -> int:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--app", "-A", default="")
    own, others = parser.parse_known_args(arguments)
    project = os.environ.get("DJANGO_SETTINGS_MODULE", "")
    if not (project or own.app) and not {"-h", "--help"} & set(others):
        sys.stderr.write(
            "Name the Celery app (--app proj.celery:app), or a Django project (DJANGO_SETTINGS_MODULE). Nothing was run.\n"
        )
        return 2
    if not any(option.partition("=")[0] in {"-h", "--help", "--task", "--replay"} for option in others):
        sys.stderr.write("Name a task of the project (--task). The demo's are tried with manage.py experiment.\n")
        return 2
    from tasks_demo.core.exceptions import EnvironmentNotReady

    folder = Path(os.environ.get("STATE_DIR") or ".state").absolute()
    databases = os.environ.get("TASKS_DEMO_LAB_DATABASES", "")
    try:
        _set_up(folder, project, own.app, databases)
    except EnvironmentNotReady as error:
        sys.stderr.write(f"{error} Nothing was run.\n")
        return 4
    from tasks_demo.lab.management.commands.experiment import Command

    try:
        Command().run_from_argv(["python -m tasks_demo.lab", "", *others])
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else 1
    return 0


def _set_up(folder: Path, project: str, app: str, databases: str) -> None:
    import json

    from django.core.exceptions import ImproperlyConfigured
    from django.db import DatabaseError

    from tasks_demo.core.exceptions import EnvironmentNotReady
    from tasks_demo.core.lifecycle import described
    from tasks_demo.lab.processes.setup import Setup, make_tables, set_up

    sys.path[:0] = [] if os.getcwd() in sys.path or "" in sys.path else [os.getcwd()]
    Setup(str(folder), project, app, json.loads(databases) if databases else {}).publish()
    unusable = f"The state folder {folder} (STATE_DIR) cannot be used"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise EnvironmentNotReady(f"{unusable}: {error.strerror}.") from error
    try:
        set_up()
        make_tables()
    except EnvironmentNotReady:
        raise
    except DatabaseError as error:
        raise EnvironmentNotReady(f"{unusable}: {error}.") from error
    except (ImproperlyConfigured, ImportError) as error:
        raise EnvironmentNotReady(f"The lab cannot start here: {error}.") from error
    except (Exception, SystemExit) as error:  # of the project's settings or apps
        raise EnvironmentNotReady(f"The lab cannot start here: {described(error)}.") from error


if __name__ == "__main__":
    sys.exit(main())

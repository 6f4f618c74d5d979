"""Commands that run the demo: its shop, its bank, its embedded stack."""

from __future__ import annotations

from typing import Any

from django.apps import apps
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from tasks_demo.management.arguments import Exit

_APPS = ("tasks_demo.demo.shop", "tasks_demo.demo.bank")
_SETTINGS = ("REDIS_URL", "REDIS_IS_EMBEDDED", "BANK_URL", "BANK_IS_EMBEDDED", "STATE_DIR")


class DemoCommand(BaseCommand):
    """Refuses, with code 4, to run in a project that has not all of the demo. ``instead``: what to do there, a sentence.

    A subclass imports what needs the demo's apps, or packages that only the demo has, when it is handled: modules of commands
    are imported in any project.
    """

    instead = ""

    def execute(self, *args: Any, **options: Any) -> str | None:
        """As Django's, which runs the checks of the project first."""
        lacking = [f"{name!r} in INSTALLED_APPS" for name in _APPS if not apps.is_installed(name)]
        lacking += [f"the setting {name}" for name in _SETTINGS if not hasattr(settings, name)]
        if lacking:
            name = type(self).__module__.rpartition(".")[2]
            raise CommandError(
                f"`manage.py {name}` is a part of the demo, and this project has no {lacking[0]}. Nothing was done. "
                f"Run it with the manage.py of the demo's own repository.{' ' if self.instead else ''}{self.instead}",
                returncode=Exit.NOT_READY,
            )
        return super().execute(*args, **options)

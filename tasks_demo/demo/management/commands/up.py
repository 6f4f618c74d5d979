"""``manage.py up``: everything on one machine, from the Procfile."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote, urlsplit

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import OperationalError, connections

from tasks_demo.core.exceptions import EnvironmentNotReady
from tasks_demo.demo.stack.bank import healthy
from tasks_demo.demo.stack.redis import listening
from tasks_demo.demo.stack.up import Formation, read_procfile
from tasks_demo.management.arguments import Exit, whole
from tasks_demo.management.output import carrying_all


class Command(BaseCommand):
    help = (
        "Migrates, makes sure of an admin user, then runs the Procfile: Redis, bank, worker, relay and web. Ctrl-C ends them "
        "all (exit 130), SIGTERM too (exit 0). With REDIS_URL or BANK_URL set, that part is not started."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--port", type=whole("--port", 1, 65535), default=8000, help="port of the dashboard (default 8000)"
        )

    def handle(self, *args: Any, port: int, **options: Any) -> None:
        without, ready = self._embedded()
        carrying_all(sys.stdout)  # the parts log in UTF-8, whatever this terminal takes
        try:
            self._prepare(f"http://127.0.0.1:{port}/admin/tasks_demo/")
            commands = read_procfile(settings.BASE_DIR / "Procfile", without=without, variables={"PORT": str(port)})
            code = Formation(commands, last=["redis", "bank"], cwd=settings.BASE_DIR).run(ready)
        except EnvironmentNotReady as error:
            raise CommandError(str(error), returncode=Exit.NOT_READY) from error
        except KeyboardInterrupt:
            code = Exit.INTERRUPTED
        sys.exit(code)

    def _prepare(self, address: str) -> None:
        try:
            for alias in set(settings.DATABASES) - {"bank"}:  # the bank migrates its own
                call_command("migrate", interactive=False, verbosity=0, database=alias)
            call_command("admin_user", address=address, stdout=self.stdout)
        except OperationalError as error:
            raise EnvironmentNotReady(
                f"The database does not answer ({' '.join(str(error).split())}), so nothing was started. "
                "Start it, or unset DATABASE_URL to use an SQLite file."
            ) from error
        connections.close_all()

    def _embedded(self) -> tuple[list[str], dict[str, Callable[[], bool]]]:
        """Names of the Procfile that are not to be started, and how to tell that the others answer."""
        without: list[str] = []
        ready: dict[str, Callable[[], bool]] = {}
        bank = urlsplit(settings.BANK_URL)
        if settings.REDIS_IS_EMBEDDED:
            ready["redis"] = lambda: listening(unquote(urlsplit(settings.REDIS_URL).path))
        else:
            without.append("redis")
        if settings.BANK_IS_EMBEDDED:
            ready["bank"] = lambda: healthy(bank.hostname or "", bank.port or 80)
        else:
            without.append("bank")
        return without, ready

"""``manage.py up``: run everything on one machine, from the Procfile."""

from __future__ import annotations

import shlex
import socket
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import CommandParser
from django.db import DatabaseError, OperationalError, connections

from tasks_demo.core import clock
from tasks_demo.core.exceptions import EnvironmentNotReady
from tasks_demo.demo.management.commands.admin_user import ADDRESS, ensure_admin, login_hint
from tasks_demo.demo.stack.bank import healthy
from tasks_demo.demo.stack.redis import listening
from tasks_demo.demo.stack.up import Formation, read_procfile
from tasks_demo.ledger.worker_process import WorkerProcess
from tasks_demo.management.arguments import Exit, whole
from tasks_demo.management.base import PackageCommand


class Command(PackageCommand):
    help = (
        "Migrates, creates the admin user if it is missing, then runs the Procfile: Redis, bank, worker, relay and web. Prints "
        "the dashboard's address, user and password when all is running; `manage.py admin_user` prints them again. A part that "
        "is killed is started again. Ctrl-C (exit 130) and SIGTERM (exit 0) end them all. With REDIS_URL or BANK_URL set, that "
        "part is not started."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--port", type=whole("--port", 1, 65535), default=8000, help="port of the dashboard (default 8000)"
        )

    def handle(self, *args: Any, port: int, **options: Any) -> None:
        without, ready = self._embedded()
        commands = read_procfile(settings.BASE_DIR / "Procfile", without=without, variables={"PORT": str(port)})
        _check_nothing_runs(ready, port)
        ready["web"] = lambda: healthy("127.0.0.1", port, "/admin/login/")
        try:
            address = f"http://127.0.0.1:{port}/admin/tasks_demo/"
            shown = login_hint(address, self._prepare())
            again = ["manage.py", "admin_user", *(["--address", address] if address != ADDRESS else [])]
            formation = Formation(commands, last=["redis", "bank"], cwd=settings.BASE_DIR)
            code = formation.run(
                ready,
                settled=_worker_has_reported(time.time()) if "worker" in commands else lambda: True,
                then=lambda: print(
                    f"\nAll is running.\n\n{shown}\n\nThe log of all processes goes on below. Ctrl-C ends them. "
                    f"To see these lines again, in another terminal: {_python()} {shlex.join(again)}\n",
                    file=self.stdout,
                    flush=True,
                ),
            )
        except KeyboardInterrupt:
            code = Exit.INTERRUPTED
        sys.exit(code)

    def _prepare(self) -> str | None:
        """Migrate; return what ``ensure_admin`` does."""
        try:
            for alias in set(settings.DATABASES) - {"bank"}:  # the bank migrates its own
                call_command("migrate", interactive=False, verbosity=0, database=alias)
            return ensure_admin(settings.STATE_DIR / "admin_password")
        except OperationalError as error:
            raise EnvironmentNotReady(
                f"The database does not answer ({' '.join(str(error).split())}), so nothing was started. "
                "Start it, or unset DATABASE_URL to use an SQLite file."
            ) from error
        finally:
            connections.close_all()

    def _embedded(self) -> tuple[list[str], dict[str, Callable[[], bool]]]:
        """Return the names in the Procfile that must not be started, and a function for each other one that returns whether it
        answers."""
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


def _check_nothing_runs(embedded: Mapping[str, Callable[[], bool]], port: int) -> None:
    """Raise EnvironmentNotReady if one of the embedded servers answers already, or the dashboard's port cannot be used."""
    for name, answers in embedded.items():
        if answers():
            raise EnvironmentNotReady(
                f"The {name} of {settings.STATE_DIR} is running already, so nothing was started. Is there another `make up`? "
                "End that one with Ctrl-C, or set STATE_DIR to another folder."
            )
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the web server does
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise EnvironmentNotReady(
                f"The dashboard cannot listen on 127.0.0.1 port {port} ({error.strerror}), so nothing was started. Stop what "
                f"uses the port, or choose another: `make up PORT={port + 1 if port < 65535 else 8000}`."
            ) from error


def _worker_has_reported(since: float) -> Callable[[], bool]:
    """Return a function that tells whether a worker that started since then has reported to the ledger."""
    later = WorkerProcess.objects.filter(started_at__gte=clock.from_epoch(since), stopped_at=None)

    def has_reported() -> bool:
        try:
            return later.exists()
        except DatabaseError:
            return False  # it is busy; the caller does not wait for long
        finally:
            connections.close_all()

    return has_reported


def _python() -> str:
    """Return what to type for this interpreter: its path from the project's folder if it is in it."""
    here = Path(sys.executable)
    return str(here.relative_to(settings.BASE_DIR)) if here.is_relative_to(settings.BASE_DIR) else "python"

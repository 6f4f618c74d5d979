"""``manage.py read_books``: copy new effects from the registered books into the ledger, once or repeatedly."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError

from tasks_demo.core import clock
from tasks_demo.core.conf import settings
from tasks_demo.core.exceptions import InvalidSetting, LedgerUnavailable
from tasks_demo.core.wording import counted
from tasks_demo.ledger.reading import State, read_books
from tasks_demo.management.arguments import Exit, seconds
from tasks_demo.management.stopping import stop_signals


class Command(BaseCommand):
    help = (
        "Copies new effects from the books in TASKS_DEMO_BOOKS into the ledger; `manage.py relay` does so, too. Exit codes: 0 "
        "all were read, 1 one could not be read, 2 usage, 4 database or setting not ready; with "
        "--every 0 after SIGTERM, 130 Ctrl-C."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--every", type=seconds, metavar="S", help="go on, with a pause of S seconds")

    def handle(self, *, every: float | None, **options: Any) -> None:
        with suppress(InvalidSetting):  # reported when they are read
            if not settings.BOOKS:
                self.stdout.write(
                    "TASKS_DEMO_BOOKS registers no books: there is nothing to read, and executions are judged."
                )
                return
        with stop_signals() as asked:
            pause = threading.Event()
            while True:
                failed = [state for state in self._read() if state.trouble]
                for state in failed:
                    self.stderr.write(said(state))
                if every is None or asked:
                    break
                waited = 0.0
                while waited < every and not asked:
                    pause.wait(min(0.2, every - waited))
                    waited += 0.2
                if asked:
                    break
        if asked:
            raise SystemExit(Exit.INTERRUPTED if 2 in asked else Exit.OK)
        if failed:
            raise CommandError(f"{counted(len(failed), 'book')} could not be read.", returncode=Exit.BROKEN)

    def _read(self) -> list[State]:
        try:
            return read_books()
        except (InvalidSetting, LedgerUnavailable, DatabaseError) as error:
            raise CommandError(
                f"No book was read: {str(error).partition(chr(10))[0]}", returncode=Exit.NOT_READY
            ) from error


def said(state: State) -> str:
    """Return the message about books that cannot be read."""
    since = f" since {clock.aware(state.since):%Y-%m-%d %H:%M:%S %Z}" if state.since else ""
    what = f"The books {state.name!r} cannot be read{since}: {state.trouble.rstrip('. ')}."
    return f"{what} Effects may be missing; no task of theirs is called lost."

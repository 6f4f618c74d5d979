"""``manage.py read_books``: copy new effects from the registered books into the ledger and count, once or repeatedly."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.db import DatabaseError

from tasks_demo.core import clock
from tasks_demo.core.conf import settings
from tasks_demo.core.exceptions import InvalidSetting, LedgerUnavailable
from tasks_demo.core.wording import counted, first_line
from tasks_demo.ledger.reading import BooksState, read_books
from tasks_demo.ledger.rollups import fold
from tasks_demo.management.arguments import Exit, seconds
from tasks_demo.management.base import PackageCommand
from tasks_demo.management.stopping import stop_signals

#: Maximum time to count, seconds: without --every, and per repetition with it.
ONCE_SECONDS, EVERY_SECONDS = 60.0, 0.5


class Command(PackageCommand):
    help = (
        "Copies new effects from the books in TASKS_DEMO_BOOKS into the ledger, and counts task IDs for the overview; "
        "`manage.py relay` does both, too. Exit codes: 0 all books were read, 1 some could not be read, 2 usage, 4 database or "
        "setting not ready; with --every: 0 after SIGTERM, 130 after Ctrl-C."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--every", type=seconds, metavar="S", help="repeat, with a pause of S seconds")

    def handle(self, *, every: float | None, **options: Any) -> None:
        with suppress(InvalidSetting):  # reported when they are read
            if not settings.BOOKS:
                self.stdout.write(
                    "TASKS_DEMO_BOOKS registers no books: there is nothing to read, and verdicts are based on executions. "
                    "Only counting."
                )
        with stop_signals() as asked:
            pause = threading.Event()
            while True:
                failed = [
                    state for state in self._read(ONCE_SECONDS if every is None else EVERY_SECONDS) if state.trouble
                ]
                for state in failed:
                    self.stderr.write(trouble_of(state))
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

    def _read(self, seconds: float) -> list[BooksState]:
        try:
            states = read_books()
            fold(seconds)
            return states
        except (InvalidSetting, LedgerUnavailable, DatabaseError) as error:
            raise CommandError(
                f"Not everything was read and counted: {first_line(error)}", returncode=Exit.NOT_READY
            ) from error


def trouble_of(state: BooksState) -> str:
    """Return the message about books that cannot be read."""
    since = f" since {clock.aware(state.since):%Y-%m-%d %H:%M:%S %Z}" if state.since else ""
    what = f"The books {state.name!r} cannot be read{since}: {state.trouble.rstrip('. ')}."
    return f"{what} Effects may be missing; no job with these books is called lost."

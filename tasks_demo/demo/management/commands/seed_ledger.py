"""``manage.py seed_ledger``: fill a ledger with invented task IDs, to try the dashboard at scale, and remove them."""

from __future__ import annotations

import sys
import time
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.db import Error, connections

from tasks_demo.core import databases
from tasks_demo.demo.seeding import lives, loading
from tasks_demo.ledger.database import alias
from tasks_demo.ledger.models import Tally
from tasks_demo.management.arguments import Exit, whole
from tasks_demo.management.base import PackageCommand


class Command(PackageCommand):
    help = (
        "Fills the ledger with invented task IDs of the last week, to try the dashboard at scale: patterns, tasks, outcomes, "
        "verdicts, workers, runs and kills. Refuses a ledger that is not empty, unless --add is given. --remove deletes the task "
        "IDs of the seed. If it is interrupted, committed task IDs stay until --remove. Not for a production ledger: the "
        "dashboard does not distinguish invented jobs from real ones."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        what = parser.add_mutually_exclusive_group(required=True)
        what.add_argument("--tasks", type=whole("--tasks", 1, 100_000_000), help="number of task IDs")
        what.add_argument("--remove", action="store_true", help="delete the task IDs of this --seed")
        parser.add_argument(
            "--events-per-task",
            type=whole("--events-per-task", lives.FEWEST, lives.MOST),
            default=5,
            help=f"events of a job without incident, {lives.FEWEST} to {lives.MOST}; default 5",
        )
        parser.add_argument("--seed", type=whole("--seed", 0, 1_000_000), default=1, help="default 1")
        parser.add_argument(
            "--using",
            choices=sorted(connections),
            metavar="ALIAS",
            help="the database; default: that of the ledger",
        )
        parser.add_argument("--add", action="store_true", help="fill the ledger even if it is not empty")

    def handle(self, *, seed: int, using: str | None, **options: Any) -> None:
        using = using or alias()
        try:
            self._check(using)
            if options["remove"]:
                self._remove(using, seed)
            else:
                self._fill(using, seed, options["tasks"], options["events_per_task"], add=options["add"])
        except Error as error:
            raise CommandError(
                f"The database {using} failed: {' '.join(str(error).split())}. Run `manage.py migrate`, and remove the committed "
                f"task IDs with `manage.py seed_ledger --remove --seed {seed}`.",
                returncode=Exit.NOT_READY,
            ) from error
        except KeyboardInterrupt:
            raise CommandError(
                f"Interrupted. Committed task IDs stay; `manage.py seed_ledger --remove --seed {seed}` deletes them.",
                returncode=Exit.INTERRUPTED,
            ) from None

    def _check(self, using: str) -> None:
        if why := databases.unsupported(using):
            raise CommandError(f"This database cannot hold a ledger: {why}.", returncode=Exit.USAGE)
        if Tally._meta.db_table not in connections[using].introspection.table_names():
            raise CommandError(
                f"The database {using} has no ledger: name another one with --using, or run "
                f"`manage.py migrate tasks_demo --database {using}`.",
                returncode=Exit.NOT_READY,
            )

    def _fill(self, using: str, seed: int, tasks: int, events_per_task: int, *, add: bool) -> None:
        if loading.has_seed(using, seed):
            raise CommandError(
                f"This ledger already has the task IDs of seed {seed}. Nothing was written. Use another --seed, or remove them "
                f"first with `manage.py seed_ledger --remove --seed {seed}`.",
                returncode=Exit.USAGE,
            )
        if not add and not loading.is_empty(using):
            raise CommandError(
                "This ledger is not empty, and invented jobs could not be distinguished from real ones. Nothing was written. Use "
                "another database (--using, or DATABASE_URL), or write --add.",
                returncode=Exit.USAGE,
            )
        began = time.monotonic()

        def progress(done: int) -> None:
            passed = time.monotonic() - began
            left = passed / done * (tasks - done)
            self._show(f"{done:,} of {tasks:,} task IDs, {done / passed:,.0f} per s, {left:.0f} s left")

        loading.load(using, tasks=tasks, events_per_task=events_per_task, seed=seed, progress=progress)
        self._show("")
        self.stdout.write(
            f"{tasks:,} task IDs in {time.monotonic() - began:.0f} s. Remove them with "
            f"`manage.py seed_ledger --remove --seed {seed}`."
        )

    def _remove(self, using: str, seed: int) -> None:
        removed = loading.remove(using, seed, lambda done: self._show(f"{done:,} task IDs removed"))
        self._show("")
        self.stdout.write(f"Removed {removed:,} task IDs and their events.")

    def _show(self, text: str) -> None:
        """Show progress on stderr: in place on a terminal, else one line each."""
        if sys.stderr.isatty():
            self.stderr.write(f"\r\033[K{text}", ending="")
        elif text:
            self.stderr.write(text)

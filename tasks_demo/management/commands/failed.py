"""``manage.py failed``: list the failed jobs of the ledger, and run some of them again with the same operation key."""

from __future__ import annotations

import sys
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.db import DatabaseError

from tasks_demo.core import clock
from tasks_demo.core.exceptions import EnvironmentNotReady, PublicationRefused
from tasks_demo.core.wording import counted, escaped, first_line
from tasks_demo.dashboard.pages import of_outcome
from tasks_demo.ledger.models import Tally
from tasks_demo.management.arguments import Exit
from tasks_demo.management.base import PackageCommand
from tasks_demo.management.output import table
from tasks_demo.publishing.failed_jobs import OUTCOMES, run_again, why_not_rerunnable

#: Maximum number of jobs that `list` prints, and that --all acts on.
MOST = 1_000


class Command(PackageCommand):
    help = (
        "The failed jobs of the ledger. `again` publishes a new job with the same arguments and the same operation key for each. "
        "What the first job has done is not undone. Only jobs of the outbox and of the quarantine can be run again: for others "
        "nobody has kept the arguments. Exit codes: 0 done, 1 nothing done or some impossible, 2 usage, 4 broker or database not "
        "ready."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("act", nargs="?", choices=["list", "again"], default="list", help="default: list")
        parser.add_argument("task_ids", nargs="*", metavar="TASK_ID")
        parser.add_argument("--all", action="store_true", help=f"all that match, at most {MOST}, latest first")
        parser.add_argument("--task", default="", metavar="NAME", help="only jobs of this task")
        parser.add_argument("--outcome", choices=OUTCOMES, default=OUTCOMES[0], help=f"default: {OUTCOMES[0]}")
        parser.add_argument("--dry-run", action="store_true", help="with again: say what would be done, and do nothing")

    def handle(self, *, act: str, task_ids: list[str], **options: Any) -> None:
        if act == "list" and (task_ids or options["all"] or options["dry_run"]):
            raise CommandError("list takes no task ID, no --all and no --dry-run.", returncode=Exit.USAGE)
        if act == "again" and bool(task_ids) == options["all"]:
            raise CommandError("again takes one or more task IDs, or --all.", returncode=Exit.USAGE)
        if any("\0" in text for text in [*task_ids, options["task"]]):
            raise CommandError("Neither a task ID nor a task's name holds NUL.", returncode=Exit.USAGE)
        try:
            tallies = Tally.objects.filter(task_id__in=task_ids, outcome__in=OUTCOMES)
            if not task_ids:
                tallies = of_outcome(Tally.objects.all(), options["outcome"])
            if options["task"]:
                tallies = tallies.filter(task=options["task"])
            rows = list(tallies.order_by("-first_at", "task_id")[: MOST + 1])
            if len(rows) > MOST:
                self.stderr.write(f"There are more: these are the latest {MOST}.")
            why = why_not_rerunnable(rows[:MOST])
            if act == "list":
                self._list(rows[:MOST], why)
            else:
                self._again(rows[:MOST], why, task_ids, dry=options["dry_run"])
        except DatabaseError as error:
            raise CommandError(
                f"The ledger cannot be read: {first_line(error)}. Start its database and run `manage.py migrate`.",
                returncode=Exit.NOT_READY,
            ) from error

    def _list(self, rows: list[Tally], why: dict[str, str]) -> None:
        if not rows:
            self.stdout.write("No such job is on record.")
            return
        cells = [["task ID", "task", "first seen", "run again?"]]
        for row in rows:
            at = f"{clock.aware(row.first_at):%Y-%m-%d %H:%M:%S}"
            cells.append([row.task_id, row.task, at, f"no: {why[row.pk]}" if row.pk in why else "possible"])
        for line in table(cells):
            self.stdout.write(line)

    def _again(self, rows: list[Tally], why: dict[str, str], task_ids: list[str], *, dry: bool) -> None:
        for task_id in sorted(set(task_ids) - {row.task_id for row in rows}):
            self.stderr.write(f"{escaped(task_id)} is not on record as failed or rejected: nothing was done.")
        done = 0
        try:
            for row in rows:
                reason = why.get(row.pk, "")
                try:
                    new = None if reason or dry else run_again(row)
                except PublicationRefused as error:
                    reason, new = str(error), None
                if reason or not (new or dry):
                    self.stderr.write(
                        f"{escaped(row.task_id)} was not run again: {reason or 'it has changed meanwhile'}."
                    )
                else:
                    done += 1
                    self.stdout.write(
                        f"{escaped(row.task_id)} {'would be run again' if dry else f'runs again as {new}'}"
                    )
        except EnvironmentNotReady as error:
            raise CommandError(
                f"{error} {counted(done, 'job')} run again before that.", returncode=Exit.NOT_READY
            ) from error
        if not done or done < len(set(task_ids)):
            sys.exit(Exit.BROKEN)

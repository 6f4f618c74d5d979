"""``manage.py timeline TASK_ID``: show the events of one job in order."""

from __future__ import annotations

import json
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.db import DatabaseError

from tasks_demo.core import clock
from tasks_demo.core.exceptions import InvalidSetting, LedgerUnavailable
from tasks_demo.core.wording import counted, escaped, first_line
from tasks_demo.dashboard.labels import COUNTS
from tasks_demo.ledger.models import Tally
from tasks_demo.ledger.queries import find, timeline
from tasks_demo.ledger.reading import read_books
from tasks_demo.management.arguments import Exit
from tasks_demo.management.base import PackageCommand
from tasks_demo.management.commands.read_books import trouble_of
from tasks_demo.management.output import table

#: The counts of a tally that are shown.
SHOWN = ("publications", "deliveries", "executions", "effects", "suppressed", "deferred", "faults")


class Command(PackageCommand):
    help = "Show every event of one task ID in order: which worker ran it, where it was killed, which effects the books have."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("task_id", help="a task ID, or an unambiguous prefix of one")
        parser.add_argument("--json", action="store_true", help="one JSON document instead of a table")

    def handle(self, *args: Any, **options: Any) -> None:
        task_id: str = options["task_id"]
        if "\0" in task_id or not task_id.isprintable():
            raise CommandError("A task ID has printable characters only.", returncode=Exit.USAGE)
        try:
            self._read_books()
            tally = find(task_id)
            if tally is None:
                raise CommandError(
                    f"The ledger has no task ID {task_id!r}, and not exactly one that begins with it. The dashboard shows task "
                    "IDs.",
                    returncode=Exit.BROKEN,
                )
            self._show(tally, options)
        except DatabaseError as error:
            raise CommandError(
                f"The ledger's database cannot be read: {error}. Check DATABASE_URL and run `python manage.py migrate`.",
                returncode=Exit.NOT_READY,
            ) from error

    def _read_books(self) -> None:
        try:
            for state in read_books():
                if state.trouble:
                    self.stderr.write(trouble_of(state))
        except (InvalidSetting, LedgerUnavailable) as error:
            self.stderr.write(f"Effects may be missing: {first_line(error)}")

    def _show(self, tally: Tally, options: dict[str, Any]) -> None:
        steps = list(timeline(tally))
        counts = {name: getattr(tally, name) for name in SHOWN}
        if options["json"]:
            document = {
                "task_id": tally.task_id,
                "task": tally.task,
                "operation": tally.operation,
                "pattern": tally.pattern,
                "outcome": tally.outcome,
                "verdict": tally.verdict,
                "promise_broken": tally.broken,
                **counts,
                "events": [
                    {
                        "at": clock.aware(step.at).isoformat(),
                        "kind": step.kind,
                        "worker": step.worker,
                        "pid": step.pid,
                        "detail": step.detail,
                    }
                    for step in steps
                ],
            }
            self.stdout.write(json.dumps(document, indent=2))
            return
        title = self.style.MIGRATE_HEADING(escaped(tally.task_id))
        self.stdout.write(f"{title}  {escaped(tally.pattern or 'no pattern')}")
        if tally.task:
            self.stdout.write(f"task {escaped(tally.task)}")
        if tally.operation != tally.task_id:
            self.stdout.write(f"operation {escaped(tally.operation)}")
        self.stdout.write(" · ".join(counted(count, *COUNTS[name]) for name, count in counts.items()))
        self.stdout.write(f"outcome: {tally.outcome}")
        self.stdout.write(f"verdict: {tally.verdict}" + (" — the promise was broken" if tally.broken else ""))
        rows = [["ms", "event", "worker", "pid", ""]]
        for step in steps:
            rows.append([f"{step.after_ms:.1f}", step.kind, step.worker, str(step.pid or ""), step.what])

        def paint(row: int, column: int, text: str) -> str:
            return self.style.ERROR(text) if row and steps[row - 1].injected else text

        for line in table(rows, right={0, 3}, paint=paint):
            self.stdout.write(line)

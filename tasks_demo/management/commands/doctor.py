"""``manage.py doctor``: check whether the running servers and workers can keep the promises."""

from __future__ import annotations

import json
import sys
from itertools import groupby
from typing import Any

from django.core.management.base import CommandParser

from tasks_demo.doctor import Finding, State, examine
from tasks_demo.management.arguments import Exit
from tasks_demo.management.base import PackageCommand
from tasks_demo.management.output import table

COLOURS = {State.OK: "SUCCESS", State.WARN: "WARNING", State.FAIL: "ERROR"}
VERDICTS = {
    Exit.OK: "Jobs can run, and nothing was found that breaks a promise.",
    Exit.BROKEN: "Jobs can run, but promises would be broken: see the rows with fail.",
    Exit.NOT_READY: "Not ready: jobs cannot run until the rows with fail are corrected.",
}


class Command(PackageCommand):
    help = (
        "Ask the broker, Redis, the result backend and the databases whether they can keep the promises. "
        "Exit 0: they can, perhaps with warnings. 1: a promise is broken. 4: a part that jobs need cannot be used."
    )
    requires_system_checks = ()  # the doctor runs them itself and shows one row

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--app", "-A", default="", metavar="APP", help="the Celery app, as for `celery -A`; default: the project's"
        )
        parser.add_argument("--json", action="store_true", help="one JSON document instead of a table")

    def handle(self, *args: Any, **options: Any) -> None:
        rows = examine(options["app"])
        code = exit_code(rows)
        if options["json"]:
            shown = [
                {"part": row.part, "what": row.what, "state": row.state, "seen": row.seen, "fix": row.fix}
                for row in rows
            ]
            self.stdout.write(json.dumps({"schema": "doctor/1", "exit": code, "rows": shown}, indent=2))
        else:
            self._show(rows)
        sys.exit(code)

    def _show(self, rows: list[Finding]) -> None:
        for part, group in groupby(rows, key=lambda row: row.part):
            its = list(group)
            self.stdout.write(self.style.MIGRATE_HEADING(part))
            cells = [[f"  {row.what}", row.state, row.seen + (f"\n→ {row.fix}" if row.fix else "")] for row in its]

            def paint(number: int, column: int, text: str, its: list[Finding] = its) -> str:
                return getattr(self.style, COLOURS[its[number].state])(text) if column == 1 else text

            for line in table(cells, least={0: 19, 1: 4}, paint=paint):
                self.stdout.write(line)
        counts = ", ".join(f"{sum(row.state is state for row in rows)} {state}" for state in State)
        verdict = VERDICTS[exit_code(rows)]
        if exit_code(rows) is Exit.OK and any(row.what == "workers" and row.seen.startswith("none") for row in rows):
            verdict = "Jobs can run once a worker is started; nothing was found that breaks a promise."
        self.stdout.write(f"{counts}. {verdict}")


def exit_code(rows: list[Finding]) -> Exit:
    """Return the exit code. NOT_READY takes precedence over BROKEN: an unusable part may hide other faults."""
    if not all(row.ready for row in rows):
        return Exit.NOT_READY
    return Exit.BROKEN if any(row.state is State.FAIL for row in rows) else Exit.OK

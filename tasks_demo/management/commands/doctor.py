"""``manage.py doctor``: can the parts that are running keep the promises?"""

from __future__ import annotations

import json
import sys
from itertools import groupby
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from rich.table import Table
from rich.text import Text

from tasks_demo.core.exceptions import EnvironmentNotReady
from tasks_demo.doctor import Row, State, examine
from tasks_demo.management.arguments import Exit
from tasks_demo.management.output import console

COLOURS = {State.OK: "green", State.WARN: "yellow", State.FAIL: "bold red"}
VERDICTS = {
    Exit.OK: "Jobs can run, and what is looked at here keeps its promises.",
    Exit.BROKEN: "Jobs can run, but promises would be broken: see fail.",
    Exit.NOT_READY: "Not ready: jobs cannot run until what failed is put right.",
}


class Command(BaseCommand):
    help = (
        "Ask the broker, Redis, the result backend and the databases whether they can keep the promises. "
        "Exit 0: they can, perhaps with warnings. 1: a promise is broken. 4: a part that jobs need cannot be used."
    )
    requires_system_checks = ()  # their warnings are one row of the answer

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--app", "-A", default="", metavar="APP", help="the Celery app, as for `celery -A`; default: found"
        )
        parser.add_argument("--json", action="store_true", help="one JSON document instead of a table")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            rows = examine(options["app"])
        except EnvironmentNotReady as error:
            raise CommandError(str(error), returncode=Exit.NOT_READY) from error
        code = exit_code(rows)
        if options["json"]:
            shown = [
                {"part": row.part, "what": row.what, "state": row.state, "seen": row.seen, "fix": row.fix}
                for row in rows
            ]
            self.stdout.write(json.dumps({"schema": "doctor/1", "exit": code, "rows": shown}, indent=2))
        else:
            _show(rows, options)
        sys.exit(code)


def exit_code(rows: list[Row]) -> Exit:
    """What cannot be used goes first: without it nobody knows what else is broken."""
    if not all(row.ready for row in rows):
        return Exit.NOT_READY
    return Exit.BROKEN if any(row.state is State.FAIL for row in rows) else Exit.OK


def _show(rows: list[Row], options: dict[str, Any]) -> None:
    out = console(options)
    for part, its in groupby(rows, key=lambda row: row.part):
        out.print(Text(part, style="bold"))
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(width=19)
        table.add_column(width=4)
        table.add_column(overflow="fold")
        for row in its:
            told = Text(row.seen)
            if row.fix:
                told.append(f"\n→ {row.fix}", style="bold")
            table.add_row(f"  {row.what}", Text(row.state, style=COLOURS[row.state]), told)
        out.print(table)
    counts = ", ".join(f"{sum(row.state is state for row in rows)} {state}" for state in State)
    verdict = VERDICTS[exit_code(rows)]
    if exit_code(rows) is Exit.OK and any(row.what == "workers" and row.seen.startswith("none") for row in rows):
        verdict = "Jobs can run once a worker is started; what is looked at here keeps its promises."
    out.print(f"{counts}. {verdict}", highlight=False)

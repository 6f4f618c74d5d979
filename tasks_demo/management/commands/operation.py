"""``manage.py operation``: show the patterns' records of an operation, or delete them so that it can run again."""

from __future__ import annotations

import json
import sys
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.db import Error

from tasks_demo.core.exceptions import InvalidOperationKey, OperationHeld, UnknownTask
from tasks_demo.core.wording import first_line
from tasks_demo.ledger.models import Tally
from tasks_demo.management.arguments import Exit
from tasks_demo.management.base import PackageCommand
from tasks_demo.management.system_user import system_user
from tasks_demo.operations import OperationRecords, find_records, forget

#: The ledger's counts that are shown for each task ID.
SHOWN = ("publications", "deliveries", "executions", "effects", "suppressed", "deferred", "failed", "ended")
#: Maximum number of task IDs from the ledger.
MOST = 20


class Command(PackageCommand):
    help = (
        "Shows the records of an operation (lease, claim, inbox entry, fence) and the ledger's counts. `forget` deletes marker, "
        "claim and entry, so that the operation can run again; the fence stays. "
        "Exit codes: 0 done, 1 nothing found or nothing removed, 2 usage, 4 a store does not answer."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("act", choices=["show", "forget"])
        parser.add_argument(
            "key", metavar="KEY", help="the operation key, or the task ID if there is none; `--` before a -key"
        )
        parser.add_argument("--task", default="", metavar="NAME", help="only the records of this task's pattern")
        parser.add_argument("--json", action="store_true", help="one JSON document")
        parser.add_argument(
            "--why", default="", metavar="TEXT", help="forget: the reason, stored with your name; required"
        )
        parser.add_argument("--yes", action="store_true", help="forget: do not ask for confirmation")
        parser.add_argument(
            "--even-if-held",
            action="store_true",
            help="forget: even while a worker may be running it; it can then run twice",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        act, as_json = options["act"], options["json"]
        if act == "show" and (options["why"] or options["yes"] or options["even_if_held"]):
            raise CommandError("show takes no --why, --yes or --even-if-held.", returncode=Exit.USAGE)
        if act == "forget" and not options["why"].strip():
            raise CommandError("forget needs --why TEXT: the reason is stored with your name.", returncode=Exit.USAGE)
        try:
            found = find_records(options["key"], options["task"])
        except (InvalidOperationKey, UnknownTask) as error:
            raise CommandError(str(error), returncode=Exit.USAGE) from error
        tallies, trouble = _tallies(found.operation)
        troubles = [*found.troubles, *([trouble] if trouble else [])]
        if act == "show" or not as_json:
            self._show(found, tallies, troubles, as_json=as_json)
        if troubles:
            raise CommandError(" ".join(troubles), returncode=Exit.NOT_READY)
        if act == "forget":
            self._forget(found, options)
        elif not found.traces and not tallies:
            sys.exit(Exit.BROKEN)

    def _show(
        self, found: OperationRecords, tallies: list[dict[str, Any]], troubles: list[str], *, as_json: bool
    ) -> None:
        if as_json:
            document = {
                "operation": found.operation,
                "stores": [trace.as_json() for trace in found.traces],
                "ledger": tallies,
                "not_asked": troubles,
            }
            self.stdout.write(json.dumps(document, indent=2))
            return
        self.stdout.write(f"Operation {found.operation}")
        for trace in found.traces:
            self.stdout.write(f"  {trace.kind} ({trace.place}): {trace.state}")
            for name, value in trace.facts.items():
                self.stdout.write(f"    {name}: {value if value != '' else '(none)'}")
            if trace.held:
                self.stdout.write(f"    may be running: {trace.held}")
        for tally in tallies:
            counts = ", ".join(f"{tally[name]} {name}" for name in SHOWN if tally[name])
            self.stdout.write(f"  ledger {tally['task_id']}: {counts or 'nothing counted'}")
        if not found.traces and not tallies and not troubles:
            self.stdout.write(
                "  Nothing is recorded about it. Is the key complete? It is the operation key, not the task's name."
            )

    def _forget(self, found: OperationRecords, options: dict[str, Any]) -> None:
        removable = [trace for trace in found.traces if trace.removable]
        if removable and not options["yes"] and not self._confirmed(found.operation):
            return
        try:
            removed = forget(
                found,
                by=system_user(),
                why=options["why"].strip(),
                task=options["task"],
                even_if_held=options["even_if_held"],
            )
        except OperationHeld as error:
            raise CommandError(f"{error} (--even-if-held)", returncode=Exit.BROKEN) from error
        if options["json"]:
            document = {"operation": found.operation, "removed": [trace.as_json() for trace in removed]}
            self.stdout.write(json.dumps(document, indent=2))
        for trace in [] if options["json"] else removed:
            self.stdout.write(f"Removed: {trace.kind} ({trace.place}), {trace.state}.")
        if len(removed) < len(removable):
            self.stderr.write("A record has changed since it was shown and was not removed. Run `show` again.")
        elif not removable:
            self.stderr.write("There is nothing to remove: no lease, claim or inbox entry exists for this operation.")
        if not removed or len(removed) < len(removable):
            sys.exit(Exit.BROKEN)

    def _confirmed(self, operation: str) -> bool:
        if not sys.stdin.isatty():
            raise CommandError("Nothing was removed. Write --yes to forget the operation.", returncode=Exit.USAGE)
        answer = input(f"Forget it? The operation can then run again. Type yes for {operation!r}: ")
        if answer.strip() != "yes":
            self.stderr.write("Nothing was removed.")
            sys.exit(Exit.BROKEN)
        return True


def _tallies(operation: str) -> tuple[list[dict[str, Any]], str]:
    """Return the ledger's counts per task ID, latest first, and an error message if the ledger did not answer."""
    try:
        rows = Tally.objects.filter(operation=operation).order_by("-first_at", "task_id")[:MOST]
        return list(rows.values("task_id", "pattern", "verdict", *SHOWN)), ""
    except Error as error:
        return [], f"The ledger's database did not answer: {first_line(error)}."

"""``manage.py outbox``: list the outbox's open messages, have some published now, or cancel them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import UTC
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.db import DatabaseError, connections, router

from tasks_demo.core import clock
from tasks_demo.core.masking import masked_text
from tasks_demo.core.wording import escaped, shown
from tasks_demo.management.arguments import Exit
from tasks_demo.management.base import PackageCommand
from tasks_demo.management.output import table
from tasks_demo.management.system_user import system_user
from tasks_demo.outbox.decisions import cancel, hasten
from tasks_demo.records.models import OutboxMessage

#: Maximum number of messages that `list` prints, and of rows that --all acts on.
MOST = 1_000
#: Name of an act → what it does to a row, what it is called when done, and why it may not be done.
ACTS: dict[str, tuple[Callable[[OutboxMessage], bool], str, str]] = {
    "publish": (hasten, "is due now: a running relay publishes it", "is due, was handed over, or has ended"),
    "cancel": (lambda row: cancel(row, by=system_user()), "cancelled", "was begun by a worker, or has ended"),
}


class Command(PackageCommand):
    help = (
        "The outbox's messages that have not ended. `publish` makes messages due now that wait for a later time; `cancel` ends "
        "messages that no worker has begun. Exit codes: 0 done, 1 nothing done or some refused, 2 usage, 4 database not ready."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("act", nargs="?", choices=["list", *ACTS], default="list", help="default: list")
        parser.add_argument("task_ids", nargs="*", metavar="TASK_ID")
        parser.add_argument("--all", action="store_true", help=f"all that have not ended, at most {MOST}, oldest first")
        parser.add_argument(
            "--using", choices=sorted(connections), default=router.db_for_write(OutboxMessage), metavar="ALIAS",
            help="database of the outbox",
        )  # fmt: skip

    def handle(self, *, act: str, task_ids: list[str], **options: Any) -> None:
        if act == "list" and (task_ids or options["all"]):
            raise CommandError("list takes no task ID and no --all.", returncode=Exit.USAGE)
        if act != "list" and bool(task_ids) == options["all"]:
            raise CommandError(f"{act} takes one or more task IDs, or --all.", returncode=Exit.USAGE)
        if any("\0" in text for text in task_ids):
            raise CommandError("A task ID holds no NUL.", returncode=Exit.USAGE)
        rows = OutboxMessage.objects.using(options["using"]).order_by("id")
        try:
            if act == "list":
                self._list(list(rows.filter(finished_at=None)[: MOST + 1]))
            else:
                chosen = rows.filter(task_id__in=task_ids) if task_ids else rows.filter(finished_at=None)[:MOST]
                self._act(act, {row.task_id: row for row in chosen}, task_ids)
        except DatabaseError as error:
            raise CommandError(
                f"The outbox on {options['using']!r} cannot be used: {error}. Start its database and run `manage.py migrate`.",
                returncode=Exit.NOT_READY,
            ) from error

    def _list(self, rows: list[OutboxMessage]) -> None:
        if not rows:
            self.stdout.write("No message waits.")
            return
        rows_shown = [["task ID", "task", "published", "due (UTC)", "error"]]
        for row in rows[:MOST]:
            due = f"{clock.aware(row.due_at).astimezone(UTC):%Y-%m-%d %H:%M:%S}"
            rows_shown.append([row.task_id, row.task, str(row.publications), due, shown(masked_text(row.error), 80)])
        for line in table(rows_shown, right={2}):
            self.stdout.write(line)
        if len(rows) > MOST:
            self.stderr.write(f"There are more: the oldest {MOST} are listed.")

    def _act(self, act: str, rows: dict[str, OutboxMessage], task_ids: list[str]) -> None:
        decide, done, refused = ACTS[act]
        acted = 0
        for task_id in dict.fromkeys(task_ids or rows):
            if (row := rows.get(task_id)) is None:
                self.stderr.write(f"{escaped(task_id)} is not in the outbox.")
            elif decide(row):
                acted += 1
                self.stdout.write(f"{escaped(task_id)} {done}")
            else:
                self.stderr.write(f"{escaped(task_id)} {refused}: nothing was done.")
        if not acted or acted < len(set(task_ids)):
            sys.exit(Exit.BROKEN)

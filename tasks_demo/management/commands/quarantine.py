"""``manage.py quarantine``: list, show, requeue or discard parked messages."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import UTC
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError, connections, router

from tasks_demo.core import clock
from tasks_demo.core.exceptions import EnvironmentNotReady, RequeueFailed
from tasks_demo.core.masking import masked, masked_call
from tasks_demo.core.wording import counted, escaped, shown
from tasks_demo.management.arguments import Exit
from tasks_demo.management.output import carrying_all, table
from tasks_demo.management.people import who
from tasks_demo.patterns.parking import message_of
from tasks_demo.publishing.allowed import registered
from tasks_demo.quarantine.decisions import discard, requeue
from tasks_demo.records.models import Parked

#: Maximum characters of a message's arguments that `show` prints. --json and requeue use all of them.
MOST_SHOWN = 20_000

DECISIONS: dict[str, tuple[Callable[..., bool], str]] = {
    "requeue": (requeue, "requeued"),
    "discard": (discard, "discarded"),
}


class Command(BaseCommand):
    help = (
        "Messages parked because their workers died of them. Without arguments: list those that wait for a decision. "
        "Exit codes: 0 done, 1 nothing done or some failed, 2 usage, 4 database or broker not ready."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "act", nargs="?", choices=["list", "show", *DECISIONS], default="list", help="default: list"
        )
        parser.add_argument("task_ids", nargs="*", metavar="TASK_ID", help="a task ID, or the beginning of one")
        parser.add_argument("--all", action="store_true", help="all that are parked; with list: also what is decided")
        parser.add_argument("--why", default="", metavar="TEXT", help="kept with the decision")
        parser.add_argument("--json", action="store_true", help="one JSON document instead of a table or sentences")
        parser.add_argument(
            "--database",
            choices=sorted(connections),
            default=router.db_for_write(Parked),
            help="whose parked messages: for tasks that declare `using`",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        act, task_ids = options["act"], options["task_ids"]
        self._rows = Parked.objects.using(options["database"])
        if any("\0" in text or not text.isprintable() for text in task_ids):
            raise CommandError("A task ID holds printable characters only.", returncode=Exit.USAGE)
        if act == "list" and task_ids:
            raise CommandError("list takes no task ID. Write `show TASK_ID`.", returncode=Exit.USAGE)
        if options["why"] and act not in DECISIONS:
            raise CommandError(
                f"--why is kept with a decision, and {act} makes none. Write it with requeue or discard.",
                returncode=Exit.USAGE,
            )
        if act == "show" and (options["all"] or not task_ids):
            raise CommandError("show takes one or more task IDs, and no --all.", returncode=Exit.USAGE)
        if act in DECISIONS and bool(task_ids) == options["all"]:
            raise CommandError(f"{act} takes one or more task IDs, or --all.", returncode=Exit.USAGE)
        try:
            if act == "list":
                self._list(options)
            elif act == "show":
                self._show(task_ids, options)
            else:
                self._decide(act, task_ids, why=options["why"], as_json=options["json"])
        except DatabaseError as error:
            raise CommandError(
                f"The database of the parked messages cannot be used: {error}. Check DATABASE_URL and SHOP_DATABASE_URL, "
                "and run `python manage.py migrate`.",
                returncode=Exit.NOT_READY,
            ) from error

    def _list(self, options: dict[str, Any]) -> None:
        everything = options["all"]
        rows = list(self._rows.all() if everything else self._rows.filter(state=Parked.State.PARKED))
        if options["json"]:
            self.stdout.write(json.dumps([_facts(row) for row in rows], indent=2))
            return
        if not rows:
            self.stdout.write("No message is parked.")
            return
        carrying_all(sys.stdout)
        told = [["task ID", "task", "attempts", "parked (UTC), state" if everything else "parked (UTC)"]]
        for row in rows:
            at = f"{clock.aware(row.parked_at).astimezone(UTC):%Y-%m-%d %H:%M}"
            told.append([row.task_id, row.task, str(row.attempts), f"{at} {row.state}" if everything else at])
        for line in table(told, right={2}):
            self.stdout.write(line)

    def _show(self, task_ids: list[str], options: dict[str, Any]) -> None:
        found = [row for task_id in task_ids for row in self._known(task_id)]
        if options["json"]:
            self.stdout.write(
                json.dumps([{**_facts(row), **_message(row), "decisions": _decisions(row)} for row in found], indent=2)
            )
        carrying_all(sys.stdout)
        for row in [] if options["json"] else found:
            told = [f"{row.task_id}  {row.task}  {row.state}", row.reason]
            told += [f"{name}: {shown(value, MOST_SHOWN)}" for name, value in _message(row).items()]
            told += [f"  begun {one['at']} by {one['worker']}, pid {one['pid']}" for one in row.history]
            told += [
                f"  {one['decision']} {one['at']} by {one['by']}: {one['why'] or '(no reason given)'}"
                for one in _decisions(row)
            ]
            for line in told:
                self.stdout.write(escaped(line))
        if len({row.task_id for row in found}) < len(set(task_ids)):
            sys.exit(Exit.BROKEN)

    def _decide(self, act: str, task_ids: list[str], *, why: str, as_json: bool) -> None:
        decide, done = DECISIONS[act]
        if task_ids:
            chosen = [row for task_id in task_ids for row in self._known(task_id) if row.state == Parked.State.PARKED]
        else:
            chosen = list(self._rows.filter(state=Parked.State.PARKED).order_by("id"))
        wanted = len(set(task_ids)) or len(chosen)
        acted: list[Parked] = []
        try:
            for row in chosen:
                try:
                    if decide(row, by=who(), why=why):
                        acted.append(row)
                except RequeueFailed as error:
                    self.stderr.write(str(error))
        except EnvironmentNotReady as error:
            others = f"{counted(len(acted), 'other')} {'was' if len(acted) == 1 else 'were'} {done}."
            raise CommandError(f"{error} {others[0].upper()}{others[1:]}", returncode=Exit.NOT_READY) from error
        finally:
            if as_json:
                self.stdout.write(json.dumps({done: [row.task_id for row in acted]}, indent=2))
            else:
                for row in acted:
                    self.stdout.write(f"{escaped(row.task_id)} {done}")
        if not wanted:
            self.stderr.write("No message is parked: nothing was done.")
        elif len(acted) < wanted:
            self.stderr.write(f"{len(acted)} of {wanted} {done}; the others were not parked (any more), or see above.")
        if not acted or len(acted) < wanted:
            sys.exit(Exit.BROKEN)

    def _known(self, text: str) -> list[Parked]:
        """Return the rows of the only task ID that equals or begins with the text, latest first; otherwise explain on stderr."""
        rows = list(self._rows.filter(task_id=text)) or list(self._rows.filter(task_id__startswith=text))
        if len({row.task_id for row in rows}) == 1:
            return rows
        several = (
            f"{len({row.task_id for row in rows})} parked messages begin"
            if rows
            else "No parked message is, or begins,"
        )
        self.stderr.write(f"{several} with {text!r}. `manage.py quarantine list --all` shows task IDs.")
        return []


def _facts(row: Parked) -> dict[str, Any]:
    names = ("task_id", "operation", "task", "pattern", "attempts", "state", "reason", "history")
    return {**{name: getattr(row, name) for name in names}, "parked_at": clock.aware(row.parked_at).isoformat()}


def _message(row: Parked) -> dict[str, str]:
    """Return what a requeue publishes, as Python literals, because not every argument is JSON.

    Values that TASKS_DEMO_MASKED names are hidden.
    """
    try:
        copy = message_of(row)
    except Exception as error:  # noqa: BLE001  (deserialising can raise anything; show the rest)
        return {"message": f"cannot be read ({type(error).__name__}: {error})"}
    options = {name: value for name, value in copy.options.items() if value not in (None, "", [], {})}
    args, kwargs = masked_call(registered(row.task), copy.args, copy.kwargs)
    return {"args": repr(args), "kwargs": repr(kwargs), "options": repr(masked(options))}


def _decisions(row: Parked) -> list[dict[str, str]]:
    return [
        {"decision": one.decision, "by": one.by, "why": one.why, "at": clock.aware(one.at).isoformat()}
        for one in row.decisions.all()
    ]

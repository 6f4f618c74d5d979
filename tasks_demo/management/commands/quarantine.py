"""``manage.py quarantine``: list, show, requeue or discard parked messages, and the dead letters of the reliable transport."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.db import DatabaseError, connections, router

from tasks_demo.core import clock
from tasks_demo.core.exceptions import EnvironmentNotReady, RequeueFailed
from tasks_demo.core.masking import masked, masked_call
from tasks_demo.core.wording import counted, escaped, shown
from tasks_demo.management.arguments import Exit
from tasks_demo.management.base import PackageCommand
from tasks_demo.management.output import table
from tasks_demo.management.system_user import system_user
from tasks_demo.patterns.parking import message_of
from tasks_demo.publishing.publishable import registered
from tasks_demo.quarantine.dead_letters import DeadLetters, death_count, parts, shown_id
from tasks_demo.quarantine.decisions import discard, requeue
from tasks_demo.records.models import Parked
from tasks_demo.transport import DeadLetter

#: Maximum characters of a message's arguments that `show` prints. --json and requeue use all of them.
MOST_SHOWN = 20_000
#: Tokens that an error names.
MOST_NAMED = 5

#: Decision → for a parked message, for a dead letter, and what was done.
DECISIONS: dict[str, tuple[Callable[..., bool], Callable[..., bool], str]] = {
    "requeue": (requeue, DeadLetters.requeue, "requeued"),
    "discard": (discard, DeadLetters.discard, "discarded"),
}


class Command(PackageCommand):
    help = (
        "Lists, shows, requeues or discards messages that were parked because their workers died, and the dead letters of the "
        "Redis transport. Without arguments: lists those without a decision. "
        "Exit codes: 0 done, 1 nothing done or some failed, 2 usage, 4 database or broker not ready."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "act", nargs="?", choices=["list", "show", *DECISIONS], default="list", help="default: list"
        )
        parser.add_argument(
            "task_ids",
            nargs="*",
            metavar="TASK_ID",
            help="a task ID, or an unambiguous prefix of one; or the token of a dead letter",
        )
        parser.add_argument(
            "--all", action="store_true", help="all parked messages and dead letters; with list: also those decided"
        )
        parser.add_argument("--why", default="", metavar="TEXT", help="the reason, stored with the decision")
        parser.add_argument("--json", action="store_true", help="one JSON document instead of a table or sentences")
        parser.add_argument(
            "--using",
            choices=sorted(connections),
            default=router.db_for_write(Parked),
            help="the database of the parked messages, for tasks that declare `using`",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        act, task_ids = options["act"], options["task_ids"]
        self._rows = Parked.objects.using(options["using"])
        if any("\0" in text or not text.isprintable() for text in task_ids):
            raise CommandError("A task ID has printable characters only.", returncode=Exit.USAGE)
        if act == "list" and task_ids:
            raise CommandError("list takes no task ID. Write `show TASK_ID`.", returncode=Exit.USAGE)
        if options["why"] and act not in DECISIONS:
            raise CommandError(
                f"--why is stored with a decision, and {act} does not make one. Use it with requeue or discard.",
                returncode=Exit.USAGE,
            )
        if act == "show" and (options["all"] or not task_ids):
            raise CommandError("show takes one or more task IDs, and no --all.", returncode=Exit.USAGE)
        if act in DECISIONS and bool(task_ids) == options["all"]:
            raise CommandError(f"{act} takes one or more task IDs, or --all.", returncode=Exit.USAGE)
        try:
            with DeadLetters() as self._letters:
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
        trouble: EnvironmentNotReady | None = None
        letters: list[DeadLetter] = []
        try:
            letters = list(self._letters)
        except EnvironmentNotReady as error:
            trouble = error  # the rows in the database are listed nevertheless
        if options["json"]:
            facts = [*map(_facts, rows), *map(_facts_of_letter, letters)]
            self.stdout.write(json.dumps(facts, indent=2))
        elif rows or letters:
            cells = [["task ID", "task", "attempts", "kept in", "since (UTC), state" if everything else "since (UTC)"]]
            for row in rows:
                at = _minute(clock.aware(row.parked_at)) + (f" {row.state}" if everything else "")
                cells.append([row.task_id, row.task, str(row.attempts), "database", at])
            for letter in letters:
                at = _minute(datetime.fromtimestamp(letter.at, UTC)) + (" dead letter" if everything else "")
                cells.append([shown_id(letter), letter.task or "(no task)", str(death_count(letter)), "broker", at])
            for line in table(cells, right={2}):
                self.stdout.write(line)
        elif trouble is None:
            self.stdout.write("No message is parked, and there is no dead letter.")
        if trouble is not None:
            raise trouble

    def _show(self, ids: list[str], options: dict[str, Any]) -> None:
        found = [one for text in ids for one in self._known(text)]
        if options["json"]:
            self.stdout.write(json.dumps([_all_facts(one) for one in found], indent=2))
        for one in [] if options["json"] else found:
            for line in _lines_of_letter(one) if isinstance(one, DeadLetter) else _lines(one):
                self.stdout.write(escaped(line))
        if len({_key(one) for one in found}) < len(set(ids)):
            sys.exit(Exit.BROKEN)

    def _decide(self, act: str, ids: list[str], *, why: str, as_json: bool) -> None:
        decide, decide_letter, done = DECISIONS[act]
        acted: list[str] = []
        wanted = len(set(ids))
        try:
            for one in [one for text in ids for one in self._known(text)] if ids else self._undecided():
                wanted += not ids
                try:
                    if isinstance(one, DeadLetter):
                        if decide_letter(self._letters, one, by=system_user(), why=why):
                            acted.append(shown_id(one))
                    elif one.state == Parked.State.PARKED and decide(one, by=system_user(), why=why):
                        acted.append(one.task_id)
                except RequeueFailed as error:
                    self.stderr.write(str(error))
        except EnvironmentNotReady as error:
            others = f"{counted(len(acted), 'other')} {'was' if len(acted) == 1 else 'were'} {done}."
            raise CommandError(f"{error} {others[0].upper()}{others[1:]}", returncode=Exit.NOT_READY) from error
        finally:
            if as_json:
                self.stdout.write(json.dumps({done: acted}, indent=2))
            else:
                for text in acted:
                    self.stdout.write(f"{escaped(text)} {done}")
        if not wanted:
            self.stderr.write("No message is parked, and there is no dead letter: nothing was done.")
        elif len(acted) < wanted:
            self.stderr.write(
                f"{len(acted)} of {wanted} {done}; the others were already decided, or their errors are printed above."
            )
        if not acted or len(acted) < wanted:
            sys.exit(Exit.BROKEN)

    def _undecided(self) -> Iterator[Parked | DeadLetter]:
        """Yield the parked messages, then the dead letters, the oldest first."""
        yield from list(self._rows.filter(state=Parked.State.PARKED).order_by("id"))
        for token in reversed([letter.token for letter in self._letters]):
            if letter := self._letters.get(token):
                yield letter

    def _known(self, text: str) -> Sequence[Parked | DeadLetter]:
        """Return the rows of the one task ID that equals or begins with the text, latest first, or else the dead letter with
        this token or task ID; else write an error to stderr. A dead letter of a task ID with rows is found by its token."""
        rows = list(self._rows.filter(task_id=text)) or list(self._rows.filter(task_id__startswith=text))
        if any(row.task_id == text and row.state == Parked.State.PARKED for row in rows):
            return rows
        letters = self._letters.find(text)
        if len(letters) == 1 and not any(row.state == Parked.State.PARKED for row in rows):
            return letters
        if len({row.task_id for row in rows}) == 1 and not letters:
            return rows
        if letters or rows:
            tokens = "".join(f" {escaped(letter.token)}" for letter in letters[:MOST_NAMED])
            self.stderr.write(
                f"{len({row.task_id for row in rows})} parked messages and {counted(len(letters), 'dead letter')} begin with "
                f"{text!r}. Write the whole task ID, or the token of a dead letter.{' Tokens:' * bool(tokens)}{tokens}"
            )
        else:
            self.stderr.write(
                f"No task ID of a parked message equals or begins with {text!r}, and no dead letter has this task ID or token. "
                "`manage.py quarantine list --all` shows them."
            )
        return []


def _minute(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M}"


def _key(one: Parked | DeadLetter) -> str:
    return one.token if isinstance(one, DeadLetter) else one.task_id


def _all_facts(one: Parked | DeadLetter) -> dict[str, Any]:
    if isinstance(one, DeadLetter):
        return {**_facts_of_letter(one), **parts(one)}
    return {**_facts(one), **_message(one), "decisions": _decisions(one)}


def _lines(row: Parked) -> Iterator[str]:
    yield f"{row.task_id}  {row.task}  {row.state}"
    yield row.reason
    yield from (f"{name}: {shown(value, MOST_SHOWN)}" for name, value in _message(row).items())
    yield from (f"  begun {one['at']} by {one['worker']}, pid {one['pid']}" for one in row.history)
    for one in _decisions(row):
        yield f"  {one['decision']} {one['at']} by {one['by']}: {one['why'] or '(no reason given)'}"


def _lines_of_letter(letter: DeadLetter) -> Iterator[str]:
    yield f"{shown_id(letter)}  {letter.task or '(no task)'}  dead letter"
    yield letter.reason
    yield f"token: {letter.token}"
    yield f"queue: {letter.queue}"
    yield from (f"{name}: {shown(value, MOST_SHOWN)}" for name, value in parts(letter).items())


def _facts_of_letter(letter: DeadLetter) -> dict[str, Any]:
    return {
        "task_id": letter.task_id,
        "task": letter.task,
        "attempts": death_count(letter),
        "state": "dead letter",
        "reason": letter.reason,
        "parked_at": clock.iso(letter.at),
        "token": letter.token,
        "queue": letter.queue,
        "is_message": letter.is_message,
    }


def _facts(row: Parked) -> dict[str, Any]:
    names = ("task_id", "operation", "task", "pattern", "attempts", "state", "reason", "history")
    return {**{name: getattr(row, name) for name in names}, "parked_at": clock.aware(row.parked_at).isoformat()}


def _message(row: Parked) -> dict[str, str]:
    """Return the message that a requeue publishes, as Python literals, because not every argument is JSON.

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

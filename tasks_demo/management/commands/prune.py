"""``manage.py prune``: delete old records of the patterns and old history of the ledger."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from celery import current_app
from django.core.management.base import CommandError, CommandParser
from django.db import Error, connections, router
from django.db.models import Model
from django.utils.connection import ConnectionDoesNotExist
from django.utils.timezone import now

from tasks_demo.core import clock
from tasks_demo.core.conf import settings
from tasks_demo.core.wording import counted, named
from tasks_demo.ledger import pruning
from tasks_demo.management.arguments import Exit
from tasks_demo.management.base import PackageCommand
from tasks_demo.outbox.table import prune as prune_outbox
from tasks_demo.patterns import claim_first, inbox, operation_records
from tasks_demo.records.models import Attempt, Claim, Fence, InboxEntry, OutboxMessage, Parked

KINDS: tuple[tuple[tuple[str, str], type[Model], str, Callable[[datetime, str], int]], ...] = (
    (("claim", "claims"), Claim, "claimed_at", claim_first.prune),
    (("inbox entry", "inbox entries"), InboxEntry, "completed_at", inbox.prune),
    (("outbox message", "outbox messages"), OutboxMessage, "finished_at", prune_outbox),
    (("attempt", "attempts"), Attempt, "last_at", partial(operation_records.prune, Attempt, "last_at")),
    # A holder that has been suspended since its fence was last advanced could write again.
    (("fence", "fences"), Fence, "at", partial(operation_records.prune, Fence, "at")),
)


class Command(PackageCommand):
    help = (
        "Deletes claims, inbox entries, ended outbox messages, attempts and fences older than TASKS_DEMO_RETENTION_SECONDS, and "
        "from the ledger the jobs that ended longer ago than TASKS_DEMO_LEDGER_RETENTION_SECONDS. Run it daily, at any time: it "
        "deletes in small commits. It uses the databases that Django's routers name and every alias that an installed task "
        "declares (`using`); name others with --using. Parked messages, decisions about them, and jobs in the ledger that have "
        "not ended are kept. Ages are by this machine's clock. Exits with 4 if a database does not answer; rows that were "
        "deleted before that stay deleted, and the next run continues."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--using",
            action="append",
            choices=sorted(connections),
            default=[],
            metavar="ALIAS",
            help="prune this database, too, if only fenced(using=...) or enqueue(using=...) writes to it; may be repeated",
        )
        parser.add_argument(
            "--only", choices=["patterns", "ledger"], help="the patterns' records, or the ledger; default: both"
        )
        parser.add_argument("--dry-run", action="store_true", help="count what would be removed, without removing it")

    def handle(self, *, using: list[str], only: str | None, dry_run: bool, verbosity: int, **options: Any) -> None:
        # Import the tasks as a worker does: only an imported task declares where it writes.
        current_app.loader.import_default_modules()
        declared = {str(alias) for task in current_app.tasks.values() if (alias := getattr(task, "using", None))}
        self._verb = "Would remove" if dry_run else "Removed"
        self._aliases = {*declared, *using}
        removed: list[str] = []
        try:
            if only != "ledger":
                self._prune_patterns(removed, dry_run=dry_run)
            if only != "patterns":
                self._prune_ledger(removed, dry_run=dry_run, talkative=verbosity > 1)
        except (Error, ConnectionDoesNotExist) as error:
            raise CommandError(
                f"The database stopped answering ({' '.join(str(error).split())}). {self._verb} before that: "
                f"{', '.join(removed) or 'nothing'}. Start it, run `manage.py migrate`, and run this again.",
                returncode=Exit.NOT_READY,
            ) from error

    def _prune_patterns(self, removed: list[str], *, dry_run: bool) -> None:
        before = now() - timedelta(seconds=settings.RETENTION_SECONDS)
        for what, model, moment, prune in KINDS:
            count = 0
            for alias in sorted({router.db_for_write(model), *self._aliases}):
                old = model._base_manager.using(alias).filter(**{f"{moment}__lt": before})
                count += old.count() if dry_run else prune(before, alias)
            removed.append(f"{count} {named(count, *what)}")
        self._say(", ".join(removed), before)

    def _prune_ledger(self, removed: list[str], *, dry_run: bool, talkative: bool) -> None:
        if not settings.LEDGER or not settings.LEDGER_RETENTION_SECONDS:
            return
        if why := pruning.unsupported():
            self.stderr.write(f"Nothing to remove from the ledger. {why}")
            return
        before = now() - timedelta(seconds=settings.LEDGER_RETENTION_SECONDS)
        at = len(removed)

        def progress(pruned: pruning.Pruned) -> None:
            removed[at:] = [f"{counted(pruned.tallies, 'task ID')} and {counted(pruned.events, 'event')} of the ledger"]
            if talkative:
                self.stderr.write(f"{removed[at]} so far")

        pruned = pruning.prune(before, parked=self._undecided, dry_run=dry_run, progress=progress)
        progress(pruned)
        self._say(removed[at], before)
        if pruned.open:
            self.stdout.write(
                f"{pruned.open} older task IDs were kept in the ledger: they have not ended, or are parked."
            )

    def _undecided(self, task_ids: Sequence[str]) -> set[str]:
        """Return those of these task IDs that are still parked."""
        found: set[str] = set()
        for alias in sorted({router.db_for_write(Parked), *self._aliases}):
            if Parked._meta.db_table not in connections[alias].introspection.table_names():
                continue
            waiting = Parked.objects.using(alias).filter(task_id__in=task_ids, state=Parked.State.PARKED)
            found |= set(waiting.values_list("task_id", flat=True))
        return found

    def _say(self, what: str, before: datetime) -> None:
        moment = f"{clock.aware(before).astimezone(UTC):%Y-%m-%d %H:%M} UTC"
        self.stdout.write(f"{self._verb} {what} from before {moment}.")

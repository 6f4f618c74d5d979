"""``manage.py prune``: delete the patterns' records that no copy of a message can need any more."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from celery import current_app
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import Error, connections, router
from django.db.models import Model
from django.utils.connection import ConnectionDoesNotExist
from django.utils.timezone import now

from tasks_demo import clock
from tasks_demo.conf import settings
from tasks_demo.delivery import claim_first, inbox, outbox, rows
from tasks_demo.durable.models import Attempt, Claim, Fence, InboxEntry, OutboxMessage
from tasks_demo.management.arguments import Exit


def _fences(before: datetime, using: str) -> int:
    """Fences that were last advanced before this moment: a holder that has slept for longer would write again."""
    return rows.prune(Fence, "at", before, using)


def _attempts(before: datetime, using: str) -> int:
    """Attempts of messages that never came back to be counted again."""
    return rows.prune(Attempt, "last_at", before, using)


KINDS: tuple[tuple[str, type[Model], Callable[[datetime, str], int]], ...] = (
    ("claims", Claim, claim_first.prune),
    ("inbox entries", InboxEntry, inbox.prune),
    ("outbox messages", OutboxMessage, outbox.prune),
    ("attempts", Attempt, _attempts),
    ("fences", Fence, _fences),
)


class Command(BaseCommand):
    help = (
        "Deletes claims, inbox entries, ended outbox messages, attempts and fences older than TASKS_DEMO_RETENTION_SECONDS, in "
        "small commits: run it daily, at any time. It looks where Django's routers write them and on every alias that an "
        "installed task declares (`using`); name others with --using. Parked messages and what was decided about them stay. "
        "The age is judged by this machine's clock."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--using",
            action="append",
            choices=sorted(connections),
            default=[],
            metavar="ALIAS",
            help="look on this database too, where only fenced(using=...) or enqueue(using=...) writes; may be repeated",
        )

    def handle(self, *, using: list[str], **options: Any) -> None:
        # As a worker does: only what is imported can say where it writes.
        current_app.loader.import_default_modules()
        declared = {str(alias) for task in current_app.tasks.values() if (alias := getattr(task, "using", None))}
        before = now() - timedelta(seconds=settings.RETENTION_SECONDS)
        removed: list[str] = []
        try:
            for what, model, prune in KINDS:
                aliases = {router.db_for_write(model), *declared, *using}
                removed.append(f"{sum(prune(before, alias) for alias in sorted(aliases))} {what}")
        except (Error, ConnectionDoesNotExist) as error:
            raise CommandError(
                f"The database stopped answering ({' '.join(str(error).split())}). Removed until then: "
                f"{', '.join(removed) or 'nothing'}. Start it, run `manage.py migrate`, and run this again.",
                returncode=Exit.NOT_READY,
            ) from error
        self.stdout.write(
            f"Removed {', '.join(removed)} from before {clock.aware(before).astimezone(UTC):%Y-%m-%d %H:%M} UTC."
        )

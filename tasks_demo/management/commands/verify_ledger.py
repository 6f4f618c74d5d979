"""``manage.py verify_ledger``: compare every tally with the sum of its events."""

from __future__ import annotations

import sys
from typing import Any

from django.core.management.base import CommandError
from django.db import DatabaseError

from tasks_demo.core.wording import counted
from tasks_demo.ledger.models import Event, Tally
from tasks_demo.ledger.verify import differences
from tasks_demo.management.arguments import Exit
from tasks_demo.management.base import PackageCommand


class Command(PackageCommand):
    help = "Check that every tally equals the sum of its events. Workers may be running. Exit 1: there are differences."

    def handle(self, *args: Any, **options: Any) -> None:
        found = 0
        try:
            for sentence in differences():
                found += 1
                self.stdout.write(sentence)
            tallies, events = Tally.objects.count(), Event.objects.count()
            seen = f"{counted(tallies, 'tally', 'tallies')}, {counted(events, 'event')}"
        except DatabaseError as error:
            raise CommandError(
                f"The ledger cannot be read: {error}. Check DATABASE_URL and run `python manage.py migrate`.",
                returncode=Exit.NOT_READY,
            ) from error
        self.stdout.write(f"{seen}: {counted(found, 'difference')}.")
        if found:
            sys.exit(Exit.BROKEN)

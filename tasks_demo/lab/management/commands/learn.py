"""``manage.py learn``: write the Learn page as one file, or record its histories anew."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from tasks_demo.core.wording import counted
from tasks_demo.management.arguments import Exit

#: How the histories of the page are recorded.
EXPERIMENT = "manage.py experiment --pattern all --point all --tasks 3 --kills 1 --work {work} --seed {seed}"


class Command(BaseCommand):
    help = (
        "Write the page on which a reader kills a worker and sees how often the customer is charged, as one HTML file."
    )
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        what = parser.add_mutually_exclusive_group(required=True)
        what.add_argument("--out", type=Path, metavar="FILE", help="write the page to this file; it loads nothing")
        what.add_argument(
            "--record",
            type=Path,
            nargs=2,
            metavar=("EVENTS", "RESULT"),
            help=f"take the histories from --events and --json of {EXPERIMENT.format(work=40, seed=9)}",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            if options["out"]:
                self._write(options["out"])
            else:
                self._record(*options["record"])
        except OSError as error:
            raise CommandError(
                f"{error.filename}: {error.strerror}. Nothing was written.", returncode=Exit.USAGE
            ) from error

    def _write(self, out: Path) -> None:
        from tasks_demo.lab.learn.screen import as_file

        out.write_text(as_file(), encoding="utf-8")
        self.stderr.write(f"Wrote {out}. Open it in a browser.\n")

    def _record(self, events: Path, result: Path) -> None:
        from tasks_demo.lab.learn.recording import FILE, Recording, cases_of, write
        from tasks_demo.lab.verdict.history import HistoryError, read

        try:
            document = json.loads(result.read_text(encoding="utf-8"))
            cell = document["cells"][0]
            with events.open(encoding="utf-8") as file:
                cases = cases_of(read(file))
            work = document["configuration"]["plan"][0]["work_ms"]
            recording = Recording(
                EXPERIMENT.format(work=work, seed=cell["seed"]),
                document["started_at"][:10],
                {name: document["versions"][name] for name in ("python", "celery", "kombu", "redis", "django")},
                tuple(cases),
            )
        except (ValueError, KeyError, TypeError, IndexError, HistoryError) as error:
            raise CommandError(
                f"No history and result of one experiment: {type(error).__name__}: {error}. Nothing was written.",
                returncode=Exit.USAGE,
            ) from error
        if not cases:
            raise CommandError("No kill of a main process landed in it. Nothing was written.", returncode=Exit.USAGE)
        write(recording)
        self.stderr.write(f"Wrote {counted(len(cases), 'case')} to {FILE}.\n")

"""``manage.py learn``: write the Learn page as one file, or record its histories anew."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError, CommandParser

from tasks_demo.core.wording import counted
from tasks_demo.management.arguments import Exit
from tasks_demo.management.base import PackageCommand

#: How the histories of the page are recorded.
OTHERS = (
    "manage.py experiment --pattern acks_early acks_late dedup_lock --fault kill-child lost-response poison --tasks 10 --kills 4 "
    "--seed {seed}"
)
EXPERIMENT = "manage.py experiment --pattern all --point all --tasks 3 --kills 1 --work {work} --seed {seed}"


class Command(PackageCommand):
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
        what.add_argument(
            "--record-others",
            type=Path,
            nargs=2,
            metavar=("EVENTS", "RESULT"),
            help=f"the same for the other faults, from {OTHERS.format(seed=9)}; what --record has taken stays",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            if options["out"]:
                self._write(options["out"])
            elif options["record"]:
                self._record(*options["record"])
            else:
                self._record_others(*options["record_others"])
        except OSError as error:
            file = error.filename or options["out"] or "The recording"
            raise CommandError(f"{file}: {error.strerror}. Nothing was written.", returncode=Exit.USAGE) from error

    def _write(self, out: Path) -> None:
        from tasks_demo.lab.learn.screen import as_file

        out.write_text(as_file(), encoding="utf-8")
        self.stderr.write(f"Wrote {out}. Open it in a browser.\n")

    def _record(self, events: Path, result: Path) -> None:
        from tasks_demo.lab.learn.recording import FILE, Recording, cases_of, write
        from tasks_demo.lab.learn.recording import read as recorded
        from tasks_demo.lab.verdict.history import HistoryError, read

        try:
            document = json.loads(result.read_text(encoding="utf-8"))
            cell = document["cells"][0]
            with events.open("rb") as file:
                cases = cases_of(read(file))
            work = document["configuration"]["plan"][0]["work_ms"]
            recording = Recording(
                EXPERIMENT.format(work=work, seed=cell["seed"]),
                document["started_at"][:10],
                {name: document["versions"][name] for name in ("python", "celery", "kombu", "redis", "django")},
                tuple(cases),
                recorded().others,
                recorded().others_command,
            )
        except (ValueError, KeyError, TypeError, IndexError, HistoryError) as error:
            raise CommandError(
                f"EVENTS and RESULT are not the history and the result of one experiment: "
                f"{type(error).__name__}: {error}. Nothing was written.",
                returncode=Exit.USAGE,
            ) from error
        if not cases:
            raise CommandError(
                "The history contains no injected kill of a main process. Nothing was written.", returncode=Exit.USAGE
            )
        write(recording)
        self.stderr.write(f"Wrote {counted(len(cases), 'case')} to {FILE}.\n")

    def _record_others(self, events: Path, result: Path) -> None:
        from tasks_demo.lab.learn.recording import FILE, others_of, write
        from tasks_demo.lab.learn.recording import read as recorded
        from tasks_demo.lab.verdict.history import HistoryError, read

        try:
            seed = json.loads(result.read_text(encoding="utf-8"))["cells"][0]["seed"]
            with events.open("rb") as file:
                others = others_of(read(file))
        except (ValueError, KeyError, TypeError, IndexError, HistoryError) as error:
            raise CommandError(
                f"EVENTS and RESULT are not the history and the result of one experiment: "
                f"{type(error).__name__}: {error}. Nothing was written.",
                returncode=Exit.USAGE,
            ) from error
        if not others:
            raise CommandError("None of these faults was injected in it. Nothing was written.", returncode=Exit.USAGE)
        write(replace(recorded(), others=tuple(others), others_command=OTHERS.format(seed=seed)))
        self.stderr.write(f"Wrote {counted(len(others), 'case')} to {FILE}.\n")

"""``manage.py benchmark``: measure the budgets and compare the arms in one run."""

from __future__ import annotations

import json
import shutil
import signal
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import CommandError, CommandParser

from tasks_demo.benchmark.figures import render
from tasks_demo.benchmark.run import PARTS, Sizes
from tasks_demo.core.exceptions import DeliveryError
from tasks_demo.demo.defaults import short_temporary_folder
from tasks_demo.lab.reports.console import console
from tasks_demo.management.arguments import Exit, whole
from tasks_demo.management.base import PackageCommand

#: Variables removed from the environment: the benchmark measures the embedded stack with its defaults.
_LEFT_OUT = ("REDIS_URL", "DATABASE_URL", "BANK_URL", "BANK_DATABASE_URL", "SHOP_DATABASE_URL", "DJANGO_PRODUCTION")
#: Maximum time for the benchmark's processes to end after Ctrl-C, seconds.
_END_SECONDS = 20.0
#: The parts that an option applies to.
MEASURED_IN = {
    "rounds": {"start", "throughput", "patterns", "latency", "transport", "point", "watched"},
    "tasks": {"throughput", "patterns", "transport", "watched"},
    "task_ids": {"dashboard"},
}


class Command(PackageCommand):
    help = (
        "Measure the budgets: worker start, kills per second, recovery of a killed job, throughput of the ledger and of "
        "every pattern, the delay of the outbox, the reliable transport beside kombu's, the pages of the dashboard, "
        "what open dashboards cost a worker. "
        "Everything runs on an embedded Redis and scratch databases. Exit codes: "
        "0 measured (a missed budget is shown, not an error), 2 usage, 4 the machine is not ready, 130 interrupted."
    )
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        default = Sizes()
        parser.add_argument(
            "--json", metavar="FILE", help="write the result document; - for stdout, instead of the table"
        )
        parser.add_argument(
            "--quick", action="store_true", help="measure less: to check that it works, not for usable figures"
        )
        parser.add_argument("--only", choices=PARTS, nargs="+", action="extend", help="measure these parts only")
        parser.add_argument(
            "--rounds", type=whole("--rounds", 3, 100), help=f"default {default.rounds}; the part point has at least 5"
        )
        parser.add_argument(
            "--tasks", type=whole("--tasks", 10, 100_000), help=f"tasks per round, default {default.tasks}"
        )

        parser.add_argument(
            "--task-ids",
            type=whole("--task-ids", 100, 100_000_000),
            help=f"task IDs in the ledger whose pages are measured, default {default.task_ids:,}",
        )
        parser.add_argument(
            "--database",
            metavar="URL",
            help="with --only dashboard: fill, measure and empty this empty database instead of a scratch file",
        )

        parser.add_argument(
            "--as-it-is",
            action="store_true",
            help="with --database: measure the task IDs that are in it (`seed_ledger`), and leave them",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        target: str | None = options["json"]
        if target not in (None, "-"):
            _check_writable(Path(target))
        for option, parts in MEASURED_IN.items():
            if options[option] and options["only"] and not parts & set(options["only"]):
                raise CommandError(
                    f"--{option.replace('_', '-')} would have no effect: "
                    f"{', '.join(sorted(set(options['only'])))} has none. Leave it out, or measure "
                    f"one of {', '.join(sorted(parts))}.",
                    returncode=Exit.USAGE,
                )
        if options["database"] and options["only"] != ["dashboard"]:
            raise CommandError("--database can be used with `--only dashboard` only.", returncode=Exit.USAGE)
        if options["as_it_is"] and (not options["database"] or options["task_ids"]):
            raise CommandError("--as-it-is needs --database, and has no --task-ids.", returncode=Exit.USAGE)
        sizes = Sizes.quick() if options["quick"] else Sizes()
        sizes = replace(
            sizes,
            rounds=options["rounds"] or sizes.rounds,
            tasks=options["tasks"] or sizes.tasks,
            task_ids=options["task_ids"] or sizes.task_ids,
            as_it_is=options["as_it_is"],
            parts=tuple(options["only"] or PARTS),
        )
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            document = self._measured(sizes, options["database"])
        except KeyboardInterrupt:
            raise CommandError(
                "Interrupted. All processes were stopped, and nothing was saved.", returncode=Exit.INTERRUPTED
            ) from None
        except DeliveryError as error:
            raise CommandError(str(error), returncode=Exit.NOT_READY) from error
        if target == "-":
            self.stdout.write(json.dumps(document, indent=2))
            return
        render(console(options), document)
        if target is not None:
            text = json.dumps(document, indent=2, ensure_ascii=False)
            Path(target).write_text(text + "\n", encoding="utf-8")

    def _measured(self, sizes: Sizes, database: str | None) -> dict[str, Any]:
        """Run the benchmark in a separate process whose STATE_DIR is a temporary folder."""
        from tasks_demo.demo.stack.processes import project_environment, spawn

        folder = Path(tempfile.mkdtemp(prefix="bench-", dir=short_temporary_folder()))
        environment = {
            name: value
            for name, value in project_environment().items()
            if name not in _LEFT_OUT and not name.startswith("TASKS_DEMO_")
        }
        # TMPDIR, too, so that files left by killed workers are deleted with the folder.
        environment |= {
            "STATE_DIR": str(folder),
            "TMPDIR": str(folder),
            "BENCHMARK_PROJECT_SETTINGS": settings.SETTINGS_MODULE,
            "DJANGO_SETTINGS_MODULE": "tasks_demo.benchmark.settings",
        }
        if database:
            environment["DATABASE_URL"] = database
        result = folder / "result.json"
        command = [sys.executable, "-m", "tasks_demo.benchmark.run", json.dumps(asdict(sizes)), str(result)]
        try:
            process = spawn(command, env=environment)
            try:
                process.wait()
            finally:
                process.stop(_END_SECONDS)
            if process.returncode == Exit.NOT_READY:
                raise CommandError("Nothing was measured.", returncode=Exit.NOT_READY)
            if process.returncode == Exit.INTERRUPTED:
                raise KeyboardInterrupt
            if process.returncode != 0:
                raise CommandError(
                    f"Internal error: the benchmark exited with {process.returncode}. This is a bug; please report it with the "
                    "lines above.",
                    returncode=Exit.INTERNAL,
                )
            document: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
            return document
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _check_writable(path: Path) -> None:
    try:
        # Check before the run: a result that cannot be written would be lost.
        with path.open("a", encoding="utf-8"):
            pass
    except OSError as error:
        raise CommandError(
            f"--json: {path} cannot be written: {error.strerror}. Nothing was measured.", returncode=Exit.USAGE
        ) from error

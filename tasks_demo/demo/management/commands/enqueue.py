"""``manage.py enqueue PATTERN``: publish charges and print their task IDs."""

from __future__ import annotations

import json
from typing import Any

from django.core.management.base import CommandError, CommandParser

from tasks_demo.core.exceptions import InvalidOperationKey
from tasks_demo.core.semantics import PROMISES
from tasks_demo.core.wording import counted
from tasks_demo.demo.publishing import publish
from tasks_demo.management.arguments import Exit, whole
from tasks_demo.management.base import PackageCommand
from tasks_demo.management.stopping import stop_signals


class Command(PackageCommand):
    help = "Publish jobs that charge a customer, with the chosen delivery pattern, and print their task IDs."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("pattern", choices=list(PROMISES), help="the delivery pattern")
        parser.add_argument(
            "-n", "--count", type=whole("-n", 1, 1_000_000), default=1, help="number of jobs, default 1"
        )
        parser.add_argument(
            "--operation", metavar="KEY", help="the same operation key for all jobs, like a double click"
        )
        parser.add_argument(
            "--amount", type=whole("--amount", 1, 100_000_000), default=1999, metavar="CENTS", help="default 1999"
        )
        parser.add_argument(
            "--work",
            type=whole("--work", 0, 240_000),
            default=0,
            metavar="MS",
            help="work before the charge, default 0",
        )
        parser.add_argument("--json", action="store_true", help="one JSON object per line instead of plain task IDs")

    def handle(self, *args: Any, **options: Any) -> None:
        sent, count = 0, options["count"]
        jobs = publish(
            options["pattern"],
            count=count,
            amount=options["amount"],
            work_ms=options["work"],
            operation=options["operation"],
        )
        try:
            with stop_signals(insist=True) as asked:
                for job in jobs:
                    sent += 1
                    if options["json"]:
                        line = {"task_id": job.task_id, "operation": job.operation, "pattern": job.pattern}
                        self.stdout.write(json.dumps(line))
                    else:
                        self.stdout.write(job.task_id)
                    if asked and sent < count:
                        raise CommandError(
                            f"Interrupted. In the queue: {sent} of {counted(count, 'job')}.",
                            returncode=Exit.INTERRUPTED,
                        )
        except InvalidOperationKey as error:
            raise CommandError(f"--operation: {error} Nothing was published.", returncode=Exit.USAGE) from error
        except KeyboardInterrupt:  # the second one: it is unknown whether the publication in progress succeeded
            raise CommandError(
                f"Interrupted. In the queue: {sent} of {counted(count, 'job')}, and perhaps one more.",
                returncode=Exit.INTERRUPTED,
            ) from None

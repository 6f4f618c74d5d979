"""The base class of this package's commands."""

from __future__ import annotations

import os
import select
import sys
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from tasks_demo.core.exceptions import EnvironmentNotReady
from tasks_demo.management.arguments import Exit
from tasks_demo.management.output import carrying_all


class PackageCommand(BaseCommand):
    """Ends with code 4 where something that it needs is not ready, and quietly when nobody reads its output any more, as in
    ``| head``. What it had not done by then is not done. Its output may hold any character."""

    def run_from_argv(self, argv: list[str]) -> None:
        try:
            super().run_from_argv(argv)
            sys.stdout.flush()
        except BrokenPipeError:
            if not _output_is_closed():
                raise
            sys.exit(Exit.OUTPUT_CLOSED)

    def execute(self, *args: Any, **options: Any) -> str | None:
        carrying_all(sys.stdout)
        try:
            return super().execute(*args, **options)
        except EnvironmentNotReady as error:
            raise CommandError(str(error), returncode=Exit.NOT_READY) from error


def _output_is_closed() -> bool:
    """Whether standard output is a pipe without a reader; if so, replace it, so that Python's own flush at exit does not fail."""
    watch = select.poll()
    watch.register(sys.stdout, select.POLLERR)
    if not any(event & select.POLLERR for _, event in watch.poll(0)):
        return False
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, sys.stdout.fileno())
    os.close(nothing)
    return True

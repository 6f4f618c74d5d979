"""The base class of this package's commands."""

from __future__ import annotations

import os
import select
import sys

from django.core.management.base import BaseCommand

from tasks_demo.management.arguments import Exit


class PackageCommand(BaseCommand):
    """Ends quietly when nobody reads its output any more, as in ``| head``. What it had not done by then is not done."""

    def run_from_argv(self, argv: list[str]) -> None:
        try:
            super().run_from_argv(argv)
            sys.stdout.flush()
        except BrokenPipeError:
            if not _output_is_closed():
                raise
            sys.exit(Exit.OUTPUT_CLOSED)


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

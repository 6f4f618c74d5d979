"""The base class of this package's commands."""

from __future__ import annotations

import errno
import os
import sys
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from tasks_demo.core.exceptions import EnvironmentNotReady
from tasks_demo.management.arguments import Exit
from tasks_demo.management.output import carrying_all

_STANDARD_ERROR = 2
_OUTPUT_ERRORS = {errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF}


class PackageCommand(BaseCommand):
    """Ends with code 4 where something that it needs is not ready or its output cannot be written, and quietly when nobody reads
    its output any more, as in ``| head``. What it had not done by then is not done. Its output may hold any character."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        _open_standard_streams()
        super().__init__(*args, **kwargs)

    def run_from_argv(self, argv: list[str]) -> None:
        try:
            super().run_from_argv(argv)
            sys.stdout.flush()
        except OSError as error:
            if not output_failed(error):
                raise
            _discard_output()
            if isinstance(error, BrokenPipeError):
                sys.exit(Exit.OUTPUT_CLOSED)
            self.stderr.write(f"CommandError: The output is incomplete: standard output: {error.strerror}.")
            sys.exit(Exit.NOT_READY)

    def execute(self, *args: Any, **options: Any) -> str | None:
        carrying_all(sys.stdout)
        try:
            return super().execute(*args, **options)
        except EnvironmentNotReady as error:
            raise CommandError(str(error), returncode=Exit.NOT_READY) from error


def _open_standard_streams() -> None:
    """Open the null device in the place of closed standard streams (``>&-``), so that no database gets their numbers."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= _STANDARD_ERROR:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115


def output_failed(error: OSError) -> bool:
    """Return whether the error may be of standard output, and that cannot be written: its disk is full, say, or it is a pipe
    without a reader."""
    if error.errno not in _OUTPUT_ERRORS:
        return False
    try:
        sys.stdout.write("\n")  # unbuffered, nothing is left of the write that failed
        sys.stdout.flush()
    except OSError:
        return True
    return False


def _discard_output() -> None:
    # Otherwise Python's own flush at exit fails, and changes the exit code.
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, sys.stdout.fileno())
    os.close(nothing)

"""Waits for the end of a process, by evidence of the kernel."""

from __future__ import annotations

import contextlib
import os
import select
from collections.abc import Iterator

#: Maximum time to wait for a death after its signal, seconds. A warm shutdown that forgets a job takes about 31 s
#: (docs/explanation/lab-findings.md).
DEATH_SECONDS = 45.0


@contextlib.contextmanager
def pidfd(pid: int) -> Iterator[int]:
    descriptor = os.pidfd_open(pid)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def ended(descriptor: int) -> bool:
    """Whether the process of this pidfd has ended within the bound. A zombie has."""
    readable, _, _ = select.select([descriptor], [], [], DEATH_SECONDS)
    return bool(readable)

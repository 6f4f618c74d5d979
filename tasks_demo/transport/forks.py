"""Forks of a consuming process, such as the children of Celery's prefork pool.

A child must not keep the socket that shows the others that its parent lives: the connection would stay listed after the
parent's death for as long as the child runs.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from typing import Final

#: How long a fork waits for a heartbeat that is under way; seconds. Longer only if Redis does not answer.
_WAIT: Final = 0.2

_beating = threading.Lock()
_held = False
_in_child: list[Callable[[], None]] = []


@contextlib.contextmanager
def not_while_forking() -> Iterator[None]:
    """Keep forks of this process waiting, so that no child inherits a connection in the making."""
    with _beating:
        yield


def when_forked(forget: Callable[[], None]) -> None:
    """Call ``forget`` in every child from now on; in the child the list is empty again."""
    _in_child.append(forget)


def _before() -> None:
    global _held
    _held = bool(_in_child) and _beating.acquire(timeout=_WAIT)


def _after_in_parent() -> None:
    if _held:
        _beating.release()


def _after_in_child() -> None:
    global _beating
    _beating = threading.Lock()
    for forget in _in_child:
        forget()
    _in_child.clear()


os.register_at_fork(before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child)

"""One execution of a body: what fails before it requeues the delivery, and what comes after it cannot fail it.

    with execution(self) as body:            # a failure in here, of whatever class, requeues the delivery ...
        ...                                  # claim, count
        reached(Point.STARTED)
        result = body.run(args, kwargs)      # ... until the body begins: its errors are its own
        ...                                  # no soft time limit strikes here any more

What a body raises that is no ``Exception`` (``asyncio.CancelledError``, ``GeneratorExit``, one of its own) is a failure like any
other, raised as BodyStopped: Celery ends such a job only in its prefork pool, and there without ``on_failure``
(celery/concurrency/base.py ``apply_target``). What ends the process stays what it is, and an error that a body runs into
while its process is being terminated is no failure of the job: Celery sees a lost worker, and requeues.

What is **not** guaranteed: that a requeued delivery of an early-acknowledging pattern survives if no copy of it can be
published (see ``requeue.requeue_original``).
"""

from __future__ import annotations

import inspect
import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import AsyncGeneratorType, GeneratorType
from typing import Any

from billiard import current_process
from billiard.common import terminate_handler_fired  # type: ignore[attr-defined]
from billiard.pool import soft_timeout_sighandler
from celery import states
from celery.exceptions import TaskPredicate

from tasks_demo.core.exceptions import (
    BodyNotRun,
    BodyStopped,
    ContradictoryDeclaration,
    NothingToRequeue,
    OperationMismatch,
    TransactionOpen,
    UnsupportedDatabase,
)
from tasks_demo.core.lifecycle import described
from tasks_demo.patterns.requeue import defer
from tasks_demo.patterns.suppression import known_outcome, suppressed

#: Verdicts on the job itself: to run it again later would end the same. And what Celery itself understands.
_FINAL = (TaskPredicate, ContradictoryDeclaration, TransactionOpen, NothingToRequeue)


class WorkerKilled(BaseException):
    """The death of a worker that tasks_demo.testing plays: as after SIGKILL, nobody cleans up behind it."""


class Execution:
    """Knows whether the body has begun."""

    def __init__(self, task: Any) -> None:
        self._task = task
        self._handler: Any = None
        self.begun = False

    def run(self, args: Any, kwargs: Any) -> Any:
        """Run the body, and raise what it raises; BodyNotRun where its return is no proof that it ran, BodyStopped for what it
        raises that is no Exception, and SystemExit where its process is being terminated."""
        self.begun = True
        try:
            return finished(self._task, self._task.run_body(*args, **kwargs))
        except TaskPredicate:
            raise
        except Exception as error:
            if terminate_handler_fired():
                raise SystemExit(f"terminated, and then {described(error)}") from error
            raise
        except BaseException as error:
            if self._task.request.is_eager or ends_process(error):
                raise
            raise BodyStopped(
                f"{self._task.name}: the body was ended by {described(error)}, which is no Exception. The job has failed."
            ) from error
        finally:
            self._ignore_soft_limit()

    def _ignore_soft_limit(self) -> None:
        # It asks a body to stop. Raised between an effect and its record, it would fail a job that is done.
        if threading.current_thread() is threading.main_thread():
            handler = signal.getsignal(signal.SIGUSR1)
            if handler is soft_timeout_sighandler:
                signal.signal(signal.SIGUSR1, _ignored)
                self._handler = handler

    def close(self) -> None:
        """The next body may have a soft time limit again."""
        if self._handler is not None:
            signal.signal(signal.SIGUSR1, self._handler)


def ends_process(error: BaseException | None) -> bool:
    """Whether the process (or the greenlet) that runs a body ends with this error, so that it says nothing about the job."""
    if type(error).__module__.partition(".")[0] in {"gevent", "greenlet", "eventlet"}:
        return True  # a limit, or the pool's own word
    if not isinstance(error, SystemExit | KeyboardInterrupt):
        return isinstance(error, WorkerKilled)
    # A process of a pool leaves with it. Elsewhere Celery and Python raise these in the main thread, sys.exit() in a body apart.
    in_main = threading.current_thread() is threading.main_thread()
    return current_process().name != "MainProcess" or (in_main and type(error) is not SystemExit)


def finished(task: Any, result: Any) -> Any:
    """The result. Raises BodyNotRun for one that has still to be run: nobody awaits or iterates it here."""
    if not (inspect.isawaitable(result) or isinstance(result, GeneratorType | AsyncGeneratorType | map | filter)):
        return result
    if hasattr(result, "close"):
        result.close()  # or Python warns that it was never awaited
    raise BodyNotRun(
        f"{task.name}: the body returned a {type(result).__name__}, which nobody runs in a Celery worker: its "
        "work is not done, and no marker says that it is. Write def, and asgiref.sync.async_to_sync(f)(...) in it for what is "
        "asynchronous; return a list instead of a generator."
    )


def _ignored(*_: object) -> None:
    """A soft time limit that came when the body had ended."""


@contextmanager
def execution(task: Any) -> Iterator[Execution]:
    """Frame one execution. Raises Unfinished or Reject for a failure before the body, and what the body raises."""
    body = Execution(task)
    try:
        yield body
    except OperationMismatch as error:
        # A message that bears the ID of a task which has ended is not to make a failure of it.
        if not body.begun and known_outcome(task) in states.READY_STATES:
            raise suppressed(task, f"its outcome stands, although {error}") from error
        raise
    except _FINAL:
        raise
    except Exception as error:
        if body.begun:
            raise
        # Nothing but other settings can end this one.
        defer(task, error, level=logging.ERROR if isinstance(error, UnsupportedDatabase) else logging.WARNING)
    finally:
        body.close()

"""One execution of a body: a failure before the body defers the delivery, and a failure after it does not fail the job.

    with execution(self) as body:            # any error up to the start of the body defers the delivery
        ...                                  # claim, count
        reached(Point.STARTED)
        result = body.run(args, kwargs)      # errors of the body fail the job
        ...                                  # soft time limits are no longer raised

A BaseException from a body (``asyncio.CancelledError``, ``GeneratorExit``, one of the user's) fails the job as BodyStopped.
Without this Celery would end such a job in its prefork pool only, and without ``on_failure`` (celery/concurrency/base.py
``apply_target``). Errors that end the process are raised unchanged. An error that a body raises while its process is being
terminated does not fail the job: Celery sees a lost worker and requeues the message.

Does **not** guarantee that a deferred delivery of an early-acknowledging pattern survives if no copy of it can be published (see
``requeue.requeue_original``).
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
from tasks_demo.patterns.requeue import Suppressed, defer
from tasks_demo.patterns.suppression import announce_suppressed, known_outcome

#: Errors that fail the job at once, because a later delivery would fail in the same way; and those that Celery itself handles.
_FINAL = (TaskPredicate, ContradictoryDeclaration, TransactionOpen, NothingToRequeue)


class WorkerKilled(BaseException):
    """Raised by tasks_demo.testing to simulate SIGKILL. The patterns clean nothing up."""


class _SoftLimits:
    """Ignores a soft time limit that arrives after the body. A soft limit asks the body to stop; raised after it, it would fail
    a job whose effect has happened. Only a prefork pool has them, and it runs bodies in the main thread of its processes.

    The handler stays installed: changing it twice took 8 µs of each job, asking for it takes 2 µs.
    """

    def __init__(self) -> None:
        self.ignored = False

    def install(self) -> None:
        """Replace billiard's handler, if this process still has it."""
        if threading.current_thread() is threading.main_thread() and (
            signal.getsignal(signal.SIGUSR1) is soft_timeout_sighandler
        ):
            self.ignored = False  # what a forked process inherits says nothing about its own bodies
            signal.signal(signal.SIGUSR1, self._handle)

    def _handle(self, signum: int, frame: Any) -> None:
        if not self.ignored:
            soft_timeout_sighandler(signum, frame)


_soft_limits = _SoftLimits()


class Execution:
    """Runs the body. ``begun``: whether it has started."""

    def __init__(self, task: Any) -> None:
        _soft_limits.install()
        self._task = task
        self._ignored_before = _soft_limits.ignored
        self.begun = False

    def run(self, args: Any, kwargs: Any) -> Any:
        """Run the body and raise what it raises, with these exceptions: BodyNotRun if it returns a coroutine or generator,
        BodyStopped for a BaseException, SystemExit while the process is being terminated."""
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
                f"{self._task.name}: the body was ended by {described(error)}, which is not an Exception. The job has failed."
            ) from error
        finally:
            _soft_limits.ignored = True

    def close(self) -> None:
        """Restore soft time limits for the next body, or for the body that this one was run from."""
        _soft_limits.ignored = self._ignored_before


def ends_process(error: BaseException | None) -> bool:
    """Return whether this error ends the process or greenlet that runs the body, so that it is not an outcome of the job."""
    if type(error).__module__.partition(".")[0] in {"gevent", "greenlet", "eventlet"}:
        return True  # raised by a time limit or by the pool
    if not isinstance(error, SystemExit | KeyboardInterrupt):
        return isinstance(error, WorkerKilled)
    # They end a pool process. In other pools only the main thread gets them, except SystemExit from a sys.exit() in the body.
    in_main = threading.current_thread() is threading.main_thread()
    return current_process().name != "MainProcess" or (in_main and type(error) is not SystemExit)


def finished(task: Any, result: Any) -> Any:
    """Return the result. Raises BodyNotRun for a coroutine, generator or the like, which a worker neither awaits nor iterates."""
    if not (inspect.isawaitable(result) or isinstance(result, GeneratorType | AsyncGeneratorType | map | filter)):
        return result
    if hasattr(result, "close"):
        result.close()  # or Python warns that it was never awaited
    raise BodyNotRun(
        f"{task.name}: the body returned a {type(result).__name__}, which a Celery worker does not run: the work is not done, "
        "and no completed marker is stored. Write def, and call asynchronous code with asgiref.sync.async_to_sync(f)(...); "
        "return a list instead of a generator."
    )


@contextmanager
def execution(task: Any) -> Iterator[Execution]:
    """Run one execution of ``task``. Raises Unfinished or Reject after a failure before the body, else what the body raises."""
    body = Execution(task)
    try:
        yield body
    except OperationMismatch as error:
        # A message that reuses the task ID of an ended job must not change that job's outcome to FAILURE.
        if not body.begun and known_outcome(task) in states.READY_STATES:
            why = f"its outcome stands, although {error}"
            announce_suppressed(task, why)
            raise Suppressed(why) from error
        raise
    except _FINAL:
        raise
    except Exception as error:
        if body.begun:
            raise
        # An ERROR for UnsupportedDatabase, which only a change of settings can end.
        defer(task, error, level=logging.ERROR if isinstance(error, UnsupportedDatabase) else logging.WARNING)
    finally:
        body.close()

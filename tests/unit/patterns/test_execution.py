"""The frame of an execution: a soft time limit, delivered as billiard does, interrupts the body and nothing after it."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn

import pytest
from billiard.common import _shutdown_cleanup, clear_terminate_handler_fired  # type: ignore[attr-defined]
from billiard.pool import soft_timeout_sighandler
from celery.app.task import Context
from celery.exceptions import SoftTimeLimitExceeded, WorkerShutdown, WorkerTerminate

from tasks_demo.core.exceptions import BodyStopped
from tasks_demo.patterns.execution import WorkerKilled, execution


class Job:
    """As much of a task as the frame needs."""

    name = "job"

    def __init__(self, *, limited: bool = False, ends: Callable[[], Any] = lambda: "done", eager: bool = False) -> None:
        self.limited = limited
        self.ends = ends
        self.request = Context(is_eager=eager)

    def run_body(self) -> Any:
        if self.limited:
            os.kill(os.getpid(), signal.SIGUSR1)
        return self.ends()


@pytest.fixture(autouse=True)
def _as_in_a_pool_process() -> Iterator[None]:
    before = signal.signal(signal.SIGUSR1, soft_timeout_sighandler)
    yield
    signal.signal(signal.SIGUSR1, before)


def test_soft_time_limit_is_ignored_after_the_body_and_holds_for_the_next() -> None:
    with execution(Job()) as body:
        result: Any = body.run((), {})
        os.kill(os.getpid(), signal.SIGUSR1)
    assert result == "done"
    with pytest.raises(SoftTimeLimitExceeded), execution(Job(limited=True)) as body:
        body.run((), {})
    with pytest.raises(SoftTimeLimitExceeded):  # the body of a task without a pattern, in the same process
        os.kill(os.getpid(), signal.SIGUSR1)


def test_execution_inside_a_body_leaves_its_soft_time_limit() -> None:
    def inner() -> str:
        with execution(Job()) as body:
            body.run((), {})
        os.kill(os.getpid(), signal.SIGUSR1)
        return "not reached"

    with pytest.raises(SoftTimeLimitExceeded), execution(Job(ends=inner)) as outer:
        outer.run((), {})
    with execution(Job()) as outer:
        outer.run((), {})
        with execution(Job()) as after:  # an eager callback, say
            after.run((), {})
        os.kill(os.getpid(), signal.SIGUSR1)


def test_execution_in_a_pool_process_forked_after_a_body_has_a_soft_time_limit() -> None:
    with execution(Job()) as body:
        body.run((), {})
        if (pid := os.fork()) == 0:
            status = 1
            try:
                signal.signal(signal.SIGUSR1, soft_timeout_sighandler)  # as billiard does in each of its processes
                with execution(Job(limited=True)) as inherited:
                    inherited.run((), {})
            except SoftTimeLimitExceeded:
                status = 0
            finally:
                os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_body_stopped_by_its_limit_is_not_interrupted_while_it_is_requeued() -> None:
    def put_away() -> None:
        with execution(Job(limited=True)) as body:
            try:
                body.run((), {})
            finally:
                os.kill(os.getpid(), signal.SIGUSR1)
                came.append("through")

    came: list[str] = []
    with pytest.raises(SoftTimeLimitExceeded):
        put_away()
    assert came == ["through"]


def ended(job: Job) -> BaseException:
    with pytest.raises(BaseException) as raised, execution(job) as body:  # noqa: PT011  (whatever it is)
        body.run((), {})
    return raised.value


class Odd(BaseException):
    """An error of the project's own."""


def raises(error: BaseException) -> Callable[[], Any]:
    def end() -> NoReturn:
        raise error

    return end


@pytest.mark.parametrize("kind", [asyncio.CancelledError, GeneratorExit, Odd, SystemExit])
def test_execution_treats_a_base_exception_of_a_body_as_a_failure(kind: type[BaseException]) -> None:
    error = kind("as the test wants it")
    found = ended(Job(ends=raises(error)))
    assert (type(found), found.__cause__) == (BodyStopped, error)
    assert f"job: the body was ended by {kind.__name__}: as the test wants it" in str(found)


@pytest.mark.parametrize("kind", [WorkerShutdown, WorkerTerminate, KeyboardInterrupt, WorkerKilled])
def test_execution_passes_on_what_ends_the_process(kind: type[BaseException]) -> None:
    error = kind()
    assert ended(Job(ends=raises(error))) is error


def test_execution_in_eager_mode_raises_the_original_error_to_the_caller() -> None:
    error = Odd()
    assert ended(Job(ends=raises(error), eager=True)) is error


def test_execution_outside_the_main_thread_takes_an_interrupt_for_the_body_s() -> None:
    with ThreadPoolExecutor(1) as pool:
        assert type(pool.submit(ended, Job(ends=raises(KeyboardInterrupt()))).result()) is BodyStopped


def test_execution_error_of_a_terminated_process_is_not_the_job_s() -> None:
    def ends() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            signal.pause()
        finally:
            raise ValueError("the connection was closed already")

    before = signal.signal(signal.SIGTERM, _shutdown_cleanup)
    try:
        found = ended(Job(ends=ends))
        assert (type(found), type(found.__cause__)) == (SystemExit, ValueError)
    finally:
        clear_terminate_handler_fired()
        signal.signal(signal.SIGTERM, before)
    assert type(ended(Job(ends=raises(ValueError())))) is ValueError


def test_execution_another_handler_of_the_signal_is_not_touched() -> None:
    came = []
    signal.signal(signal.SIGUSR1, lambda *_: came.append(1))
    with execution(Job()) as body:
        body.run((), {})
        os.kill(os.getpid(), signal.SIGUSR1)
    assert came == [1]

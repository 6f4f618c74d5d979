"""The frame of an execution: a soft time limit, delivered as billiard delivers it, strikes in the body and nowhere after it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from billiard.pool import soft_timeout_sighandler
from celery.exceptions import SoftTimeLimitExceeded

from tasks_demo.patterns.execution import execution


class Job:
    """As much of a task as the frame needs."""

    def __init__(self, *, limited: bool = False) -> None:
        self.limited = limited

    def run_body(self) -> str:
        if self.limited:
            os.kill(os.getpid(), signal.SIGUSR1)
        return "done"


@pytest.fixture(autouse=True)
def _as_in_a_pool_process() -> Iterator[None]:
    before = signal.signal(signal.SIGUSR1, soft_timeout_sighandler)
    yield
    signal.signal(signal.SIGUSR1, before)


def test_after_the_body_a_soft_time_limit_is_ignored_and_the_next_body_has_one_again() -> None:
    with execution(Job()) as body:
        result: Any = body.run((), {})
        os.kill(os.getpid(), signal.SIGUSR1)
    assert result == "done"
    with pytest.raises(SoftTimeLimitExceeded), execution(Job(limited=True)) as body:
        body.run((), {})
    assert signal.getsignal(signal.SIGUSR1) is soft_timeout_sighandler


def test_a_body_stopped_by_its_limit_is_left_in_peace_while_it_is_put_away() -> None:
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


def test_another_handler_of_the_signal_is_not_touched() -> None:
    came = []
    signal.signal(signal.SIGUSR1, lambda *_: came.append(1))
    with execution(Job()) as body:
        body.run((), {})
        os.kill(os.getpid(), signal.SIGUSR1)
    assert came == [1]

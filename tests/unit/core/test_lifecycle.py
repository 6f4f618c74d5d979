"""Points reach the observers in order and about the right delivery; an observer can stop only what has not begun."""

from __future__ import annotations

import threading
import time
from collections import Counter

import pytest
from celery.exceptions import Ignore, SoftTimeLimitExceeded

from tasks_demo.core import lifecycle
from tasks_demo.core.exceptions import StartNotRecorded
from tasks_demo.core.lifecycle import (
    Point,
    Reached,
    Subject,
    about,
    announce,
    current,
    held_back,
    ignore,
    observe,
    observers,
    reached,
)
from tasks_demo.core.limited_log import LimitedLog

SUBJECT = Subject("task-1", "order-1", "acks_late", "w1@t", "bank")


@pytest.fixture(autouse=True)
def _nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    # This process's ledger must not record these invented tasks.
    monkeypatch.setattr(lifecycle, "_observers", ())


def test_lifecycle_observers_are_told_in_the_order_in_which_they_were_registered() -> None:
    told: list[tuple[str, Reached]] = []
    observe(lambda event: told.append(("first", event)))
    observe(lambda event: told.append(("second", event)))
    before = time.time()
    with about(SUBJECT):
        reached(Point.STARTED, attempt=2)
    assert [who for who, _ in told] == ["first", "second"]
    event = told[0][1]
    assert (event.point, event.subject, event.detail) == (Point.STARTED, SUBJECT, {"attempt": 2})
    assert before <= event.at <= time.time()


def test_lifecycle_observer_is_told_once_however_often_it_is_registered() -> None:
    told: list[Reached] = []
    observe(told.append)
    observe(told.append)
    reached(Point.ACKED, SUBJECT)
    assert len(told) == 1


def test_lifecycle_ignored_observer_hears_nothing_and_ignoring_a_stranger_is_not_an_error() -> None:
    told: list[Reached] = []
    observe(told.append)
    ignore(told.append)
    ignore(print)
    reached(Point.ACKED, SUBJECT)
    assert told == []
    assert observers() == ()


def test_lifecycle_outside_a_delivery_nothing_is_announced_so_that_a_body_is_an_ordinary_function() -> None:
    told: list[Reached] = []
    observe(told.append)
    reached(Point.EFFECT_BEGUN)
    assert told == []


def test_publications_are_held_back_until_the_caller_announces_them() -> None:
    told: list[Reached] = []
    observe(told.append)
    job = Subject("id", "op", "outbox")
    with held_back() as held:
        reached(Point.PUBLISHED, job, outcome="ok")
        reached(Point.FAILED, job)
    assert [event.point for event in told] == [Point.FAILED]
    announce(held[0])
    reached(Point.PUBLISHED, job)
    assert [(event.point, event.detail) for event in told[1:]] == [
        (Point.PUBLISHED, {"outcome": "ok"}),
        (Point.PUBLISHED, {}),
    ]


class Mute(Exception):
    """Cannot be shown as text."""

    def __str__(self) -> str:
        raise KeyError("no words")


ERRORS = [
    OSError("disk full"),
    KeyError("x"),
    RecursionError(),
    MemoryError(),
    SoftTimeLimitExceeded(),
    Ignore(),
    Mute(),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("point", list(Point))
def test_lifecycle_observer_error_stops_a_job_only_before_its_body(
    point: Point, error: Exception, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Reached] = []
    monkeypatch.setattr(lifecycle, "unobserved", Counter())
    monkeypatch.setattr(lifecycle, "limited_log", LimitedLog())

    def full(event: Reached) -> None:
        raise error

    observe(full)
    observe(told.append)
    if point in {Point.CLAIMED, Point.STARTED}:
        with about(SUBJECT), pytest.raises(StartNotRecorded, match=f"full failed at {point}: {type(error).__name__}"):
            reached(point)
        assert (told, lifecycle.unobserved, caplog.records) == ([], {}, [])
    elif isinstance(error, SoftTimeLimitExceeded) and point in lifecycle.IN_THE_BODY:
        with about(SUBJECT), pytest.raises(SoftTimeLimitExceeded):
            reached(point)
    else:
        with about(SUBJECT):
            reached(point)
        assert ([event.point for event in told], lifecycle.unobserved) == ([point], {point: 1})
        (line,) = caplog.records
        assert line.levelname == "ERROR"
        assert f"[task-1]: {full.__qualname__} failed at {point}" in line.getMessage()
    assert current() is None


@pytest.mark.parametrize("point", [Point.STARTED, Point.RETURNED])
def test_lifecycle_lets_a_request_to_end_the_process_pass(point: Point) -> None:
    def ends(event: Reached) -> None:
        raise SystemExit(3)

    observe(ends)
    with pytest.raises(SystemExit):
        reached(point, SUBJECT)


def test_lifecycle_restores_the_outer_delivery_after_an_inner_one() -> None:
    inner = Subject("task-2", "order-2", "acks_late")
    with about(SUBJECT):
        with about(inner):
            assert current() == inner
        assert current() == SUBJECT
    assert current() is None


def test_lifecycle_threads_have_deliveries_of_their_own() -> None:
    seen: list[Subject | None] = []
    with about(SUBJECT):
        thread = threading.Thread(target=lambda: seen.append(current()))
        thread.start()
        thread.join(5)
    assert seen == [None]


def test_lifecycle_with_no_observer_a_point_costs_next_to_nothing() -> None:
    """The bound is a hundred times the measured cost: the test fails when a point starts to do work without observers."""
    started = time.perf_counter()
    for _ in range(100_000):
        reached(Point.STARTED, SUBJECT)
    assert time.perf_counter() - started < 2.0

"""The first lines of a kind are written, the rest are counted, and the count is written too."""

from __future__ import annotations

import logging
import threading

import pytest

from tasks_demo.core.limited_log import LimitedLog
from tests.support import until

logger = logging.getLogger("limited")


def test_limited_log_first_lines_are_written_and_the_rest_counted(caplog: pytest.LogCaptureFixture) -> None:
    log = LimitedLog(most=2, seconds=2)
    for number in range(7):
        log(logger, logging.WARNING, ("shop.charge", "held"), "job %d", number)
    log(logger, logging.WARNING, ("shop.charge", "away"), "another kind")
    assert [record.getMessage() for record in caplog.records] == ["job 0", "job 1", "another kind"]
    until(lambda: len(caplog.records) == 4, "the count")
    assert caplog.records[-1].getMessage() == "... and 5 more in the last 2 s: shop.charge held"
    assert caplog.records[-1].levelname == "WARNING"
    log(logger, logging.WARNING, ("shop.charge", "held"), "job 7")
    assert caplog.records[-1].getMessage() == "job 7"


def test_limited_log_without_another_thread_the_count_comes_with_the_next_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    log = LimitedLog(most=1, seconds=1)
    before = threading.stack_size(1 << 46)  # no thread can start
    try:
        for _ in range(3):
            log(logger, logging.INFO + 10, "kind", "line")
    finally:
        threading.stack_size(before)
    threading.Event().wait(1.05)  # the interval
    log(logger, logging.INFO + 10, "kind", "line")
    assert [record.getMessage() for record in caplog.records] == [
        "line",
        "... and 2 more in the last 1 s: kind",
        "line",
    ]


def test_limited_log_line_that_cannot_be_made_disturbs_nobody() -> None:
    LimitedLog()(logger, logging.ERROR, [], "an unhashable kind")  # type: ignore[arg-type]

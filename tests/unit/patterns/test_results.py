"""What the log says about a result that is not stored with its operation: the true reason."""

from __future__ import annotations

from typing import Any

import pytest
from celery import Celery

from tasks_demo.patterns.results import as_text


def job() -> Any:
    """A task of a separate app."""
    return Celery("results", set_as_current=False).task(name="results.job", shared=False)(Hostile.__json__)


class Hostile:
    def __json__(self) -> Any:
        raise RuntimeError("not this one")


@pytest.mark.parametrize(
    ("result", "why"),
    [
        ({1, 2}, "a set, is not stored with its operation: it is not JSON (TypeError: "),
        (Hostile(), "a Hostile, is not stored with its operation: it is not JSON (RuntimeError: not this one)"),
        ("x" * 99, "a str, is not stored with its operation: it has 101 bytes of JSON, more than TASKS_DEMO_RESULT_MAX_BYTES"),
    ],
)  # fmt: skip
def test_results_says_why(result: Any, why: str, settings: Any, caplog: pytest.LogCaptureFixture) -> None:
    settings.TASKS_DEMO_RESULT_MAX_BYTES = 100
    task = job()
    assert as_text(task, result) is None
    assert why in caplog.text
    assert as_text(task, "x" * 98) == f'"{"x" * 98}"'


def test_results_setting_that_is_not_a_size_is_named(settings: Any, caplog: pytest.LogCaptureFixture) -> None:
    settings.TASKS_DEMO_RESULT_MAX_BYTES = 0
    assert as_text(job(), 1) is None
    assert "could not be measured: TASKS_DEMO_RESULT_MAX_BYTES is 0" in caplog.text

"""What counts the effects of a project's task is the project's code, and may do anything."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks_demo.core.exceptions import EnvironmentNotReady
from tasks_demo.lab.plan.project_task import Call
from tasks_demo.lab.processes.project_tasks import TaskUnusable, counted, counter


def fails(order: str) -> int:
    raise LookupError(f"no order {order}.")


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (fails, r"LookupError: no order a\.$"),
        (lambda order: sys.exit(3), r"SystemExit: 3\.$"),
        (lambda: 1, r"takes 0 positional arguments but 1 was given\.$"),
        (lambda order: None, r"it returned None, and has to return a whole number from 0\.$"),
        (lambda order: "2", r"it returned '2', "),
        (lambda order: True, r"it returned True, "),
        (lambda order: -1, r"it returned -1, "),
        (lambda order: 1.0, r"it returned 1.0, "),
    ],
)  # fmt: skip
def test_count_that_fails_or_is_not_a_number_ends_the_run_with_a_sentence(count: Callable[..., Any], said: str) -> None:
    with pytest.raises(EnvironmentNotReady, match=rf"^The effects of \('a'\) could not be counted: .*{said}"):
        counted(count, Call(["a"]))


def test_call_in_that_sentence_is_cut() -> None:
    with pytest.raises(EnvironmentNotReady) as refused:
        counted(lambda order: None, Call(["x" * 10_000_000]))
    assert len(str(refused.value)) < 300


def test_module_that_ends_the_process_when_it_is_imported_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "leaves_at_once.py").write_text("raise SystemExit('usage: ...')")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(TaskUnusable, match=r"--effects leaves_at_once:count cannot be imported: SystemExit: usage"):
        counter("leaves_at_once:count")
    with pytest.raises(TaskUnusable, match=r"--effects leaves_at_once: write module:callable"):
        counter("leaves_at_once")

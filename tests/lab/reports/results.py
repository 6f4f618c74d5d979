"""Results of small experiments, for the tests of the reports."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime
from typing import Any

import jsonschema
from rich.console import Console

from tasks_demo.lab.reports import document as report
from tasks_demo.lab.reports.text import render
from tasks_demo.lab.verdict.checker import CellResult, check
from tests.lab.verdict.histories import Story, numbered

SCHEMA = json.loads(report.SCHEMA_FILE.read_text(encoding="utf-8"))
NASTY = "<script>alert('&amp;')</script> | `x` \x1b[31m [bold]\n\x00 \ud800"


def story(pattern: str, fault: str, *, charged: int = 0, again: bool = True) -> Story:
    """Ten tasks, two of them killed; ``charged`` of those two after their charge."""
    tasks = [f"t{number}" for number in range(10)]
    one = Story(pattern, fault).published(*tasks)
    for number, task_id in enumerate(tasks):
        if fault != "none" and number < 2:
            one.delivered(task_id).begun(task_id, 20 + number)
            if number < charged:
                one.effect(task_id).say("effect_done", task_id, 20 + number)
            one.killed(task_id, 20 + number, point="effect_done" if number < charged else "effect_begun")
            if again:
                one.ran(task_id, 30, charged=pattern != "dedup_lock" or number >= charged)
        else:
            one.ran(task_id, 30)
    return one


def built(*stories: Story, **fields: Any) -> dict[str, Any]:
    results = check(numbered([event for one in stories for event in one.events]))
    return from_results(results, **fields)


def from_results(results: list[CellResult], **fields: Any) -> dict[str, Any]:
    defaults: dict[str, Any] = {
        "versions": {"celery": "5.7.0"},
        "seed": 7,
        "started_at": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        "duration_s": 12.3456,
        "configuration": {"tasks": 10},
    }
    return report.build(results, **(defaults | fields))


def good() -> dict[str, Any]:
    return built(
        story("acks_early", "kill-main", again=False).end(),
        story("acks_late", "kill-child", charged=2).end(),
        story("dedup_lock", "kill-main", charged=1).end(),
        story("dedup_lock", "none").end(),
    )


def valid(result: dict[str, Any]) -> None:
    validator = jsonschema.Draft202012Validator(SCHEMA, format_checker=jsonschema.FormatChecker())
    validator.validate(json.loads(report.as_json(result)))


def terminal(result: dict[str, Any], width: int = 200) -> str:
    file = io.StringIO()
    render(Console(file=file, width=width, force_terminal=False), result)
    return file.getvalue()

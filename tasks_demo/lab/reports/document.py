"""The result of an experiment: one JSON document, from which every rendering is made.

The document follows ``experiment-1.schema.json``. :func:`build` makes it; :func:`exit_code` judges it;
:func:`as_json`, :func:`as_junit`, :func:`as_markdown`, :func:`as_html` and ``text.render`` show it.
"""

from __future__ import annotations

import contextlib
import json
import platform
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from tasks_demo.core.wording import counted
from tasks_demo.lab.plan.outcomes import Prediction
from tasks_demo.lab.plan.predictions import prediction
from tasks_demo.lab.reports import html
from tasks_demo.lab.reports.lives import examples
from tasks_demo.lab.reports.text import carriable, cell_name, reading, sentences, table
from tasks_demo.lab.verdict.checker import CellResult
from tasks_demo.lab.verdict.history import HistoryError, read

SCHEMA = "experiment/1"
SCHEMA_FILE = Path(__file__).with_name("experiment-1.schema.json")
AS_PREDICTED, NOT_AS_PREDICTED, UNKNOWN = 0, 1, 3
#: What may be observed after each prediction.
_FORESEEN = {"held": {"held"}, "broken": {"broken"}, "open": {"held", "broken"}}


def build(
    cells: Iterable[CellResult],
    *,
    versions: Mapping[str, str],
    seed: int,
    started_at: datetime,
    duration_s: float,
    configuration: Mapping[str, Any],
    predictions: Mapping[tuple[str, str, str, str], Prediction] | None = None,
) -> dict[str, Any]:
    """The result document. ``started_at`` must be aware; ``configuration`` must be JSON. Durations are seconds.

    ``predictions`` overrides the table by (pattern, fault, point, broker), for controls and for tests. An experiment without
    a cell is not as predicted.
    """
    if started_at.tzinfo is None:
        raise ValueError("started_at has no time zone")
    judged = [cell(result, (predictions or {}).get(_place(result)) or _predicted(result)) for result in cells]
    return {
        "schema": SCHEMA,
        "versions": dict(versions),
        "seed": seed,
        "started_at": started_at.astimezone(UTC).isoformat(timespec="milliseconds"),
        "duration_s": round(duration_s, 3),
        "configuration": dict(configuration),
        "as_predicted": bool(judged) and all(one["as_predicted"] for one in judged),
        "cells": judged,
    }


def versions() -> dict[str, str]:
    """Return the versions that a result depends on."""
    found = {name: version(name) for name in ("celery", "kombu", "billiard", "redis", "django")}
    with contextlib.suppress(PackageNotFoundError):
        found["celery-redis-plus"] = version("celery-redis-plus")
    return {"python": platform.python_version(), **found}


def _place(result: CellResult) -> tuple[str, str, str, str]:
    return result.pattern, result.fault, result.point, result.broker


def _predicted(result: CellResult) -> Prediction:
    return prediction(result.pattern, result.fault, result.point, broker=result.broker)


def cell(result: CellResult, predicted: Prediction) -> dict[str, Any]:
    """One cell of the document: what was seen beside what was predicted."""
    visible = {what for what in ("lost", "duplicated") if getattr(result, what)}
    reasons = list(result.reasons)
    if result.observed != "unknown":
        reasons += [f"predicted to be visible, and was not: {what}" for what in sorted(predicted.required - visible)]
        reasons += [f"predicted never to be seen, and was: {what}" for what in sorted(predicted.excluded & visible)]
    again = int((result.load or {}).get("unexplained", 0))
    if again:
        reasons.append(f"{counted(again, 'second execution')} of jobs that no killed worker held")
    surprise = predicted.required - visible or predicted.excluded & visible or again
    return {
        **vars(result),
        "predicted": predicted.outcome,
        "as_predicted": result.observed in _FORESEEN[predicted.outcome] and not surprise,
        "why": predicted.why,
        "reasons": reasons,
    }


def exit_code(result: Mapping[str, Any]) -> int:
    """0: as predicted; 1: a promise broke, or a control (or a predicted phenomenon) did not show; 3: unknown.

    A difference that was seen outranks one that is unknown; an experiment without cells is unknown.
    """
    cells = result["cells"]
    if any(not one["as_predicted"] and one["observed"] != "unknown" for one in cells):
        return NOT_AS_PREDICTED
    if not cells or any(not one["as_predicted"] for one in cells):
        return UNKNOWN
    return AS_PREDICTED


def as_json(result: Mapping[str, Any]) -> str:
    """The document itself, strict JSON with a newline at the end."""
    return json.dumps(result, indent=2, allow_nan=False) + "\n"


def as_junit(result: Mapping[str, Any]) -> str:
    """JUnit XML: a test case per cell, a failure where it is not as predicted, an error where it is unknown."""
    cells = result["cells"]
    unknown = sum(one["observed"] == "unknown" for one in cells)
    wrong = sum(not one["as_predicted"] for one in cells) - unknown
    numbers = {"tests": str(len(cells)), "failures": str(wrong), "errors": str(unknown)}
    suites = ElementTree.Element("testsuites", numbers)
    suite = ElementTree.SubElement(
        suites,
        "testsuite",
        {"name": "experiment", **numbers, "time": f"{result['duration_s']:.3f}", "timestamp": result["started_at"]},
    )
    for one in cells:
        case = ElementTree.SubElement(
            suite,
            "testcase",
            {
                "classname": carriable(one["pattern"]),
                "name": carriable(cell_name(one)),
                "time": f"{one['duration_s']:.3f}",
            },
        )
        if one["observed"] == "unknown" or not one["as_predicted"]:
            outcome = ElementTree.SubElement(
                case,
                "error" if one["observed"] == "unknown" else "failure",
                {"message": f"predicted {one['predicted']}, observed {one['observed']}"},
            )
            outcome.text = carriable("\n".join([*one["reasons"], reading(one)]))
    ElementTree.indent(suites)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(suites, encoding="unicode") + "\n"


def as_html(result: Mapping[str, Any], events: Path | None = None) -> str:
    """One HTML file that loads nothing. ``events``: the history, for the lives of the jobs that the cells name as examples.

    A history that cannot be read any more, or is none, is left out: the result stands without it.
    """
    lives = {}
    if events is not None:
        with contextlib.suppress(OSError, HistoryError), events.open("rb") as file:
            lives = examples(read(file), result)
    return html.as_html(result, lives)


def _markdown(text: str) -> str:
    """Text that cannot end a table cell or start markup."""
    return re.sub(r"([\\`*_{}\[\]<>|#~])", r"\\\1", " ".join(text.split()))


def as_markdown(result: Mapping[str, Any]) -> str:
    """A Markdown table of all cells, and the plain sentences below it."""
    head, rows = table(result)
    lines = [
        "| " + " | ".join(head) + " |",
        "|" + "|".join("---" if i < 2 or i > 6 else "---:" for i in range(len(head))) + "|",
        *("| " + " | ".join(_markdown(value) for value in row) + " |" for row in rows),
        "",
        *(f"- {_markdown(sentence)}" for sentence in sentences(result)),
        "",
        f"Seed {result['seed']}, {result['duration_s']:.1f} s, started {result['started_at']}.",
    ]
    return carriable("\n".join(lines) + "\n")

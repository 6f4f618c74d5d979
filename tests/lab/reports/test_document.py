"""The result document: exit codes, deviations from the prediction, and its schema."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import jsonschema
import pytest

from tasks_demo.lab.plan.outcomes import Prediction
from tasks_demo.lab.reports import document as report
from tests.lab.reports.results import SCHEMA, built, good, story, terminal, valid


def test_document_as_predicted() -> None:
    result = good()
    valid(result)
    assert report.exit_code(result) == 0
    assert result["as_predicted"] is True
    assert [cell["as_predicted"] for cell in result["cells"]] == [True] * 4
    assert result["started_at"] == "2026-01-02T03:04:05.000+00:00"
    assert result["duration_s"] == 12.346


def test_document_cell_has_the_fields_of_the_interface() -> None:
    fields = set(good()["cells"][0])
    assert fields == set(SCHEMA["$defs"]["cell"]["properties"]) == set(SCHEMA["$defs"]["cell"]["required"])
    promised = (
        "pattern semantics fault broker seed tasks published kills executions effects lost duplicated recovered suppressed "
        "deferred fenced quarantined unresolved recovery_s duration_s promise predicted observed as_predicted bound_95"
    )
    assert set(promised.split()) <= fields


def test_broken_promise() -> None:
    result = built(story("acks_late", "kill-main", again=False).end())
    valid(result)
    assert (result["as_predicted"], report.exit_code(result)) == (False, 1)
    assert "was BROKEN" in terminal(result)


def test_document_unknown_cell() -> None:
    result = built(story("dedup_lock", "kill-main").end(queued=1))
    valid(result)
    assert (result["as_predicted"], report.exit_code(result)) == (False, 3)
    assert result["cells"][0]["reasons"] == ["not quiescent: queued is 1, not 0"]
    assert "it is unknown what happened" in terminal(result)


def test_document_ranks_broken_above_unknown() -> None:
    unknown, broken = story("dedup_lock", "none"), story("acks_late", "kill-main", again=False).end()
    assert report.exit_code(built(unknown, broken)) == 1


def test_expected_loss_that_does_not_show() -> None:
    one = story("acks_early", "kill-main", charged=2, again=False).end()
    result = built(one)
    assert (result["cells"][0]["observed"], report.exit_code(result)) == ("held", 1)
    assert result["cells"][0]["reasons"] == ["predicted to be visible, and was not: lost"]


def test_expected_duplicate_that_does_not_show() -> None:
    result = built(story("acks_late", "kill-main").end())
    assert (result["cells"][0]["observed"], report.exit_code(result)) == ("held", 1)


def test_healthy_run_that_charges_twice_is_not_as_predicted() -> None:
    result = built(story("acks_late", "none").ran("t0").end())
    assert (result["cells"][0]["observed"], report.exit_code(result)) == ("held", 1)
    assert result["cells"][0]["reasons"] == ["predicted never to be seen, and was: duplicated"]


@pytest.mark.parametrize(("again", "code"), [(False, 0), (True, 1)], ids=["breaks", "holds"])
def test_control_must_break(again: bool, code: int) -> None:
    control = {("acks_late", "kill-main", "", "redis"): Prediction("broken", "A control.")}
    result = built(story("acks_late", "kill-main", again=again).end(), predictions=control)
    valid(result)
    assert report.exit_code(result) == code


def test_control_of_which_nothing_is_known_is_unknown() -> None:
    control = {("acks_late", "kill-main", "", "redis"): Prediction("broken", "A control.")}
    assert report.exit_code(built(story("acks_late", "kill-main"), predictions=control)) == 3


def test_document_of_which_nothing_was_run() -> None:
    result = built()
    valid(result)
    assert (result["as_predicted"], report.exit_code(result)) == (False, 3)
    assert "nothing is known" in terminal(result)


def test_document_refuses_a_start_without_a_time_zone() -> None:
    with pytest.raises(ValueError, match="time zone"):
        built(started_at=datetime(2026, 1, 2))  # noqa: DTZ001


def test_json_never_holds_a_nan() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        report.as_json(built(configuration={"rate": float("nan")}))


# -- the schema -------------------------------------------------------------------------------------------------------


def test_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["extra"], 1),
        (["schema"], "experiment/2"),
        (["cells", 0, "extra"], 1),
        (["cells", 0, "kills", "extra"], 1),
        (["cells", 0, "effects", "2"], 1),
        (["cells", 0, "effects", "2+"], -1),
        (["cells", 0, "lost"], 1.5),
        (["cells", 0, "observed"], "ok"),
        (["cells", 0, "predicted"], "unknown"),
        (["cells", 0, "bound_95"], 1.1),
        (["cells", 0, "promise", "effects"], [1]),
        (["cells", 0, "promise", "effects"], [1, 1, 1]),
        (["cells", 0, "recovery_s"], None),
    ],
)
def test_schema_is_strict(path: list[Any], value: object) -> None:
    result = json.loads(report.as_json(good()))
    target = result
    for step in path[:-1]:
        target = target[step]
    target[path[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        valid(result)

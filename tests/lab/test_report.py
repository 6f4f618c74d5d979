"""One document, five renderings: each says the same, survives odd text, and loads nothing."""

from __future__ import annotations

import io
import json
import re
import xml.etree.ElementTree as ElementTree
from datetime import UTC, datetime
from html.parser import HTMLParser
from typing import Any

import jsonschema
import pytest
from rich.console import Console

from tasks_demo.lab.plan.predictions import Prediction
from tasks_demo.lab.reports import document as report
from tasks_demo.lab.verdict.checker import CellResult, check
from tests.lab.verdict.histories import Story, numbered

SCHEMA = json.loads(report.SCHEMA_FILE.read_text(encoding="utf-8"))
NASTY = "<script>alert('&amp;')</script> | `x` \x1b[31m [bold]\n\x00 \ud800"


def story(pattern: str, fault: str, *, charged: int = 0, again: bool = True) -> Story:
    """Ten tasks, of which two are killed; ``charged`` of them after their charge."""
    tasks = [f"t{number}" for number in range(10)]
    told = Story(pattern, fault).published(*tasks)
    for number, task_id in enumerate(tasks):
        if fault != "none" and number < 2:
            told.delivered(task_id).begun(task_id, 20 + number)
            if number < charged:
                told.effect(task_id).say("effect_done", task_id, 20 + number)
            told.killed(task_id, 20 + number, point="effect_done" if number < charged else "effect_begun")
            if again:
                told.ran(task_id, 30, charged=pattern != "dedup_lock" or number >= charged)
        else:
            told.ran(task_id, 30)
    return told


def built(*stories: Story, **fields: Any) -> dict[str, Any]:
    results = check(numbered([event for told in stories for event in told.events]))
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
    report.render(Console(file=file, width=width, force_terminal=False), result)
    return file.getvalue()


# -- the document -----------------------------------------------------------------------------------------------------


def test_as_predicted() -> None:
    result = good()
    valid(result)
    assert report.exit_code(result) == 0
    assert result["as_predicted"] is True
    assert [cell["as_predicted"] for cell in result["cells"]] == [True] * 4
    assert result["started_at"] == "2026-01-02T03:04:05.000+00:00"
    assert result["duration_s"] == 12.346


def test_a_cell_has_the_fields_of_the_interface() -> None:
    fields = set(good()["cells"][0])
    assert fields == set(SCHEMA["$defs"]["cell"]["properties"]) == set(SCHEMA["$defs"]["cell"]["required"])
    promised = (
        "pattern semantics fault broker seed tasks published kills executions effects lost duplicated recovered suppressed "
        "deferred fenced quarantined unresolved recovery_s duration_s promise predicted observed as_predicted bound_95"
    )
    assert set(promised.split()) <= fields


def test_a_broken_promise() -> None:
    result = built(story("acks_late", "kill-main", again=False).end())
    valid(result)
    assert (result["as_predicted"], report.exit_code(result)) == (False, 1)
    assert "was BROKEN" in terminal(result)


def test_an_unknown_cell() -> None:
    result = built(story("dedup_lock", "kill-main").end(queued=1))
    valid(result)
    assert (result["as_predicted"], report.exit_code(result)) == (False, 3)
    assert result["cells"][0]["reasons"] == ["not quiescent: queued is 1, not 0"]
    assert "it is unknown what happened" in terminal(result)


def test_what_broke_outranks_what_is_unknown() -> None:
    unknown, broken = story("dedup_lock", "none"), story("acks_late", "kill-main", again=False).end()
    assert report.exit_code(built(unknown, broken)) == 1


def test_an_expected_loss_that_does_not_show() -> None:
    told = story("acks_early", "kill-main", charged=2, again=False).end()
    result = built(told)
    assert (result["cells"][0]["observed"], report.exit_code(result)) == ("held", 1)
    assert result["cells"][0]["reasons"] == ["predicted to be visible, and was not: lost"]


def test_an_expected_duplicate_that_does_not_show() -> None:
    result = built(story("acks_late", "kill-main").end())
    assert (result["cells"][0]["observed"], report.exit_code(result)) == ("held", 1)


def test_a_healthy_run_that_charges_twice_is_not_as_predicted() -> None:
    result = built(story("acks_late", "none").ran("t0").end())
    assert (result["cells"][0]["observed"], report.exit_code(result)) == ("held", 1)
    assert result["cells"][0]["reasons"] == ["predicted never to be seen, and was: duplicated"]


@pytest.mark.parametrize(("again", "code"), [(False, 0), (True, 1)], ids=["breaks", "holds"])
def test_a_control_must_break(again: bool, code: int) -> None:
    control = {("acks_late", "kill-main", ""): Prediction("broken", "A control.")}
    result = built(story("acks_late", "kill-main", again=again).end(), predictions=control)
    valid(result)
    assert report.exit_code(result) == code


def test_a_control_of_which_nothing_is_known_is_unknown() -> None:
    control = {("acks_late", "kill-main", ""): Prediction("broken", "A control.")}
    assert report.exit_code(built(story("acks_late", "kill-main"), predictions=control)) == 3


def test_nothing_was_run() -> None:
    result = built()
    valid(result)
    assert (result["as_predicted"], report.exit_code(result)) == (False, 3)
    assert "nothing is known" in terminal(result)


def test_a_start_without_a_time_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="time zone"):
        built(started_at=datetime(2026, 1, 2))  # noqa: DTZ001


def test_json_never_holds_a_nan() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        report.as_json(built(configuration={"rate": float("nan")}))


# -- the schema -------------------------------------------------------------------------------------------------------


def test_the_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("field", ["schema", "versions", "seed", "started_at", "duration_s", "as_predicted", "cells"])
def test_the_schema_needs_every_field(field: str) -> None:
    result = good()
    del result[field]
    with pytest.raises(jsonschema.ValidationError):
        valid(result)


@pytest.mark.parametrize("field", sorted(SCHEMA["$defs"]["cell"]["properties"]))
def test_the_schema_needs_every_field_of_a_cell(field: str) -> None:
    result = good()
    del result["cells"][0][field]
    with pytest.raises(jsonschema.ValidationError):
        valid(result)


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
def test_the_schema_is_strict(path: list[Any], value: object) -> None:
    result = json.loads(report.as_json(good()))
    target = result
    for step in path[:-1]:
        target = target[step]
    target[path[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        valid(result)


# -- the renderings ---------------------------------------------------------------------------------------------------


def test_the_terminal_tells_a_newcomer_what_happened() -> None:
    shown = " ".join(terminal(good()).split())
    assert "acks_early lost 2 of 10 charges when the worker was killed; its promise (at most once) held." in shown
    assert (
        "acks_late made 2 of 10 charges twice or more when the process running the task was killed; "
        "its promise (at least once) held."
    ) in shown
    assert "dedup_lock charged all 10 exactly once when the worker was killed" in shown
    assert "Everything was as predicted in 4 cells." in shown


@pytest.mark.parametrize(
    ("effects", "lost", "twice", "parked", "said"),
    [
        ("0/10/0", 0, 0, 0, "charged all 10 exactly once"),
        ("0/1/0", 0, 0, 0, "made its one charge exactly once"),
        ("0/0/0", 0, 0, 0, "had no charges to make"),
        ("2/8/0", 0, 0, 0, "made 8 of 10 charges once and the others never"),
        ("1/0/0", 0, 0, 0, "never made its one charge"),
        ("1/9/0", 1, 0, 0, "lost 1 of 10 charges"),
        ("1/0/0", 1, 0, 0, "lost its one charge"),
        ("0/9/1", 0, 1, 0, "made 1 of 10 charges twice or more"),
        ("0/0/1", 0, 1, 0, "made its one charge twice or more"),
        ("2/6/2", 1, 2, 1, "lost 1 of 10 charges, made 2 of them twice or more and parked 1 of them"),
        ("1/8/1", 0, 1, 1, "made 1 of 10 charges twice or more and parked 1 of them"),
    ],
)
def test_a_sentence_says_what_became_of_the_charges(
    effects: str, lost: int, twice: int, parked: int, said: str
) -> None:
    [result] = check(story("acks_late", "kill-main").end().events)
    spread = dict(zip(("0", "1", "2+"), map(int, effects.split("/")), strict=True))
    changed = {"effects": spread, "lost": lost, "duplicated": twice, "quarantined": parked}
    document = from_results([CellResult(**{**vars(result), **changed})])
    assert report.sentences(document)[0].startswith(f"acks_late {said} when the worker was killed; its promise")


def test_the_last_sentence_counts_in_english() -> None:
    broken = story("acks_late", "kill-main", again=False).end()
    unknown = story("dedup_lock", "kill-main").end(queued=1)
    assert report.sentences(built(broken))[-1] == "Of 1 cell, 1 was not as predicted."
    assert report.sentences(built(unknown))[-1] == "Of 1 cell, 1 is unknown."
    told = report.sentences(built(broken, unknown, story("dedup_lock", "none").end()))[-1]
    assert told == "Of 3 cells, 1 was not as predicted and 1 is unknown."


def test_where_lines_have_no_bound_every_column_and_sentence_is_whole() -> None:
    [result] = check(story("acks_early", "kill-main", again=False).end().events)
    big = {"0": 123_456, "1": 654_321, "2+": 222_223}
    document = from_results([CellResult(**{**vars(result), "executions": big, "effects": big})])
    lines = [line.rstrip() for line in terminal(document, 100_000).splitlines() if line.strip()]
    assert len(lines) == 3 + 1 + 2, lines  # a head of two lines, its rule, one row, two sentences
    for whole in ("promise", "at most once", "123456/654321/222223"):
        assert any(whole in line for line in lines), whole
    assert lines[-2:] == report.sentences(document)


@pytest.mark.parametrize("width", [80, 100, 200])
def test_the_terminal_takes_at_most_a_hundred_columns(width: int) -> None:
    lines = terminal(good(), width).splitlines()
    assert max(map(len, lines)) <= min(width, 100)
    table = "\n".join(lines)
    for word in ("pattern", "kills", "landed", "lost", "twice", "promise", "verdict", "acks_early", "kill-child"):
        assert word in table


def test_the_table_holds_up_with_large_counts() -> None:
    [result] = check(story("acks_early", "kill-main", again=False).end().events)
    big = {"0": 123_456, "1": 654_321, "2+": 222_223}
    shown = terminal(from_results([CellResult(**{**vars(result), "executions": big, "effects": big})]), 100)
    assert max(map(len, shown.splitlines())) <= 100


def test_junit() -> None:
    result = built(
        story("acks_early", "kill-main", again=False).end(),
        story("acks_late", "kill-main", again=False).end(),
        story("dedup_lock", "none"),
    )
    suites = ElementTree.fromstring(report.as_junit(result))  # noqa: S314
    assert (suites.get("tests"), suites.get("failures"), suites.get("errors")) == ("3", "1", "1")
    cases = list(suites.iter("testcase"))
    assert [case.get("name") for case in cases] == [
        "acks_early kill-main redis",
        "acks_late kill-main redis",
        "dedup_lock none redis",
    ]
    assert [[child.tag for child in case] for case in cases] == [[], ["failure"], ["error"]]
    failure = cases[1].find("failure")
    assert failure is not None
    assert "t0: no effect, at least 1 promised" in (failure.text or "")


def test_markdown() -> None:
    lines = report.as_markdown(good()).splitlines()
    rows = [line for line in lines if line.startswith("|")]
    assert len(rows) == 2 + 4
    assert len({row.count("|") for row in rows}) == 1
    assert "| acks\\_early | kill-main | 2/2 | 0/10/0 | 2/8/0 | 2 | 0 | at most once | held |" in rows


class Page(HTMLParser):
    """What a browser would make of the page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.shown = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.shown += data


def page(result: dict[str, Any]) -> Page:
    parsed = Page()
    parsed.feed(report.as_html(result))
    return parsed


def test_html_draws_each_cell_and_loads_nothing() -> None:
    parsed = page(good())
    assert len([tag for tag, _ in parsed.tags if tag == "svg"]) == 4
    assert not {tag for tag, _ in parsed.tags} & {"script", "link", "img", "iframe", "object"}
    assert not any(name in {"src", "href"} or name.startswith("on") for _, attrs in parsed.tags for name in attrs)
    assert not re.search(r"url\(|@import|https?:", report.as_html(good()))
    assert "prefers-color-scheme:dark" in report.as_html(good())
    assert "acks_early lost 2 of 10 charges" in parsed.shown


def test_html_bars_are_in_proportion() -> None:
    parsed = page(built(story("acks_early", "kill-main", again=False).end()))
    bars = [(attrs["class"], attrs["x"], attrs["width"]) for tag, attrs in parsed.tags if tag == "rect"]
    assert bars == [("none", "0.0", "40.0"), ("once", "40.0", "160.0")]


@pytest.mark.parametrize(
    "effects",
    [
        {"0": 0, "1": 0, "2+": 0},
        {"0": 1, "1": 999_998, "2+": 1},
        {"0": 999_999, "1": 0, "2+": 1},
        {"0": 999_998, "1": 1, "2+": 1},
        {"0": 1, "1": 1, "2+": 999_998},
    ],
)
def test_html_bars_show_the_smallest_share_and_stay_in_the_picture(effects: dict[str, int]) -> None:
    [result] = check(story("acks_early", "kill-main", again=False).end().events)
    parsed = page(from_results([CellResult(**{**vars(result), "effects": effects})]))
    bars = [(float(attrs["x"] or 0), float(attrs["width"] or 0)) for tag, attrs in parsed.tags if tag == "rect"]
    assert len(bars) == sum(count > 0 for count in effects.values())
    assert all(width >= 2 and start + width <= 200.05 for start, width in bars)


@pytest.mark.parametrize("field", ["pattern", "fault", "point", "broker", "reasons"])
def test_odd_text_stays_text(field: str) -> None:
    [result] = check(story("dedup_lock", "none").events)
    odd = from_results([CellResult(**{**vars(result), field: [NASTY] if field == "reasons" else NASTY})])
    valid(odd)
    assert "script" not in {tag for tag, _ in page(odd).tags}
    ElementTree.fromstring(report.as_junit(odd))  # noqa: S314
    rows = [line for line in report.as_markdown(odd).splitlines() if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) == 1
    shown = terminal(odd)
    assert "\x1b" not in shown
    assert "\x00" not in shown
    for rendering in (report.as_json, report.as_junit, report.as_markdown, report.as_html):
        rendering(odd).encode("utf-8")


def test_all_renderings_speak_of_every_cell() -> None:
    result = good()
    for shown in (terminal(result), report.as_junit(result), report.as_html(result), report.as_json(result)):
        assert all(cell["pattern"] in shown and cell["fault"] in shown for cell in result["cells"])

"""One document in five renderings: each says the same, escapes odd text, and loads nothing."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tasks_demo.lab.plan.outcomes import Prediction
from tasks_demo.lab.reports import document as report
from tasks_demo.lab.reports.text import sentences
from tasks_demo.lab.verdict.checker import CellResult, check
from tests.lab.reports.results import NASTY, built, from_results, good, story, terminal, valid
from tests.lab.verdict.histories import numbered, text


def test_terminal_tells_a_newcomer_what_happened() -> None:
    shown = " ".join(terminal(good()).split())
    assert (
        "acks_early lost 2 of 10 charges when the worker was killed; its promise (at most once) held, because it allows that."
        in shown
    )
    assert (
        "acks_late made 2 of 10 charges twice or more when the process running the task was killed; "
        "its promise (at least once) held, because it allows that."
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
def test_report_sentence_says_what_became_of_the_charges(
    effects: str, lost: int, twice: int, parked: int, said: str
) -> None:
    [result] = check(story("acks_late", "kill-main").end().events)
    spread = dict(zip(("0", "1", "2+"), map(int, effects.split("/")), strict=True))
    changed = {"effects": spread, "lost": lost, "duplicated": twice, "quarantined": parked}
    document = from_results([CellResult(**{**vars(result), **changed})])
    assert sentences(document)[0].startswith(f"acks_late {said} when the worker was killed; its promise")


def test_report_last_sentence_counts_in_english() -> None:
    broken = story("acks_late", "kill-main", again=False).end()
    unknown = story("dedup_lock", "kill-main").end(queued=1)
    assert sentences(built(broken))[-1] == "Of 1 cell, 1 was not as predicted."
    assert sentences(built(unknown))[-1] == "Of 1 cell, 1 is unknown."
    one = sentences(built(broken, unknown, story("dedup_lock", "none").end()))[-1]
    assert one == "Of 3 cells, 1 was not as predicted and 1 is unknown."


def test_report_without_a_width_shows_every_column_and_sentence_whole() -> None:
    [result] = check(story("acks_early", "kill-main", again=False).end().events)
    big = {"0": 123_456, "1": 654_321, "2+": 222_223}
    document = from_results([CellResult(**{**vars(result), "executions": big, "effects": big})])
    lines = [line.rstrip() for line in terminal(document, 100_000).splitlines() if line.strip()]
    assert len(lines) == 3 + 1 + 2, lines  # a heading of two lines, its rule, one row, two sentences
    for whole in ("promise", "at most once", "123456/654321/222223"):
        assert any(whole in line for line in lines), whole
    assert lines[-2:] == sentences(document)


@pytest.mark.parametrize("width", [80, 100, 200])
def test_terminal_takes_at_most_a_hundred_columns(width: int) -> None:
    lines = terminal(good(), width).splitlines()
    assert max(map(len, lines)) <= min(width, 100)
    table = "\n".join(lines)
    for word in ("pattern", "kills", "injected", "lost", "twice", "promise", "verdict", "acks_early", "kill-child"):
        assert word in table


def test_table_holds_up_with_large_counts() -> None:
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
    """The page as a browser would build it."""

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


def test_html_loads_nothing_and_runs_nothing() -> None:
    parsed = page(good())
    assert not {tag for tag, _ in parsed.tags} & {"script", "link", "img", "iframe", "object"}
    for _, attrs in parsed.tags:
        assert not any(name == "src" or name.startswith("on") for name in attrs)
        assert (attrs.get("href") or "#").startswith("#")
    assert not re.search(r"url\(|@import|https?:", report.as_html(good()))
    assert "prefers-color-scheme: dark" in report.as_html(good())
    assert "acks_early lost 2 of 10 charges" in parsed.shown


def squares(result: dict[str, Any]) -> list[tuple[str, str]]:
    """The cells of the heat map: colour and target."""
    tags = page(result).tags
    return [
        (before[1]["class"] or "", attrs["href"] or "")
        for before, (tag, attrs) in pairwise(tags)
        if tag == "a" and before[0] == "td"
    ]


def test_html_has_a_heat_map_whose_cells_open_their_details() -> None:
    result = good()
    assert squares(result) == [("allowed", "#cell-0"), ("allowed", "#cell-1"), ("ok", "#cell-2"), ("ok", "#cell-3")]
    tags = page(result).tags
    assert [attrs["id"] for tag, attrs in tags if (attrs.get("id") or "").startswith("cell-") and tag == "div"] == [
        f"cell-{number}" for number in range(4)
    ]
    wrong = built(story("acks_late", "kill-main", again=False).end(), story("dedup_lock", "none"))
    assert [tone for tone, _ in squares(wrong)] == ["surprise", "unknown"]
    control = {("acks_late", "kill-main", "", "redis"): Prediction("broken", "A control.")}
    as_predicted = built(story("acks_late", "kill-main", again=False).end(), predictions=control)
    assert [tone for tone, _ in squares(as_predicted)] == ["broken"]


def test_html_heat_map_orders_points_by_a_task_s_life_for_each_broker() -> None:
    [result] = check(story("dedup_lock", "kill-main", charged=1).end().events)
    cells = [
        CellResult(**{**vars(result), "point": point, "broker": broker})
        for broker in ("redis", "rabbitmq")
        for point in ("acked", "fetched", "effect_done")
    ]
    html = report.as_html(from_results(cells))
    assert len(re.findall("What became of the charges on ", html)) == 2
    places = [html.index(f'<th scope="col">{point}</th>') for point in ("fetched", "effect_done", "acked")]
    assert places == sorted(places)


def test_html_draws_recovery_as_a_histogram() -> None:
    result = good()
    assert result["cells"][2]["recoveries"] == [0, 0, 0, 0, 2, 0, 0, 0, 0, 0]
    pictures = [attrs["aria-label"] for tag, attrs in page(result).tags if tag == "svg" and "aria-label" in attrs]
    assert pictures == ["4 ≤ 2 s", "2 ≤ 2 s", "2 ≤ 2 s"], "all kills, and two cells whose victims began again"


def test_html_shows_the_lives_of_the_jobs_that_are_examples(tmp_path: Path) -> None:
    stories = [story("acks_early", "kill-main", again=False).end(), story("acks_late", "kill-child", charged=2).end()]
    events = tmp_path / "events.jsonl"
    events.write_text(text(numbered([event for one in stories for event in one.events])), encoding="utf-8")
    html = report.as_html(built(*stories), events)
    for said in ("Lost: <code>t0</code>", "Lost: <code>t1</code>", "Done twice or more: <code>t1</code>"):
        assert said in html
    assert html.count('class="swimlanes"') == 4
    assert "killed at effect_done" in html
    assert "Killed: " not in html, "the killed jobs are the lost and the repeated ones"
    events.unlink()
    assert report.as_html(built(*stories), events).count('class="swimlanes"') == 0


def test_html_says_how_to_run_it_again() -> None:
    command = "python manage.py experiment --pattern acks_late --seed 7"
    assert f"<code>{command}</code>" in report.as_html(
        built(story("acks_late", "none").end(), configuration={"command": command})
    )
    assert "--replay" in report.as_html(good())


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


def test_renderings_show_every_cell() -> None:
    result = good()
    for shown in (terminal(result), report.as_junit(result), report.as_html(result), report.as_json(result)):
        assert all(cell["pattern"] in shown and cell["fault"] in shown for cell in result["cells"])

"""One document in five renderings: each says the same, escapes odd text, and loads nothing."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from typing import Any

import pytest

from tasks_demo.lab.reports import document as report
from tasks_demo.lab.verdict.checker import CellResult, check
from tests.lab.reports.results import NASTY, built, from_results, good, story, terminal, valid


def test_terminal_tells_a_newcomer_what_happened() -> None:
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
def test_sentence_says_what_became_of_the_charges(effects: str, lost: int, twice: int, parked: int, said: str) -> None:
    [result] = check(story("acks_late", "kill-main").end().events)
    spread = dict(zip(("0", "1", "2+"), map(int, effects.split("/")), strict=True))
    changed = {"effects": spread, "lost": lost, "duplicated": twice, "quarantined": parked}
    document = from_results([CellResult(**{**vars(result), **changed})])
    assert report.sentences(document)[0].startswith(f"acks_late {said} when the worker was killed; its promise")


def test_last_sentence_counts_in_english() -> None:
    broken = story("acks_late", "kill-main", again=False).end()
    unknown = story("dedup_lock", "kill-main").end(queued=1)
    assert report.sentences(built(broken))[-1] == "Of 1 cell, 1 was not as predicted."
    assert report.sentences(built(unknown))[-1] == "Of 1 cell, 1 is unknown."
    one = report.sentences(built(broken, unknown, story("dedup_lock", "none").end()))[-1]
    assert one == "Of 3 cells, 1 was not as predicted and 1 is unknown."


def test_where_lines_have_no_bound_every_column_and_sentence_is_whole() -> None:
    [result] = check(story("acks_early", "kill-main", again=False).end().events)
    big = {"0": 123_456, "1": 654_321, "2+": 222_223}
    document = from_results([CellResult(**{**vars(result), "executions": big, "effects": big})])
    lines = [line.rstrip() for line in terminal(document, 100_000).splitlines() if line.strip()]
    assert len(lines) == 3 + 1 + 2, lines  # a heading of two lines, its rule, one row, two sentences
    for whole in ("promise", "at most once", "123456/654321/222223"):
        assert any(whole in line for line in lines), whole
    assert lines[-2:] == report.sentences(document)


@pytest.mark.parametrize("width", [80, 100, 200])
def test_terminal_takes_at_most_a_hundred_columns(width: int) -> None:
    lines = terminal(good(), width).splitlines()
    assert max(map(len, lines)) <= min(width, 100)
    table = "\n".join(lines)
    for word in ("pattern", "kills", "landed", "lost", "twice", "promise", "verdict", "acks_early", "kill-child"):
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

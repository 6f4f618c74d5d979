"""Histories that contradict themselves or were damaged: forged, dropped and repeated events."""

from __future__ import annotations

import pytest

from tasks_demo.core.semantics import EFFECTIVELY_ONCE
from tasks_demo.lab.verdict.checker import check
from tasks_demo.lab.verdict.history import HistoryError
from tests.lab.verdict.histories import MAIN, Story, expect, healthy, judged, numbered


def test_effect_of_what_was_never_published() -> None:
    story = healthy().effect("z", task_id="")
    result = expect(story.end(), "unknown", "z has an effect in the books, but was never published")
    assert sum(result.effects.values()) == 2
    assert (result.unresolved, result.bound_95) == (2, 1.0)


def test_execution_of_what_was_never_published() -> None:
    story = healthy().ran("z", charged=False)
    result = expect(story.end(), "unknown", "z was executed but never published")
    assert sum(result.executions.values()) == 2


def test_publication_may_be_recorded_after_its_execution() -> None:
    story = Story().ran("a").published("a")
    expect(story.end(), "held")


def test_forged_effect_that_no_worker_started() -> None:
    expect(
        healthy("acks_early").published("c").effect("c").end(),
        "unknown",
        "c has an effect in the books, but no worker started it",
    )


def test_forged_effect_on_another_operation() -> None:
    story = healthy("acks_late").effect("b", task_id="a")
    expect(story.end(), "unknown", "an effect of a on b, not its operation")


def test_effect_is_known_by_its_operation_alone() -> None:
    story = Story("dedup_lock").published("a", operation="order 17").begun("a").effect("order 17", task_id="")
    expect(story.end(), "held")
    story = Story("dedup_lock").begun("a").effect("order 17", task_id="a").published("a", operation="order 17")
    expect(story.end(), "held")


@pytest.mark.parametrize("source", ["bank:1", "bank:01", "till 1", "bank:x", "bank:²"])
def test_entry_of_the_books_that_is_there_twice(source: str) -> None:
    story = Story("dedup_lock").published("a").begun("a").effect("a", source=source).effect("a", source=source)
    result = expect(story.end(), "unknown", "one entry in the books is there twice (a, event 5)")
    assert result.effects == {"0": 0, "1": 1, "2+": 0}


def test_entries_of_different_books_are_different() -> None:
    story = Story("acks_late").published("a").begun("a")
    for source in ("bank:1", "bank:01", "bank:2", "bank:\u0662", "till 1", "1"):
        story.effect("a", source=source)
    expect(story.end(), "held")


@pytest.mark.parametrize("detail", [{}, {"source": ""}, {"source": None}, {"source": 1}, {"source": []}])
def test_effect_without_a_source(detail: dict[str, object]) -> None:
    story = healthy().say("effect", "a", detail=detail)
    expect(story.end(), "unknown", "the effect on a (event 17) names no entry in the books")


def test_task_of_two_operations() -> None:
    story = Story().published("a", operation="order 17").published("a", operation="order 18").begun("a")
    story.effect("order 17", task_id="a").effect("order 18", task_id="")
    assert "a was published for two operations (event 2)" in judged(story.end()).reasons[0]


def test_body_that_starts_twice_without_an_end() -> None:
    story = healthy().published("c").begun("c", 22).effect("c")
    forged = story.say("started", "c", 22, at=1_700_000_030.5)
    expect(forged.end(), "unknown", "process 22 started c twice without ending the first")


def test_debits_and_workers_may_be_seen_at_the_same_instant() -> None:
    story = Story().published("a").ran("a")
    for source in ("bank:8", "bank:9"):
        story.say("effect", "a", at=1_700_000_050.0, detail={"source": source, "amount": 1})
    for state in ("ready", "exited"):
        story.say("worker", pid=MAIN, at=1_700_000_060.0, detail={"state": state})
    expect(story.end(), "held")


def test_events_after_the_end() -> None:
    expect(
        healthy().end().say("worker", detail={"state": "exited"}),
        "unknown",
        "comes after the end of its cell",
        "0 recorded",
    )


def test_evidence_two_ends() -> None:
    assert "comes after the end" in judged(healthy().end().end()).reasons[0]


def test_dropped_cell_end_leaves_the_other_cells_alone() -> None:
    first, second = healthy("acks_early").events, healthy("acks_late").end().events
    assert [cell.observed for cell in check(numbered([*first, *second]))] == ["unknown", "held"]


def test_evidence_unknown_kind() -> None:
    with pytest.raises(HistoryError, match="event 1: unknown kind 'charged'"):
        check(Story().say("charged", "a").events)


def test_pattern_without_a_promise() -> None:
    story = healthy("naive").end()
    with pytest.raises(HistoryError, match="'naive'"):
        check(story.events)
    assert check(story.events, {"naive": EFFECTIVELY_ONCE})[0].observed == "held"

"""The end of a cell: what must be recorded there before anything counts as lost."""

from __future__ import annotations

import pytest

from tests.lab.verdict.histories import Story, expect, healthy, judged, killed


def test_history_without_an_end_is_unknown() -> None:
    result = expect(healthy(), "unknown", "the history ends before the cell was quiescent")
    assert (result.unresolved, result.seed, result.bound_95) == (2, None, 1.0)
    assert result.duration_s == len(healthy().events) - 1


@pytest.mark.parametrize("what", ["queued", "unacked", "running", "workers", "deferred"])
@pytest.mark.parametrize("value", [1, -1, None, "0", False, 0.5])
def test_cell_that_is_not_quiescent_is_unknown(what: str, value: object) -> None:
    result = expect(healthy().end(**{what: value}), "unknown", f"not quiescent: {what} is")
    assert result.unresolved == 2


def test_cell_that_is_not_quiescent_says_why() -> None:
    expect(healthy().end(reason="3 tasks still running"), "unknown", "not quiescent: 3 tasks still running")


@pytest.mark.parametrize("value", [False, None, 1, "yes"])
def test_unread_books_make_a_cell_unknown(value: object) -> None:
    expect(healthy().end(books_read=value), "unknown", "the books were not read")


@pytest.mark.parametrize(
    "value", [None, [], {"started": "2"}, {"started": -1}, {"started": True}, {"started": 2, "acked": -1}]
)
def test_quiescence_no_record_of_the_number_of_events(value: object) -> None:
    expect(healthy().end(events=value), "unknown", "how many events")


@pytest.mark.parametrize("what", ["planned_kills", "tasks"])
@pytest.mark.parametrize("value", [None, -1, "1", 1.0, True])
def test_quiescence_no_record_of_a_count(what: str, value: object) -> None:
    expect(healthy().end(**{what: value}), "unknown", f"did not record {what}")


def test_quiescence_fewer_publications_than_planned() -> None:
    result = expect(healthy().end(tasks=3), "unknown", "3 tasks to be published; the history holds")
    assert (result.unresolved, result.lost) == (2, 0)


def test_quiescence_nothing_is_lost_while_something_is_missing() -> None:
    result = expect(killed("acks_late", again=False).end(queued=1), "unknown", "queued is 1")
    assert (result.lost, result.recovered, result.unresolved) == (0, 0, 2)


def test_quiescence_nothing_is_recovered_while_something_is_missing() -> None:
    assert judged(killed("acks_late").end(queued=1)).recovered == 0


def test_quiescence_exceeded_bound_is_broken_whatever_is_missing() -> None:
    story = killed("dedup_lock", charged=True)
    for end in ({"queued": 1}, {"books_read": False}, {"tasks": 9}, {"events": None}):
        result = expect(Story.end(killed("dedup_lock", charged=True), **end), "broken", "a: 2 effects", "")
        assert (result.duplicated, result.unresolved) == (1, 1)
    expect(story, "broken", "a: 2 effects", "the history ends before")
    expect(killed("acks_early", charged=False), "broken", "a: 2 executions", "the history ends before")

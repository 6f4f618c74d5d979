"""Every verdict from a literal history, and every way in which a history can be damaged."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks_demo.core.semantics import AT_LEAST_ONCE, AT_MOST_ONCE, EFFECTIVELY_ONCE
from tasks_demo.lab.verdict.__main__ import main
from tasks_demo.lab.verdict.checker import CellResult, check
from tasks_demo.lab.verdict.findings import REASONS
from tasks_demo.lab.verdict.history import HistoryError, HistoryEvent
from tests.lab.verdict.histories import MAIN, Story, numbered, text


def judged(events: Story | Sequence[HistoryEvent]) -> CellResult:
    [result] = check(events.events if isinstance(events, Story) else events)
    return result


def expect(story: Story | Sequence[HistoryEvent], observed: str, *reasons: str) -> CellResult:
    """The verdict and, in this order, what its reasons must speak of; a verdict of held gives none."""
    result = judged(story)
    assert (result.observed, len(result.reasons)) == (observed, len(reasons)), result.reasons
    for found, part in zip(result.reasons, reasons, strict=True):
        assert part in found
    return result


def healthy(pattern: str = "acks_late") -> Story:
    return Story(pattern).published("a", "b").ran("a").ran("b")


def killed(pattern: str, fault: str = "kill-main", *, charged: bool = False, again: bool = True) -> Story:
    """``a`` is killed in its body, after its charge or before; ``b`` goes well. Not ended yet."""
    story = Story(pattern, fault).published("a", "b").delivered("a").begun("a")
    if charged:
        story.effect("a").say("effect_done", "a", 20)
    story.killed("a", point="effect_done" if charged else "effect_begun")
    if again:
        story.ran("a", 30)
    return story.ran("b", 30)


# -- promises ---------------------------------------------------------------------------------------------------------


def test_empty() -> None:
    assert check([]) == []


@pytest.mark.parametrize("pattern", ["acks_early", "acks_late", "dedup_lock"])
def test_sane(pattern: str) -> None:
    result = expect(healthy(pattern).end(), "held")
    assert result.executions == result.effects == {"0": 0, "1": 2, "2+": 0}
    assert (result.tasks, result.published, result.kills) == (2, 2, {"planned": 0, "landed": 0})
    assert (result.lost, result.duplicated, result.recovered, result.unresolved) == (0, 0, 0, 0)
    assert (result.seed, result.duration_s, result.broker, result.point) == (7, 2.5, "redis", "")
    assert result.recovery_s == {"p50": None, "p99": None, "max": None}


def test_the_promise_is_shown_as_bounds() -> None:
    assert judged(healthy("acks_early").end()).promise == {"executions": [0, 1], "effects": [0, 1]}
    assert judged(healthy("acks_late").end()).promise == {"executions": [1, None], "effects": [1, None]}
    assert judged(healthy("dedup_lock").end()).promise == {"executions": [0, None], "effects": [1, 1]}
    assert judged(healthy("dedup_lock").end()).semantics == "effectively-once"


def test_lost_is_allowed_at_most_once() -> None:
    result = expect(killed("acks_early", again=False).end(), "held")
    assert (result.lost, result.duplicated) == (1, 0)
    assert result.effects == {"0": 1, "1": 1, "2+": 0}
    assert result.executions == {"0": 0, "1": 2, "2+": 0}


@pytest.mark.parametrize("pattern", ["acks_late", "dedup_lock"])
def test_lost_after_a_kill(pattern: str) -> None:
    result = expect(killed(pattern, again=False).end(), "broken", "a: no effect")
    assert result.lost == 1


def test_lost_without_an_execution() -> None:
    result = expect(healthy().published("c").end(), "broken", "c: no effect, at least 1", "c: no execution, at least 1")
    assert result.executions["0"] == result.effects["0"] == result.lost == 1


def test_duplicated_is_allowed_at_least_once() -> None:
    result = expect(killed("acks_late", charged=True).end(), "held")
    assert (result.duplicated, result.effects) == (1, {"0": 0, "1": 1, "2+": 1})
    assert result.executions == {"0": 0, "1": 1, "2+": 1}


def test_duplicated_is_not_allowed_effectively_once() -> None:
    result = expect(killed("dedup_lock", charged=True).end(), "broken", "a: 2 effects, exactly 1 promised")
    assert (result.duplicated, result.recovered) == (1, 0)


def test_duplicated_is_not_allowed_at_most_once() -> None:
    expect(killed("acks_early", charged=True).end(), "broken", "a: 2 effects, at most 1", "a: 2 executions, at most 1")


def test_two_executions_alone_break_at_most_once() -> None:
    result = expect(killed("acks_early").end(), "broken", "a: 2 executions, at most 1 promised")
    assert (result.executions["2+"], result.duplicated, result.recovered) == (1, 0, 0)


def test_an_execution_without_an_effect_breaks_at_least_once() -> None:
    expect(Story().published("a").ran("a", charged=False).end(), "broken", "a: no effect")


@pytest.mark.parametrize("pattern", ["acks_late", "dedup_lock"])
def test_recovered(pattern: str) -> None:
    result = expect(killed(pattern).end(), "held")
    assert (result.recovered, result.lost, result.duplicated) == (1, 0, 0)
    # The kill is the seventh event, the next start the ninth; a step takes a second.
    assert result.recovery_s == {"p50": 2.0, "p99": 2.0, "max": 2.0}


def test_recovery_is_measured_from_a_kill_that_landed() -> None:
    story = killed("acks_late")
    story.delivered("b").begun("b", 30).killed("b", 30, landed=False, why="it was gone").ran("b", 31)
    assert judged(story.end()).recovery_s["max"] == 2.0


def test_a_clock_that_was_set_back_gives_no_negative_recovery() -> None:
    story = Story("acks_late", "kill-main").published("a").begun("a").killed("a").say("started", "a", 30, at=1.0)
    assert judged(story.effect("a").end()).recovery_s == {"p50": 0.0, "p99": 0.0, "max": 0.0}


def test_other_outcomes_are_counted() -> None:
    story = healthy("dedup_lock")
    for kind, times in (("suppressed", 1), ("deferred", 2), ("fenced", 3), ("quarantined", 4)):
        for pid in range(times):
            story.say(kind, "a", 40 + pid)
    result = expect(story.end(), "held")
    assert (result.suppressed, result.deferred, result.fenced) == (1, 2, 3)
    assert result.quarantined == 1, "of operations, however often they were parked"


def test_two_task_ids_of_one_operation_share_its_effects() -> None:
    story = Story("dedup_lock").published("a", operation="order 17").published("b", operation="order 17")
    story.begun("a", 20).effect("order 17", task_id="a").say("returned", "a", 20)
    story.delivered("b").say("suppressed", "b", 20)
    result = expect(story.end(), "held")
    assert result.effects == {"0": 0, "1": 1, "2+": 0}
    assert result.executions == {"0": 1, "1": 1, "2+": 0}
    story = Story("dedup_lock").published("a", operation="order 17").published("b", operation="order 17")
    for number, task_id in enumerate("ab"):
        story.begun(task_id, 20 + number).effect("order 17", task_id=task_id)
    expect(story.end(), "broken", "order 17: 2 effects")


def test_a_deferral_that_publishes_the_same_task_id_again_is_no_second_task() -> None:
    story = healthy("dedup_lock").published("a").delivered("a").say("suppressed", "a", 20)
    result = expect(story.end(), "held")
    assert (result.tasks, result.recovered) == (2, 1)


# -- publications whose fate is not ok --------------------------------------------------------------------------------


@pytest.mark.parametrize("pattern", ["acks_early", "acks_late", "dedup_lock"])
@pytest.mark.parametrize("outcome", ["info", "fail"])
def test_nothing_is_owed_to_an_unconfirmed_publication(pattern: str, outcome: str) -> None:
    result = expect(healthy(pattern).published("c", outcome=outcome).end(), "held")
    assert (result.tasks, result.published, result.lost, result.effects["0"]) == (3, 2, 0, 1)


def test_an_unconfirmed_publication_may_have_arrived() -> None:
    expect(Story("dedup_lock").published("a", outcome="info").ran("a").end(), "held")


def test_an_unconfirmed_publication_is_bounded_from_above() -> None:
    expect(Story("dedup_lock").published("a", outcome="info").ran("a").ran("a").end(), "broken", "a: 2 effects")


def test_a_confirmation_outweighs_a_failure_of_the_same_task() -> None:
    story = Story("acks_late").published("a").published("a", outcome="fail").published("a", outcome="info")
    expect(story.end(), "broken", "a: no effect", "a: no execution")


def test_a_refused_task_that_was_executed() -> None:
    story = Story("acks_early").published("a", outcome="fail").ran("a", charged=False)
    expect(story.end(), "unknown", "a was executed although the broker refused it")


def test_a_refused_task_that_took_effect() -> None:
    story = Story("acks_early").published("a", outcome="fail").ran("a")
    expect(story.end(), "unknown", "a took effect although the broker refused it", "a was executed although")


@pytest.mark.parametrize("outcome", [None, "perhaps", 1, [], {}])
def test_a_publication_without_an_outcome(outcome: object) -> None:
    story = Story().say("published", "a", detail={"outcome": outcome}).ran("a")
    expect(story.end(), "unknown", "the publication of a (event 1) has no outcome")


# -- missing evidence -------------------------------------------------------------------------------------------------


def test_no_end() -> None:
    result = expect(healthy(), "unknown", "the history ends before the cell was quiescent")
    assert (result.unresolved, result.seed, result.bound_95) == (2, None, 1.0)
    assert result.duration_s == len(healthy().events) - 1


@pytest.mark.parametrize("what", ["queued", "unacked", "running", "workers", "deferred"])
@pytest.mark.parametrize("value", [1, -1, None, "0", False, 0.5])
def test_not_quiescent(what: str, value: object) -> None:
    result = expect(healthy().end(**{what: value}), "unknown", f"not quiescent: {what} is")
    assert result.unresolved == 2


def test_not_quiescent_for_a_reason() -> None:
    expect(healthy().end(reason="3 tasks still running"), "unknown", "not quiescent: 3 tasks still running")


@pytest.mark.parametrize("value", [False, None, 1, "yes"])
def test_books_not_read(value: object) -> None:
    expect(healthy().end(books_read=value), "unknown", "the books were not read")


@pytest.mark.parametrize(
    "value", [None, [], {"started": "2"}, {"started": -1}, {"started": True}, {"started": 2, "acked": -1}]
)
def test_no_record_of_the_number_of_events(value: object) -> None:
    expect(healthy().end(events=value), "unknown", "how many events")


@pytest.mark.parametrize("what", ["planned_kills", "tasks"])
@pytest.mark.parametrize("value", [None, -1, "1", 1.0, True])
def test_no_record_of_a_count(what: str, value: object) -> None:
    expect(healthy().end(**{what: value}), "unknown", f"did not write down {what}")


def test_fewer_publications_than_planned() -> None:
    result = expect(healthy().end(tasks=3), "unknown", "3 tasks to be published; the history holds")
    assert (result.unresolved, result.lost) == (2, 0)


def test_nothing_is_lost_while_something_is_missing() -> None:
    result = expect(killed("acks_late", again=False).end(queued=1), "unknown", "queued is 1")
    assert (result.lost, result.recovered, result.unresolved) == (0, 0, 2)


def test_nothing_is_recovered_while_something_is_missing() -> None:
    assert judged(killed("acks_late").end(queued=1)).recovered == 0


def test_an_exceeded_bound_is_broken_whatever_is_missing() -> None:
    story = killed("dedup_lock", charged=True)
    for end in ({"queued": 1}, {"books_read": False}, {"tasks": 9}, {"events": None}):
        result = expect(Story.end(killed("dedup_lock", charged=True), **end), "broken", "a: 2 effects", "")
        assert (result.duplicated, result.unresolved) == (1, 1)
    expect(story, "broken", "a: 2 effects", "the history ends before")
    expect(killed("acks_early", charged=False), "broken", "a: 2 executions", "the history ends before")


# -- kills ------------------------------------------------------------------------------------------------------------


def test_a_kill_that_did_not_land() -> None:
    story = Story("acks_late", "kill-main").published("a").delivered("a").begun("a")
    story.killed("a", landed=False, why="the worker had gone").effect("a").say("returned", "a", 20)
    result = expect(story.end(), "unknown", "no kill-main landed of 1 planned: the worker had gone")
    assert (result.kills, result.bound_95, result.unresolved) == ({"planned": 1, "landed": 0}, 1.0, 0)


def test_a_kill_that_did_not_land_claims_nothing() -> None:
    story = killed("acks_late").killed("b", 31, landed=False, why="it was gone")
    result = expect(story.end(), "held")
    assert result.kills == {"planned": 2, "landed": 1}


def test_a_lower_bound_is_broken_even_if_no_kill_landed() -> None:
    story = Story("acks_late", "kill-main").published("a")
    assert judged(story.end(planned_kills=1)).observed == "broken"


@pytest.mark.parametrize("planned", [0, 1])
def test_a_fault_that_nobody_saw(planned: int) -> None:
    story = Story("acks_late", "kill-main").published("a").ran("a")
    expect(story.end(planned_kills=planned), "unknown", f"nothing was tried: no kill-main landed of {planned}")


def test_more_kills_than_were_planned() -> None:
    expect(killed("acks_late").end(planned_kills=0), "unknown", "1 kill landed, 0 planned")


def test_a_kill_in_a_healthy_control() -> None:
    story = Story("acks_late").published("a").begun("a").killed("a", what="kill-main").ran("a", 30)
    expect(story.end(planned_kills=0), "unknown", "1 kill landed, 0 planned")


@pytest.mark.parametrize("kind", ["effect_done", "returned", "failed", "suppressed"])
def test_a_kill_contradicted_by_its_victim(kind: str) -> None:
    story = killed("acks_late").say(kind, "a", 20)
    result = expect(story.end(), "unknown", f"the same process, 20, went on to {kind}", "nothing was tried")
    assert (result.kills["landed"], result.recovery_s["max"]) == (0, None)


def test_a_contradicted_kill_is_told_once() -> None:
    story = killed("acks_late").say("effect_done", "a", 20).say("returned", "a", 20)
    expect(story.end(), "unknown", "the same process, 20, went on to effect_done", "nothing was tried")


def test_another_task_of_a_process_with_the_same_number_contradicts_nothing() -> None:
    story = killed("acks_late").ran("b", 20)
    assert judged(story.end()).observed == "held"


NOT_THERE: dict[str, tuple[Callable[[Story], object], str]] = {
    "nothing of it was seen": (lambda story: story, "no execution of it was open in that process"),
    "another task was running": (lambda story: story.begun("a").begun("b"), "no execution of it was open"),
    "another process ran it": (lambda story: story.begun("a", 21), "no execution of it was open"),
    "it had not got so far": (lambda story: story.say("started", "a", 20), "it had not reached effect_begun"),
    "it had gone on": (lambda story: story.begun("a", 20, "effect_done"), "it had gone on beyond effect_begun"),
    "it had failed": (lambda story: story.begun("a", 20, "failed"), "its execution had already ended"),
    "it was dead": (lambda story: story.begun("a").killed("a"), "that process had been killed before"),
}


@pytest.mark.parametrize("case", NOT_THERE)
def test_a_kill_of_somebody_who_was_not_there(case: str) -> None:
    tell, why = NOT_THERE[case]
    story = Story("acks_late", "kill-main").published("a", "b")
    tell(story)
    story.killed("a").ran("a", 30).ran("b", 30)
    result = judged(story.end())
    assert result.observed == "unknown"
    assert f"cannot have landed: {why}" in result.reasons[0]
    assert result.kills["landed"] == (1 if case == "it was dead" else 0)


@pytest.mark.parametrize("child", [None, "20", True])
def test_a_kill_without_a_victim_process(child: object) -> None:
    story = Story("acks_late", "kill-main").published("a").begun("a").killed("a", child_pid=child).ran("a", 30)
    assert "no execution of it was open" in judged(story.end()).reasons[0]


def test_a_kill_anywhere_in_the_body() -> None:
    story = Story("acks_late", "kill-main").published("a").begun("a").killed("a", point="").ran("a", 30)
    expect(story.end(), "held")
    story = Story("acks_late", "kill-main").published("a").say("claimed", "a", 20).killed("a", point="").ran("a", 30)
    assert "its body had not started" in judged(story.end()).reasons[0]


@pytest.mark.parametrize("point", ["claimed", "started", "effect_begun", "effect_done", "completed", "returned"])
def test_a_kill_at_each_point(point: str) -> None:
    story = Story("acks_late", "kill-child", point).published("a")
    for reached in ("claimed", "started", "effect_begun", "effect_done", "completed", "returned"):
        story.say(reached, "a", 20)
        if reached == point:
            break
    story.killed("a", point=point).ran("a", 30)
    result = expect(story.end(), "held")
    assert (result.kills["landed"], result.point) == (1, point)


def test_a_kill_of_a_main_process_that_was_at_something_else() -> None:
    for kind, task_id in (("received", "b"), ("acked", "a")):
        story = Story("acks_late", "kill-main", "received").published("a", "b").say(kind, task_id, MAIN)
        story.killed("a", point="received").ran("a", 30).ran("b", 30)
        assert "cannot have landed" in judged(story.end()).reasons[0]


@pytest.mark.parametrize("point", ["fetched", "received", "acking", "acked"])
def test_a_kill_at_a_point_that_the_main_process_announces(point: str) -> None:
    story = Story("acks_late", "kill-main", point).published("a").say(point, "a", MAIN).killed("a", point=point)
    again = {"state": "ready"}
    expect(story.say("worker", pid=MAIN, detail=again).ran("a", 30).end(), "held")
    story = Story("acks_late", "kill-main", point).published("a").say(point, "a", MAIN).killed("a", point=point)
    assert "went on to" in judged(story.ran("a", 30).end()).reasons[0], "main was dead"
    story = Story("acks_late", "kill-main", point).published("a").killed("a", point=point)
    assert "no execution" in judged(story.ran("a", 30).end()).reasons[0]


def test_what_is_in_quarantine_is_neither_done_nor_lost() -> None:
    story = Story("acks_late", "poison").published("a", "b")
    for pid in (20, 21, 22):
        story.delivered("a").begun("a", pid).killed("a", pid)
    story.delivered("a").say("quarantined", "a", 23).ran("b", 24)
    result = expect(story.end(), "held")
    assert (result.lost, result.quarantined, result.kills["landed"]) == (0, 1, 3)


def test_a_message_that_is_parked_and_done_twice_all_the_same_is_a_broken_promise() -> None:
    story = Story("dedup_lock", "poison").published("a").delivered("a").begun("a", 20).killed("a", 20)
    story.say("quarantined", "a", 23).effect("a").effect("a")
    expect(story.end(), "broken", "a: 2 effects")


@pytest.mark.parametrize("what", ["slow", "lost-response", "double-publish", "publisher-crash"])
def test_a_fault_that_strikes_no_worker_belongs_to_its_own_cell(what: str) -> None:
    unseen = {"what": what, "child_pid": None, "main_pid": None, "pid": None}
    story = Story("acks_late", what).published("a").ran("a").killed("a", **unseen)
    assert expect(story.end(), "held").kills == {"planned": 1, "landed": 1}
    story = Story("acks_late", "kill-child").published("a").ran("a").killed("a", **unseen)
    expect(story.end(), "unknown", "cannot have landed", "nothing was tried")


def test_a_process_that_slept_goes_on_and_is_no_contradiction() -> None:
    story = Story("dedup_lock", "stop").published("a").delivered("a").begun("a").killed("a", 20)
    story.effect("a").say("effect_done", "a", 20).say("returned", "a", 20)
    assert expect(story.end(), "held").kills["landed"] == 1


def test_a_warm_shutdown_lets_its_victim_finish() -> None:
    story = Story("acks_late", "term").published("a").delivered("a").begun("a")
    story.effect("a").say("effect_done", "a", 20).say("returned", "a", 20).killed("a")
    result = expect(story.end(), "held")
    assert result.kills == {"planned": 1, "landed": 1}


def test_a_warm_shutdown_lets_its_victim_finish_afterwards() -> None:
    story = Story("acks_late", "term").published("a").delivered("a").begun("a").killed("a")
    expect(story.effect("a").say("effect_done", "a", 20).say("returned", "a", 20).end(), "held")


def test_a_warm_shutdown_needs_its_victim_at_the_point() -> None:
    story = Story("acks_late", "term").published("a").delivered("a").say("started", "a", 20).killed("a").ran("a", 30)
    assert "it had not reached effect_begun" in judged(story.end()).reasons[0]


def test_a_retry_in_the_same_process_is_a_new_delivery() -> None:
    story = Story("acks_late", "kill-main").published("a").begun("a", 20, "failed", "retried")
    story.begun("a", 20).killed("a").ran("a", 30)
    expect(story.end(), "held")


# -- contradictions ---------------------------------------------------------------------------------------------------


def test_an_effect_of_what_was_never_published() -> None:
    story = healthy().effect("z", task_id="")
    result = expect(story.end(), "unknown", "z has an effect in the books, but was never published")
    assert sum(result.effects.values()) == 2
    assert (result.unresolved, result.bound_95) == (2, 1.0)


def test_an_execution_of_what_was_never_published() -> None:
    story = healthy().ran("z", charged=False)
    result = expect(story.end(), "unknown", "z was executed but never published")
    assert sum(result.executions.values()) == 2


def test_a_publication_may_be_recorded_after_its_execution() -> None:
    story = Story().ran("a").published("a")
    expect(story.end(), "held")


def test_a_forged_effect_that_no_worker_started() -> None:
    expect(
        healthy("acks_early").published("c").effect("c").end(),
        "unknown",
        "c has an effect in the books, but no worker started it",
    )


def test_a_forged_effect_on_another_operation() -> None:
    story = healthy("acks_late").effect("b", task_id="a")
    expect(story.end(), "unknown", "an effect of a on b, not its operation")


def test_an_effect_is_known_by_its_operation_alone() -> None:
    story = Story("dedup_lock").published("a", operation="order 17").begun("a").effect("order 17", task_id="")
    expect(story.end(), "held")
    story = Story("dedup_lock").begun("a").effect("order 17", task_id="a").published("a", operation="order 17")
    expect(story.end(), "held")


@pytest.mark.parametrize("source", ["bank:1", "bank:01", "till 1", "bank:x", "bank:²"])
def test_an_entry_of_the_books_that_is_there_twice(source: str) -> None:
    story = Story("dedup_lock").published("a").begun("a").effect("a", source=source).effect("a", source=source)
    result = expect(story.end(), "unknown", "one entry in the books is there twice (a, event 5)")
    assert result.effects == {"0": 0, "1": 1, "2+": 0}


def test_entries_of_different_books_are_different() -> None:
    story = Story("acks_late").published("a").begun("a")
    for source in ("bank:1", "bank:01", "bank:2", "bank:\u0662", "till 1", "1"):
        story.effect("a", source=source)
    expect(story.end(), "held")


@pytest.mark.parametrize("detail", [{}, {"source": ""}, {"source": None}, {"source": 1}, {"source": []}])
def test_an_effect_without_a_source(detail: dict[str, object]) -> None:
    story = healthy().say("effect", "a", detail=detail)
    expect(story.end(), "unknown", "the effect on a (event 17) names no entry in the books")


def test_a_task_of_two_operations() -> None:
    story = Story().published("a", operation="order 17").published("a", operation="order 18").begun("a")
    story.effect("order 17", task_id="a").effect("order 18", task_id="")
    assert "a was published for two operations (event 2)" in judged(story.end()).reasons[0]


def test_a_body_that_starts_twice_without_an_end() -> None:
    story = healthy().published("c").begun("c", 22).effect("c")
    forged = story.say("started", "c", 22, at=1_700_000_016.5)
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


def test_two_ends() -> None:
    assert "comes after the end" in judged(healthy().end().end()).reasons[0]


# -- damage by hand: one line of a good file is dropped, copied, or added -----------------------------------------------


def good() -> list[HistoryEvent]:
    story = killed("dedup_lock").say("worker", pid=MAIN, detail={"state": "exited", "pid": MAIN, "exit": 0})
    return story.end().events


@pytest.mark.parametrize("index", range(len(good())))
def test_a_dropped_line(index: int) -> None:
    events = good()
    del events[index]
    if index not in (0, len(events)):
        with pytest.raises(HistoryError, match="must follow"):
            check(events)
    assert judged(numbered(events)).observed == "unknown"


@pytest.mark.parametrize("index", range(len(good())))
def test_a_duplicated_line(index: int) -> None:
    events = good()
    events.insert(index, events[index])
    with pytest.raises(HistoryError, match="must follow"):
        check(events)
    assert judged(numbered(events)).observed == "unknown"


@pytest.mark.parametrize("index", [i for i, event in enumerate(good()) if event.kind not in {"worker", "quiescent"}])
def test_a_duplicated_line_that_is_counted_in_the_end(index: int) -> None:
    events = good()
    copied = events[index]
    events.insert(index, copied)
    end = events[-1]
    counts = {**end.detail["events"], copied.kind: end.detail["events"][copied.kind] + 1}
    events[-1] = end._replace(detail={**end.detail, "events": counts})
    assert judged(numbered(events)).observed == "unknown"


def test_a_forged_effect() -> None:
    events = good()
    [*_, real] = [event for event in events if event.kind == "effect"]
    forged = real._replace(detail={"source": "bank:99", "amount": 1999}, at=real.at + 0.5)
    result = judged(numbered([*events[:-1], forged, events[-1]]))
    assert result.observed == "unknown"
    assert "3 effect events found, 2 recorded" in result.reasons


def test_a_dropped_cell_end_leaves_the_other_cells_alone() -> None:
    first, second = healthy("acks_early").events, healthy("acks_late").end().events
    assert [cell.observed for cell in check(numbered([*first, *second]))] == ["unknown", "held"]


def test_an_unknown_kind() -> None:
    with pytest.raises(HistoryError, match="event 1: unknown kind 'charged'"):
        check(Story().say("charged", "a").events)


def test_a_pattern_without_a_promise() -> None:
    story = healthy("naive").end()
    with pytest.raises(HistoryError, match="'naive'"):
        check(story.events)
    assert check(story.events, {"naive": EFFECTIVELY_ONCE})[0].observed == "held"


# -- several cells, bounds, reasons -----------------------------------------------------------------------------------


def test_cells_that_run_side_by_side_are_judged_apart() -> None:
    stories = [killed("acks_early", again=False), killed("acks_late", charged=True), killed("dedup_lock"), healthy()]
    apart = [judged(story.end()) for story in stories]
    chance = random.Random(5)
    queues = [list(story.events) for story in stories]
    mixed = [queue.pop(0) for queue in queues]
    while any(queues):
        mixed.append(chance.choice([queue for queue in queues if queue]).pop(0))
    assert check(numbered(mixed)) == apart


@pytest.mark.parametrize("field", ["pattern", "fault", "point", "broker"])
def test_a_cell_is_named_by_four_fields(field: str) -> None:
    story = healthy("acks_late").end()
    other = [event._replace(**{field: "acks_early"}) for event in story.events]  # type: ignore[arg-type]
    assert len(check(numbered([*story.events, *other]))) == 2


def test_the_bound_is_per_landed_kill_or_per_task() -> None:
    tasks = [f"t{number}" for number in range(30)]
    story = Story("dedup_lock").published(*tasks)
    for task_id in tasks:
        story.ran(task_id)
    assert judged(story.end()).bound_95 == pytest.approx(0.0950, abs=5e-5)
    assert judged(killed("acks_late").end()).bound_95 == pytest.approx(0.95)
    assert judged(killed("acks_late", again=False).end()).bound_95 == 1.0
    assert judged(killed("acks_late").end(queued=1)).bound_95 == 1.0


def test_the_bound_counts_an_operation_once() -> None:
    # Neither executed nor charged: two sentences, one violation.
    story = Story("acks_late").published("a", operation="order 17")
    tasks = [f"t{number}" for number in range(19)]
    story.published(*tasks)
    for task_id in tasks:
        story.ran(task_id)
    result = expect(story.end(), "broken", "order 17: no effect", "a: no execution")
    assert result.bound_95 == pytest.approx(0.2161, abs=5e-5)


def test_at_most_ten_reasons() -> None:
    result = judged(Story("acks_late").published(*(f"t{number}" for number in range(30))).end())
    assert len(result.reasons) == REASONS
    assert result.reasons[0] == "t0: no effect, at least 1 promised"
    assert result.reasons[-1] == "and 51 more findings"
    assert result.lost == 30


@pytest.mark.parametrize("task_id", ["", "x" * 10_000, "a\nb", "\x1b[31m", "\udc80"])
def test_odd_task_ids_are_named_safely(task_id: str) -> None:
    [*_, reason] = judged(Story("acks_late").published(task_id).end()).reasons
    assert reason.isprintable()
    assert len(reason) < 200


@given(st.lists(st.sampled_from(good()), max_size=30))
def test_any_selection_of_events_is_judged_and_never_held_unless_whole(events: list[HistoryEvent]) -> None:
    for result in check(numbered(events)):
        assert result.observed != "held"


@given(
    executions=st.lists(st.integers(0, 3), min_size=1, max_size=6),
    charges=st.lists(st.integers(0, 3), min_size=6, max_size=6),
    pattern=st.sampled_from(["acks_early", "acks_late", "dedup_lock"]),
)
def test_the_verdict_is_the_promise(executions: list[int], charges: list[int], pattern: str) -> None:
    promise = {"acks_early": AT_MOST_ONCE, "acks_late": AT_LEAST_ONCE, "dedup_lock": EFFECTIVELY_ONCE}[pattern]
    story, kept = Story(pattern), True
    effects = [charge if times else 0 for times, charge in zip(executions, charges, strict=False)]
    for number, (times, charge) in enumerate(zip(executions, effects, strict=True)):
        task_id = f"t{number}"
        story.published(task_id)
        for _ in range(times):
            story.ran(task_id, charged=False)
        for _ in range(charge):
            story.effect(task_id)
        kept = kept and times in promise.executions and charge in promise.effects
    result = judged(story.end())
    assert result.observed == ("held" if kept else "broken")
    assert result.lost == sum(charge == 0 for charge in effects)
    assert result.duplicated == sum(charge >= 2 for charge in effects)
    assert sum(result.executions.values()) == sum(result.effects.values()) == len(executions)


def test_a_large_history_streams() -> None:
    """At most 600 bytes a task, however many events; nothing is kept of an event."""
    tasks = 20_000

    def events() -> Iterator[HistoryEvent]:
        cell = ("dedup_lock", "none", "", "redis")
        kinds: list[tuple[str, int | None]] = [("published", None), ("received", 10), ("started", 20)]
        kinds += [("effect", None), ("effect_done", 20), ("returned", 20), ("acked", 10)]
        number = 0
        for task in range(tasks):
            task_id = f"{task:08}-0000-4000-8000-000000000000"
            for kind, pid in kinds:
                number += 1
                detail = {"published": {"outcome": "ok"}, "effect": {"source": f"bank:{task + 1}"}}.get(kind, {})
                yield HistoryEvent(number, 1.0 + number, *cell, kind, task_id, f"order {task}", "w1", pid, detail)
        end = Story().end().events[0].detail | {"tasks": tasks, "events": {kind: tasks for kind, _ in kinds}}
        yield HistoryEvent(number + 1, 2.0 + number, *cell, "quiescent", "", "", "", None, end)

    tracemalloc.start()
    try:
        [result] = check(events())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (result.observed, result.effects["1"]) == ("held", tasks)
    assert peak / tasks < 600


# -- the command ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("story", "code"),
    [
        (healthy().end(), 0),
        (killed("acks_late", again=False).end(), 1),
        (healthy(), 3),
        (Story(), 3),
    ],
    ids=["held", "broken", "unknown", "empty"],
)
def test_the_exit_code(story: Story, code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text(text(story.events), encoding="utf-8")
    assert main([str(path)]) == code
    shown = capsys.readouterr().out
    assert main([str(path), "--json"]) == code
    cells = json.loads(capsys.readouterr().out)
    assert cells == [vars(cell) for cell in check(story.events)]
    assert all(cell["observed"] in shown for cell in cells)


def test_a_broken_promise_outranks_what_is_unknown(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    stories = [healthy("acks_early"), killed("acks_late", again=False).end()]
    path.write_text(text(numbered([event for story in stories for event in story.events])), encoding="utf-8")
    assert main([str(path)]) == 1


@pytest.mark.parametrize("damage", ["truncated", "rubbish", "binary", "naive"])
def test_a_file_that_is_no_history(damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "events.jsonl"
    whole = text(healthy("naive" if damage == "naive" else "acks_late").end().events).encode()
    path.write_bytes({"truncated": whole[:-9], "rubbish": b"hello\n", "binary": b"\xff\x00\n", "naive": whole}[damage])
    assert main([str(path)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert "not a history that can be judged" in captured.err


def test_a_file_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "none.jsonl")]) == 2
    assert main([str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("cannot be read") == 2


def test_the_command_needs_no_django(tmp_path: Path) -> None:
    """In an interpreter of its own, with everything but the standard library and our package shut out."""
    program = (
        "import sys\n"
        "class Shut:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in {'django', 'celery', 'kombu', 'redis', 'rich'}:\n"
        "            raise ImportError('shut out: ' + name)\n"
        "sys.meta_path.insert(0, Shut())\n"
        "from tasks_demo.lab.verdict.__main__ import main\n"
        "ours = {name for name in sys.modules if name.startswith('tasks_demo.')}\n"
        "allowed = {'tasks_demo.core', 'tasks_demo.core.semantics', 'tasks_demo.core.points', 'tasks_demo.core.wording',\n"
        "           'tasks_demo.lab', 'tasks_demo.lab.verdict', *('tasks_demo.lab.verdict.' + name for name in\n"
        "           ('__main__', 'checker', 'evidence', 'findings', 'history', 'quiescence', 'statistics'))}\n"
        "assert ours <= allowed, ours - allowed\n"
        "sys.exit(main(['-', '--json']))\n"
    )
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run(
        [sys.executable, "-c", program],
        input=text(killed("dedup_lock").end().events),
        capture_output=True,
        text=True,
        check=False,
        cwd=root,
        timeout=60,
        env={key: value for key, value in os.environ.items() if key != "DJANGO_SETTINGS_MODULE"},
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)[0]["recovered"] == 1


def test_the_command_prints_in_any_encoding(tmp_path: Path) -> None:
    path = tmp_path / "ev.jsonl"
    path.write_text(text(Story().published("приказ").ran("приказ").events), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "tasks_demo.lab.verdict", str(path)],
        env={**os.environ, "PYTHONIOENCODING": "ascii"}, capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
    assert "unknown" in done.stdout

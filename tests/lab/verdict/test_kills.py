"""Kills in a history: which were injected, and which their victim contradicts."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.lab.verdict.histories import MAIN, Story, expect, judged, killed


def test_kill_that_was_not_injected() -> None:
    story = Story("acks_late", "kill-main").published("a").delivered("a").begun("a")
    story.killed("a", landed=False, why="the worker had gone").effect("a").say("returned", "a", 20)
    result = expect(story.end(), "unknown", "no kill-main injected of 1 planned: the worker had gone")
    assert (result.kills, result.bound_95, result.unresolved) == ({"planned": 1, "landed": 0}, 1.0, 0)


def test_kill_that_was_not_injected_claims_nothing() -> None:
    story = killed("acks_late").killed("b", 31, landed=False, why="it was gone")
    result = expect(story.end(), "held")
    assert result.kills == {"planned": 2, "landed": 1}


def test_lower_bound_is_broken_even_if_no_kill_was_injected() -> None:
    story = Story("acks_late", "kill-main").published("a")
    assert judged(story.end(planned_kills=1)).observed == "broken"


@pytest.mark.parametrize("planned", [0, 1])
def test_fault_that_nobody_saw(planned: int) -> None:
    story = Story("acks_late", "kill-main").published("a").ran("a")
    expect(story.end(planned_kills=planned), "unknown", f"nothing was tried: no kill-main injected of {planned}")


def test_more_kills_than_were_planned() -> None:
    expect(killed("acks_late").end(planned_kills=0), "unknown", "1 kill injected, 0 planned")


def test_kill_in_a_healthy_control_makes_it_unknown() -> None:
    story = Story("acks_late").published("a").begun("a").killed("a", what="kill-main").ran("a", 30)
    expect(story.end(planned_kills=0), "unknown", "1 kill injected, 0 planned")


@pytest.mark.parametrize("kind", ["effect_done", "returned", "failed", "suppressed"])
def test_kill_contradicted_by_its_victim(kind: str) -> None:
    story = killed("acks_late").say(kind, "a", 20)
    result = expect(story.end(), "unknown", f"the same process, 20, went on to {kind}", "nothing was tried")
    assert (result.kills["landed"], result.recovery_s["max"]) == (0, None)


def test_contradicted_kill_is_reported_once() -> None:
    story = killed("acks_late").say("effect_done", "a", 20).say("returned", "a", 20)
    expect(story.end(), "unknown", "the same process, 20, went on to effect_done", "nothing was tried")


def test_kill_is_not_contradicted_by_another_process_with_its_pid() -> None:
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
def test_kill_of_somebody_who_was_not_there(case: str) -> None:
    tell, why = NOT_THERE[case]
    story = Story("acks_late", "kill-main").published("a", "b")
    tell(story)
    story.killed("a").ran("a", 30).ran("b", 30)
    result = judged(story.end())
    assert result.observed == "unknown"
    assert f"cannot have been injected: {why}" in result.reasons[0]
    assert result.kills["landed"] == (1 if case == "it was dead" else 0)


@pytest.mark.parametrize("child", [None, "20", True])
def test_kill_without_a_victim_process_is_refuted(child: object) -> None:
    story = Story("acks_late", "kill-main").published("a").begun("a").killed("a", child_pid=child).ran("a", 30)
    assert "no execution of it was open" in judged(story.end()).reasons[0]


def test_kill_at_an_unnamed_point_must_be_within_a_body() -> None:
    story = Story("acks_late", "kill-main").published("a").begun("a").killed("a", point="").ran("a", 30)
    expect(story.end(), "held")
    story = Story("acks_late", "kill-main").published("a").say("claimed", "a", 20).killed("a", point="").ran("a", 30)
    assert "its body had not started" in judged(story.end()).reasons[0]


@pytest.mark.parametrize("point", ["claimed", "started", "effect_begun", "effect_done", "completed", "returned"])
def test_kill_at_each_point(point: str) -> None:
    story = Story("acks_late", "kill-child", point).published("a")
    for reached in ("claimed", "started", "effect_begun", "effect_done", "completed", "returned"):
        story.say(reached, "a", 20)
        if reached == point:
            break
    story.killed("a", point=point).ran("a", 30)
    result = expect(story.end(), "held")
    assert (result.kills["landed"], result.point) == (1, point)


def test_kill_of_a_main_process_that_was_at_something_else() -> None:
    for kind, task_id in (("received", "b"), ("acked", "a")):
        story = Story("acks_late", "kill-main", "received").published("a", "b").say(kind, task_id, MAIN)
        story.killed("a", point="received").ran("a", 30).ran("b", 30)
        assert "cannot have been injected" in judged(story.end()).reasons[0]


@pytest.mark.parametrize("point", ["fetched", "received", "acking", "acked"])
def test_kill_at_a_point_that_the_main_process_announces(point: str) -> None:
    story = Story("acks_late", "kill-main", point).published("a").say(point, "a", MAIN).killed("a", point=point)
    again = {"state": "ready"}
    expect(story.say("worker", pid=MAIN, detail=again).ran("a", 30).end(), "held")
    story = Story("acks_late", "kill-main", point).published("a").say(point, "a", MAIN).killed("a", point=point)
    assert "went on to" in judged(story.ran("a", 30).end()).reasons[0], "main was dead"
    story = Story("acks_late", "kill-main", point).published("a").killed("a", point=point)
    assert "no execution" in judged(story.ran("a", 30).end()).reasons[0]


def test_quarantined_operation_is_neither_done_nor_lost() -> None:
    story = Story("acks_late", "poison").published("a", "b")
    for pid in (20, 21, 22):
        story.delivered("a").begun("a", pid).killed("a", pid)
    story.delivered("a").say("quarantined", "a", 23).ran("b", 24)
    result = expect(story.end(), "held")
    assert (result.lost, result.quarantined, result.kills["landed"]) == (0, 1, 3)


def test_parked_operation_that_was_done_twice_breaks_the_promise() -> None:
    story = Story("dedup_lock", "poison").published("a").delivered("a").begun("a", 20).killed("a", 20)
    story.say("quarantined", "a", 23).effect("a").effect("a")
    expect(story.end(), "broken", "a: 2 effects")


@pytest.mark.parametrize("what", ["slow", "lost-response", "double-publish", "publisher-crash"])
def test_unaimed_fault_belongs_to_its_own_cell(what: str) -> None:
    unseen = {"what": what, "child_pid": None, "main_pid": None, "pid": None}
    story = Story("acks_late", what).published("a").ran("a").killed("a", **unseen)
    assert expect(story.end(), "held").kills == {"planned": 1, "landed": 1}
    story = Story("acks_late", "kill-child").published("a").ran("a").killed("a", **unseen)
    expect(story.end(), "unknown", "cannot have been injected", "nothing was tried")


def test_stopped_process_goes_on_without_a_contradiction() -> None:
    story = Story("dedup_lock", "stop").published("a").delivered("a").begun("a").killed("a", 20)
    story.effect("a").say("effect_done", "a", 20).say("returned", "a", 20)
    assert expect(story.end(), "held").kills["landed"] == 1


def test_warm_shutdown_lets_its_victim_finish() -> None:
    story = Story("acks_late", "term").published("a").delivered("a").begun("a")
    story.effect("a").say("effect_done", "a", 20).say("returned", "a", 20).killed("a")
    result = expect(story.end(), "held")
    assert result.kills == {"planned": 1, "landed": 1}


def test_warm_shutdown_lets_its_victim_finish_afterwards() -> None:
    story = Story("acks_late", "term").published("a").delivered("a").begun("a").killed("a")
    expect(story.effect("a").say("effect_done", "a", 20).say("returned", "a", 20).end(), "held")


def test_warm_shutdown_needs_its_victim_at_the_point() -> None:
    story = Story("acks_late", "term").published("a").delivered("a").say("started", "a", 20).killed("a").ran("a", 30)
    assert "it had not reached effect_begun" in judged(story.end()).reasons[0]


def test_retry_in_the_same_process_is_a_new_delivery() -> None:
    story = Story("acks_late", "kill-main").published("a").begun("a", 20, "failed", "retried")
    story.begun("a", 20).killed("a").ran("a", 30)
    expect(story.end(), "held")

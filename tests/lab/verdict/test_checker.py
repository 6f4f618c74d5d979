"""The verdict on a history: which promise is held, broken or unknown, and the counts beside it."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Iterator

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks_demo.core.semantics import AT_LEAST_ONCE, AT_MOST_ONCE, EFFECTIVELY_ONCE
from tasks_demo.lab.verdict.checker import check
from tasks_demo.lab.verdict.findings import REASONS
from tasks_demo.lab.verdict.history import HistoryEvent
from tests.lab.verdict.histories import Story, expect, good, healthy, judged, killed, numbered


def test_checker_empty() -> None:
    assert check([]) == []


@pytest.mark.parametrize("pattern", ["acks_early", "acks_late", "dedup_lock"])
def test_checker_sane(pattern: str) -> None:
    result = expect(healthy(pattern).end(), "held")
    assert result.executions == result.effects == {"0": 0, "1": 2, "2+": 0}
    assert (result.tasks, result.published, result.kills) == (2, 2, {"planned": 0, "landed": 0})
    assert (result.lost, result.duplicated, result.recovered, result.unresolved) == (0, 0, 0, 0)
    assert (result.seed, result.duration_s, result.broker, result.point) == (7, 2.5, "redis", "")
    assert result.recovery_s == {"p50": None, "p99": None, "max": None}


def test_checker_promise_is_shown_as_bounds() -> None:
    assert judged(healthy("acks_early").end()).promise == {"executions": [0, 1], "effects": [0, 1]}
    assert judged(healthy("acks_late").end()).promise == {"executions": [1, None], "effects": [1, None]}
    assert judged(healthy("dedup_lock").end()).promise == {"executions": [0, None], "effects": [1, 1]}
    assert judged(healthy("dedup_lock").end()).semantics == "effectively-once"


def test_checker_lost_is_allowed_at_most_once() -> None:
    result = expect(killed("acks_early", again=False).end(), "held")
    assert (result.lost, result.duplicated) == (1, 0)
    assert result.effects == {"0": 1, "1": 1, "2+": 0}
    assert result.executions == {"0": 0, "1": 2, "2+": 0}


@pytest.mark.parametrize("pattern", ["acks_late", "dedup_lock"])
def test_checker_lost_after_a_kill(pattern: str) -> None:
    result = expect(killed(pattern, again=False).end(), "broken", "a: no effect")
    assert result.lost == 1


def test_checker_lost_without_an_execution() -> None:
    result = expect(healthy().published("c").end(), "broken", "c: no effect, at least 1", "c: no execution, at least 1")
    assert result.executions["0"] == result.effects["0"] == result.lost == 1


def test_checker_duplicated_is_allowed_at_least_once() -> None:
    result = expect(killed("acks_late", charged=True).end(), "held")
    assert (result.duplicated, result.effects) == (1, {"0": 0, "1": 1, "2+": 1})
    assert result.executions == {"0": 0, "1": 1, "2+": 1}


def test_checker_duplicated_is_not_allowed_effectively_once() -> None:
    result = expect(killed("dedup_lock", charged=True).end(), "broken", "a: 2 effects, exactly 1 promised")
    assert (result.duplicated, result.recovered) == (1, 0)


def test_checker_duplicated_is_not_allowed_at_most_once() -> None:
    expect(killed("acks_early", charged=True).end(), "broken", "a: 2 effects, at most 1", "a: 2 executions, at most 1")


def test_checker_two_executions_alone_break_at_most_once() -> None:
    result = expect(killed("acks_early").end(), "broken", "a: 2 executions, at most 1 promised")
    assert (result.executions["2+"], result.duplicated, result.recovered) == (1, 0, 0)


def test_checker_execution_without_an_effect_breaks_at_least_once() -> None:
    expect(Story().published("a").ran("a", charged=False).end(), "broken", "a: no effect")


@pytest.mark.parametrize("pattern", ["acks_late", "dedup_lock"])
def test_checker_recovered(pattern: str) -> None:
    result = expect(killed(pattern).end(), "held")
    assert (result.recovered, result.lost, result.duplicated) == (1, 0, 0)
    # The kill is the seventh event, the next start the ninth; a step takes a second.
    assert result.recovery_s == {"p50": 2.0, "p99": 2.0, "max": 2.0}


def test_checker_measures_recovery_from_an_injected_kill() -> None:
    story = killed("acks_late")
    story.delivered("b").begun("b", 30).killed("b", 30, landed=False, why="it was gone").ran("b", 31)
    assert judged(story.end()).recovery_s["max"] == 2.0


def test_checker_clock_that_was_set_back_gives_no_negative_recovery() -> None:
    story = Story("acks_late", "kill-main").published("a").begun("a").killed("a").say("started", "a", 30, at=1.0)
    assert judged(story.effect("a").end()).recovery_s == {"p50": 0.0, "p99": 0.0, "max": 0.0}


def test_checker_other_outcomes_are_counted() -> None:
    story = healthy("dedup_lock")
    for kind, times in (("suppressed", 1), ("deferred", 2), ("fenced", 3), ("quarantined", 4)):
        for pid in range(times):
            story.say(kind, "a", 40 + pid)
    result = expect(story.end(), "held")
    assert (result.suppressed, result.deferred, result.fenced) == (1, 2, 3)
    assert result.quarantined == 1, "of operations, however often they were parked"


def test_checker_two_task_ids_of_one_operation_share_its_effects() -> None:
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


def test_checker_deferral_that_publishes_the_same_task_id_again_is_not_a_second_task() -> None:
    story = healthy("dedup_lock").published("a").delivered("a").say("suppressed", "a", 20)
    result = expect(story.end(), "held")
    assert (result.tasks, result.recovered) == (2, 1)


@pytest.mark.parametrize("pattern", ["acks_early", "acks_late", "dedup_lock"])
@pytest.mark.parametrize("outcome", ["info", "fail"])
def test_checker_nothing_is_owed_to_an_unconfirmed_publication(pattern: str, outcome: str) -> None:
    result = expect(healthy(pattern).published("c", outcome=outcome).end(), "held")
    assert (result.tasks, result.published, result.lost, result.effects["0"]) == (3, 2, 0, 1)


def test_checker_unconfirmed_publication_may_have_arrived() -> None:
    expect(Story("dedup_lock").published("a", outcome="info").ran("a").end(), "held")


def test_checker_unconfirmed_publication_is_bounded_from_above() -> None:
    expect(Story("dedup_lock").published("a", outcome="info").ran("a").ran("a").end(), "broken", "a: 2 effects")


def test_checker_confirmation_outweighs_a_failure_of_the_same_task() -> None:
    story = Story("acks_late").published("a").published("a", outcome="fail").published("a", outcome="info")
    expect(story.end(), "broken", "a: no effect", "a: no execution")


def test_checker_refused_task_that_was_executed() -> None:
    story = Story("acks_early").published("a", outcome="fail").ran("a", charged=False)
    expect(story.end(), "unknown", "a was executed although the broker refused it")


def test_checker_refused_task_that_took_effect() -> None:
    story = Story("acks_early").published("a", outcome="fail").ran("a")
    expect(story.end(), "unknown", "a took effect although the broker refused it", "a was executed although")


@pytest.mark.parametrize("outcome", [None, "perhaps", 1, [], {}])
def test_checker_publication_without_an_outcome(outcome: object) -> None:
    story = Story().say("published", "a", detail={"outcome": outcome}).ran("a")
    expect(story.end(), "unknown", "the publication of a (event 1) has no outcome")


def test_checker_cells_that_run_side_by_side_are_judged_apart() -> None:
    stories = [killed("acks_early", again=False), killed("acks_late", charged=True), killed("dedup_lock"), healthy()]
    apart = [judged(story.end()) for story in stories]
    chance = random.Random(5)
    queues = [list(story.events) for story in stories]
    mixed = [queue.pop(0) for queue in queues]
    while any(queues):
        mixed.append(chance.choice([queue for queue in queues if queue]).pop(0))
    assert check(numbered(mixed)) == apart


@pytest.mark.parametrize("field", ["pattern", "fault", "point", "broker"])
def test_checker_cell_is_named_by_four_fields(field: str) -> None:
    story = healthy("acks_late").end()
    other = [msgspec.structs.replace(event, **{field: "acks_early"}) for event in story.events]  # type: ignore[arg-type]
    assert len(check(numbered([*story.events, *other]))) == 2


def test_checker_bound_is_per_injected_kill_or_per_task() -> None:
    tasks = [f"t{number}" for number in range(30)]
    story = Story("dedup_lock").published(*tasks)
    for task_id in tasks:
        story.ran(task_id)
    assert judged(story.end()).bound_95 == pytest.approx(0.0950, abs=5e-5)
    assert judged(killed("acks_late").end()).bound_95 == pytest.approx(0.95)
    assert judged(killed("acks_late", again=False).end()).bound_95 == 1.0
    assert judged(killed("acks_late").end(queued=1)).bound_95 == 1.0


def test_checker_bound_counts_an_operation_once() -> None:
    # Neither executed nor charged: two sentences, one violation.
    story = Story("acks_late").published("a", operation="order 17")
    tasks = [f"t{number}" for number in range(19)]
    story.published(*tasks)
    for task_id in tasks:
        story.ran(task_id)
    result = expect(story.end(), "broken", "order 17: no effect", "a: no execution")
    assert result.bound_95 == pytest.approx(0.2161, abs=5e-5)


def test_checker_at_most_ten_reasons() -> None:
    result = judged(Story("acks_late").published(*(f"t{number}" for number in range(30))).end())
    assert len(result.reasons) == REASONS
    assert result.reasons[0] == "t0: no effect, at least 1 promised"
    assert result.reasons[-1] == "and 51 more findings"
    assert result.lost == 30


@pytest.mark.parametrize("task_id", ["", "x" * 10_000, "a\nb", "\x1b[31m", "\udc80"])
def test_checker_odd_task_ids_are_named_safely(task_id: str) -> None:
    [*_, reason] = judged(Story("acks_late").published(task_id).end()).reasons
    assert reason.isprintable()
    assert len(reason) < 200


@given(st.lists(st.sampled_from(good()), max_size=30))
def test_checker_any_selection_of_events_is_judged_and_never_held_unless_whole(events: list[HistoryEvent]) -> None:
    for result in check(numbered(events)):
        assert result.observed != "held"


@given(
    executions=st.lists(st.integers(0, 3), min_size=1, max_size=6),
    charges=st.lists(st.integers(0, 3), min_size=6, max_size=6),
    pattern=st.sampled_from(["acks_early", "acks_late", "dedup_lock"]),
)
def test_checker_verdict_is_the_promise(executions: list[int], charges: list[int], pattern: str) -> None:
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


def test_checker_large_history_streams() -> None:
    """At most 600 bytes per task, however many events; no event is kept in memory."""
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

"""A message that waits in a living worker for longer than the visibility timeout: the machine was too slow for the cell."""

from __future__ import annotations

import pytest

from tasks_demo.lab.plan.cells import Cell
from tasks_demo.lab.plan.faults import Fault
from tasks_demo.lab.plan.timing import visibility_timeout, waiting_limit
from tests.lab.verdict.histories import MAIN, Story, expect


def twice(*, main: int = MAIN, redelivered: bool = True, acked: bool = False) -> Story:
    """``a`` is received, and received again by this main process; both copies run."""
    story = Story("acks_early", "kill-main").published("a", "b").delivered("b").begun("b", 19).killed("b", 19)
    story.say("received", "a", MAIN, detail={"redelivered": False})
    if acked:
        story.say("acked", "a", MAIN)
    story.say("received", "a", main, detail={"redelivered": redelivered})
    for pid in (20, 30):
        story.say("started", "a", pid).effect("a").say("returned", "a", pid)
    return story


@pytest.mark.parametrize("acked", [False, True])
def test_waiting_two_executions_after_a_wait_are_unknown(acked: bool) -> None:
    story = twice(acked=acked).end(waiting_limit=3.0)
    why = "its message was delivered again to the worker that held it"
    result = expect(
        story,
        "unknown",
        f"a: 2 effects, at most 1 promised, but {why}",
        f"a: 2 executions, at most 1 promised, but {why}",
    )
    assert "longer than the visibility timeout of this cell, 3 s" in result.reasons[0]
    assert result.duplicated == 1


@pytest.mark.parametrize(
    ("story", "limit"),
    [
        pytest.param(twice(redelivered=False), 3.0, id="two messages"),
        pytest.param(twice(main=11), 3.0, id="another worker"),
        pytest.param(twice(), 0.0, id="no timeout"),
        pytest.param(twice(), None, id="not recorded"),
        pytest.param(twice(), "3", id="forged"),
    ],
)
def test_waiting_two_executions_without_it_are_broken(story: Story, limit: object) -> None:
    expect(
        story.end(**({} if limit is None else {"waiting_limit": limit})), "broken", "a: 2 effects", "a: 2 executions"
    )


def test_waiting_another_task_that_ran_twice_is_still_broken() -> None:
    story = twice().published("c").ran("c", 50).ran("c", 51).end(waiting_limit=3.0)
    result = expect(story, "broken", "c: 2 effects", "c: 2 executions", "a: 2 effects", "a: 2 executions")
    assert result.duplicated == 2


@pytest.mark.parametrize(
    ("pattern", "broker", "fault", "limited"),
    [
        ("acks_early", "redis", Fault.KILL_MAIN, True),
        ("acks_early", "redis", Fault.CLOCK_JUMP, False),
        ("acks_early", "redis", Fault.CUT, False),
        ("acks_early", "redis", Fault.BROKER_KILL, False),
        ("acks_early", "rabbitmq-quorum", Fault.KILL_MAIN, False),
        ("acks_early", "reliable", Fault.KILL_MAIN, False),
        ("claim_first", "redis", Fault.KILL_MAIN, False),
        ("dedup_lock", "redis", Fault.KILL_MAIN, False),
        ("acks_late", "redis", Fault.KILL_MAIN, False),
    ],
)
def test_waiting_only_early_acknowledgement_on_stock_redis_is_excused(
    pattern: str, broker: str, fault: Fault, limited: bool
) -> None:
    cell = Cell(pattern=pattern, fault=fault, broker=broker, point="", seed=1, tasks=1, work_ms=0)
    assert waiting_limit(cell) == (visibility_timeout(cell) if limited else 0)

"""A message that waits in a living worker for longer than the visibility timeout: the machine was too slow for the cell."""

from __future__ import annotations

import pytest

from tasks_demo.lab.plan.cells import Cell
from tasks_demo.lab.plan.faults import Fault
from tasks_demo.lab.plan.timing import visibility_timeout, waiting_limit
from tests.lab.verdict.histories import MAIN, Story, expect

AT = 1_700_000_000.0


def twice(*, waits: float, main: int = MAIN, acked: bool = False, pattern: str = "acks_early") -> Story:
    """``a`` is received, and again after so many seconds by this main process; both copies run."""
    story = Story(pattern, "kill-main").published("a", "b").delivered("b").begun("b", 19).killed("b", 19)
    story.say("received", "a", MAIN, at=AT + 10)
    if acked:
        story.say("acked", "a", MAIN, at=AT + 10)
    story.say("received", "a", main, at=AT + 10 + waits)
    for number, pid in enumerate((20, 30)):
        moment = AT + 20 + number
        story.say("started", "a", pid, at=moment).effect("a").say("returned", "a", pid, at=moment)
    return story


def test_two_executions_after_a_wait_are_unknown() -> None:
    story = twice(waits=3.2).end(waiting_limit=3.0)
    expect(story, "unknown", "a: 2 effects, at most 1 promised, but its message waited in a worker", "a: 2 executions")
    [reason, _] = expect(story, "unknown", "after 3.2 s", "visibility timeout of this cell is 3 s").reasons
    assert "the machine was too busy" in reason


@pytest.mark.parametrize(
    ("story", "limit"),
    [
        pytest.param(twice(waits=0.5), 3.0, id="at once"),
        pytest.param(twice(waits=3.2, main=11), 3.0, id="another worker"),
        pytest.param(twice(waits=3.2, acked=True), 3.0, id="acknowledged"),
        pytest.param(twice(waits=3.2), 10.0, id="a longer timeout"),
        pytest.param(twice(waits=3.2), 0.0, id="no timeout"),
        pytest.param(twice(waits=3.2), None, id="an older history"),
    ],
)
def test_two_executions_without_it_are_broken(story: Story, limit: float | None) -> None:
    expect(
        story.end(**({} if limit is None else {"waiting_limit": limit})), "broken", "a: 2 effects", "a: 2 executions"
    )


def test_another_task_that_ran_twice_is_still_broken() -> None:
    story = twice(waits=3.2).published("c").ran("c", 50).ran("c", 51).end(waiting_limit=3.0)
    result = expect(story, "broken", "c: 2 effects", "c: 2 executions", "a: 2 effects", "a: 2 executions")
    assert result.duplicated == 2


@pytest.mark.parametrize(
    ("pattern", "broker", "fault", "limited"),
    [
        ("acks_early", "redis", Fault.KILL_MAIN, True),
        ("acks_early", "redis", Fault.CLOCK_JUMP, False),
        ("acks_early", "rabbitmq-quorum", Fault.KILL_MAIN, False),
        ("acks_early", "reliable", Fault.KILL_MAIN, False),
        ("claim_first", "redis", Fault.KILL_MAIN, False),
        ("dedup_lock", "redis", Fault.KILL_MAIN, False),
        ("acks_late", "redis", Fault.KILL_MAIN, False),
    ],
)
def test_only_early_acknowledgement_on_stock_redis_is_excused(
    pattern: str, broker: str, fault: Fault, limited: bool
) -> None:
    cell = Cell(pattern=pattern, fault=fault, broker=broker, point="", seed=1, tasks=1, work_ms=0)
    assert waiting_limit(cell) == (visibility_timeout(cell) if limited else 0)

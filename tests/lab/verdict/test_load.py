"""Kills under load: what the killed worker held is counted from the history, and a kill that cannot have been is refuted."""

from __future__ import annotations

import pytest

from tests.lab.verdict.histories import MAIN, Story, expect, judged


def ready(story: Story, pid: int = MAIN) -> Story:
    return story.say("worker", pid=pid, detail={"state": "ready", "memory": 20 * 2**20})


def killed(story: Story, pid: int = MAIN, **changes: object) -> Story:
    detail = {
        "what": "load", "victim": "main", "main_pid": pid, "worker": "w1", "landed": True, "why": "", "died": "SIGKILL",
        "queued": 480, "unacked": 20, "memory": 30 * 2**20,
    }  # fmt: skip
    return story.say("fault", detail=detail | changes)


def under_load() -> Story:
    """``a`` is done, ``b`` is in its body and ``c`` is prefetched when the worker is killed; both are done by the next one."""
    story = ready(Story("acks_late", "load", broker="reliable").published("a", "b", "c", "d"))
    story.ran("a").delivered("b").delivered("c").begun("b").effect("b")
    killed(story)
    for task_id in "bc":
        story.delivered(task_id).begun(task_id, 30).effect(task_id).say("returned", task_id, 30)
    return story.ran("d", 31)


def test_load_counts_what_the_killed_worker_held_and_what_ran_again() -> None:
    result = expect(under_load().end(load=300), "held")
    assert (result.kills, result.lost, result.duplicated) == ({"planned": 1, "landed": 1}, 0, 1)
    assert result.load is not None
    assert {name: result.load[name] for name in ("rate", "held", "again", "unexplained")} == {
        "rate": 300, "held": 2, "again": 1, "unexplained": 0
    }  # fmt: skip
    assert result.load["in_flight"]["max"] == 500
    assert result.load["memory_mb"] == {"ready": 20.0, "killed": 30.0}
    assert result.load["lost_per_kill"] == pytest.approx([0, 3.689], rel=1e-3)
    assert result.recovery_s["max"] == 7.0, "until the last of them began again"


def test_load_shows_a_second_execution_of_a_job_that_no_killed_worker_held() -> None:
    result = judged(under_load().ran("a", 31).end(load=300))
    assert (result.observed, result.load and result.load["unexplained"]) == ("held", 1)


def test_load_counts_a_lost_job() -> None:
    story = ready(Story("acks_late", "load").published("a", "b")).ran("a")
    result = expect(killed(story).end(load=300), "broken", "b: no effect", "b: no execution")
    assert result.load is not None
    assert result.load["lost_per_kill"] == pytest.approx([0.0253, 5.572], rel=1e-3)


@pytest.mark.parametrize(
    ("pids", "why"), [((99,), "no worker consumed in that process"), ((MAIN, MAIN), "had been killed before")]
)
def test_load_refutes_a_kill_that_cannot_have_been(pids: tuple[int, ...], why: str) -> None:
    story = ready(Story("acks_late", "load").published("a")).ran("a")
    for pid in pids:
        killed(story, pid)
    result = judged(story.end(load=300))
    assert (result.observed, result.kills["landed"]) == ("unknown", len(pids) - 1)
    assert why in result.reasons[0]


def test_load_needs_no_kill_to_be_believed_in_a_cell_of_another_fault() -> None:
    story = ready(Story("acks_late", "kill-main").published("a")).ran("a")
    assert judged(killed(story).end()).observed == "unknown"

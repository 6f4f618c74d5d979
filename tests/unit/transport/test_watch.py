"""Who is dead: from literal observations."""

from __future__ import annotations

import pytest

from tasks_demo.transport.watch import Watch, Watched

A = str(Watched("7", "run1", 15.0))


def looks(*observed: tuple[str, str, bool, float], grace: float = 0.5) -> list[list[str]]:
    """Look at one owner several times: how it is watched, its beat, whether its connection is listed, seconds since."""
    watch = Watch(grace)
    found = []
    for watched, beat, listed, seconds in observed:
        here = watch.connections({"a": watched}, "run1")
        dead = watch.look({"a": watched}, {"a": beat}, here, {"a"} if listed else set(), seconds)
        found.append([it.owner for it in dead])
    return found


def test_watch_declares_dead_after_the_grace_without_its_connection() -> None:
    assert looks((A, "1", False, 0.5), (A, "1", False, 0.4), (A, "1", False, 0.1)) == [[], [], ["a"]]


def test_watch_forgets_a_connection_that_is_back() -> None:
    seen = [(A, "1", False, 0.5), (A, "1", False, 0.4), (A, "2", True, 0.1), (A, "2", False, 0.4), (A, "2", False, 0.4)]
    assert looks(*seen) == [[], [], [], [], []]


def test_watch_begins_anew_with_another_connection() -> None:
    other = str(Watched("9", "run1", 15.0))
    assert looks((A, "1", False, 0.5), (other, "2", False, 0.6), (other, "2", False, 0.4)) == [[], [], []]


def test_watch_declares_dead_by_the_owners_own_timeout_when_the_heartbeat_stands_still() -> None:
    slow = str(Watched("7", "run1", 60.0))
    assert looks((A, "1", True, 1), (A, "1", True, 14.9), (A, "1", True, 0.1)) == [[], [], ["a"]]
    assert looks((slow, "1", True, 1), (slow, "1", True, 59.0), (slow, "1", True, 1.0)) == [[], [], ["a"]]
    assert looks((A, "1", True, 1), (A, "1", True, 14), (A, "2", True, 14), (A, "2", True, 14)) == [[], [], [], []]


@pytest.mark.parametrize(
    "watched", [Watched("0", "run1", 15.0), Watched("7", "run0", 15.0)], ids=["unlisted", "other-run"]
)
def test_watch_does_not_miss_a_connection_that_the_server_cannot_list(watched: Watched) -> None:
    assert looks((str(watched), "1", False, 1), (str(watched), "1", False, 14.0)) == [[], []]
    assert looks((str(watched), "1", False, 1), (str(watched), "1", False, 15.0)) == [[], ["a"]]

"""Plans: decided before the run, reproducible from the seed, and unchanged by a round trip through JSON."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks_demo.core.lifecycle import BY_MAIN, Point
from tasks_demo.core.semantics import PROMISES
from tasks_demo.lab.plan.cells import AIMABLE, MIXED, WINDOWS, Cell, dump_plan, plan, points_of
from tasks_demo.lab.plan.faults import Fault


def make(
    *, faults: Sequence[Fault] = tuple(Fault), points: Sequence[Point] = (), seed: int = 7, **changed: Any
) -> list[Cell]:
    options: dict[str, Any] = {"tasks": 50, "kills": None, "work_ms": 0, "brokers": ["redis"], **changed}
    return plan(patterns=list(PROMISES), faults=faults, points=points, seed=seed, **options)


def test_cells_of_one_seed_are_the_same_plan() -> None:
    assert make() == make()


def test_cells_of_another_seed_have_other_victims() -> None:
    assert [cell.victims for cell in make(seed=7)] != [cell.victims for cell in make(seed=8)]


def test_victims_of_a_cell_do_not_depend_on_other_cells() -> None:
    alone = make(faults=[Fault.KILL_MAIN])
    assert alone == [cell for cell in make() if cell.fault is Fault.KILL_MAIN]


def test_cells_of_all_hold_every_pattern_under_every_fault() -> None:
    # Under load there is a rate; and of a killed RabbitMQ there are no cells on Redis.
    without = {Fault.LOAD, Fault.BROKER_KILL}
    everything = {(name, fault) for name in PROMISES for fault in Fault if fault not in without}
    # The inbox job calls no bank: there is no response to lose. It alone commits its effect, and three claim their operation.
    impossible = {
        *((name, fault) for name, fault in everything if fault.disturbed_request == "commit" and name != "inbox"),
        *(
            (name, fault)
            for name, fault in everything
            if fault.disturbed_request == "claim" and name in {"acks_early", "acks_late", "inbox"}
        ),
    }
    assert {(cell.pattern, cell.fault) for cell in make()} == everything - {("inbox", Fault.LOST_RESPONSE)} - impossible


def test_victim_at_a_place_is_held_before_the_request_is_made() -> None:
    for cell in make(faults=[fault for fault in Fault if fault.disturbed_request in {"commit", "claim"}]):
        assert set(cell.victims.values()) == {
            Point.EFFECT_DONE if cell.fault.disturbed_request == "commit" else Point.RECEIVED
        }


def test_healthy_control_has_no_victims_and_every_other_cell_has() -> None:
    for cell in make():
        assert bool(cell.victims) == (cell.fault is not Fault.NONE)


@given(st.integers(1, 300), st.integers(0, 2**63 - 1), st.data())
def test_victims_are_different_jobs_that_exist_and_windows_get_equal_shares(
    tasks: int, seed: int, data: st.DataObject
) -> None:
    kills = data.draw(st.integers(1, tasks))
    for cell in make(faults=[Fault.KILL_CHILD], tasks=tasks, kills=kills, seed=seed):
        assert len(cell.victims) == kills
        assert set(cell.victims) <= set(range(tasks))
        shares = Counter(cell.victims.values())
        assert set(shares) <= set(WINDOWS)
        assert max(shares.values()) - min(shares[window] for window in WINDOWS) <= 1


@pytest.mark.parametrize(("tasks", "kills"), [(1, 1), (9, 1), (10, 1), (100, 10)])
def test_tenth_of_the_jobs_is_hit_unless_told_otherwise_and_at_least_one(tasks: int, kills: int) -> None:
    assert {len(cell.victims) for cell in make(faults=[Fault.QUIT], tasks=tasks)} == {kills}


def test_point_makes_a_cell_only_for_patterns_that_announce_it() -> None:
    cells = make(faults=[Fault.KILL_MAIN], points=[Point.CLAIMED, Point.COMPLETED])
    assert [cell.name for cell in cells] == [
        "claim_first/kill-main@claimed",
        "dedup_lock/kill-main@claimed",
        "dedup_lock/kill-main@completed",
        "inbox/kill-main@completed",
    ]
    for cell in cells:
        assert set(cell.victims.values()) == {Point(cell.point)}


def test_points_of_main_are_aimed_at_main_only() -> None:
    for fault, found in ((Fault.KILL_CHILD, False), (Fault.KILL_MAIN, True), (Fault.KILL_GROUP, True)):
        cells = make(faults=[fault], points=sorted(BY_MAIN))
        assert {cell.pattern for cell in cells} == (set(PROMISES) if found else set())


def test_mixed_is_one_cell_in_which_all_points_get_equal_shares() -> None:
    for cell in make(faults=[Fault.KILL_MAIN, Fault.KILL_CHILD], points=[MIXED], tasks=200, kills=120):
        shares = Counter(cell.victims.values())
        assert set(shares) == set(points_of(cell.pattern, cell.fault))
        assert max(shares.values()) - min(shares.values()) <= 1


def test_unaimed_fault_has_no_points() -> None:
    cells = make(faults=[Fault.SLOW, Fault.NONE], points=[Point.STARTED])
    assert {cell.point for cell in cells} == {""}


def test_effectively_once_patterns_are_published_through_the_outbox_where_redis_loses_messages() -> None:
    cells = make(faults=[Fault.KILL_MAIN], points=[Point.FETCHED, Point.STARTED])
    through = {(cell.pattern, cell.point) for cell in cells if cell.publisher == "outbox"}
    assert through == {
        ("outbox", "fetched"), ("outbox", "started"), ("dedup_lock", "fetched"), ("inbox", "fetched")
    }  # fmt: skip


def test_names_of_cells_are_unique_because_they_name_queues_and_logs() -> None:
    points = sorted({point for known in AIMABLE.values() for point in known})
    names = [cell.name for cell in (*make(), *make(points=points))]
    assert len(set(names)) == len({(c.pattern, c.fault, c.point) for c in (*make(), *make(points=points))})


def test_cells_survive_json() -> None:
    for cell in (*make(), *make(points=[Point.RETURNED])):
        assert Cell.from_dict(json.loads(json.dumps(cell.as_dict()))) == cell


def test_printed_plan_has_seed_and_cells() -> None:
    document = json.loads(dump_plan(make(), 7))
    assert document["seed"] == 7
    assert [Cell.from_dict(cell) for cell in document["plan"]] == make()


@pytest.mark.parametrize(
    "damage",
    [
        {"fault": "earthquake"},
        {"victims": {"one": "started"}},
        {"victims": {"1": "nowhere"}},
        {"victims": 3},
        {"seed": "x"},
        {"tasks": None},
        {"clicks": 0},
        {"clicks": 11},
        {"pattern": "acks_late", "fault": "kill-main", "victims": {"1": "claimed"}},
    ],
    ids=str,
)
def test_damaged_plan_is_refused(damage: dict[str, Any]) -> None:
    with pytest.raises((KeyError, ValueError, TypeError)):
        Cell.from_dict({**make()[-1].as_dict(), **damage})

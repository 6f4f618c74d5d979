"""The plan of a cell under load, and which options go with ``--load``."""

from __future__ import annotations

from typing import Any

import pytest

from tasks_demo.lab.plan import timing
from tasks_demo.lab.plan.cells import Cell
from tasks_demo.lab.plan.faults import Fault
from tasks_demo.lab.plan.options import FAULTS, OptionRefused
from tests.unit.lab.plan.test_options import asked


def under_load(**options: Any) -> Cell:
    [cell] = asked(pattern="acks_late", load=300, **options)[0]
    return cell


def test_load_is_a_fault_of_its_own_with_a_kill_for_every_200_jobs() -> None:
    cell = under_load()
    assert (cell.fault, cell.load, cell.tasks, len(cell.victims)) == (Fault.LOAD, 300, 2000, 10)
    assert len(under_load(tasks=50, kills=3).victims) == 3
    assert Cell.from_dict(cell.as_dict()) == cell
    assert (timing.concurrency(cell), timing.planned_faults(cell)) == (2, 10)


def test_load_is_not_among_all_faults_because_it_needs_a_rate() -> None:
    assert "load" not in FAULTS
    assert not any(cell.fault is Fault.LOAD for cell in asked(fault="all")[0])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"fault": "kill-main"}, "--fault would do nothing here"),
        ({"point": "started", "clicks": 2}, "--point, --clicks would do nothing here"),
        ({"control": "all"}, "--control would do nothing here"),
    ],
    ids=str,
)
def test_load_refuses_what_it_would_ignore(options: dict[str, Any], said: str) -> None:
    with pytest.raises(OptionRefused, match=said):
        asked(load=300, **options)


@pytest.mark.parametrize("changes", [{"load": 0}, {"load": 10**6}, {"fault": "none"}])
def test_load_and_its_fault_go_together(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="go together"):
        Cell.from_dict({**under_load().as_dict(), **changes})


def test_load_publishes_through_the_outbox_where_redis_loses_messages_of_a_pattern_that_must_not() -> None:
    for broker, through in (("redis", {"outbox", "dedup_lock", "inbox"}), ("reliable", {"outbox"})):
        cells, _ = asked(load=300, broker=[broker])
        assert {cell.pattern for cell in cells if cell.publisher == "outbox"} == through

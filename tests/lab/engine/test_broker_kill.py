"""The cell's own Redis is killed while jobs are queued, and started again on what it has written."""

from __future__ import annotations

import json

import pytest

from tasks_demo.lab.plan.faults import Fault
from tests.support import Home

pytestmark = pytest.mark.timeout(600)
KILLS = [str(fault) for fault in Fault if fault.appendonly]
JOBS = 12


def test_broker_kill_loses_without_the_append_only_file_but_not_through_the_outbox(home: Home) -> None:
    done = home.manage(
        "experiment", *(f"--fault={kill}" for kill in KILLS), "--pattern", "acks_late", "--pattern", "outbox",
        "--tasks", str(JOBS), "--seed", "1", "--json", "-", timeout=500,
    )  # fmt: skip
    assert done.code == 0, done.out + done.err
    cells = {(cell["pattern"], cell["fault"]): cell for cell in json.loads(done.out)["cells"]}
    assert len(cells) == 6
    assert all(cell["kills"] == {"planned": 1, "landed": 1} for cell in cells.values())
    lost = {name: cell["lost"] for name, cell in cells.items() if cell["lost"]}
    kept = lost.pop(("acks_late", "broker-kill-always"), 0) + lost.pop(("acks_late", "broker-kill-everysec"), 0)
    assert kept <= 2, "one that Redis was delivering when it was killed"
    assert list(lost) == [("acks_late", "broker-kill-off")]
    assert cells["acks_late", "broker-kill-off"]["observed"] == "broken"
    assert cells["outbox", "broker-kill-off"]["observed"] == "held"


def test_broker_kill_on_a_server_that_is_not_the_labs_is_refused(home: Home) -> None:
    done = home.manage("experiment", "--fault", "broker-kill-off", "--broker", "rabbitmq", "--plan")
    assert (done.code, done.out) == (2, "")
    assert "the lab kills only servers that it starts" in done.err
    assert "broker-kill" not in home.manage("experiment", "--fault", "all", "--broker", "rabbitmq", "--plan").out

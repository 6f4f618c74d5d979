"""The cell's own Redis is emptied, full, a replica, or has a full disk while jobs run: by stock kombu and by the reliable
transport."""

from __future__ import annotations

import json

import pytest

from tests.support import Home

pytestmark = pytest.mark.timeout(600)
JOBS = 12


def test_outage_of_the_broker_may_repeat_jobs_on_stock_kombu_but_none_on_the_reliable_transport(home: Home) -> None:
    done = home.manage(
        "experiment", "--fault", "broker-flush", "broker-full", "broker-read-only", "broker-disk-full",
        "--pattern", "acks_early", "outbox",
        "--broker", "redis", "reliable", "--tasks", str(JOBS), "--seed", "1", "--json", "-", timeout=500,
    )  # fmt: skip
    assert done.code == 0, done.out + done.err
    cells = {(cell["broker"], cell["pattern"], cell["fault"]): cell for cell in json.loads(done.out)["cells"]}
    assert len(cells) == 16
    assert all(cell["kills"] == {"planned": 1, "landed": 1} for cell in cells.values())
    lost = {name for name, cell in cells.items() if cell["lost"]}
    lost -= {
        ("redis", "acks_early", f"broker-{what}full") for what in ("", "disk-")
    }  # what stock kombu pops and cannot record
    assert lost == {(broker, "acks_early", "broker-flush") for broker in ("redis", "reliable")}
    twice = {name for name, cell in cells.items() if cell["duplicated"]}
    assert twice <= {
        ("redis", "acks_early", fault) for fault in ("broker-full", "broker-read-only", "broker-disk-full")
    }

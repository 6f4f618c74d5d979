"""The connection over which a worker claims an operation is cut, late or silent: to the Redis of leases, or to PostgreSQL."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.integration.servers.postgres import own_postgres
from tests.support import Home

pytestmark = pytest.mark.timeout(600)
FAULTS = ("cut-claim", "delay-claim", "black-hole-claim")
OPTIONS = ("--tasks", "4", "--kills", "2", "--seed", "1", "--lanes", "9", "--json", "-")


def test_claim_without_an_answer_loses_a_job_of_claim_first_and_no_other(short: Path) -> None:
    with own_postgres() as server:
        home = Home(short, server.url("postgres"))
        home.migrate()
        events = short / "events.jsonl"
        done = home.manage("experiment", "--fault", *FAULTS, *OPTIONS, "--events", str(events), timeout=500)
    assert done.code == 0, done.out + done.err
    cells = {(cell["pattern"], cell["fault"]): cell for cell in json.loads(done.out)["cells"]}
    assert set(cells) == {(pattern, fault) for pattern in ("claim_first", "outbox", "dedup_lock") for fault in FAULTS}
    for (pattern, fault), cell in cells.items():
        lost = 2 if (pattern, fault) == ("claim_first", "cut-claim") else 0
        assert cell["kills"] == {"planned": 2, "landed": 2}, cell
        assert cell["executions"] == cell["effects"] == {"0": lost, "1": 4 - lost, "2+": 0}, cell
        # A body does not begin under a lease that is over when its holder hears of it.
        deferring = {"claim_first": {"cut-claim", "black-hole-claim"}, "dedup_lock": {"delay-claim"}}
        deferred = 2 if fault in deferring.get(pattern, ()) else 0
        assert (cell["lost"], cell["suppressed"], cell["deferred"]) == (lost, lost, deferred), cell
    faults = [event["detail"] for event in map(json.loads, events.read_text().splitlines()) if event["kind"] == "fault"]
    assert [fault["point"] for fault in faults] == ["received"] * 18


@pytest.mark.skipif("DATABASE_URL" in os.environ, reason="the project of these tests is on PostgreSQL")
def test_claim_of_a_lease_is_disturbed_without_postgresql(home: Home) -> None:
    done = home.manage("experiment", "--fault", "cut-claim", *OPTIONS, timeout=500)
    assert done.code == 0, done.out + done.err
    [cell] = json.loads(done.out)["cells"]
    assert (cell["pattern"], cell["kills"]["landed"], cell["effects"]["1"]) == ("dedup_lock", 2, 4)
    assert "Left out: cut-claim of claim_first, cut-claim of outbox. The jobs' tables are in SQLite: " in done.err

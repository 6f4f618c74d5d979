"""The PostgreSQL of the jobs' tables is killed while a job runs, and started again; on SQLite that is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path

import psutil
import pytest

from tests.integration.servers.postgres import own_postgres
from tests.support import Home

pytestmark = pytest.mark.timeout(600)
JOBS = 12


def test_killed_database_costs_no_job_its_effect_and_the_projects_own_server_is_left_alone(short: Path) -> None:
    with own_postgres() as server:
        home = Home(short, server.url("postgres"))
        home.migrate()
        assert server.process is not None
        before = server.process.pid
        events = short / "events.jsonl"
        done = home.manage(
            "experiment", "--fault", "database-kill", "--pattern", "inbox", "outbox", "--tasks", str(JOBS), "--seed", "1",
            "--json", "-", "--events", str(events), timeout=500,
        )  # fmt: skip
        assert (server.process.pid, server.alive()) == (before, True)
    assert done.code == 0, done.out + done.err
    cells = {cell["pattern"]: cell for cell in json.loads(done.out)["cells"]}
    assert set(cells) == {"inbox", "outbox"}
    for cell in cells.values():
        assert (cell["kills"], cell["lost"]) == ({"planned": 1, "landed": 1}, 0)
    assert cells["inbox"]["effects"] == {"0": 0, "1": JOBS, "2+": 0}
    faults = [event["detail"] for event in map(json.loads, events.read_text().splitlines()) if event["kind"] == "fault"]
    assert [(fault["victim"], fault["died"]) for fault in faults] == [("database", "SIGKILL")] * 2
    assert not any(psutil.pid_exists(fault["pid"]) for fault in faults)


@pytest.mark.skipif("DATABASE_URL" in os.environ, reason="the project of these tests is on PostgreSQL")
def test_database_kill_on_sqlite_is_refused(home: Home) -> None:
    done = home.manage("experiment", "--fault", "database-kill", "--pattern", "inbox", "--tasks", "3")
    assert (done.code, done.out) == (4, "")
    assert "The jobs' tables are in SQLite: there is no server that could be killed. Set SHOP_DATABASE_URL" in done.err

"""A worker's connection to PostgreSQL is cut, late or silent at the commit of an effect: the effect is there once."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.integration.servers.postgres import own_postgres
from tests.support import Home

pytestmark = pytest.mark.timeout(600)
FAULTS = ("cut-commit", "delay-commit", "black-hole-commit")


def test_commit_without_an_answer_has_one_effect_and_tls_is_refused(
    short: Path,
) -> None:
    with own_postgres() as server:
        home = Home(short, server.url("postgres"))
        home.migrate()
        secret = Home(short, f"{server.url('postgres')}?sslmode=require")
        refused = secret.manage("experiment", "--fault", "cut-commit", "--pattern", "inbox", "--tasks", "3")
        assert (refused.code, refused.out) == (4, "")
        assert "used with TLS (sslmode=require), so that no request can be told from other bytes" in refused.err
        events = short / "events.jsonl"
        done = home.manage(
            "experiment", "--fault", *FAULTS, "--pattern", "inbox", "--tasks", "4", "--kills", "2", "--seed", "1", "--broker",
            "redis", "reliable", "--lanes", "6", "--json", "-", "--events", str(events), timeout=500,
        )  # fmt: skip
    assert done.code == 0, done.out + done.err
    cells = json.loads(done.out)["cells"]
    assert len(cells) == 6
    for cell in cells:
        assert cell["kills"] == {"planned": 2, "landed": 2}, cell
        assert cell["effects"] == {"0": 0, "1": 4, "2+": 0}, cell
        # What was committed stops the copy; what the database never saw runs again.
        assert cell["suppressed"] == (2 if cell["fault"] == "cut-commit" else 0), cell
        assert cell["executions"]["2+"] == (2 if cell["fault"] == "black-hole-commit" else 0), cell
    faults = [event["detail"] for event in map(json.loads, events.read_text().splitlines()) if event["kind"] == "fault"]
    assert len(faults) == 12
    for fault in faults:
        assert fault["point"] == "effect_done"
        assert fault["seconds"] > {"cut-commit": 0, "delay-commit": 3.9, "black-hole-commit": 1.9}[fault["what"]]


@pytest.mark.skipif("DATABASE_URL" in os.environ, reason="the project of these tests is on PostgreSQL")
def test_commit_on_sqlite_has_no_connection_and_is_refused(home: Home) -> None:
    done = home.manage("experiment", "--fault", "cut-commit", "--pattern", "inbox", "--tasks", "3")
    assert (done.code, done.out) == (4, "")
    assert (
        "The jobs' tables are in SQLite: there is no connection that could be disturbed. Set SHOP_DATABASE_URL"
        in done.err
    )


def test_commit_is_a_fault_of_inbox_only(home: Home) -> None:
    done = home.manage("experiment", "--fault", "cut-commit", "--pattern", "acks_late", "--tasks", "3")
    assert done.code == 2
    assert "the job of acks_late commits no effect, so cut-commit cannot happen to it" in done.err

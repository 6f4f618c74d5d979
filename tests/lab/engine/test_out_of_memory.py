"""A body meets the limit of its process on memory: Celery's main process ends on it, and what was not acknowledged runs again."""

from __future__ import annotations

import json

import pytest

from tests.support import Home

pytestmark = pytest.mark.timeout(600)


def test_memory_error_of_a_body_is_a_death_and_not_the_end_of_its_outbox_job(home: Home) -> None:
    events = home.state / "events.jsonl"
    done = home.manage(
        "experiment", "--fault", "out-of-memory", "--pattern", "acks_early", "outbox", "dedup_lock", "--tasks", "4",
        "--kills", "2", "--seed", "1", "--json", "-", "--events", str(events), timeout=500,
    )  # fmt: skip
    assert done.code == 0, done.out + done.err
    cells = {cell["pattern"]: cell for cell in json.loads(done.out)["cells"]}
    assert all(cell["kills"] == {"planned": 2, "landed": 2} for cell in cells.values())
    assert {name: (cell["lost"], cell["duplicated"]) for name, cell in cells.items()} == {
        "acks_early": (1, 0), "outbox": (0, 1), "dedup_lock": (0, 0)
    }  # fmt: skip
    history = list(map(json.loads, events.read_text().splitlines()))
    failed = [event for event in history if event["kind"] == "failed"]
    assert len(failed) == 6
    assert all("MemoryError" in event["detail"]["why"] for event in failed)
    ended = {(event["pattern"], event["pid"]) for event in history if event["detail"].get("state") == "exited"}
    assert len(ended) >= 3 * 3, "each MemoryError ended a main process"

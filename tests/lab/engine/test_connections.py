"""The connections of a cell's worker are cut, late or silent while it runs a job, alone and as its main process is killed."""

from __future__ import annotations

import json

import pytest

from tests.support import Home

pytestmark = pytest.mark.timeout(600)


def test_disturbed_connections_repeat_jobs_on_stock_kombu_but_none_on_the_reliable_transport(home: Home) -> None:
    events = home.state / "events.jsonl"
    done = home.manage(
        "experiment", "--fault", "cut", "black-hole", "delay", "kill-main + cut", "--pattern", "acks_late", "--broker", "redis",
        "reliable", "--tasks", "4", "--kills", "2", "--seed", "1", "--lanes", "8", "--json", "-", "--events", str(events),
        timeout=500,
    )  # fmt: skip
    assert done.code == 0, done.out + done.err
    cells = {(cell["broker"], cell["fault"]): cell for cell in json.loads(done.out)["cells"]}
    assert len(cells) == 8
    assert all(cell["kills"] == {"planned": 2, "landed": 2} for cell in cells.values())
    assert not any(cell["lost"] for cell in cells.values())
    twice = {name for name, cell in cells.items() if cell["executions"]["2+"]}
    killed = {(broker, "kill-main + cut") for broker in ("redis", "reliable")}
    assert twice == {("redis", "cut"), ("redis", "black-hole"), *killed}
    faults = [event for event in map(json.loads, events.read_text().splitlines()) if event["kind"] == "fault"]
    assert len(faults) == 16
    for event in faults:
        assert event["detail"]["what"] == event["fault"]
        assert event["detail"]["connections"] >= 1
        assert event["detail"]["died"] == ("SIGKILL" if "kill" in event["fault"] else "")

"""The cell's own broker is killed while jobs are queued, and started again on what it has written."""

from __future__ import annotations

import json
import os

import psutil
import pytest

from tasks_demo.core.exceptions import EnvironmentNotReady
from tasks_demo.lab.plan.cells import Cell
from tasks_demo.lab.plan.faults import Fault
from tasks_demo.lab.processes.prerequisites import possible_here
from tasks_demo.lab.processes.servers import rabbitmq
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


@pytest.mark.parametrize(
    ("queue", "patterns"),
    [("quorum", ["acks_late", "outbox"]), ("classic", ["acks_late"])],  # the outbox knows nothing of types of queues
    ids=["quorum", "classic"],
)
def test_killed_rabbitmq_loses_nothing_and_the_outbox_repeats_nothing(
    home: Home, queue: str, patterns: list[str]
) -> None:
    with_rabbitmq()
    events = home.state / "events.jsonl"
    done = home.manage(
        "experiment", "--fault", "broker-kill", "--pattern", *patterns, "--broker", "rabbitmq", "--queue", queue,
        "--tasks", str(JOBS), "--seed", "1", "--json", "-", "--events", str(events), timeout=500,
    )  # fmt: skip
    assert done.code == 0, done.out + done.err
    cells = {cell["pattern"]: cell for cell in json.loads(done.out)["cells"]}
    assert set(cells) == set(patterns)
    for cell in cells.values():
        assert (cell["broker"], cell["kills"]) == (f"rabbitmq-{queue}", {"planned": 1, "landed": 1})
        assert (cell["lost"], cell["effects"]["0"]) == (0, 0)
    if "outbox" in cells:
        assert cells["outbox"]["effects"] == {"0": 0, "1": JOBS, "2+": 0}
    faults = [event for event in map(json.loads, events.read_text().splitlines()) if event["kind"] == "fault"]
    assert [event["detail"]["died"] for event in faults] == ["SIGKILL"] * len(patterns)
    assert not any(psutil.pid_exists(event["detail"]["pid"]) for event in faults)


def test_broker_kill_without_rabbitmq_is_refused_by_name_and_left_out_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rabbitmq, "glob", lambda _pattern: [])
    cells = [Cell("inbox", fault, "", "rabbitmq-quorum", 1, 4, 0) for fault in (Fault.NONE, Fault.BROKER_KILL)]
    with pytest.raises(EnvironmentNotReady, match="RabbitMQ is not installed on this machine"):
        possible_here(cells, everything=False)
    possible, [why] = possible_here(cells, everything=True)
    assert possible == cells[:1]
    assert why.startswith("Left out: broker-kill. RabbitMQ is not installed")


def with_rabbitmq() -> None:
    try:
        rabbitmq.program()
    except EnvironmentNotReady as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))

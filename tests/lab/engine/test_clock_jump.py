"""The wall clock of a cell's worker jumps forward and back while it runs jobs; that of the lab does not."""

from __future__ import annotations

import json
import os
import time

import pytest

from tasks_demo.core.exceptions import EnvironmentNotReady
from tasks_demo.lab.plan.timing import JUMP_SECONDS
from tasks_demo.lab.processes import wall_clock
from tests.support import Home

pytestmark = pytest.mark.timeout(600)


def test_clock_jump_at_the_end_of_the_last_job_is_noticed_by_its_victim(
    home: Home,
) -> None:
    with_faketime()
    done = home.manage(
        "experiment", "--fault", "clock-jump", "none", "--pattern", "inbox", "--point", "acked", "--tasks", "1", "--kills", "1",
        "--work", "10", "--seed", "1", timeout=500,
    )  # fmt: skip
    assert done.code == 0, done.out + done.err


def with_faketime() -> None:
    try:
        wall_clock.library()
    except EnvironmentNotReady as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))


def test_jump_repeats_jobs_on_stock_kombu_but_none_on_the_reliable_transport(home: Home) -> None:
    with_faketime()
    events = home.state / "events.jsonl"
    done = home.manage(
        "experiment", "--fault", "clock-jump", "--pattern", "acks_late", "claim_first", "--broker", "redis", "reliable",
        "--tasks", "5", "--kills", "2", "--seed", "1", "--json", "-", "--events", str(events), timeout=500,
    )  # fmt: skip
    assert done.code == 0, done.out + done.err
    cells = {(cell["broker"], cell["pattern"]): cell for cell in json.loads(done.out)["cells"]}
    assert len(cells) == 4
    assert all(cell["kills"] == {"planned": 2, "landed": 2} for cell in cells.values())
    assert not any(cell["lost"] for cell in cells.values())
    assert {name for name, cell in cells.items() if cell["executions"]["2+"]} == {("redis", "acks_late")}
    history = list(map(json.loads, events.read_text().splitlines()))
    ahead = {(event["broker"], event["pattern"]) for event in history if event["at"] > time.time() + JUMP_SECONDS / 2}
    assert ahead == set(cells), "each worker was in the wrong time"
    assert all(event["pid"] for event in history if event["at"] > time.time()), "only the workers were"

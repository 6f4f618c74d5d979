"""Main processes are killed at random moments while jobs flow, beside a worker that lives."""

from __future__ import annotations

import json

import pytest

from tests.support import Home

pytestmark = pytest.mark.timeout(300)


def test_load_on_the_transport_loses_nothing_and_runs_again_only_what_a_killed_worker_held(home: Home) -> None:
    done = home.manage(
        "experiment", "--pattern", "acks_late", "--load", "300", "--tasks", "300", "--kills", "3", "--work", "100",
        "--broker", "reliable", "--seed", "1", "--json", "-", timeout=240,
    )  # fmt: skip
    assert done.code == 0, done.out + done.err
    [cell] = json.loads(done.out)["cells"]
    load = cell["load"]
    assert (cell["observed"], cell["lost"], cell["executions"]["0"]) == ("held", 0, 0)
    assert cell["kills"] == {"planned": 3, "landed": 3}
    assert load["again"] <= load["held"]
    assert load["unexplained"] == 0
    assert load["in_flight"]["p50"] > 0
    assert cell["recovery_s"]["max"] < 30

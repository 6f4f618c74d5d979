"""The connection of a cell's publisher is cut, late or silent while it publishes: what the broker has, and what is done twice."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from tests.support import Home

pytestmark = pytest.mark.timeout(600)
FAULTS = ("cut-publish", "black-hole-publish", "delay-publish")


def test_disturbed_publication_is_the_first_of_two_clicks(home: Home) -> None:
    done = home.manage(
        "experiment", "--fault", "cut-publish", "--pattern", "dedup_lock", "--clicks", "2", "--tasks", "4", "--kills", "2",
        "--seed", "1", "--json", "-", timeout=500,
    )  # fmt: skip
    assert done.code == 0, done.out + done.err
    [cell] = json.loads(done.out)["cells"]
    assert (cell["tasks"], cell["published"], cell["kills"]) == (8, 8, {"planned": 2, "landed": 2})
    assert cell["effects"] == {"0": 0, "1": 4, "2+": 0}


def test_publication_without_an_answer_is_repeated_and_no_job_is_lost(home: Home) -> None:
    events = home.state / "events.jsonl"
    done = home.manage(
        "experiment", "--fault", *FAULTS, "--pattern", "acks_early", "outbox", "dedup_lock", "--broker", "redis", "reliable",
        "--tasks", "4", "--kills", "2", "--seed", "1", "--lanes", "6", "--json", "-", "--events", str(events),
        timeout=500,
    )  # fmt: skip
    assert done.code == 0, done.out + done.err
    cells = json.loads(done.out)["cells"]
    assert len(cells) == 18
    for cell in cells:
        doubled = 2 if (cell["pattern"], cell["fault"]) == ("acks_early", "cut-publish") else 0
        assert cell["kills"] == {"planned": 2, "landed": 2}, cell
        assert (cell["published"], cell["lost"]) == (4, 0), cell
        assert cell["effects"] == {"0": 0, "1": 4 - doubled, "2+": doubled}, cell
    history = [json.loads(line) for line in events.read_text().splitlines()]
    victims = {event["task_id"] for event in history if event["kind"] == "fault"}
    outcomes = Counter(
        (event["fault"], event["detail"]["outcome"])
        for event in history
        if event["kind"] == "published" and event["pattern"] != "outbox" and event["task_id"] in victims
    )
    # A direct publisher of four cells, two victims each: it does not know what became of the first attempt.
    assert outcomes == {
        ("cut-publish", "info"): 8, ("cut-publish", "ok"): 8, ("black-hole-publish", "info"): 8,
        ("black-hole-publish", "ok"): 8, ("delay-publish", "ok"): 8,
    }  # fmt: skip

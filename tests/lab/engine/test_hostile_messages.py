"""Hostile messages among good jobs: the next job is done in time, and it is known where each message ended."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tasks_demo.lab.plan.hostile import KINDS
from tests.integration.servers.rabbitmq import RabbitServer, rabbitmq
from tests.support import Home

__all__ = ["rabbitmq"]

pytestmark = pytest.mark.timeout(600)
#: All but ``huge``: 50 MB take longer than 30 s where the tests of a whole suite share two cores. It is the last.
SMALL = len(KINDS) - 1
DELETED = "logged and deleted: unknown message"
UNDECODED = "logged and deleted: its body cannot be decoded"
ENDS_WORKER = "it ended the worker, and is gone"
#: Where garbage ends on each broker.
GARBAGE = {
    "redis": {
        "non-json": ENDS_WORKER,
        "list": ENDS_WORKER,
        "object": "it cost the worker its connection, and is gone",
        "no-headers": DELETED,
    },
    "reliable": {
        "non-json": "a dead letter",
        "list": "a dead letter",
        "object": "a dead letter",
        "no-headers": DELETED,
    },
    "rabbitmq": {"non-json": UNDECODED, **dict.fromkeys(("list", "object", "no-headers"), DELETED)},
}


def experiment(home: Home, folder: Path, *arguments: str, env: dict[str, str]) -> dict[str, dict[str, Any]]:
    """Run one cell; return what became of each hostile message."""
    done = home.manage(
        "experiment", "--fault", "hostile", "--tasks", "14", "--kills", str(SMALL), "--seed", "1",
        "--events", str(folder / "events"), *arguments, env=env, timeout=500,
    )  # fmt: skip
    assert done.code == 0, done.out + done.err
    assert f": {SMALL} of {SMALL} hostile messages are accounted for" in done.out
    events = map(json.loads, (folder / "events").read_text().splitlines())
    return {event["detail"]["message"]: event["detail"] for event in events if event["kind"] == "fault"}


@pytest.mark.parametrize("broker", list(GARBAGE))
def test_hostile_messages_end_where_the_broker_says_and_good_jobs_go_on(
    home: Home, tmp_path: Path, request: pytest.FixtureRequest, broker: str
) -> None:
    env, address = {}, broker
    if broker == "rabbitmq":
        server: RabbitServer = request.getfixturevalue("rabbitmq")
        env, address = server.for_rabbitmqctl, server.url
    ended = experiment(home, tmp_path, "--broker", address, "--pattern", "dedup_lock", env=env)
    assert set(ended) == set(KINDS[:SMALL])
    assert {kind: ended[kind]["ended"] for kind in GARBAGE[broker]} == GARBAGE[broker]
    assert ended["unknown-task"]["ended"].startswith("rejected: no task is registered")
    assert ended["arity"]["ended"].startswith("failed: TypeError")
    assert "OperationMismatch" in ended["same-id"]["ended"]
    assert all(each["seconds"] <= 30 for each in ended.values())

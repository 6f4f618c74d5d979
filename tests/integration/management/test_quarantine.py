"""``manage.py quarantine`` and dead letters. Parked messages: tests/integration/dashboard/test_parked.py."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from celery import current_app

from tasks_demo.management.commands.quarantine import Command
from tasks_demo.records.models import Parked
from tasks_demo.transport import count_dead_letters
from tests.integration.quarantine.letters import GARBAGE, QUEUE, dead, message
from tests.integration.quarantine.parked_rows import lying
from tests.integration.quarantine.quarantine_ground import records

__all__ = ["records"]
pytestmark = pytest.mark.usefixtures("records")

Run = Callable[..., tuple[Any, str, str]]
SILENT = "redis+socket:///nobody/listens/here.sock"


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def command(*arguments: str) -> tuple[Any, str, str]:
        code: Any = 0
        try:
            Command().run_from_argv(["manage.py", "quarantine", "--skip-checks", *arguments])
        except SystemExit as left:
            code = left.code
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return command


@pytest.fixture
def broker(redis_url: str) -> Iterator[Any]:
    with redis.Redis.from_url(redis_url) as client:
        client.flushdb()
        yield client
        client.flushdb()


def test_quarantine_lists_and_shows_dead_letters_beside_parked_messages(run: Run, broker: Any) -> None:
    parked = lying()
    garbage, _ = dead(broker, GARBAGE), dead(broker, message("t1", note="hello"))
    code, out, err = run()
    assert (code, err) == (0, "")
    kept = {line.split()[0]: line for line in out.splitlines()}
    assert "database" in kept[parked.task_id]
    assert "broker" in kept["t1"]
    assert "poison.acks_late" in kept["t1"]
    assert "(no task)" in kept[garbage]
    assert "\x1b" not in out
    facts = {fact["task_id"] or fact["token"]: fact for fact in json.loads(run("list", "--json")[1])}
    assert (facts["t1"]["state"], facts["t1"]["attempts"], facts["t1"]["is_message"]) == ("dead letter", 20, True)
    code, out, _ = run("show", "t1", garbage)
    assert code == 0
    assert "'note': 'hello'" in out
    assert "its consumer died 20 times" in out
    assert "\x1b" not in out
    assert json.loads(run("show", "t1", "--json")[1])[0]["queue"] == QUEUE


def test_quarantine_requeues_and_discards_dead_letters(run: Run, broker: Any) -> None:
    garbage, _ = dead(broker, GARBAGE), dead(broker, message("t1"))
    assert run("requeue", "t1", "--why", "fixed") == (0, "t1 requeued\n", "")
    assert list(Parked.objects.get().decisions.values_list("decision", "why")) == [("requeue", "fixed")]
    code, out, err = run("requeue", garbage)
    assert (code, out) == (1, "")
    assert "no worker can read it" in err
    assert run("discard", garbage) == (0, f"{garbage} discarded\n", "")
    assert (broker.llen(QUEUE), count_dead_letters(broker)) == (1, 0)
    assert "dead letter" not in run("list", "--all")[1]


def test_quarantine_decides_all_of_both_kinds(run: Run, broker: Any) -> None:
    parked = lying()
    for number in range(3):
        dead(broker, message(f"t{number}"), at=number + 1)
    assert json.loads(run("requeue", "--all", "--json")[1]) == {"requeued": [parked.task_id, "t0", "t1", "t2"]}
    assert (broker.llen(QUEUE), count_dead_letters(broker)) == (4, 0)
    code, _, err = run("discard", "--all")
    assert code == 1
    assert "nothing was done" in err


def test_quarantine_asks_for_a_token_where_a_task_id_means_several(run: Run, broker: Any) -> None:
    tokens = [dead(broker, message("t1")), dead(broker, message("t1"))]
    code, out, err = run("discard", "t1")
    assert (code, out) == (1, "")
    assert all(token in err for token in tokens)
    assert run("discard", *tokens)[0] == 0
    # Of a parked message and a dead letter with one task ID, the task ID means the parked message.
    row = lying()
    dead(broker, message(row.task_id))
    assert run("discard", row.task_id)[0] == 0
    assert count_dead_letters(broker) == 1
    # Decided meanwhile: now it means the dead letter.
    assert run("discard", row.task_id)[0] == 0
    assert count_dead_letters(broker) == 0


def test_quarantine_with_a_redis_that_does_not_answer(run: Run, broker: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    row = lying()
    monkeypatch.setitem(current_app.conf, "broker_read_url", SILENT)
    code, out, err = run()
    assert code == 4
    assert row.task_id in out, "what the database has is listed all the same"
    assert "did not list or decide its dead letters" in err
    assert "Traceback" not in err
    code, _, err = run("requeue", "anything")
    assert code == 4
    assert "0 others" in err or "No others" in err
    assert run("discard", row.task_id)[0] == 0, "a decision about a parked message needs no broker"

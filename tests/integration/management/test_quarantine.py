"""``manage.py quarantine``: parked messages, and the dead letters of the reliable transport."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from celery import current_app

from tasks_demo.records.models import Parked
from tasks_demo.transport import count_dead_letters
from tests.integration.management.conftest import Run
from tests.integration.quarantine.letters import GARBAGE, QUEUE, dead, message
from tests.integration.quarantine.parked_rows import QUEUE as NOBODY
from tests.integration.quarantine.parked_rows import lying, states
from tests.integration.quarantine.poison_worker import records
from tests.support import Home

__all__ = ["records"]
pytestmark = pytest.mark.usefixtures("records", "redis_url")

COMMAND = "quarantine"
SILENT = "redis+socket:///nobody/listens/here.sock"


def test_quarantine_lists_and_shows_dead_letters_beside_parked_messages(run: Run, broker_client: Any) -> None:
    parked = lying()
    garbage, _ = dead(broker_client, GARBAGE), dead(broker_client, message("t1", note="hello"))
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
    assert "its worker died 20 times" in out
    assert "\x1b" not in out
    assert json.loads(run("show", "t1", "--json")[1])[0]["queue"] == QUEUE


def test_quarantine_requeues_and_discards_dead_letters(run: Run, broker_client: Any) -> None:
    garbage, _ = dead(broker_client, GARBAGE), dead(broker_client, message("t1"))
    assert run("requeue", "t1", "--why", "fixed") == (0, "t1 requeued\n", "")
    assert list(Parked.objects.get().decisions.values_list("decision", "why")) == [("requeue", "fixed")]
    code, out, err = run("requeue", garbage)
    assert (code, out) == (1, "")
    assert "no worker can read it" in err
    assert run("discard", garbage) == (0, f"{garbage} discarded\n", "")
    assert (broker_client.llen(QUEUE), count_dead_letters(broker_client)) == (1, 0)
    assert "dead letter" not in run("list", "--all")[1]


def test_quarantine_decides_all_of_both_kinds(run: Run, broker_client: Any) -> None:
    parked = lying()
    for number in range(3):
        dead(broker_client, message(f"t{number}"), at=number + 1)
    assert json.loads(run("requeue", "--all", "--json")[1]) == {"requeued": [parked.task_id, "t0", "t1", "t2"]}
    assert (broker_client.llen(QUEUE), count_dead_letters(broker_client)) == (4, 0)
    code, _, err = run("discard", "--all")
    assert code == 1
    assert "nothing was done" in err


def test_quarantine_asks_for_a_token_where_a_task_id_means_several(run: Run, broker_client: Any) -> None:
    tokens = [dead(broker_client, message("t1")), dead(broker_client, message("t1"))]
    code, out, err = run("discard", "t1")
    assert (code, out) == (1, "")
    assert all(token in err for token in tokens)
    assert run("discard", *tokens)[0] == 0
    # Of a parked message and a dead letter with one task ID, the task ID means the parked message.
    row = lying()
    dead(broker_client, message(row.task_id))
    assert run("discard", row.task_id)[0] == 0
    assert count_dead_letters(broker_client) == 1
    # Decided meanwhile: now it means the dead letter.
    assert run("discard", row.task_id)[0] == 0
    assert count_dead_letters(broker_client) == 0


def test_quarantine_with_a_redis_that_does_not_answer(
    run: Run, broker_client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
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


# -- parked messages ---------------------------------------------------------------------------------------------------


def test_quarantine_without_arguments_lists_what_waits(run: Run) -> None:
    assert run() == (0, "No message is parked, and there is no dead letter.\n", "")
    waiting, done = lying(task="[red]x[/]"), lying(state="discarded")
    code, out, _ = run()
    assert code == 0
    assert waiting.task_id in out
    assert "[red]x[/]" in out
    assert done.task_id not in out
    assert done.task_id in run("list", "--all")[1]
    (fact,) = json.loads(run("list", "--json")[1])
    assert (fact["task_id"], fact["state"], fact["attempts"]) == (waiting.task_id, "parked", 5)


def test_quarantine_shows_by_the_beginning_of_a_task_id(run: Run) -> None:
    row = lying(note="\ud800", history=[{"at": "2026-01-02T03:04:05+00:00", "worker": "w1@t", "pid": 7}])
    code, out, _ = run("show", row.task_id[:20])
    assert code == 0
    for part in (row.task_id, "begun 2026-01-02T03:04:05+00:00 by w1@t, pid 7", "\\ud800", NOBODY, "of this test"):
        assert part in out, part
    (fact,) = json.loads(run("show", row.task_id, "--json")[1])
    assert fact["history"][0]["pid"] == 7
    code, _, err = run("show", "nothing-like-it")
    assert code == 1
    assert "No task ID of a parked message equals or begins with 'nothing-like-it'" in err


def test_quarantine_requeues_and_discards(run: Run, queue: Callable[[], int]) -> None:
    first, second = lying(), lying()
    assert run("requeue", first.task_id, "--why", "fixed") == (0, f"{first.task_id} requeued\n", "")
    assert queue() == 1
    code, out, err = run("requeue", first.task_id, second.task_id)
    assert (code, out) == (1, f"{second.task_id} requeued\n")
    assert "1 of 2 requeued" in err
    assert list(first.decisions.values_list("decision", "why")) == [("requeue", "fixed")]
    third = lying()
    assert json.loads(run("discard", "--all", "--json")[1]) == {"discarded": [third.task_id]}
    assert states() == ["requeued", "requeued", "discarded"]
    assert queue() == 2
    code, _, err = run("discard", "--all")
    assert code == 1
    assert "nothing was done" in err


@pytest.mark.parametrize("arguments", [("show",), ("drop",), ("requeue", "x\0"), ("show", "a\nb")])
def test_quarantine_used_wrongly_is_exit_2(run: Run, arguments: tuple[str, ...]) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert err


@pytest.mark.usefixtures("no_broker")
def test_quarantine_with_the_broker_down_says_so(run: Run) -> None:
    lying()
    code, _, err = run("requeue", "--all")
    assert code == 4
    assert "It is still parked and nothing was changed" in err
    assert states() == ["parked"]


def test_quarantine_by_itself_and_without_its_tables(home: Home) -> None:
    listed = home.manage("quarantine", "--json")
    assert (listed.code, json.loads(listed.out)) == (4, []), "no Redis runs here"
    assert "did not list or decide its dead letters" in listed.sentence()
    unknown = home.manage("quarantine", "--using", "nowhere")
    assert (unknown.code, unknown.out) == (2, "")
    assert "nowhere" in unknown.sentence()
    elsewhere = home.manage("quarantine", "--using", "bank")
    assert elsewhere.code == 4, "that database has none of these tables"
    elsewhere.sentence()
    name = "SHOP_DATABASE_URL"
    broken = home.manage("quarantine", env={name: f"sqlite:///{home.state / 'empty.sqlite3'}"})
    assert broken.code == 4
    assert "manage.py migrate" in broken.sentence()


def test_quarantine_masks_arguments_with_declared_names(run: Run) -> None:
    row = lying(note={"password": "hunter2", "text": "token=hunter2", "seen": "kept"})
    shown = run("show", row.task_id, "--json")[1]
    assert ("hunter2" in shown, "kept" in shown) == (False, True)

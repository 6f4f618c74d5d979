"""The dead letters of the broker_client, decided like parked messages: what is recorded, and what stays when somebody fails."""

from __future__ import annotations

import json
from typing import Any

import pytest
from celery import current_app
from django.db import connections
from pytest_django import Settings

from tasks_demo.core.exceptions import EnvironmentNotReady, RequeueFailed
from tasks_demo.quarantine.dead_letters import DeadLetters, parts
from tasks_demo.records.models import Parked
from tasks_demo.transport import count_dead_letters
from tasks_demo.transport.messages import deliveries, read
from tests.integration.quarantine.letters import GARBAGE, QUEUE, dead, message
from tests.integration.quarantine.poison_worker import records
from tests.support import together

__all__ = ["records"]
pytestmark = pytest.mark.usefixtures("records")


def test_requeue_puts_it_on_its_queue_and_keeps_who_decided(broker_client: Any) -> None:
    dead(broker_client, message("t1"))
    with DeadLetters() as letters:
        (letter,) = letters
        assert letters.requeue(letter, by="somebody", why="fixed")
        assert not letters.requeue(letter, by="somebody else", why="")
        assert not letters.discard(letter, by="somebody else", why="")
    (raw,) = broker_client.lrange(QUEUE, 0, -1)
    assert (read(raw)["headers"]["id"], deliveries(read(raw))) == ("t1", 0)
    row = Parked.objects.get()
    assert (row.task_id, row.task, row.state, row.attempts) == ("t1", "poison.acks_late", "requeued", 20)
    assert list(row.decisions.values_list("decision", "by", "why")) == [("requeue", "somebody", "fixed")]
    assert count_dead_letters(broker_client) == 0


def test_discard_keeps_a_copy_among_the_parked_messages(broker_client: Any) -> None:
    for raw in (message("t1", note="x"), GARBAGE):
        dead(broker_client, raw)
    with DeadLetters() as letters:
        assert [letters.discard(letter, by="somebody", why="old") for letter in list(letters)] == [True, True]
    garbage, row = Parked.objects.order_by("attempts")
    assert (garbage.state, garbage.message, garbage.task_id[:6]) == ("discarded", ascii(GARBAGE), "claim!")
    assert "\x1b" not in garbage.reason
    assert json.loads(row.message)["kwargs"] == {"note": "x"}
    assert (count_dead_letters(broker_client), broker_client.llen(QUEUE)) == (0, 0)


def test_requeue_refuses_what_no_worker_can_read(broker_client: Any) -> None:
    dead(broker_client, GARBAGE)
    with DeadLetters() as letters:
        (letter,) = letters
        with pytest.raises(RequeueFailed, match="stays a dead letter"):
            letters.requeue(letter, by="somebody", why="")
    assert (count_dead_letters(broker_client), Parked.objects.count()) == (1, 0)


def test_dead_letters_several_people_decide_once(broker_client: Any) -> None:
    dead(broker_client, message())
    with DeadLetters() as letters:
        (letter,) = letters

    def act() -> bool:
        try:
            with DeadLetters() as own:
                return own.requeue(letter, by="somebody", why="")
        finally:
            connections.close_all()

    assert sorted(together([act] * 6, threads=6)) == [False] * 5 + [True]
    assert (broker_client.llen(QUEUE), Parked.objects.count()) == (1, 1)


@pytest.mark.parametrize("act", ["requeue", "discard"])
def test_refusal_of_redis_leaves_it_where_it_is(broker_client: Any, act: str) -> None:
    dead(broker_client, message())
    broker_client.config_set("min-replicas-to-write", "1")
    try:
        with DeadLetters() as letters:
            (letter,) = letters
            with pytest.raises(EnvironmentNotReady, match=r"NoReplicas|NOREPLICAS|ResponseError"):
                getattr(letters, act)(letter, by="somebody", why="")
    finally:
        broker_client.config_set("min-replicas-to-write", "0")
    assert (count_dead_letters(broker_client), broker_client.llen(QUEUE), Parked.objects.count()) == (1, 0, 0)


def test_find_by_token_task_id_or_its_beginning(broker_client: Any) -> None:
    tokens = [dead(broker_client, message(task_id), at=at + 1) for at, task_id in enumerate(("ab", "abc", "abd"))]
    with DeadLetters() as letters:
        for text, found in (
            (tokens[1], ["abc"]),
            ("ab", ["ab"]),
            ("abd", ["abd"]),
            ("a", ["abd", "abc", "ab"]),
            ("x", []),
        ):
            assert [letter.task_id for letter in letters.find(text)] == found, text


def test_masked_values_are_not_shown(broker_client: Any, settings: Settings) -> None:
    settings.TASKS_DEMO_MASKED = ["password"]
    dead(broker_client, message(password="swordfish", other=1))
    with DeadLetters() as letters:
        said = parts(next(iter(letters)))
    assert "swordfish" not in str(said)
    assert "'other': 1" in said["kwargs"]


def test_broker_that_is_not_redis_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(current_app.conf, "broker_read_url", "memory://")
    with DeadLetters() as letters:
        assert (letters.count(), list(letters), letters.find("x")) == (0, [], [])

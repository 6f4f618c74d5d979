"""What no worker can run: kept, listed, requeued, discarded; and the worker goes on."""

from __future__ import annotations

import json

import pytest

from tasks_demo.transport import (
    count_dead_letters,
    discard_dead_letter,
    list_dead_letters,
    list_held,
    requeue_dead_letter,
)
from tests.integration.transport.plain_workers import Environment, environment, template
from tests.support import until

__all__ = ["environment", "template"]
pytestmark = pytest.mark.timeout(120)
DEEP = b"[" * 100_000
GARBAGE = {
    b"garbage": "JSONDecodeError",
    b"[1,2]": "list",
    b"{}": "no properties",
    b"\0\0": "JSONDecodeError",
    b"\xff\xfe": "UnicodeDecodeError",
    b'"': "JSONDecodeError",
    b'x,"","q"': "JSONDecodeError",
    DEEP: "Recursion",
    b'{"properties":{}}': "delivery_info",
    b'{"properties":{"delivery_info":{},"body_encoding":"base64"},"body":"%%%1"}': "base64",
    b'{"properties":{"delivery_info":{},"body_encoding":"none"},"body":"x"}': "decode",
    b'{"properties":{"delivery_info":{}},"headers":[1]}': "headers",
}


def test_garbage_becomes_a_dead_letter_and_the_worker_goes_on(environment: Environment) -> None:
    worker = environment.worker("-c", "1", prefetch=4)
    environment.redis.lpush("celery", *GARBAGE)
    environment.publish("note", "after")
    until(lambda: environment.count("ran")["after"] == 1 and environment.nowhere, "the job behind the garbage")
    letters = list_dead_letters(environment.redis)
    assert {letter.raw for letter in letters} == GARBAGE.keys()
    for letter in letters:
        assert GARBAGE[letter.raw] in letter.reason
        assert (letter.queue, letter.is_message, letter.task, letter.task_id) == ("celery", False, "", "")
    assert worker.said.count("was moved to the dead letters") == len(GARBAGE)
    # Deciding twice does nothing.
    assert [discard_dead_letter(environment.redis, letter.token) for letter in letters * 2] == [True] * 12 + [
        False
    ] * 12
    assert count_dead_letters(environment.redis) == 0


def test_overdue_record_that_cannot_be_read_stays_and_the_worker_goes_on(environment: Environment) -> None:
    records = {"one": b"x", "two": b"[1]", "three": b"{}", "four": b'[[], "", "celery"]', "five": b"\xff", "six": DEEP}
    environment.redis.hset("unacked", mapping=records)
    environment.redis.zadd("unacked_index", dict.fromkeys(records, 1))
    worker = environment.worker(unacked_restore_interval=0.2, unacked_restore_throttle=1)
    environment.publish("note", "after")
    until(lambda: environment.count("ran")["after"] == 1, "the job beside the garbage")
    until(lambda: environment.redis.zcard("unacked_index") == 0, "nobody looks for them again")
    until(lambda: worker.said.count("cannot be restored") >= len(records), "the last of them is said, after it is done")
    assert worker.said.count("cannot be restored") == len(records), worker.said
    assert environment.redis.hgetall("unacked") == {name.encode(): record for name, record in records.items()}


def test_garbage_of_a_killed_worker_becomes_a_dead_letter(environment: Environment) -> None:
    victim = environment.worker(hold="claimed", prefetch=4)
    environment.redis.lpush("celery", b"garbage", b'x,"","q"')
    until(lambda: environment.books.llen("holding"), "the victim")
    victim.kill()
    environment.worker()
    until(lambda: count_dead_letters(environment.redis) == 2, "the dead letters")
    assert {letter.raw for letter in list_dead_letters(environment.redis)} == {b"garbage", b'x,"","q"'}
    assert environment.nowhere


def test_message_whose_consumers_die_becomes_a_dead_letter_at_the_limit(environment: Environment) -> None:
    environment.publish("note", "a")
    for death in (1, 2):
        victim = environment.worker(hold="fetched", delivery_limit=2)
        until(lambda n=death: environment.books.llen("holding") == n, "the victim holds it")  # type: ignore[misc]
        (held,) = list_held(environment.redis, environment.owners()[victim.pid].name)
        assert (held.queue, held.task, held.died) == ("celery", "note", death - 1)
        victim.kill()
    environment.worker(delivery_limit=2)
    until(lambda: count_dead_letters(environment.redis) == 1, "the dead letter")
    (letter,) = list_dead_letters(environment.redis)
    assert letter.reason == "its worker died 2 times, and delivery_limit is 2"
    assert (letter.queue, letter.is_message, letter.task) == ("celery", True, "note")
    assert json.loads(letter.raw)["headers"]["id"] == letter.task_id
    assert environment.count("ran") == {}
    # A person decides to run it again: its deliveries are counted anew.
    assert requeue_dead_letter(environment.redis, letter.token)
    assert not requeue_dead_letter(environment.redis, letter.token)
    until(lambda: environment.count("ran") == {"a": 1} and environment.nowhere, "the job")
    assert count_dead_letters(environment.redis) == 0

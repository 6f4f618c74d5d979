"""The hostile messages, and which jobs they come before."""

from __future__ import annotations

import json

import pytest

from tasks_demo.lab.plan.cells import plan
from tasks_demo.lab.plan.faults import Fault
from tasks_demo.lab.plan.hostile import DEEP, HUGE, KINDS, HostileMessage, hostile_message

GOOD = {"customer": "c", "amount": 1999}


def message(kind: str) -> HostileMessage:
    return hostile_message(kind, "shop.charge", "1", GOOD)


def test_hostile_messages_are_ten_different_ones() -> None:
    assert len({message(kind).body + str(message(kind)).encode()[:400] for kind in KINDS}) == len(KINDS) == 10
    with pytest.raises(ValueError, match="unknown kind"):
        message("kind")


def test_hostile_messages_are_what_their_names_say() -> None:
    with pytest.raises(ValueError, match="decode"):
        json.loads(message("non-json").body)
    assert [message(kind).body for kind in ("list", "object")] == [b"[]", b"{}"]
    assert message("no-headers").headers == {}
    assert message("content-type").content_type != "application/json"
    assert message("deep").body.count(b"[") == DEEP == 10_000
    assert len(message("huge").body) > HUGE == 50 * 2**20
    assert message("unknown-task").headers["task"] != "shop.charge"
    assert json.loads(message("arity").body)[0] == list(range(20))
    assert json.loads(message("same-id").body)[1] == {**GOOD, "amount": 2000}


@pytest.mark.parametrize(("tasks", "kills", "put"), [(1000, 10, 10), (3, 3, 2), (1, 1, 0)])
def test_hostile_messages_come_after_a_good_job(tasks: int, kills: int, put: int) -> None:
    [cell] = plan(
        patterns=["acks_late"], faults=[Fault.HOSTILE], points=[], brokers=["redis"], seed=1, tasks=tasks, kills=kills,
        work_ms=0,
    )  # fmt: skip
    assert (len(cell.victims), 0 in cell.victims) == (put, False)

"""The options of an experiment: each has an effect or is rejected with a message."""

from __future__ import annotations

from typing import Any

import pytest

from tasks_demo.lab.plan.cells import MOST_TASKS, Cell
from tasks_demo.lab.plan.disturbed_requests import why_never
from tasks_demo.lab.plan.faults import Fault
from tasks_demo.lab.plan.options import FAULTS, PATTERNS, POINTS, OptionRefused, cells_for
from tasks_demo.lab.plan.project_task import Call, ProjectTask

NOTHING = dict.fromkeys(("pattern", "fault", "point", "tasks", "kills", "work", "clicks"))


def asked(**options: Any) -> tuple[list[Cell], list[str]]:
    given = {name: value.split() if isinstance(value, str) else value for name, value in options.items()}
    return cells_for({**NOTHING, "keyless": False, **given}, seed=1)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"pattern": "inbox", "fault": "lost-response"}, "Nothing to run: the job of inbox calls no bank"),
        ({"pattern": "inbox acks_late", "fault": "lost-response"}, "--pattern inbox would do nothing here"),
        ({"pattern": "inbox", "fault": "none lost-response"}, "--fault lost-response would do nothing here"),
        ({"fault": "none", "point": "started"}, "--point started would do nothing here: none cannot be injected at a point"),
        ({"fault": "slow double-publish", "point": "all"}, "--point would do nothing here: slow cannot be injected"),
        ({"fault": "publisher-crash", "point": "mixed"}, "publisher-crash cannot be injected at a point"),
        ({"pattern": "acks_late", "point": "claimed"}, "Nothing to run: a job of acks_late never reaches claimed"),
        ({"pattern": "acks_late inbox", "point": "completed"}, "--pattern acks_late would do nothing here"),
        ({"pattern": "acks_late outbox", "point": "claimed started"}, "--point claimed would do nothing here"),
        ({"fault": "kill-child", "point": "fetched"}, "at fetched no pool process has the job, so kill-child"),
        ({"fault": "kill-child kill-main", "point": "acked"}, "--fault kill-child would do nothing here"),
        ({"pattern": "all inbox"}, "--pattern all includes everything: leave inbox out"),
        ({"fault": "none all term"}, "--fault all includes everything: leave none, term out"),
        ({"point": "all started"}, "--point all includes everything: leave started out"),
        ({"pattern": "acks_late", "keyless": True}, "--keyless would do nothing here: only the jobs of dedup_lock"),
        ({"pattern": "inbox outbox", "fault": "all", "keyless": True}, "--keyless would do nothing here"),
        ({"fault": "none", "kills": 3}, "--kills would do nothing here: the fault none has no victims"),
        ({"fault": "broker-kill"}, "broker-kill would do nothing on redis: on Redis it matters whether"),
        ({"fault": "broker-kill-off", "broker": "rabbitmq"}, "on rabbitmq: it is a fault of Redis: write broker-kill."),
        ({"fault": "broker-full", "broker": "rabbitmq"}, "broker-full would do nothing on rabbitmq: it is a fault of Redis."),
        ({"fault": "broker-kill-off", "tasks": 2}, "broker-kill-off happens while jobs are queued: it takes 3 or more"),
        ({"kills": 101}, "--kills 101 is more than --tasks 100"),
    ],
    ids=str,
)  # fmt: skip
def test_options_that_would_do_nothing_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(OptionRefused) as refused:
        asked(**options)
    assert said in str(refused.value)


def test_options_refuse_more_calls_than_a_cell_may_have() -> None:
    task = ProjectTask(
        "shop.charge", "at-least-once", early=False, file="orders.jsonl", calls=(Call(),) * (MOST_TASKS + 1)
    )
    with pytest.raises(
        OptionRefused, match=r"orders\.jsonl has 1,000,001 lines, more than 1,000,000: limit them with --tasks"
    ):
        cells_for({**NOTHING, "keyless": False, "fault": ["none"]}, 1, task)
    (cell,), _ = cells_for({**NOTHING, "keyless": False, "fault": ["none"], "tasks": 5}, 1, task)
    assert cell.tasks == 5


def test_options_name_what_does_not_go_together() -> None:
    cells, left_out = asked(
        pattern="acks_late claim_first", fault="kill-child kill-main", point="claimed started fetched"
    )
    assert len(cells) == 8
    assert left_out == [
        "Left out: a job of acks_late never reaches claimed.",
        "Left out: at fetched no pool process has the job, so kill-child cannot be injected there.",
    ]


#: The inbox job calls no bank, the others commit no effect, and some claim nothing.
NEVER = [(name, fault) for name in PATTERNS for fault in FAULTS if why_never(name, Fault(fault))]


@pytest.mark.parametrize(
    ("options", "cells"),
    [
        ({}, len(PATTERNS) * 3),
        ({"pattern": "all", "fault": "all"}, len(PATTERNS) * (len(FAULTS) - 1) - len(NEVER)),
        ({"pattern": "all", "fault": "broker-kill", "broker": "redis rabbitmq"}, len(PATTERNS)),
        ({"point": "started"}, len(PATTERNS) * 2),
        ({"pattern": "acks_late", "fault": "none kill-main", "point": "started"}, 2),
        ({"pattern": "acks_late acks_late"}, 3),
        ({"pattern": "acks_late", "fault": "kill-main", "point": "all mixed"}, 9),
        ({"keyless": True, "kills": 5}, len(PATTERNS) * 3),
    ],
    ids=str,
)
def test_options_all_means_everything_possible(options: dict[str, Any], cells: int) -> None:
    found, left_out = asked(**options)
    assert (len(found), left_out) == (cells, [])
    assert all(cell.keyless == (bool(options.get("keyless")) and cell.pattern == "dedup_lock") for cell in found)


def test_options_accept_every_point() -> None:
    assert all(asked(point=point)[0] for point in POINTS)

"""A task of the project in a plan: its calls, its points, and what broke its promise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tasks_demo.lab.plan.cells import Cell, plan
from tasks_demo.lab.plan.faults import Fault
from tasks_demo.lab.plan.project_task import BadCalls, Call, ProjectTask, read_calls
from tasks_demo.lab.plan.project_task_advice import advice, predict_project_task


def own(**given: Any) -> ProjectTask:
    return ProjectTask(**{"name": "shop.charge", "semantics": "at-least-once", "early": False, **given})


def cell(task: ProjectTask, fault: Fault, point: str = "") -> Cell:
    return Cell(task.name, fault, point, "redis", 1, 4, 0, project_task=task)


def test_calls_are_read_in_their_three_forms(tmp_path: Path) -> None:
    lines = [
        ["a", 1],
        {"order": "b"},
        {"args": ["c"], "kwargs": {"cents": 2}},
        {"args": []},
        {},
        {"args": 1, "other": 2},
    ]
    path = tmp_path / "calls.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)) + "\n", encoding="utf-8")
    calls, _ = read_calls(path)
    assert calls == (
        Call(["a", 1]), Call([], {"order": "b"}), Call(["c"], {"cents": 2}), Call(), Call(), Call([], {"args": 1, "other": 2}),
    )  # fmt: skip


def test_calls_are_read_as_editors_write_them(tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl"
    path.write_bytes('\ufeff["a"]\r\n\r\n["b\u2028\u0085\x7f"]\n \n["c"]'.encode())
    calls, _ = read_calls(path)
    assert calls == (Call(["a"]), Call(["b\u2028\x85\x7f"]), Call(["c"]))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('["a"]\n\nnonsense\n', "line 3: Expecting value at its character 1. Write"),
        ('["a"], ["b"]\n', "line 1: Extra data at its character 6. Write"),
        ("[\n  [1],\n  [2]\n]\n", r"line 1: .* a line of its own for each job, as `jq -c '\.\[\]'` writes it"),
        ("3\n", "line 1: it is int, and no call"),
        ('{"args": {}, "kwargs": {}}\n', "line 1: args is an array and kwargs an object"),
        ("[" * 100_000, "line 1: "),
        ("", "has no line"),
        ("\ufeff\r\n\n", "has no line"),
        ("\udcff", "is not UTF-8"),
    ],
    ids=lambda value: ascii(value)[:30],
)
def test_calls_name_a_bad_line(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "calls.jsonl"
    path.write_text(text, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(BadCalls, match=said):
        read_calls(path)


def test_plan_of_a_task_is_read_back_and_refuses_another_file(tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl"
    path.write_text('["a"]\n["b"]\n', encoding="utf-8")
    calls, digest = read_calls(path)
    (made,) = plan(
        patterns=["shop.charge"], faults=[Fault.KILL_MAIN], points=["acking"], brokers=["redis"], seed=1, tasks=2, kills=1,
        work_ms=0, project_task=own(file=str(path), digest=digest, calls=calls),
    )  # fmt: skip
    assert Cell.from_dict(json.loads(json.dumps(made.as_dict()))) == made
    assert made.project_task is not None
    assert "calls" not in made.as_dict()["own"]
    path.write_text('["a"]\n["c"]\n', encoding="utf-8")
    with pytest.raises(ValueError, match="no longer the file"):
        Cell.from_dict(made.as_dict())


@pytest.mark.parametrize(
    ("pattern", "points"),
    [
        ("", "fetched received started returned acking acked"),
        ("claim_first", "fetched received claimed started returned acking acked"),
        ("dedup_lock", "fetched received claimed started completed returned acking acked"),
        ("inbox", "fetched received started completed returned acking acked"),
    ],
)
def test_points_are_those_that_the_task_passes(pattern: str, points: str) -> None:
    assert " ".join(own(pattern=pattern).points) == points


def test_cell_of_a_project_task_that_is_impossible_is_refused() -> None:
    made = cell(own(), Fault.KILL_MAIN, "claimed").as_dict() | {"victims": {"0": "claimed"}}
    with pytest.raises(ValueError, match="never reaches"):
        Cell.from_dict(made)
    with pytest.raises(ValueError, match="lost-response cannot happen"):
        Cell.from_dict(made | {"fault": "lost-response", "victims": {}})


@pytest.mark.parametrize(
    ("task", "fault", "point", "seen", "said"),
    [
        (own(settings={"acks_late": True}), Fault.KILL_CHILD, "", "lost", "reject_on_worker_lost"),
        (own(early=True), Fault.KILL_CHILD, "", "lost", "acks_late is off"),
        (own(), Fault.KILL_MAIN, "fetched", "lost", "outbox"),
        (own(semantics="effectively-once"), Fault.KILL_MAIN, "", "duplicated", "DedupLock or Inbox"),
        (own(semantics="at-most-once", early=True), Fault.KILL_MAIN, "acking", "duplicated", "ClaimFirst"),
        (own(semantics="effectively-once"), Fault.STOP, "", "duplicated", "visibility timeout"),
        (own(), Fault.BLACK_HOLE, "fetched", "lost", "reliable+redis://"),
        (own(early=True), Fault.CUT, "", "lost", "reliable+redis://"),
        (own(semantics="effectively-once"), Fault.CUT, "", "duplicated", "DedupLock or Inbox recognise"),
        (own(semantics="at-most-once", early=True), Fault.BLACK_HOLE, "", "duplicated", "ClaimFirst refuses it"),
        (own(early=True), Fault.OUT_OF_MEMORY, "", "lost", "acks_late is off"),
        (own(semantics="effectively-once"), Fault.OUT_OF_MEMORY, "", "duplicated", "DedupLock or Inbox"),
        (own(semantics="effectively-once"), Fault.CLOCK_JUMP, "", "duplicated", "reads the clock of a worker"),
        (own(), Fault.BROKER_KILL_OFF, "", "lost", "no append-only file"),
        (own(), Fault.BROKER_FLUSH, "", "lost", "FLUSHALL"),
        (own(), Fault.BROKER_FULL, "", "lost", "reliable+redis://"),
        (own(semantics="effectively-once"), Fault.BROKER_FULL, "", "duplicated", "DedupLock or Inbox recognise"),
        (
            own(semantics="at-most-once", early=True),
            Fault.CLOCK_JUMP,
            "acking",
            "duplicated",
            "reads the clock of a worker",
        ),
    ],
    ids=lambda value: str(value)[:20],
)
def test_advice_names_what_broke_the_promise(task: ProjectTask, fault: Fault, point: str, seen: str, said: str) -> None:
    (sentence,) = advice(cell(task, fault, point), {seen})
    assert said in sentence


def test_advice_is_silent_about_what_the_promise_allows() -> None:
    assert advice(cell(own(early=True), Fault.CLOCK_JUMP), {"lost"}) == [], "nobody died"
    assert advice(cell(own(), Fault.KILL_MAIN), {"duplicated"}) == []
    assert advice(cell(own(semantics="at-most-once", early=True), Fault.KILL_MAIN), {"lost"}) == []
    rejects = own(settings={"reject_on_worker_lost": True})
    assert advice(cell(rejects, Fault.KILL_CHILD), {"lost"}, "ValueError: no") == [
        "Bodies failed, and a job that fails is not done: ValueError: no"
    ]


def test_prediction_says_why_it_is_held_to_that() -> None:
    assert "Celery ships it" in predict_project_task(own(semantics="at-most-once", early=True)).why
    assert "acks_late=True" in predict_project_task(own()).why
    assert "pattern inbox" in predict_project_task(own(pattern="inbox", semantics="effectively-once")).why
    assert "--promise" in predict_project_task(own(promise_given=True)).why

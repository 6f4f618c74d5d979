"""Learn: recordings, the answers that are drawn from them, and the page as HTML."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command

from tasks_demo.core.points import Point
from tasks_demo.core.semantics import PROMISES
from tasks_demo.lab.learn.content import SPEED, content, why
from tasks_demo.lab.learn.recording import OTHER_FAULTS, Case, Recording, cases_of, others_of, read, write
from tasks_demo.lab.learn.screen import as_file, body
from tasks_demo.lab.plan.outcomes import DUPLICATED, LOST
from tasks_demo.lab.plan.predictions import prediction
from tasks_demo.lab.verdict.history import HistoryEvent
from tests.support import PROJECT

CELL = ("acks_late", "kill-main", "effect_done", "redis")
CASES = pytest.mark.parametrize("case", read().cases, ids=lambda case: case.name)


def event(seq: int, kind: str, task_id: str = "t", *, cell: tuple[str, ...] = CELL, **fields: object) -> HistoryEvent:
    detail = fields.pop("detail", {})
    known = {"operation": task_id, "worker": "w1@cell", "pid": 1, **fields}
    return HistoryEvent(seq, 1000 + seq / 10, *cell, kind, task_id, detail=detail, **known)  # type: ignore[arg-type]


KILL = {"landed": True, "victim": "main", "point": "effect_done", "main_pid": 1}


def test_case_of_a_cell_is_its_victim_alone() -> None:
    (case,) = cases_of(
        [
            event(1, "received"), event(2, "published"), event(3, "received", "other"), event(4, "started"),
            event(5, "effect", "", operation="t"), event(6, "fault", detail=KILL), event(7, "effect", "other"),
        ]
    )  # fmt: skip
    assert [moment.kind for moment in case.moments] == ["published", "received", "started", "effect", "fault"]
    assert (case.name, case.executions, case.effects) == ("acks_late-effect_done", 1, 1)
    assert case.moments[1].after_ms == 0
    assert case.moments[1].worker == "w1"


def test_cell_whose_kill_missed_or_with_another_fault_is_not_a_case() -> None:
    missed = event(1, "fault", detail={**KILL, "landed": False})
    child = event(2, "fault", cell=("acks_late", "kill-child", "started", "redis"), detail=KILL)
    assert cases_of([missed, child]) == []


def test_recording_is_read_as_it_was_written(tmp_path: Path) -> None:
    file = tmp_path / "recorded.json.gz"
    for _ in range(2):
        write(read(), file)
    first = file.read_bytes()
    assert read(file) == read()
    write(read(file), file)
    assert file.read_bytes() == first


def test_recording_has_a_kill_of_every_pattern_at_every_point_of_a_delivery() -> None:
    always = {"fetched", "received", "started", "effect_begun", "effect_done", "returned", "acking", "acked"}
    for pattern in PROMISES:
        points = {case.point for case in read().cases if case.pattern == pattern}
        assert always <= points <= set(map(str, Point)), pattern


@CASES
def test_recording_is_what_the_lab_predicts(case: Case) -> None:
    seen = {name for name, is_seen in ((LOST, case.effects == 0), (DUPLICATED, case.effects > 1)) if is_seen}
    predicted = prediction(case.pattern, case.fault, case.point)
    assert predicted.required <= seen
    assert not predicted.excluded & seen
    assert sum(moment.injected for moment in case.moments) == 1


@CASES
def test_explanation_agrees_with_the_count(case: Case) -> None:
    said = why(case)
    assert ("nobody has it" in said or "nobody delivers it" in said or "stopped" in said) or case.effects
    assert ("charged again" in said) == (case.effects > 1)


OTHERS = pytest.mark.parametrize("case", read().others, ids=lambda case: case.name)


@OTHERS
def test_recording_of_other_faults_keeps_the_promises_that_the_lab_predicts(case: Case) -> None:
    lost = case.effects == 0 and not case.parked
    seen = {name for name, is_seen in ((LOST, lost), (DUPLICATED, case.effects > 1)) if is_seen}
    assert not prediction(case.pattern, case.fault, "").excluded & seen
    assert sum(moment.injected for moment in case.moments) == (
        3 if "quarantined" in {m.kind for m in case.moments} else 1
    )


@OTHERS
def test_explanation_of_another_fault_agrees_with_the_count(case: Case) -> None:
    said = why(case)
    assert ("charged again" in said) == (case.effects > 1)
    assert ("parked" in said or "nobody delivers it" in said) or case.effects


def test_recording_of_other_faults_has_a_pool_kill_a_lost_answer_and_a_poisonous_message() -> None:
    assert {case.fault for case in read().others} == set(OTHER_FAULTS)
    html = body()
    assert "--fault kill-child lost-response poison" in html
    assert all(f'href="#case-{case.name}"' in html for case in read().others)


def test_case_of_another_fault_is_a_job_that_was_hit_after_its_effect() -> None:
    cell = ("acks_late", "kill-child", "", "redis")
    hit = {**KILL, "victim": "child"}
    (case,) = others_of(
        [
            event(1, "started", "a", cell=cell), event(2, "fault", "a", cell=cell, detail={**hit, "point": "started"}),
            event(3, "effect", "b", cell=cell), event(4, "fault", "b", cell=cell, detail=hit),
            event(5, "fault", "c", cell=cell, detail={**hit, "landed": False}), event(6, "fault", "d", detail=KILL),
        ]
    )  # fmt: skip
    assert (case.name, case.point, case.effects) == ("acks_late-kill-child", "effect_done", 1)


def test_counters_of_the_last_step_are_those_of_the_case() -> None:
    for lesson in content(read()).lessons:
        last = lesson.steps[-1]
        assert (last.executions, last.effects) == (lesson.case.executions, lesson.case.effects)
        assert [step.number for step in lesson.steps] == list(range(1, len(lesson.case.moments) + 1))
        assert not lesson.drawing.truncated


def test_lesson_says_that_a_kept_promise_allows_a_lost_or_a_second_charge() -> None:
    said = {lesson.case.name: lesson.verdict for lesson in content(read()).lessons}
    assert said["acks_late-effect_done"] == "And still acks_late kept its promise: at-least-once allows that."
    assert said["acks_early-started"] == "And still acks_early kept its promise: at-most-once allows that."
    assert said["acks_late-fetched"] == "The promise was broken."
    assert {said["dedup_lock-effect_done"], said["acks_late-poison"]} == {"The promise was kept."}


def test_learn_quiz_has_ten_questions_with_different_answers() -> None:
    quiz = content(read()).quiz
    assert [question.number for question in quiz] == list(range(1, 11))
    assert {question.lesson.case.effects for question in quiz} == {0, 1, 2}
    assert {question.lesson.case.fault for question in quiz} == {"kill-main", *OTHER_FAULTS}


def test_learn_page_names_seed_and_versions_and_has_nothing_inline() -> None:
    html = body()
    assert not re.search(r"<[^>]+\s(style|on\w+)=", html)
    assert "<script" not in html
    assert "--seed 9" in html
    assert f"celery {read().versions['celery']}" in html


def test_learn_page_has_no_dead_link_and_no_id_twice() -> None:
    html = body()
    ids = re.findall(r'\sid="([^"]+)"', html)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]+)"', html)) <= set(ids)
    assert not re.search(r'href="(?!#)', html)


def test_learn_page_shows_hostile_text_of_a_recording_as_text() -> None:
    from django.template.loader import render_to_string

    bad = "<script>alert(1)</script>"
    case = cases_of([event(1, "received", worker=bad), event(2, "fault", detail={**KILL, "victim": bad})])[0]
    recording = Recording(bad, bad, {bad: bad}, (case,))
    assert "<script" not in render_to_string("admin/tasks_demo/learn_body.html", {"learn": content(recording)})


def test_learn_file_loads_nothing(tmp_path: Path) -> None:
    out = tmp_path / "learn.html"
    call_command("learn", out=out)
    html = out.read_text()
    assert html == as_file()
    assert not re.search(r"<link|<img|\ssrc=|url\(|@import", html)
    assert "{{" not in html


def test_learn_command_names_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=r"nowhere.*Nothing was written"):
        call_command("learn", out=tmp_path / "nowhere" / "learn.html")


def test_learn_command_refuses_to_record_an_invalid_result(tmp_path: Path) -> None:
    for text in ("", "[]", "{}", '{"cells": []}'):
        bad = tmp_path / "bad"
        bad.write_text(text)
        with pytest.raises(CommandError, match="Nothing was written"):
            call_command("learn", record=[bad, bad])


def test_costs_are_those_of_the_recording_and_of_the_documented_benchmark() -> None:
    found = {cost.pattern.name: cost for cost in content(read()).costs}
    for name, cost in found.items():
        effects = [case.effects for case in read().cases if case.pattern == name]
        assert (cost.kills, cost.lost, cost.twice) == (
            len(effects),
            effects.count(0),
            sum(each > 1 for each in effects),
        )
    text = (PROJECT / "docs/explanation/choosing.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)`[^|]*\|" + r"[^|]*\|" * 4 + r" ([\d.]+)[^|]*\| ([^|]+) \|", text, re.MULTILINE)
    assert {name: (throughput, latency) for name, throughput, latency in rows} == SPEED

"""The controls: each says what is wrong with it, and where that must be seen."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from celery import current_app

from tasks_demo.lab import controls
from tasks_demo.lab.plan.cells import Cell, dump_plan, points_of, promise_of
from tasks_demo.lab.plan.faults import Fault
from tasks_demo.lab.plan.options import PLANNING_OPTIONS, OptionRefused, cells_for, command_line
from tasks_demo.lab.plan.predictions import prediction

NOTHING: dict[str, Any] = dict.fromkeys((*PLANNING_OPTIONS, "broker"))
FOLDER = Path(controls.__file__).parent


def cells(**options: Any) -> list[Cell]:
    return cells_for({**NOTHING, **options}, seed=1)[0]


@pytest.mark.parametrize("name", controls.CONTROLS)
def test_control_must_be_seen_to_break_what_its_author_believes(name: str) -> None:
    found = controls.find(name)
    assert found is not None
    assert len(found.why) > 60
    assert any(exposure.shows for exposure in found.exposures)
    for exposure in found.exposures:
        fault = Fault(exposure.fault)
        assert not exposure.point or exposure.point in points_of(name, fault)
        assert bool(exposure.point) == fault.aimable
        count = {"lost": 0, "duplicated": 2}[exposure.shows]
        assert count not in found.believed.effects
        predicted = prediction(name, exposure.fault, exposure.point)
        assert (predicted.outcome, predicted.required) == ("broken", {exposure.shows})


@pytest.mark.parametrize("file", sorted(FOLDER.rglob("*.py")), ids=lambda path: path.stem)
def test_control_can_be_read_at_a_glance(file: Path) -> None:
    if file.stem not in ("__init__", "control"):
        assert len(file.read_text(encoding="utf-8").splitlines()) <= 40


def test_controls_are_not_tasks_of_a_project_that_does_not_ask_for_them() -> None:
    """Its system checks would refuse them."""
    assert len(controls.CONTROLS) == 9
    assert not [name for name in current_app.tasks if name.startswith("tasks_demo.lab.")]


def test_cells_of_the_controls_are_those_that_they_name() -> None:
    found = cells(control=["all"])
    assert [cell.pattern for cell in found] == controls.CONTROLS
    assert all(len(cell.victims) == 2 for cell in found)
    one = cells(control=["new_bank_key"], tasks=3, kills=1)
    assert [(cell.fault, cell.point, cell.tasks, len(cell.victims)) for cell in one] == [
        (Fault.KILL_CHILD, "effect_done", 3, 1)
    ]
    assert [Cell.from_dict(cell) for cell in json.loads(dump_plan(found, 1))["plan"]] == found


@pytest.mark.parametrize("option", ["pattern", "fault", "point", "clicks", "keyless"])
def test_controls_refuse_options_that_would_do_nothing(option: str) -> None:
    with pytest.raises(OptionRefused, match=f"--{option} would do nothing here"):
        cells(control=["all"], **{option: ["x"]})


@pytest.mark.skipif(find_spec("celery_once") is not None, reason="celery-once is installed here")
def test_library_that_is_not_installed_is_named() -> None:
    with pytest.raises(OptionRefused, match=r"celery_once is not installed: pip install -r requirements-rivals.txt"):
        cells(rival=["celery_once"])


def test_library_that_is_celery_itself_needs_nothing() -> None:
    found = cells(rival=["celery_deduplication"])
    assert len({cell.name for cell in found}) == len(found) == 4
    assert len({cell.pattern for cell in found}) == 1
    assert promise_of("celery_deduplication").effects.most == 1


def test_command_line_repeats_the_plan() -> None:
    said = command_line({**NOTHING, "control": ["all"], "tasks": 4, "work": 0, "broker": "redis://:secret@host"}, 0)
    assert said == "python manage.py experiment --control all --tasks 4 --work 0 --seed 0 --broker redis"

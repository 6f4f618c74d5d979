"""What may be chosen on the page of a new experiment, and which command follows."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.http import QueryDict

from tasks_demo.lab.management.commands.experiment import Command
from tasks_demo.lab.plan.options import PATTERNS
from tasks_demo.lab.screens.choices import MOST_CELLS, Choices

USUAL: dict[str, Any] = {"pattern": ["acks_late", "dedup_lock"], "fault": ["kill-child"], "tasks": "20", "seed": "7"}


def chosen(**changes: Any) -> Choices:
    data = QueryDict(mutable=True)
    for name, value in {**USUAL, **changes}.items():
        data.setlist(name, value if isinstance(value, list) else [value])
    return Choices(data)


@pytest.mark.parametrize("point", [[], ["effect_done", "started"], ["mixed"]], ids=str)
def test_choices_make_the_plan_that_the_command_prints(point: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    form = chosen(point=point)
    assert form.is_valid(), form.errors
    with pytest.raises(SystemExit) as left:
        Command().run_from_argv(["manage.py", *form.arguments(), "--plan"])
    assert left.value.code == 0
    assert json.loads(capsys.readouterr().out) == json.loads(form.plan)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"pattern": []}, "required"),
        ({"pattern": ["acks_late; rm"]}, "not one of the available choices"),
        ({"pattern": ["--json=/etc/passwd"]}, "not one of the available choices"),
        ({"pattern": ["all"]}, "not one of the available choices"),
        ({"fault": ["kill-everything"]}, "not one of the available choices"),
        ({"fault": []}, "required"),
        ({"point": ["nowhere\0"]}, "not one of the available choices"),
        ({"point": ["nowhere"]}, "not one of the available choices"),
        ({"point": ["claimed"], "pattern": ["acks_late"]}, "Nothing to run"),
        ({"tasks": "0"}, "greater than or equal to 1"),
        ({"tasks": "501"}, "less than or equal to 500"),
        ({"tasks": "1e2"}, "whole number"),
        ({"tasks": ""}, "required"),
        ({"seed": "-1"}, "greater than or equal to 0"),
        ({"seed": str(2**63)}, "less than or equal to"),
        (
            {
                "pattern": PATTERNS,
                "fault": ["kill-main", "kill-group"],
                "point": ["started", "returned"],
                "tasks": "500",
            },
            "minutes",
        ),
    ],
    ids=lambda value: ascii(value)[:50],
)
def test_choices_refuse_what_is_out_of_bounds_with_a_sentence(changes: dict[str, Any], said: str) -> None:
    form = chosen(**changes)
    assert not form.is_valid()
    assert said in str(form.errors)


def test_too_many_cells_are_refused() -> None:
    faults = ["kill-child", "kill-main", "kill-group", "quit"]
    points = ["fetched", "received", "started", "effect_begun", "effect_done", "returned", "acking", "acked"]
    form = chosen(pattern=PATTERNS, fault=faults, point=points, tasks="1")
    assert not form.is_valid()
    assert f"this page runs at most {MOST_CELLS}" in str(form.errors)


def test_choices_draw_a_seed_that_repeats_the_plan() -> None:
    form = chosen(seed="")
    assert form.is_valid(), form.errors
    again = chosen(seed=str(form.cleaned_data["seed"]))
    assert again.is_valid()
    assert again.plan == form.plan


def test_choices_pass_only_the_named_fields_to_the_command() -> None:
    form = chosen(run="x", json="/tmp/x", broker="redis://evil", command="sh", kills="7")
    assert form.is_valid()
    assert form.command() == (
        "python manage.py experiment --pattern acks_late dedup_lock --fault kill-child --tasks 20 --seed 7"
    )

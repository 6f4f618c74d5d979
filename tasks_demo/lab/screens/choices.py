"""What a person may choose for an experiment, with bounds, and the plan and the command that follow from it."""

from __future__ import annotations

import random
import shlex
from typing import Any

from django import forms

from tasks_demo.lab.plan import options as plan_options
from tasks_demo.lab.plan.cells import LANES, MIXED, Cell, dump_plan
from tasks_demo.lab.plan.faults import Fault
from tasks_demo.lab.plan.timing import expected_seconds, planned_faults

#: Bounds of what the page starts. The command has wider ones.
MOST_TASKS, MOST_CELLS, MOST_SECONDS = 500, 60, 240
MOST_SEED = 2**63 - 1
DEFAULT_PATTERNS = ("acks_early", "acks_late", "dedup_lock")


def _named(values: list[str]) -> list[tuple[str, str]]:
    return [(value, value) for value in values]


class Choices(forms.Form):
    """The form. Valid: ``cells``, ``left_out`` and ``seconds`` hold the plan; ``arguments()`` the command that runs it."""

    pattern = forms.MultipleChoiceField(
        choices=_named(plan_options.PATTERNS),
        widget=forms.CheckboxSelectMultiple,
        initial=DEFAULT_PATTERNS,
        label="Patterns",
    )
    fault = forms.MultipleChoiceField(
        choices=[(name, f"{name}: {Fault(name).description}") for name in plan_options.FAULTS],
        widget=forms.CheckboxSelectMultiple,
        initial=plan_options.DEFAULT_FAULTS,
        label="Faults",
    )
    point = forms.MultipleChoiceField(
        choices=_named([*plan_options.POINTS, MIXED]),
        widget=forms.CheckboxSelectMultiple,
        required=False,
        label="Points",
        help_text="None: half of the victims before their effect, half after it. mixed: all points in one cell.",
    )
    tasks = forms.IntegerField(
        min_value=1,
        max_value=MOST_TASKS,
        initial=50,
        label="Jobs of each cell",
        help_text=f"1 to {MOST_TASKS}. A tenth of them are victims.",
    )
    seed = forms.IntegerField(
        min_value=0,
        max_value=MOST_SEED,
        required=False,
        label="Seed",
        help_text="Empty: a random one, shown in the plan.",
    )

    cells: list[Cell]
    left_out: list[str]
    seconds: float = 0.0

    def clean(self) -> dict[str, Any]:
        found: dict[str, Any] = super().clean() or {}
        if self.errors:
            return found
        if found["seed"] is None:
            found["seed"] = random.SystemRandom().randrange(2**32)
        unset = dict.fromkeys(("kills", "work", "clicks"), None)
        options = {**unset, "keyless": False, **found, "point": found["point"] or None}
        try:
            self.cells, self.left_out = plan_options.cells_for(options, found["seed"])
        except plan_options.OptionRefused as error:
            raise forms.ValidationError(str(error)) from error
        self.seconds = expected_seconds(self.cells, LANES)
        if len(self.cells) > MOST_CELLS:
            raise forms.ValidationError(
                f"That makes {len(self.cells)} cells; this page runs at most {MOST_CELLS}. Choose less."
            )
        if self.seconds > MOST_SECONDS:
            raise forms.ValidationError(
                f"That would take about {self.seconds / 60:.0f} minutes; this page runs at most {MOST_SECONDS // 60}. "
                "Choose fewer jobs, patterns or faults, or use the command."
            )
        return found

    @property
    def jobs(self) -> int:
        """The number of jobs in all cells."""
        return sum(cell.tasks for cell in self.cells)

    @property
    def faults(self) -> int:
        """The number of faults that the plan injects."""
        return sum(map(planned_faults, self.cells))

    @property
    def plan(self) -> str:
        """The plan as ``experiment --plan`` prints it."""
        return dump_plan(self.cells, self.cleaned_data["seed"])

    def arguments(self) -> list[str]:
        """Return the arguments of ``manage.py`` that run this plan: names of ours, and numbers."""
        chosen = self.cleaned_data
        found = ["experiment", "--pattern", *chosen["pattern"], "--fault", *chosen["fault"]]
        if chosen["point"]:
            found += ["--point", *chosen["point"]]
        return [*found, "--tasks", str(chosen["tasks"]), "--seed", str(chosen["seed"])]

    def command(self) -> str:
        """Return the command for a terminal."""
        return shlex.join(["python", "manage.py", *self.arguments()])

"""The filters beside the list. A value that is not among the choices is applied as it is or matches nothing; it is no error."""

from __future__ import annotations

from typing import Any

from django.contrib.admin import ModelAdmin, SimpleListFilter
from django.http import HttpRequest

from tasks_demo.core.semantics import PROMISES
from tasks_demo.dashboard.labels import OUTCOMES, VERDICTS
from tasks_demo.dashboard.latest import Latest
from tasks_demo.dashboard.pages import Tallies, promise_broken
from tasks_demo.ledger.models import IN_A_RUN, NOT_SUCCEEDED, Outcome, Tally

#: The filter value for tasks without one of our patterns.
NO_PATTERN = "-"


def seen(request: HttpRequest) -> Latest | None:
    """Return the summary of the latest task IDs that the view attached to the request, or None."""
    return getattr(request, "latest", None)


class _Filter(SimpleListFilter):
    column = ""

    def queryset(self, request: HttpRequest, queryset: Tallies) -> Tallies:
        value = self.value()
        return queryset if value is None else self.narrowed(queryset, value)

    def narrowed(self, tallies: Tallies, value: str) -> Tallies:
        if "\0" in value:
            return tallies.none()
        return tallies.filter(**{self.column: value})


class VerdictFilter(_Filter):
    title = "verdict"
    parameter_name = column = "verdict"

    def lookups(self, request: HttpRequest, model_admin: ModelAdmin[Any]) -> list[tuple[str, str]]:
        return [(value, f"{badge.mark} {badge.word}") for value, badge in VERDICTS.items()]


class OutcomeFilter(_Filter):
    title = "outcome"
    parameter_name = column = "outcome"

    def lookups(self, request: HttpRequest, model_admin: ModelAdmin[Any]) -> list[tuple[str, str]]:
        return [(value, f"{badge.mark} {badge.word}") for value, badge in OUTCOMES.items()]

    def narrowed(self, tallies: Tallies, value: str) -> Tallies:
        found = super().narrowed(tallies, value)
        return found if value == Outcome.SUCCEEDED else found.filter(NOT_SUCCEEDED)


class TaskFilter(_Filter):
    """Offers only the tasks of the latest task IDs, and always the chosen one."""

    title = "task"
    parameter_name = column = "task"

    def lookups(self, request: HttpRequest, model_admin: ModelAdmin[Any]) -> list[tuple[str, str]]:
        latest = seen(request)
        tasks = [task for task in latest.tasks if task] if latest else []
        chosen = self.value()
        if chosen and chosen not in tasks:
            tasks.insert(0, chosen[:255])
        return [(task, task) for task in tasks]


class BrokenFilter(_Filter):
    title = "promise"
    parameter_name = "promise"

    def lookups(self, request: HttpRequest, model_admin: ModelAdmin[Any]) -> list[tuple[str, str]]:
        return [("broken", "✗ broken"), ("kept", "not broken")]

    def narrowed(self, tallies: Tallies, value: str) -> Tallies:
        if value == "broken":
            return promise_broken(tallies)
        return tallies.filter(broken=False) if value == "kept" else tallies.none()


class PatternFilter(_Filter):
    title = "pattern"
    parameter_name = column = "pattern"

    def lookups(self, request: HttpRequest, model_admin: ModelAdmin[Any]) -> list[tuple[str, str]]:
        latest = seen(request)
        others = [item.pattern for item in latest.patterns if item.pattern not in PROMISES] if latest else []
        return [(name or NO_PATTERN, name or "(none)") for name in (*PROMISES, *others)]

    def narrowed(self, tallies: Tallies, value: str) -> Tallies:
        return super().narrowed(tallies, "" if value == NO_PATTERN else value)


class RunFilter(_Filter):
    """Offers only the cells of the latest experiments, and always the chosen one."""

    title = "experiment cell"
    parameter_name = column = "run"

    def narrowed(self, tallies: Tallies, value: str) -> Tallies:
        return super().narrowed(tallies, value).filter(IN_A_RUN)

    def lookups(self, request: HttpRequest, model_admin: ModelAdmin[Tally]) -> list[tuple[str, str]]:
        latest = seen(request)
        runs = list(latest.runs) if latest else []
        chosen = self.value()
        if chosen and chosen not in runs:
            runs.insert(0, chosen[:120])
        return [(run, _cell(run)) for run in runs]


def _cell(run: str) -> str:
    """Format ``1a2b:acks_late/kill-main`` with its distinctive part first: ``acks_late/kill-main · 1a2b``."""
    experiment, colon, cell = run.partition(":")
    return f"{cell} · {experiment}" if colon else run

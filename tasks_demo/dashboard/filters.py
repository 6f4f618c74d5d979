"""The filters beside the list. A value that is not among the choices is not an error: it is applied, or matches nothing."""

from __future__ import annotations

from typing import Any

from django.contrib.admin import ModelAdmin
from django.db.models import BooleanField
from django.db.models.expressions import RawSQL
from django.http import HttpRequest, QueryDict

from tasks_demo.core.semantics import PROMISES
from tasks_demo.dashboard import by_worker
from tasks_demo.dashboard.keyset import Tallies
from tasks_demo.dashboard.labels import OUTCOMES, VERDICTS
from tasks_demo.dashboard.latest import Latest
from tasks_demo.dashboard.pages import OPEN_OUTCOMES, of_outcome, of_verdict, promise_broken
from tasks_demo.dashboard.period import Filter, SinceFilter, UntilFilter
from tasks_demo.dashboard.search import can_be_stored
from tasks_demo.ledger.models import IN_A_RUN, OPEN, Outcome, Tally

#: The filter value for tasks without one of our patterns.
NO_PATTERN = "-"
#: The condition of the index ``tally_again``, as SQLite must see it: with its numbers, not with parameters.
_IRREGULAR = RawSQL(
    "(executions >= 2 OR effects >= 2 OR suppressed > 0 OR deferred > 0)", (), output_field=BooleanField()
)
#: Maximum number of workers that the filter offers, and of task IDs that it finds, the latest ones.
MOST_WORKERS, MOST_OF_A_WORKER = 30, 1_000


def seen(request: HttpRequest) -> Latest | None:
    """Return the summary of the latest task IDs that the view attached to the request, or None."""
    return getattr(request, "latest", None)


class _JudgedFilter(Filter):
    """Verdict or outcome. One index holds all that is open, others hold what is neither open nor as it should be."""

    usual = ""
    is_open: frozenset[str] = frozenset()

    @property
    def indexed(self) -> bool:
        """Most task IDs have the usual value, so it needs no index."""
        return self.value() != self.usual

    @property
    def shares_index(self) -> bool:
        return self.value() in self.is_open

    def rows_of_index(self, tallies: Tallies) -> Tallies:
        return tallies.filter(OPEN) if self.shares_index else self.applied(tallies)


class VerdictFilter(_JudgedFilter):
    title = "verdict"
    parameter_name = column = "verdict"
    rank = 5
    usual = Tally.Verdict.OK
    is_open = frozenset({Tally.Verdict.UNRESOLVED.value})

    def lookups(self, request: HttpRequest, model_admin: ModelAdmin[Any]) -> list[tuple[str, str]]:
        return [(value, f"{badge.mark} {badge.word}") for value, badge in VERDICTS.items()]

    def filter_by_value(self, tallies: Tallies, value: str) -> Tallies:
        return of_verdict(tallies, value) if value in VERDICTS else tallies.none()


class OutcomeFilter(_JudgedFilter):
    title = "outcome"
    parameter_name = column = "outcome"
    rank = 4
    usual = Outcome.SUCCEEDED
    is_open = OPEN_OUTCOMES

    def lookups(self, request: HttpRequest, model_admin: ModelAdmin[Any]) -> list[tuple[str, str]]:
        return [(value, f"{badge.mark} {badge.word}") for value, badge in OUTCOMES.items()]

    def filter_by_value(self, tallies: Tallies, value: str) -> Tallies:
        return of_outcome(tallies, value) if value in OUTCOMES else tallies.none()


class TaskFilter(Filter):
    """Offers only the tasks of the latest task IDs, and always the chosen one."""

    title = "task"
    parameter_name = column = "task"
    rank = 6

    def lookups(self, request: HttpRequest, model_admin: ModelAdmin[Any]) -> list[tuple[str, str]]:
        latest = seen(request)
        tasks = [task for task in latest.tasks if task] if latest else []
        chosen = self.value()
        if chosen and chosen not in tasks:
            tasks.insert(0, chosen[:255])
        return [(task, task) for task in tasks]


class BrokenFilter(Filter):
    title = "promise"
    parameter_name = "promise"
    rank = 2

    def lookups(self, request: HttpRequest, model_admin: ModelAdmin[Any]) -> list[tuple[str, str]]:
        return [("broken", "✗ broken"), ("kept", "not broken")]

    def filter_by_value(self, tallies: Tallies, value: str) -> Tallies:
        if value == "broken":
            return promise_broken(tallies)
        return tallies.filter(broken=False) if value == "kept" else tallies.none()

    @property
    def indexed(self) -> bool:
        """Those not broken are nearly all, so they need no index."""
        return self.value() == "broken"


class PatternFilter(Filter):
    title = "pattern"
    parameter_name = column = "pattern"
    rank = 7

    def lookups(self, request: HttpRequest, model_admin: ModelAdmin[Any]) -> list[tuple[str, str]]:
        latest = seen(request)
        others = [item.pattern for item in latest.patterns if item.pattern not in PROMISES] if latest else []
        return [(name or NO_PATTERN, name or "(none)") for name in (*PROMISES, *others)]

    def filter_by_value(self, tallies: Tallies, value: str) -> Tallies:
        return super().filter_by_value(tallies, "" if value == NO_PATTERN else value)


class RunFilter(Filter):
    """Offers only the cells of the latest experiments, and always the chosen one."""

    title = "experiment cell"
    parameter_name = column = "run"
    rank = 1

    def filter_by_value(self, tallies: Tallies, value: str) -> Tallies:
        return super().filter_by_value(tallies, value).filter(IN_A_RUN)

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


class _IrregularFilter(Filter):
    """The filters that share the index of what happened again."""

    rank = 3

    @property
    def shares_index(self) -> bool:
        return True

    def rows_of_index(self, tallies: Tallies) -> Tallies:
        return tallies.filter(_IRREGULAR)


class _CountFilter(_IrregularFilter):
    """Offers no, one, and two or more. Only two or more has an index."""

    def lookups(self, request: HttpRequest, model_admin: ModelAdmin[Any]) -> list[tuple[str, str]]:
        return [("0", "none"), ("1", "one"), ("2+", "two or more")]

    def filter_by_value(self, tallies: Tallies, value: str) -> Tallies:
        if value == "2+":
            return tallies.filter(**{f"{self.column}__gte": 2})
        return tallies.filter(**{self.column: int(value)}) if value in {"0", "1"} else tallies.none()

    @property
    def indexed(self) -> bool:
        """Whether few task IDs have such a count."""
        return self.value() not in {"0", "1"}


class ExecutionsFilter(_CountFilter):
    title = "executions"
    parameter_name = column = "executions"


class EffectsFilter(_CountFilter):
    title = "effects"
    parameter_name = column = "effects"


class _EverFilter(_IrregularFilter):
    """Offers those to which it happened."""

    def lookups(self, request: HttpRequest, model_admin: ModelAdmin[Any]) -> list[tuple[str, str]]:
        return [("1", "at least once")]

    def filter_by_value(self, tallies: Tallies, value: str) -> Tallies:
        return tallies.filter(**{f"{self.column}__gt": 0}) if value == "1" else tallies.none()


class SuppressedFilter(_EverFilter):
    title = "suppressed"
    parameter_name = column = "suppressed"


class DeferredFilter(_EverFilter):
    title = "deferred"
    parameter_name = column = "deferred"


class PublishedFilter(Filter):
    """Whether the ledger knows a confirmed publication. Nearly all task IDs have one, so it needs no index."""

    title = "published"
    parameter_name = "published"
    indexed = False

    def lookups(self, request: HttpRequest, model_admin: ModelAdmin[Any]) -> list[tuple[str, str]]:
        return [("1", "confirmed"), ("0", "not confirmed")]

    def filter_by_value(self, tallies: Tallies, value: str) -> Tallies:
        if value == "1":
            return tallies.filter(publications__gt=0)
        return tallies.filter(publications=0) if value == "0" else tallies.none()


class WorkerFilter(Filter):
    """The latest task IDs that a worker started."""

    title = "worker"
    parameter_name = "worker"
    is_selective = True

    def __init__(self, request: HttpRequest, *args: Any) -> None:
        self._request = request
        super().__init__(request, *args)

    def lookups(self, request: HttpRequest, model_admin: ModelAdmin[Any]) -> list[tuple[str, str]]:
        names = by_worker.worker_names()[:MOST_WORKERS]
        chosen = self.used_parameters.get("worker")
        if chosen and chosen not in names:
            names.insert(0, str(chosen)[:255])
        return [(name, name) for name in names]

    def filter_by_value(self, tallies: Tallies, value: str) -> Tallies:
        if not can_be_stored(value):
            return tallies.none()
        if getattr(self._request, "is_export", False):
            return by_worker.ever_started_by(tallies, value)
        task_ids, truncated = by_worker.started_by([value], MOST_OF_A_WORKER)
        self._request.truncated = truncated or getattr(self._request, "truncated", False)  # type: ignore[attr-defined]
        return tallies.filter(task_id__in=task_ids)


FILTERS = (
    OutcomeFilter, VerdictFilter, BrokenFilter, SinceFilter, UntilFilter, PublishedFilter, ExecutionsFilter, EffectsFilter,
    SuppressedFilter, DeferredFilter, PatternFilter, TaskFilter, WorkerFilter, RunFilter,
)  # fmt: skip
#: The query parameters of the filters.
PARAMETERS = frozenset(str(one.parameter_name) for one in FILTERS)


def understood(parameters: QueryDict) -> QueryDict:
    """Return the query parameters with ``broken=1|0`` as ``promise=broken|kept``, its other name, and with ``2+`` mended."""
    known = parameters.copy()
    if "broken" in known:
        values = known.pop("broken")
        known.setdefault("promise", "broken" if values[-1] in {"1", "true", "yes"} else "kept")
    for name in ("executions", "effects"):
        if known.get(name) == "2 ":  # a plus sign that was not escaped
            known[name] = "2+"
    return known

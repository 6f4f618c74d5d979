"""Summarizes the latest task IDs in one bounded query, for the strip above the list and the choices of the filters.

Nothing here counts the whole table: a page must cost the same with a thousand and with a million task IDs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from django.db import connections

from tasks_demo.core.semantics import PROMISES
from tasks_demo.dashboard.labels import VERDICTS, Badge, badge
from tasks_demo.dashboard.pages import promise_broken
from tasks_demo.ledger.models import Tally

#: Number of the latest task IDs that are summarized.
WINDOW = 5_000
#: Maximum number of runs offered as a filter.
MOST_RUNS = 15
#: Maximum number of task names offered as a filter.
MOST_TASKS = 30
#: Counting broken promises stops here.
MOST_BROKEN = 1_000

_LATEST_SQL = (Path(__file__).parent / "sql" / "latest.sql").read_text()


class _Group(NamedTuple):
    """One row of ``sql/latest.sql``. ``last`` is for comparison only: a datetime, or on SQLite its text."""

    task: str
    pattern: str
    run: str
    verdict: str
    broken: bool
    size: int
    last: Any


@dataclass(frozen=True, slots=True)
class Share:
    """The number of the latest task IDs of one pattern that have one verdict."""

    badge: Badge
    verdict: str
    count: int


@dataclass(frozen=True, slots=True)
class PatternSummary:
    """The latest task IDs of one pattern, by verdict. Verdicts without task IDs are omitted."""

    pattern: str
    semantics: str
    total: int
    broken: int
    shares: list[Share]


@dataclass(frozen=True, slots=True)
class Latest:
    """The summary. ``total``: at most ``window``. ``broken``: broken promises in the whole ledger, up to MOST_BROKEN."""

    patterns: list[PatternSummary]
    tasks: list[str]
    runs: list[str]
    total: int
    window: int
    broken: int

    @property
    def is_all(self) -> bool:
        """Whether the summary covers the whole ledger."""
        return self.total < self.window

    @property
    def broken_text(self) -> str:
        """``12``, or ``1000+`` if counting stopped."""
        return f"{self.broken}+" if self.broken >= MOST_BROKEN else str(self.broken)


def latest(window: int = WINDOW) -> Latest:
    """Summarize the latest ``window`` task IDs."""
    with connections[Tally.objects.db].cursor() as cursor:
        cursor.execute(_LATEST_SQL, [window])
        groups = [_Group(*row) for row in cursor.fetchall()]
    broken = promise_broken(Tally.objects.order_by())[:MOST_BROKEN].count()
    return Latest(
        patterns=_patterns(groups),
        tasks=_tasks(groups),
        runs=_runs(groups),
        total=sum(group.size for group in groups),
        window=window,
        broken=broken,
    )


def _patterns(groups: Iterable[_Group]) -> list[PatternSummary]:
    counts: dict[str, Counter[str]] = {}
    broken: Counter[str] = Counter()
    for group in groups:
        counts.setdefault(group.pattern, Counter())[group.verdict] += group.size
        broken[group.pattern] += group.size * bool(group.broken)
    ours = list(PROMISES)
    known = sorted(counts, key=lambda name: (ours.index(name) if name in PROMISES else len(ours), name))
    return [
        PatternSummary(
            pattern=name,
            semantics=str(PROMISES[name].semantics) if name in PROMISES else "nothing promised",
            total=counts[name].total(),
            broken=broken[name],
            shares=[
                Share(badge(verdict), verdict, counts[name][verdict]) for verdict in VERDICTS if counts[name][verdict]
            ],
        )
        for name in known
    ]


def _tasks(groups: Iterable[_Group]) -> list[str]:
    """Return the MOST_TASKS most frequent task names, sorted alphabetically."""
    counts: Counter[str] = Counter()
    for group in groups:
        counts[group.task] += group.size
    return sorted(name for name, _ in counts.most_common(MOST_TASKS))


def _runs(groups: Iterable[_Group]) -> list[str]:
    seen: dict[str, Any] = {}
    for group in groups:
        if group.run:
            seen[group.run] = max(group.last, seen.get(group.run, group.last))
    return sorted(seen, key=lambda run: seen[run], reverse=True)[:MOST_RUNS]

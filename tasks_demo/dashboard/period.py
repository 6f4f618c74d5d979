"""The base of the filters beside the list, and the filters on time."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

from django.contrib import messages
from django.contrib.admin import ModelAdmin, SimpleListFilter
from django.http import HttpRequest
from django.utils import timezone
from django.utils.dateparse import parse_date, parse_datetime

from tasks_demo.core import clock
from tasks_demo.dashboard.keyset import Tallies
from tasks_demo.dashboard.search import can_be_stored

_SECONDS = {"m": 60, "h": 3_600, "d": 86_400}


class Filter(SimpleListFilter):
    """A filter of the list.

    ``indexed``: one index returns the rows of its value in order of time. ``rank``: if several filters have such an index, the
    page uses the one with the lowest rank. ``is_selective``: few rows match, so all of them can be sorted in memory.
    ``shares_index``: its index holds task IDs of other filters too.
    """

    column = ""
    parameter_name: str
    rank = 9
    is_selective = on_time = False

    @property
    def indexed(self) -> bool:
        return True

    @property
    def shares_index(self) -> bool:
        return False

    def queryset(self, request: HttpRequest, queryset: Tallies) -> Tallies:
        return self.applied(queryset)

    def applied(self, tallies: Tallies) -> Tallies:
        """Return those that the filter lets through."""
        value = self.value()
        return tallies if value is None else self.filter_by_value(tallies, value)

    def rows_of_index(self, tallies: Tallies) -> Tallies:
        """Return the rows that its index returns."""
        return self.applied(tallies)

    def filter_by_value(self, tallies: Tallies, value: str) -> Tallies:
        if not can_be_stored(value):
            return tallies.none()
        return tallies.filter(**{self.column: value})


class _TimeFilter(Filter):
    """A bound on the time at which a task ID was first seen."""

    on_time = True
    lookup = ""
    offered: tuple[tuple[str, str], ...] = ()

    def lookups(self, request: HttpRequest, model_admin: ModelAdmin[Any]) -> list[tuple[str, str]]:
        chosen = str(self.value() or "")
        others = [(chosen[:60], chosen[:60])] if chosen and chosen not in dict(self.offered) else []
        return [*others, *self.offered]

    def queryset(self, request: HttpRequest, queryset: Tallies) -> Tallies:
        value = self.value()
        if value is not None and parse_moment(value) is None:
            messages.warning(
                request,
                f"{self.parameter_name}={value[:60]} is not a time, so nothing matches. Write for example 24h, 2026-11-26 or "
                "2026-11-26T12:00.",
            )
        return super().queryset(request, queryset)

    def filter_by_value(self, tallies: Tallies, value: str) -> Tallies:
        at = parse_moment(value)
        return tallies.none() if at is None else tallies.filter(**{self.lookup: at})


class SinceFilter(_TimeFilter):
    title = "first seen since"
    parameter_name = "since"
    lookup = "first_at__gte"
    offered = (("1h", "the last hour"), ("24h", "the last day"), ("7d", "the last week"))


class UntilFilter(_TimeFilter):
    """Has no choices of its own: shown if the address has it."""

    title = "first seen until"
    parameter_name = "until"
    lookup = "first_at__lt"


def parse_moment(text: str) -> datetime | None:
    """Parse a time: ``30m``, ``24h`` or ``7d`` ago, a date, or a date and time, in the current time zone if it names none."""
    text = text.strip()
    try:
        if found := re.fullmatch(r"([0-9]{1,6})([mhd])", text):
            return clock.for_column(timezone.now() - timedelta(seconds=int(found[1]) * _SECONDS[found[2]]))
        at = parse_datetime(text.replace(" ", "+") if "T" in text else text)  # a plus sign that was not escaped
        if at is None and (day := parse_date(text)):
            at = datetime(day.year, day.month, day.day)  # noqa: DTZ001  (made aware below)
        if at is None:
            return None
        # In UTC here: a time within a day of year 1 or 9999 cannot be converted later.
        return clock.for_column((timezone.make_aware(at) if timezone.is_naive(at) else at).astimezone(UTC))
    except (ValueError, OverflowError):
        return None

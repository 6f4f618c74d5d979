"""The list of task IDs: Django's change list with pages by place and *problems first*. Ignores unknown parameters."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, cast

from django.contrib.admin.views.main import ChangeList
from django.core.paginator import Paginator
from django.http import HttpRequest

from tasks_demo.dashboard import by_worker
from tasks_demo.dashboard.filters import PARAMETERS
from tasks_demo.dashboard.keyset import Part, Place, Tallies, count, read_page
from tasks_demo.dashboard.pages import latest_first, problems_first, segments_of_few_rows
from tasks_demo.dashboard.period import Filter
from tasks_demo.ledger.models import Tally

#: The query parameter that selects *problems first*, and its value.
FIRST, PROBLEMS = "first", "problems"
#: The query parameters for the page after a place, and the page before one.
AFTER, BEFORE = "after", "before"


class TaskIdList(ChangeList):
    """The change list. ``problems_first``: the sort order. ``truncated``: a search or a worker has more than the list looks at.

    ``stopped``: the page looked only at task IDs back to this moment, and may have more further back.
    """

    problems_first = False
    truncated = False
    stopped: datetime | None = None
    more = False

    def get_filters_params(self, params: Any = None) -> dict[str, Any]:
        """Return only our filters: any other lookup could read the whole table."""
        return {name: value for name, value in super().get_filters_params(params).items() if name in PARAMETERS}

    def get_results(self, request: HttpRequest) -> None:
        """Fill in one page, unless all is asked for (an export)."""
        self.problems_first = self.params.get(FIRST) == PROBLEMS
        self.truncated = bool(getattr(request, "truncated", False))
        self.multi_page = self.can_show_all = self.show_admin_actions = self.show_full_result_count = False
        self.result_count, self.result_list = 0, []
        self.paginator = Paginator([], self.list_per_page)
        if getattr(request, "is_export", False):
            return
        after, before = Place.parse(self.params.get(AFTER)), Place.parse(self.params.get(BEFORE))
        self.is_first_page = after is None and before is None
        segments = self.segments()
        page = self._page = read_page(segments, self.list_per_page, after=after, before=before)
        self.is_first_page |= page.previous is None and page.stopped is None
        self.stopped = page.stopped
        self.result_list = page.rows
        self.result_count, self.more = len(page.rows), page.next is not None
        if self.is_first_page and self.more and (counted := count(segments)):
            self.result_count, self.more = counted
        self.full_result_count = self.result_count  # so that the search box shows no separate count
        workers = by_worker.workers_of([tally.task_id for tally in page.rows])
        for tally in page.rows:
            tally.last_worker = workers.get(tally.task_id, "")  # type: ignore[attr-defined]  # for a column of the list

    def segments(self) -> Sequence[Part]:
        """Return what is paged through, and what an index yields of it."""
        tallies: Tallies = self.queryset
        active = self.active_filters()
        if self.query or any(spec.is_selective for spec in active):
            return segments_of_few_rows(tallies, problems=self.problems_first)
        if self.problems_first:
            return problems_first(tallies, narrowed=bool(active))
        if (
            not active
            or (len(active) == 1 and active[0].indexed and not active[0].shares_index)
            or _both_in_one_index(active)
        ):
            return latest_first(tallies)
        everything = Tally.objects.all()
        for spec in cast(list[Filter], self.filter_specs):
            if spec.on_time:
                everything = spec.applied(everything)
        best = min((spec for spec in active if spec.indexed), key=lambda spec: spec.rank, default=None)
        return latest_first(tallies, best.rows_of_index(everything) if best else everything)

    def active_filters(self) -> list[Filter]:
        """Return the filters that are set, except those on time, which every index serves."""
        return [spec for spec in cast(list[Filter], self.filter_specs) if spec.value() is not None and not spec.on_time]

    def _link(self, name: str, place: Place | None) -> str:
        return self.get_query_string({name: str(place)}, remove=[AFTER, BEFORE, "p"]) if place else ""

    @property
    def first_link(self) -> str:
        """The link to the first page; empty on it."""
        return "" if self.is_first_page else self.get_query_string(remove=[AFTER, BEFORE, "p"])

    @property
    def previous_link(self) -> str:
        """The link to the page before this one; empty if there is none."""
        return "" if self.is_first_page else self._link(BEFORE, self._page.previous)

    @property
    def next_link(self) -> str:
        """The link to the page after this one; empty if there is none."""
        return self._link(AFTER, self._page.next)

    @property
    def latest_first_link(self) -> str:
        """The link to latest first that keeps the filters."""
        return self.get_query_string(remove=[FIRST, AFTER, BEFORE, "o", "p"])

    @property
    def problems_first_link(self) -> str:
        """The link to problems first that keeps the filters."""
        return self.get_query_string({FIRST: PROBLEMS}, remove=[AFTER, BEFORE, "o", "p"])

    @property
    def export_query(self) -> str:
        """The parameters for an export of what is filtered."""
        return self.get_query_string(remove=[FIRST, AFTER, BEFORE, "o", "p"])

    @property
    def is_narrowed(self) -> bool:
        """Whether a filter or a search is active."""
        return bool(self.query or self.has_active_filters)


def _both_in_one_index(active: list[Filter]) -> bool:
    known = {spec.parameter_name: spec for spec in active}
    verdict = known.get("verdict")
    return (
        known.keys() == {"pattern", "verdict"} and verdict is not None and verdict.indexed and not verdict.shares_index
    )

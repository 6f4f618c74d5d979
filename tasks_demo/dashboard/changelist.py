"""The list of task IDs: Django's change list with bounded counting and *problems first*. Ignores unknown parameters."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.contrib.admin.options import IncorrectLookupParameters
from django.contrib.admin.views.main import ChangeList
from django.core.paginator import InvalidPage
from django.http import HttpRequest

from tasks_demo.dashboard.pages import BoundedPaginator, Tallies, problems_first

#: The query parameter that selects *problems first*, and its value.
FIRST, PROBLEMS = "first", "problems"
PARAMETERS = frozenset({"verdict", "outcome", "promise", "task", "pattern", "run"})


class TaskIdList(ChangeList):
    """The change list. ``problems_first``: the sort order. ``search_cut``: the search found more than the list shows."""

    problems_first = False
    search_cut = False

    def get_filters_params(self, params: Any = None) -> dict[str, Any]:
        """Return only our filters: any other lookup could read the whole table."""
        return {name: value for name, value in super().get_filters_params(params).items() if name in PARAMETERS}

    def get_results(self, request: HttpRequest) -> None:
        """Fill in one page. Raises IncorrectLookupParameters for a page that does not exist."""
        tallies: Tallies = self.queryset
        self.problems_first = self.params.get(FIRST) == PROBLEMS
        self.search_cut = bool(getattr(request, "search_cut", False))
        paginator = BoundedPaginator(problems_first(tallies) if self.problems_first else [tallies], self.list_per_page)
        try:
            self.result_list = paginator.page(self.page_num).object_list
        except InvalidPage as error:
            raise IncorrectLookupParameters from error
        self.paginator = paginator
        self.result_count = paginator.count
        self.multi_page = paginator.num_pages > 1
        self.can_show_all = self.show_admin_actions = False
        self.show_full_result_count = False
        self.full_result_count = self.result_count  # so that the search box shows no separate count

    @property
    def latest_first_link(self) -> str:
        """The link to latest first that keeps the filters."""
        return self.get_query_string(remove=[FIRST, "o"])

    @property
    def problems_first_link(self) -> str:
        """The link to problems first that keeps the filters."""
        return self.get_query_string({FIRST: PROBLEMS}, remove=["o"])

    @property
    def page_links(self) -> Iterator[int | str]:
        """The page numbers, with an ellipsis where some are omitted."""
        pages: Iterator[int | str] = self.paginator.get_elided_page_range(self.page_num)
        return pages

    @property
    def is_narrowed(self) -> bool:
        """Whether a filter or a search is active."""
        return bool(self.query or self.has_active_filters)

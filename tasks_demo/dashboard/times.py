"""Times as HTML. A script shows them in the zone of the browser; without it they are in the zone of the server."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from django.contrib import admin
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.timezone import is_naive, localtime


def time_element(at: datetime) -> SafeString:
    """Return a ``<time>`` to the second."""
    at = at if is_naive(at) else localtime(at)
    return format_html('<time datetime="{}">{}</time>', at.isoformat(), at.strftime("%Y-%m-%d %H:%M:%S"))


def time_column(name: str) -> Callable[[Any], Any]:
    """Return a column for ``list_display`` that shows this DateTimeField of a model."""

    @admin.display(description=name.removesuffix("_at"))
    def column(row: Any) -> Any:
        at = getattr(row, name)
        return None if at is None else time_element(at)

    column.__name__ = name
    return column

"""Prometheus metrics of deliveries: put ``tasks_demo.metrics`` into INSTALLED_APPS. See docs/how-to/metrics.md.

Every process counts what is announced at the one seam, ``tasks_demo.core.lifecycle``. Nothing is measured by Celery's events,
so no worker needs ``-E``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tasks_demo.metrics.scrape import exposition, view

__all__ = ["exposition", "view"]


def __getattr__(name: str) -> Any:
    # When asked for: Django imports this package before it is known that prometheus_client is there.
    if name in __all__:
        from tasks_demo.metrics import scrape

        return getattr(scrape, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

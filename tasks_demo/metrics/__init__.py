"""Prometheus metrics of deliveries. Add ``tasks_demo.metrics`` to INSTALLED_APPS; see docs/how-to/metrics.md.

Every process counts the points that ``tasks_demo.core.lifecycle`` announces. Celery's events are not used, so no worker needs
``-E``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tasks_demo.metrics.scrape import exposition, view

__all__ = ["exposition", "view"]


if not TYPE_CHECKING:  # else a misspelt name of this module would pass as Any

    def __getattr__(name: str) -> Any:
        # Imported lazily: Django imports this package before apps.py checks that prometheus_client is installed.
        if name in __all__:
            from tasks_demo.metrics import scrape

            return getattr(scrape, name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

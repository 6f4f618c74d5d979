"""What a scrape is answered with: the counts of all processes of this machine, and what the tables say now."""

from __future__ import annotations

import os
from collections.abc import Iterator

from django.db import DatabaseError, connections, router
from django.http import HttpRequest, HttpResponse
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from tasks_demo.outbox.table import overdue
from tasks_demo.records.models import OutboxMessage, Parked

#: prometheus_client's own variable: the folder in which all processes of a machine keep their counts.
FOLDER = "PROMETHEUS_MULTIPROC_DIR"


class Records(Collector):
    """Asks the tables of the patterns at every scrape. Where they do not answer, ``tasks_demo_records_up`` is 0."""

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The gauges, on the aliases on which the outbox and the quarantine are by default."""
        up = GaugeMetricFamily("tasks_demo_records_up", "Whether the patterns' tables answered.", labels=["database"])
        age = GaugeMetricFamily(
            "tasks_demo_outbox_age_seconds",
            "For how long the first message of the outbox has been due.",
            labels=["database"],
        )
        waiting = GaugeMetricFamily(
            "tasks_demo_parked_waiting", "Parked messages that wait for a decision.", labels=["database"]
        )
        alias = router.db_for_write(OutboxMessage)
        try:
            age.add_metric([alias], overdue(alias))
            parked = Parked.objects.using(alias).filter(state=Parked.State.PARKED)
            waiting.add_metric([alias], parked.count())
            up.add_metric([alias], 1)
        except DatabaseError:
            connections[alias].close()
            up.add_metric([alias], 0)
        yield from (up, age, waiting)


def exposition() -> bytes:
    """All metrics in Prometheus' text format. Asks the database; without PROMETHEUS_MULTIPROC_DIR, this process alone."""
    registry = CollectorRegistry()
    if FOLDER in os.environ:
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    registry.register(Records())
    own = b"" if FOLDER in os.environ else generate_latest(REGISTRY)
    return own + generate_latest(registry)


def view(request: HttpRequest) -> HttpResponse:
    """For ``urlpatterns``, beside or instead of the address that workers serve: ``path("metrics", metrics.view)``."""
    return HttpResponse(exposition(), content_type=CONTENT_TYPE_LATEST)

"""Answers scrapes with the counts of all processes on this machine and the current state of the tables."""

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

#: prometheus_client's environment variable: the folder in which all processes of a machine keep their counts.
FOLDER = "PROMETHEUS_MULTIPROC_DIR"


class Records(Collector):
    """Queries the patterns' tables at every scrape. If the database does not answer, ``tasks_demo_records_up`` is 0."""

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield the gauges of the default outbox and quarantine. Outboxes on other aliases are not measured."""
        up = GaugeMetricFamily("tasks_demo_records_up", "Whether the patterns' tables answered.", labels=["database"])
        age = GaugeMetricFamily(
            "tasks_demo_outbox_age_seconds",
            "How long the first message of the outbox has been due.",
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
    """Return all metrics in Prometheus' text format. Queries the database. Without PROMETHEUS_MULTIPROC_DIR only this process's
    counts are included.
    """
    registry = CollectorRegistry()
    if FOLDER in os.environ:
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    registry.register(Records())
    own = b"" if FOLDER in os.environ else generate_latest(REGISTRY)
    return own + generate_latest(registry)


def view(request: HttpRequest) -> HttpResponse:
    """Serve the metrics from Django, with or without a worker: ``path("metrics", metrics.view)`` in ``urlpatterns``."""
    return HttpResponse(exposition(), content_type=CONTENT_TYPE_LATEST)

"""The Django app that counts deliveries for Prometheus in every process."""

from __future__ import annotations

from django.apps import AppConfig

from tasks_demo.core.extras import needs

needs("tasks_demo.metrics", "metrics", "prometheus_client")


class MetricsConfig(AppConfig):
    name = "tasks_demo.metrics"
    label = "tasks_demo_metrics"

    def ready(self) -> None:
        from tasks_demo.core import lifecycle
        from tasks_demo.metrics import server  # noqa: F401  (connects its receivers)
        from tasks_demo.metrics.counters import counters

        lifecycle.observe(counters)

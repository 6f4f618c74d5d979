"""The Django app that provides the commands of ``tasks_demo.benchmark``."""

from __future__ import annotations

from django.apps import AppConfig, apps
from django.core.exceptions import ImproperlyConfigured

from tasks_demo.core.extras import needs

needs("tasks_demo.benchmark", "lab", "psutil", "rich")


class BenchmarkConfig(AppConfig):
    name = "tasks_demo.benchmark"
    label = "tasks_demo_benchmark"

    def ready(self) -> None:
        if not apps.is_installed("tasks_demo.lab"):
            raise ImproperlyConfigured(
                "tasks_demo.benchmark needs the workers and databases of tasks_demo.lab: add 'tasks_demo.lab' to INSTALLED_APPS."
            )

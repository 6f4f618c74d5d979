"""The app that brings the commands of ``tasks_demo.benchmark``."""

from __future__ import annotations

from django.apps import AppConfig

from tasks_demo.core.extras import needs

needs("tasks_demo.benchmark", "lab", "psutil", "rich")


class BenchmarkConfig(AppConfig):
    name = "tasks_demo.benchmark"
    label = "tasks_demo_benchmark"

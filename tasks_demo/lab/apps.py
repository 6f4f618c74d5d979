"""The app that brings the commands of ``tasks_demo.lab``."""

from __future__ import annotations

from django.apps import AppConfig

from tasks_demo.core.extras import needs

needs("tasks_demo.lab", "lab", "psutil", "rich")


class LabConfig(AppConfig):
    name = "tasks_demo.lab"
    label = "tasks_demo_lab"

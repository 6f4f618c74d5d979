"""The app that brings the commands of ``tasks_demo.lab``."""

from __future__ import annotations

from django.apps import AppConfig


class LabConfig(AppConfig):
    name = "tasks_demo.lab"
    label = "tasks_demo_lab"

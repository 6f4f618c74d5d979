"""The app that brings the commands and the screens of ``tasks_demo.lab``."""

from __future__ import annotations

from django.apps import AppConfig, apps
from django.core.exceptions import ImproperlyConfigured

from tasks_demo.core.extras import needs

needs("tasks_demo.lab", "lab", "msgspec", "psutil", "rich")


class LabConfig(AppConfig):
    name = "tasks_demo.lab"
    label = "tasks_demo_lab"

    def ready(self) -> None:
        if not apps.is_installed("tasks_demo.demo"):
            raise ImproperlyConfigured(
                "tasks_demo.lab kills workers that run the jobs of tasks_demo.demo: add that to INSTALLED_APPS."
            )
        from tasks_demo.dashboard import screens
        from tasks_demo.lab.learn.screen import view
        from tasks_demo.lab.screens.registered import register_screens

        screens.register(screens.Screen(name="learn", title="Learn", path="learn/", view=view, place=90))
        register_screens()

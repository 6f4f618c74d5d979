"""The app that brings the commands and the screens of ``tasks_demo.lab``."""

from __future__ import annotations

from django.apps import AppConfig, apps

from tasks_demo.core.extras import needs

needs("tasks_demo.lab", "lab", "msgspec", "psutil", "rich")


class LabConfig(AppConfig):
    name = "tasks_demo.lab"
    label = "tasks_demo_lab"

    def ready(self) -> None:
        from tasks_demo.demo.apps import APPS, require

        require(*APPS, self.name)
        if not apps.is_installed("django.contrib.admin"):
            return
        from tasks_demo.dashboard import screens
        from tasks_demo.lab.learn.screen import view
        from tasks_demo.lab.screens.registration import register_screens

        screens.register(screens.Screen(name="learn", title="Learn", path="learn/", view=view, place=90))
        register_screens()

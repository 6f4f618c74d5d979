"""Settings of the lab, under the same prefix as those of the library: ``TASKS_DEMO_``."""

from __future__ import annotations

from tasks_demo.core.conf import Settings


class LabSettings(Settings):
    """The library's settings, and whether the dashboard may run experiments."""

    #: True: the dashboard shows experiments, and users with the permission start and stop them.
    LAB_ENABLED: bool = False


settings = LabSettings()

"""Settings of the demo, under the same prefix as those of the library: ``TASKS_DEMO_``."""

from __future__ import annotations

from tasks_demo.core.conf import Settings


class DemoSettings(Settings):
    """The library's settings, and those of the bank's client."""

    #: Address of the bank, for the demo tasks.
    BANK_URL: str = ""
    #: Maximum time for one request to the bank. Seconds.
    BANK_TIMEOUT_SECONDS: float = 10.0


settings = DemoSettings()

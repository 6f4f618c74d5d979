"""The rule about versions: the patterns depend on how Celery acknowledges, and the ledger on features of Django's ORM."""

from __future__ import annotations

from collections.abc import Iterator

import celery
import django

from tasks_demo.checks.rules.base import Finding, rule
from tasks_demo.checks.setup import Setup
from tasks_demo.core.versions import CELERY, DJANGO


@rule("W025")
def untested_version(setup: Setup) -> Iterator[Finding]:
    """The installed version of Celery or Django is not one that the tests of tasks_demo run on."""
    for name, version, tested in (("Celery", celery.__version__, CELERY), ("Django", django.__version__, DJANGO)):
        if ".".join(version.split(".")[:2]) not in tested:
            yield Finding(
                f"{name} {version} is installed; tasks_demo is tested on {', '.join(tested)}. Its promises may not hold.",
                "Install one of these versions, or run tasks_demo's tests with yours (`make matrix`).",
            )

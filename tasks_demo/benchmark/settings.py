"""Settings of the benchmark's own processes: the project's, and django-celery-results as a peer if it is installed."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from project.settings import *  # noqa: F403
from project.settings import INSTALLED_APPS as _APPS

#: Whether the peer can be measured; its tables are made in the benchmark's scratch database.
HAS_PEER = find_spec("django_celery_results") is not None
INSTALLED_APPS = [*_APPS, "django_celery_results"] if HAS_PEER else _APPS
#: Whoever publishes asks the result backend; the embedded Redis of STATE_DIR, the project's default, does not run here.
CELERY_RESULT_BACKEND: Any = "django-db" if HAS_PEER else None  # type: ignore[no-redef]

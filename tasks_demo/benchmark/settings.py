"""Settings of the benchmark's processes: the project's settings, plus django-celery-results as a peer if it is installed."""

from __future__ import annotations

import os
from importlib import import_module
from importlib.util import find_spec

# ``manage.py benchmark`` names the project's settings module; its package holds the Celery app.
_project = vars(import_module(os.environ["BENCHMARK_PROJECT_SETTINGS"]))
globals().update({name: value for name, value in _project.items() if name.isupper()})

#: Whether the peer can be measured. Its tables are created in the benchmark's scratch database.
HAS_PEER = find_spec("django_celery_results") is not None
if HAS_PEER:
    INSTALLED_APPS = [*_project["INSTALLED_APPS"], "django_celery_results"]
#: Publishing connects to the result backend, and the project's default, the embedded Redis of STATE_DIR, does not run here.
CELERY_RESULT_BACKEND = "django-db" if HAS_PEER else None

"""The Celery application. Start a worker with ``celery -A project worker``."""

from __future__ import annotations

import os

from celery import Celery

from project.rabbitmq import DeclareDeadLetters
from tasks_demo.hooks.bootsteps import NoticeChildDeath

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")

app = Celery("project")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
app.steps["worker"].add(NoticeChildDeath)
app.steps["consumer"].add(DeclareDeadLetters)

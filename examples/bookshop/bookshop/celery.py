"""The shop's own Celery application: ``celery -A bookshop worker``."""

import os

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "bookshop.settings")

from tasks_demo.hooks.bootsteps import NoticeChildDeath

app = Celery("bookshop")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
app.steps["worker"].add(NoticeChildDeath)

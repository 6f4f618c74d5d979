"""Settings of a project that is not the demo: its own time zone, queues and router, Django's defaults otherwise.

``BOOKSHOP_DATABASE_URL``, ``BOOKSHOP_BROKER_URL`` and ``BOOKSHOP_REDIS_URL`` move it to other servers.
"""

import os
from pathlib import Path

import dj_database_url

BASE_DIR = Path(__file__).resolve().parent.parent
REDIS_URL = os.environ.get("BOOKSHOP_REDIS_URL", "redis://127.0.0.1:6379/5")

SECRET_KEY = "for the example only"
DEBUG = False
ALLOWED_HOSTS = ["localhost", "127.0.0.1"]
INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "tasks_demo",
    "tasks_demo.records",
    "orders",
]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
ROOT_URLCONF = "bookshop.urls"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
# The orders and the records of the patterns commit together; the ledger has a database of its own.
DATABASES = {
    "default": dj_database_url.parse(
        os.environ.get("BOOKSHOP_DATABASE_URL") or f"sqlite:///{BASE_DIR / 'shop.sqlite3'}"
    ),
    "ops": dj_database_url.parse(
        os.environ.get("BOOKSHOP_OPS_DATABASE_URL") or f"sqlite:///{BASE_DIR / 'ops.sqlite3'}"
    ),
}
DATABASE_ROUTERS = ["bookshop.routers.LedgerInOps"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = os.environ.get("BOOKSHOP_USE_TZ", "1") == "1"
TIME_ZONE = "Europe/Berlin"
STATIC_URL = "static/"

CELERY_BROKER_URL = os.environ.get("BOOKSHOP_BROKER_URL") or REDIS_URL.replace("unix://", "redis+socket://", 1)
CELERY_RESULT_BACKEND = REDIS_URL.replace("unix://", "redis+socket://", 1)
CELERY_TASK_DEFAULT_QUEUE = "bookshop"
CELERY_TASK_ROUTES = {"orders.mail_*": {"queue": "bookshop-mail"}}
CELERY_TASK_TIME_LIMIT = 300
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_BROKER_TRANSPORT_OPTIONS = (
    {"confirm_publish": True} if CELERY_BROKER_URL.startswith("amqp") else {"visibility_timeout": 900}
)

TASKS_DEMO_REDIS_URL = REDIS_URL
# What a test of the package wants to be different: a Python dictionary of settings.
if "BOOKSHOP_SETTINGS" in os.environ:
    import ast

    globals().update(ast.literal_eval(os.environ["BOOKSHOP_SETTINGS"]))

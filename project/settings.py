"""The project's settings. Only this module reads the environment.

If no variable is set, everything runs embedded: SQLite files and a private Redis below ``.state/``.

=====================  ==========================================================================
DATABASE_URL           default database (ledger, admin): ``sqlite:///…`` or ``postgres://…``
SHOP_DATABASE_URL      business data, inbox and outbox; unset: in DATABASE_URL if that is PostgreSQL, else an SQLite file
BANK_DATABASE_URL      the bank's books; never the same database as DATABASE_URL
REDIS_URL              ``redis://``, ``rediss://`` or ``unix://``; unset: the embedded server
BROKER_URL             where jobs are published: ``amqp://``, ``amqps://`` or as REDIS_URL; unset: REDIS_URL
BROKER_QUEUE_TYPE      on RabbitMQ: ``quorum`` (default) or ``classic``
BROKER_TRANSPORT       how Celery uses Redis as its broker: ``reliable`` (default, tasks_demo.transport), ``redis`` (stock kombu)
BANK_URL               address of a running bank; unset: ``make up`` or the lab starts one
STATE_DIR              folder of the embedded files; default ``.state`` beside manage.py
DJANGO_SECRET_KEY      required when DJANGO_PRODUCTION=1; otherwise generated once and kept in STATE_DIR
DJANGO_PRODUCTION      1: no embedded defaults, secure cookies, secret key required
DJANGO_ALLOWED_HOSTS   comma-separated; default localhost only
DJANGO_CSRF_ORIGINS    comma-separated origins, for a TLS-terminating proxy
DJANGO_SSL_REDIRECT    in production: redirect http to https, by X-Forwarded-Proto; default 1
DJANGO_HSTS_SECONDS    in production: how long browsers must use https; default 3600; 0: no such header
DJANGO_HSTS_SUBDOMAINS in production: HSTS covers subdomains and allows preloading; default 1
LOG_LEVEL              default WARNING
=====================  ==========================================================================

Settings of the patterns, the ledger and the lab start with ``TASKS_DEMO_``: see ``tasks_demo.core.conf``.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import dj_database_url
from django.core.exceptions import ImproperlyConfigured

from project import rabbitmq
from project.local import secret_key
from tasks_demo.demo.defaults import SQLITE_OPTIONS, bank_address, redis_address

BASE_DIR = Path(__file__).resolve().parent.parent


def _flag(name: str, default: str = "0") -> bool:
    value = os.environ.get(name, default).lower()
    if value not in {"0", "1", "", "false", "true"}:
        raise ImproperlyConfigured(f"{name}={value!r}: write 0 or 1.")
    return value in {"1", "true"}


def _whole(name: str, default: int) -> int:
    value = os.environ.get(name) or str(default)
    if not value.isascii() or not value.isdecimal():
        raise ImproperlyConfigured(f"{name}={value!r}: write a whole number of seconds.")
    return int(value)


def _address(name: str, default: str, schemes: tuple[str, ...]) -> str:
    url = os.environ.get(name) or default
    if url.partition("://")[0] not in schemes:
        *most, last = (f"{scheme}://" for scheme in schemes)
        instead = "the embedded server" if name == "REDIS_URL" else "REDIS_URL"
        raise ImproperlyConfigured(f"{name} must start with {', '.join(most)} or {last}; unset it for {instead}.")
    try:
        urlsplit(url).port  # noqa: B018  (reading the property parses it)
    except ValueError:  # its message may quote a part of the password
        raise ImproperlyConfigured(
            f"{name} has no valid port. Percent-encode special characters in the password (/ is %2F, # is %23)."
        ) from None
    if url.startswith("rediss://") and "ssl_cert_reqs" not in url:
        url += ("&" if "?" in url else "?") + "ssl_cert_reqs=required"  # Celery's result backend requires it
    return url


def _list(name: str, default: str = "") -> list[str]:
    return [item.strip() for item in os.environ.get(name, default).split(",") if item.strip()]


def _database(name: str, file: str) -> dict[str, Any]:
    url = os.environ.get(name) or f"sqlite:///{STATE_DIR / file}"
    try:
        parsed: dict[str, Any] = dict(dj_database_url.parse(url))
    except (ValueError, KeyError) as error:
        # The parser's message may quote a part of the password.
        why = "is the password percent-encoded?" if "@" in url else error
        raise ImproperlyConfigured(f"{name} is not a database URL ({why}). Write postgres://user@host/name.") from None
    if parsed["ENGINE"] == "django.db.backends.sqlite3":
        parsed["OPTIONS"] = dict(SQLITE_OPTIONS)
        # The test database is a file too, because other processes must be able to open it.
        parsed["TEST"] = {"NAME": str(STATE_DIR / f"test_{os.getpid()}_{file}")}
    return parsed


PRODUCTION = _flag("DJANGO_PRODUCTION")
STATE_DIR = Path(os.environ.get("STATE_DIR") or BASE_DIR / ".state").resolve()
STATE_DIR.mkdir(mode=0o700, parents=True, exist_ok=True)

SECRET_KEY = os.environ.get("DJANGO_SECRET_KEY", "")
if not SECRET_KEY:
    if PRODUCTION:
        raise ImproperlyConfigured("DJANGO_SECRET_KEY is not set. Generate one and keep it out of the repository.")
    SECRET_KEY = secret_key(STATE_DIR)
DEBUG = False
ALLOWED_HOSTS = _list("DJANGO_ALLOWED_HOSTS", "localhost,127.0.0.1,[::1]")
CSRF_TRUSTED_ORIGINS = _list("DJANGO_CSRF_ORIGINS")
if PRODUCTION:
    SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = True
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
    SECURE_CONTENT_TYPE_NOSNIFF = True
    SECURE_SSL_REDIRECT = _flag("DJANGO_SSL_REDIRECT", "1")
    SECURE_HSTS_SECONDS = _whole("DJANGO_HSTS_SECONDS", 3600)
    SECURE_HSTS_INCLUDE_SUBDOMAINS = SECURE_HSTS_PRELOAD = _flag("DJANGO_HSTS_SUBDOMAINS", "1")
    for required in ("DATABASE_URL", "REDIS_URL", "BANK_URL"):
        if not os.environ.get(required):
            raise ImproperlyConfigured(f"{required} is not set; DJANGO_PRODUCTION=1 has no embedded defaults.")

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "tasks_demo",
    "tasks_demo.records",
    "tasks_demo.demo",
    "tasks_demo.demo.shop",
    "tasks_demo.demo.bank",
    "tasks_demo.lab",
    "tasks_demo.benchmark",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "csp.middleware.CSPMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
# No nonce and no exception: no page has an inline script or style.
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": ["'self'"],
        "script-src": ["'self'"],
        "style-src": ["'self'"],
        "img-src": ["'self'", "data:"],
        "object-src": ["'none'"],
        "base-uri": ["'self'"],
        "frame-ancestors": ["'none'"],
        "form-action": ["'self'"],
    }
}
ROOT_URLCONF = "project.urls"
WSGI_APPLICATION = "project.wsgi.application"
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
DATABASES = {
    "default": _database("DATABASE_URL", "db.sqlite3"),
    "bank": _database("BANK_DATABASE_URL", "bank.sqlite3"),
}
DATABASE_OF_APP = {"bank": "bank"}
if os.environ.get("SHOP_DATABASE_URL") or "sqlite" in DATABASES["default"]["ENGINE"]:
    # SQLite has one writer per file, and the ledger must be able to write while a business transaction is open.
    DATABASES["shop"] = _database("SHOP_DATABASE_URL", "shop.sqlite3")
    DATABASE_OF_APP |= {"shop": "shop", "tasks_demo_records": "shop"}
for _alias in set(DATABASES) - {"default"}:
    # Test databases do not depend on each other.
    DATABASES[_alias].setdefault("TEST", {})["DEPENDENCIES"] = []
DATABASE_ROUTERS = ["project.routers.OneHomePerApp"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator"},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]
USE_TZ = True
TIME_ZONE = "UTC"
STATIC_URL = "static/"
STATIC_ROOT = BASE_DIR / "staticfiles"
with contextlib.suppress(OSError):  # a read-only image already contains the static files
    STATIC_ROOT.mkdir(exist_ok=True)  # WhiteNoise warns when it is missing
WHITENOISE_USE_FINDERS = True
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
    "loggers": {"urllib3": {"level": "ERROR"}},  # the bank's client reports the same failures itself
    "root": {"handlers": ["stderr"], "level": os.environ.get("LOG_LEVEL", "WARNING").upper()},
}

REDIS_IS_EMBEDDED = not os.environ.get("REDIS_URL")
_REDIS = ("redis", "rediss", "unix")
REDIS_URL = _address("REDIS_URL", redis_address(STATE_DIR), _REDIS)
# No setting begins with BROKER_: Celery still reads such names of its own past, whatever CELERY_… says beside them.
_broker = _address("BROKER_URL", REDIS_URL, (*_REDIS, "amqp", "amqps"))
_queue_type = os.environ.get("BROKER_QUEUE_TYPE") or "quorum"
if _queue_type not in rabbitmq.TYPES:
    raise ImproperlyConfigured(f"BROKER_QUEUE_TYPE={_queue_type!r}: write {' or '.join(rabbitmq.TYPES)}.")
BANK_IS_EMBEDDED = not os.environ.get("BANK_URL")
BANK_URL = os.environ.get("BANK_URL") or bank_address(STATE_DIR)

_transport = os.environ.get("BROKER_TRANSPORT") or "reliable"
if _transport not in {"reliable", "redis"}:
    raise ImproperlyConfigured(f"BROKER_TRANSPORT={_transport!r}: write reliable or redis.")
# kombu and Celery use their own schemes for a Unix socket.
CELERY_RESULT_BACKEND = REDIS_URL.replace("unix://", "redis+socket://", 1)
if _broker.startswith("amqp") or _transport == "redis":
    CELERY_BROKER_URL = _broker.replace("unix://", "redis+socket://", 1)
else:
    CELERY_BROKER_URL = f"reliable+{_broker.replace('unix://', 'socket://', 1)}"
CELERY_TIMEZONE = "UTC"
CELERY_ACCEPT_CONTENT = ["json"]
CELERY_TASK_SERIALIZER = CELERY_RESULT_SERIALIZER = "json"
# Prefetch one message per pool process, so that a dying worker holds only the messages it is running.
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_TASK_TIME_LIMIT = 300
CELERY_TASK_SOFT_TIME_LIMIT = 240
if _broker.startswith("amqp"):
    # apply_async returns when RabbitMQ has the job, or raises.
    CELERY_BROKER_TRANSPORT_OPTIONS: dict[str, Any] = {"confirm_publish": True}
    CELERY_TASK_QUEUES = [rabbitmq.declared(_queue_type)]
else:
    # For workers on stock kombu: above the time limit, so that they never redeliver a message that is still running.
    CELERY_BROKER_TRANSPORT_OPTIONS = {"visibility_timeout": 900}
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_TASK_PUBLISH_RETRY_POLICY = {"max_retries": 2, "interval_start": 0.1, "interval_step": 0.2, "interval_max": 0.5}
# Unless this is set, Celery's Django fixup closes the database connection around every task.
CELERY_DB_REUSE_MAX = 1000

TASKS_DEMO_REDIS_URL = REDIS_URL
TASKS_DEMO_BANK_URL = BANK_URL
TASKS_DEMO_BOOKS = {"bank": "tasks_demo.demo.ledger_books.Bank", "shop": "tasks_demo.demo.ledger_books.Bookings"}
TASKS_DEMO_PUBLISHABLE = ["tasks_demo.charge_*"]
# Overrides of tasks_demo.core.conf, e.g. TASKS_DEMO_LEASE_SECONDS=30; values are validated there.
for _name, _value in os.environ.items():
    if _name.startswith("TASKS_DEMO_"):
        globals()[_name] = _value

"""Convert times to what the project's databases store: aware, or naive in TIME_ZONE where the project has USE_TZ=False.

Does **not** distinguish, on SQLite with USE_TZ=False, the two repeated hours at the end of daylight saving time: the columns are
text without a zone, so such times can be an hour off. PostgreSQL stores every time exactly.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from django.conf import settings
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import functions
from django.utils import timezone


def from_epoch(seconds: float) -> datetime:
    """Convert seconds since the epoch to what a DateTimeField reads and stores in this project."""
    return for_column(datetime.fromtimestamp(seconds, UTC))


def for_column(at: datetime) -> datetime:
    """Convert a datetime to what a DateTimeField stores in this project."""
    if settings.USE_TZ or timezone.is_naive(at):
        return at
    return timezone.make_naive(at, timezone.get_default_timezone())


def aware(at: datetime) -> datetime:
    """Return the datetime with a time zone, so that it can be compared with others and sent to other systems."""
    return timezone.make_aware(at, timezone.get_default_timezone()) if timezone.is_naive(at) else at


def iso(seconds: float) -> str:
    """Format seconds since the epoch as ISO 8601, in UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat()


def for_driver(at: datetime, connection: BaseDatabaseWrapper) -> Any:
    """Convert an aware datetime to a parameter for the database driver."""
    # PostgreSQL's columns have a time zone, whatever USE_TZ is.
    return connection.ops.adapt_datetimefield_value(at if connection.vendor == "postgresql" else for_column(at))


class Now(functions.Now):
    """The database's clock, in the time zone of the columns. On SQLite, Django's own Now() is always in UTC."""

    def as_sqlite(self, compiler: Any, connection: Any, **context: Any) -> Any:
        return self.as_sql(compiler, connection, template=sql_now(connection).replace("%%", "%%%%"), **context)


def sql_now(connection: Any, later: float = 0.0) -> str:
    """Return SQL for the database's clock plus ``later`` seconds, for a statement with parameters (``%`` is doubled)."""
    if connection.vendor != "sqlite":
        return f"STATEMENT_TIMESTAMP() + INTERVAL '{later:f} seconds'" if later else "STATEMENT_TIMESTAMP()"
    zone = connection.timezone or timezone.get_default_timezone()
    offset = datetime.now(zone).utcoffset() or timedelta()
    return f"STRFTIME('%%Y-%%m-%%d %%H:%%M:%%f', 'NOW', '{offset.total_seconds() + later:+.3f} seconds')"

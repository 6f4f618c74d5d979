"""Convert moments to what the project's databases store: aware, or naive in TIME_ZONE where the project has USE_TZ=False.

Does **not** guarantee, on SQLite with USE_TZ=False, which of the two repeated hours at the end of summer time a moment is in: the
columns are text without a zone, so such moments are up to an hour off. PostgreSQL stores every moment exactly.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from django.conf import settings
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import functions
from django.utils import timezone


def moment(seconds: float) -> datetime:
    """Seconds since the epoch as a DateTimeField reads and stores them."""
    return stored(datetime.fromtimestamp(seconds, UTC))


def stored(at: datetime) -> datetime:
    """A moment as a DateTimeField stores it in this project."""
    if settings.USE_TZ or timezone.is_naive(at):
        return at
    return timezone.make_naive(at, timezone.get_default_timezone())


def aware(at: datetime) -> datetime:
    """A moment with its time zone, so that it can be compared with others and sent elsewhere."""
    return timezone.make_aware(at, timezone.get_default_timezone()) if timezone.is_naive(at) else at


def iso(seconds: float) -> str:
    """Seconds since the epoch as text, in UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat()


def adapted(at: datetime, connection: BaseDatabaseWrapper) -> Any:
    """An aware moment as a parameter for the database driver."""
    # PostgreSQL's column knows zones whatever USE_TZ says.
    return connection.ops.adapt_datetimefield_value(at if connection.vendor == "postgresql" else stored(at))


class Now(functions.Now):
    """The database's clock. Django's own is in UTC on SQLite, whatever the zone of the columns."""

    def as_sqlite(self, compiler: Any, connection: Any, **context: Any) -> Any:
        return self.as_sql(compiler, connection, template=sql_now(connection).replace("%%", "%%%%"), **context)


def sql_now(connection: Any, later: float = 0.0) -> str:
    """SQL for the database's clock plus ``later`` seconds, for a statement that has parameters."""
    if connection.vendor != "sqlite":
        return f"STATEMENT_TIMESTAMP() + INTERVAL '{later:f} seconds'" if later else "STATEMENT_TIMESTAMP()"
    zone = connection.timezone or timezone.get_default_timezone()
    offset = datetime.now(zone).utcoffset() or timedelta()
    return f"STRFTIME('%%Y-%%m-%%d %%H:%%M:%%f', 'NOW', '{offset.total_seconds() + later:+.3f} seconds')"

"""Examines a database: whether it answers, is migrated and accepts writes, and which commits survive a crash of the machine."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

from django.db import DatabaseError, connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.migrations.executor import MigrationExecutor

from tasks_demo.doctor.findings import PATIENCE, Finding, ok, reason, unusable, warn

#: Clock difference above which the doctor warns, seconds.
SKEW = 1.0
#: SQLite's names for the levels of PRAGMA synchronous.
SYNCHRONOUS = {0: "OFF", 1: "NORMAL", 2: "FULL", 3: "EXTRA"}


def database(alias: str) -> list[Finding]:
    """Examine one alias, on a new connection."""
    part = f"database {alias}"
    with closing(_connection(alias)) as connection:
        try:
            connection.ensure_connection()
            rows = [ok(part, "answers", _described(connection)), _migrations(part, alias, connection)]
            look = {"sqlite": _sqlite, "postgresql": _postgresql}.get(connection.vendor)
            return [*rows, *(look(part, connection) if look else ())]
        except DatabaseError as error:
            return [
                unusable(
                    part, "answers", reason(error), "Start it, or correct its address; unset it for an SQLite file."
                )
            ]


def _connection(alias: str) -> BaseDatabaseWrapper:
    connection = connections.create_connection(alias)
    connection.settings_dict = copy.deepcopy(connection.settings_dict)
    options = connection.settings_dict.setdefault("OPTIONS", {})
    if connection.vendor == "sqlite":
        options["timeout"] = PATIENCE
    elif connection.vendor == "postgresql":
        options["connect_timeout"] = int(PATIENCE)
    return connection


def _described(connection: BaseDatabaseWrapper) -> str:
    known = connection.settings_dict
    version = ".".join(str(part) for part in connection.get_database_version())
    where = known["NAME"] if connection.vendor == "sqlite" else f"{known['NAME']} on {known['HOST'] or 'this machine'}"
    return f"{connection.display_name} {version}, {where}"


def _migrations(part: str, alias: str, connection: BaseDatabaseWrapper) -> Finding:
    executor = MigrationExecutor(connection)
    missing = executor.migration_plan(executor.loader.graph.leaf_nodes())
    if not missing:
        return ok(part, "migrations", "all applied")
    seen = f"{len(missing)} missing, the first is {missing[0][0]}"
    fix = f"Run `python manage.py migrate --database {alias}`."
    return unusable(part, "migrations", seen, fix)


def _one(connection: BaseDatabaseWrapper, sql: str) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetchone()


def _sqlite(part: str, connection: BaseDatabaseWrapper) -> Iterator[Finding]:
    (mode,) = _one(connection, "PRAGMA journal_mode")
    (level,) = _one(connection, "PRAGMA synchronous")
    if mode == "wal":
        yield ok(part, "journal", "WAL: readers and the writer do not block each other")
    else:
        fix = "Write PRAGMA journal_mode=WAL in the database's init_command."
        yield warn(part, "journal", f"{mode}: every reader blocks writers", fix)
    if level:
        keeps = (
            "a power failure can lose the last commits, a kill loses none"
            if level == 1
            else "a power failure loses no commit"
        )
        yield ok(part, "on disk", f"synchronous={SYNCHRONOUS.get(level, level)}: {keeps}")
    else:
        fix = "Write PRAGMA synchronous=NORMAL in the database's init_command."
        yield warn(part, "on disk", "synchronous=OFF: a power failure can corrupt the file", fix)
    try:
        with connection.cursor() as cursor:
            cursor.execute("BEGIN IMMEDIATE")
            cursor.execute("ROLLBACK")
        yield ok(part, "writes", "the write lock is free")
    except DatabaseError as error:
        yield unusable(
            part,
            "writes",
            f"{reason(error)}, for {PATIENCE:g} s: the ledger cannot record starts, and patterns cannot store records",
            "End the process that keeps a write transaction open, or make the file and its folder writable.",
        )


def _postgresql(part: str, connection: BaseDatabaseWrapper) -> Iterator[Finding]:
    before = time.time()
    now, replica, read_only, synchronous, fsync = _one(
        connection,
        "SELECT extract(epoch FROM clock_timestamp()), pg_is_in_recovery(), current_setting('transaction_read_only'), "
        "current_setting('synchronous_commit'), current_setting('fsync')",
    )
    after = time.time()
    if replica or read_only == "on":
        what = "a replica" if replica else "read-only (default_transaction_read_only)"
        seen = f"{what}: the ledger cannot record starts, and patterns cannot store records"
        yield unusable(part, "writes", seen, "Connect to the primary.")
    else:
        yield ok(part, "writes", "a primary that accepts writes")
    if "off" in (synchronous, fsync):
        seen = f"synchronous_commit={synchronous}, fsync={fsync}: a crash of the server can lose acknowledged commits"
        yield warn(part, "on disk", seen, "Set both to on.")
    else:
        yield ok(part, "on disk", f"synchronous_commit={synchronous}: a crash of the server loses no commit")
    yield clock(part, float(now), before, after)


def clock(part: str, theirs: float, before: float, after: float) -> Finding:
    """Compare a server's clock with ours. ``before``, ``after``: our clock before and after the query. All in epoch seconds."""
    apart = max(before - theirs, theirs - after, 0.0)
    if apart <= SKEW:
        return ok(part, "clock", f"at most {apart:.1f} s from ours")
    ahead = "ahead of" if theirs > after else "behind"
    return warn(
        part,
        "clock",
        f"{apart:.1f} s {ahead} ours: countdowns and visibility timeouts are wrong by this much, and histories out of order",
        "Run NTP on both machines.",
    )

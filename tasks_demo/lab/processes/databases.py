"""Databases that belong to one run, for what its jobs write: the shop's rows, the patterns' tables, the bank's books.

In the project's tables another relay would publish the lab's jobs, and an ordinary worker would run them. The ledger is
shared: the dashboard shows experiments beside everything else.

Where the shop's tables are in PostgreSQL, the scratch database is a schema beside them (faster to create than a database);
otherwise it is an SQLite file in the run's folder. Both are removed when the run ends. A run that is killed cannot remove its
own: the next run does. Whether a run is alive is known from a lock that ends with its process: on its folder, and an advisory
lock in PostgreSQL.
"""

from __future__ import annotations

import contextlib
import copy
import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from django.core.management import call_command
from django.db import DatabaseError, connections, router

from tasks_demo.core.exceptions import EnvironmentNotReady
from tasks_demo.demo.defaults import sqlite_file
from tasks_demo.demo.routing import add_database
from tasks_demo.demo.shop.models import Booking
from tasks_demo.lab.processes.brokers import Broker, without_password
from tasks_demo.lab.processes.servers import postgres
from tasks_demo.lab.processes.servers.postgres import PostgresServer

#: The alias of the scratch database, in the experiment and in its workers.
ALIAS = "lab"
#: The apps whose tables are in it.
APPS = ("shop", "tasks_demo_records")
#: Maximum time that the experiment itself waits for SQLite's write lock, seconds. Its workers share the file, and processes that
#: are stopped or slow inside their transactions keep the lock, one after the other.
LOCK_SECONDS = 120.0
SCHEMA_PREFIX = "tasks_demo_lab_"
_OURS = f"nspname ~ '^{SCHEMA_PREFIX}[0-9a-f]{{10}}$' AND nspowner = (SELECT oid FROM pg_roles WHERE rolname = current_user)"  # noqa: S608
_FOLDER, _LEFTOVERS = "scratch", "leftovers.json"


def use_database(place: str, *, lock_seconds: float = 0.0) -> Callable[[], None]:
    """Route the apps of the shop and of the patterns to ``place`` in this process: a file, a schema of the project's PostgreSQL,
    or the folder of a PostgreSQL server of the lab's own.

    ``lock_seconds``: maximum time to wait for SQLite's write lock, if not the project's. Returns what undoes it.
    """
    home = router.db_for_write(Booking)
    if connections[home].vendor == "sqlite":
        options = sqlite_file(place)
        if lock_seconds:
            options["OPTIONS"]["timeout"] = lock_seconds
        return add_database(ALIAS, options, APPS)
    known = copy.deepcopy(connections.settings[home])
    if place.startswith("/"):
        known |= {
            "HOST": place,
            "PORT": "",
            "USER": postgres.USER,
            "PASSWORD": "",
            "NAME": postgres.DATABASE,
            "OPTIONS": {},
        }
        return add_database(ALIAS, known, APPS)
    options = known.setdefault("OPTIONS", {})
    options["options"] = f"{options.get('options', '')} -c search_path={place}".strip()
    return add_database(ALIAS, known, APPS)


def address() -> str:
    """Where the server of the jobs' tables is, for a proxy: PostgreSQL, without user and password."""
    connection = connections[router.db_for_write(Booking)]
    connection.ensure_connection()
    known: Any = connection.connection.info
    if known.host.startswith("/"):
        return f"postgresql+socket://{quote(f'{known.host}/.s.PGSQL.{known.port}')}"
    host = f"[{known.host}]" if ":" in known.host else known.host
    return f"postgresql://{host}:{known.port}"


def connect_at(port: int) -> None:
    """Have this process find the scratch database at this port of 127.0.0.1. What it says there is not encrypted."""
    known = connections.settings[ALIAS]
    known |= {"HOST": "127.0.0.1", "PORT": str(port)}
    known["OPTIONS"] = {**known.get("OPTIONS", {}), "sslmode": "disable"}


@contextlib.contextmanager
def scratch_database(folder: Path, run_id: str, own: PostgresServer | None = None) -> Iterator[str]:
    """Create empty tables and use them; remove them at the end. Yields the place, for ``use_database`` in other processes.

    ``own``: a server of the lab's own, for a fault that kills it. Raises EnvironmentNotReady.
    """
    home = router.db_for_write(Booking)
    vendor = connections[home].vendor
    if vendor not in ("sqlite", "postgresql"):
        raise EnvironmentNotReady(
            f"The database {home!r} is {connections[home].display_name}: the lab supports SQLite and PostgreSQL. "
            "Set SHOP_DATABASE_URL to an SQLite file (sqlite:///…)."
        )
    with contextlib.ExitStack() as stack:
        place = str(folder / "shop.sqlite3")
        if own is not None:
            place = str(own.folder)
        elif vendor == "postgresql":
            place = stack.enter_context(_schema(home, f"{SCHEMA_PREFIX}{run_id}"))
        stack.callback(use_database(place, lock_seconds=LOCK_SECONDS))
        try:
            for app in APPS:  # of all apps it would take three times as long, and make no table more
                call_command("migrate", app, database=ALIAS, verbosity=0, interactive=False)
        except DatabaseError as error:
            raise EnvironmentNotReady(
                f"The tables of this run could not be created in the database {home!r}: {_one_line(error)}. Set "
                "SHOP_DATABASE_URL to an SQLite file (sqlite:///…) or to a database that you own."
            ) from error
        yield place


@contextlib.contextmanager
def _schema(home: str, name: str) -> Iterator[str]:
    """A schema for this run, and an advisory lock while the run is alive. Drops the schemas of runs that are not."""
    connection = connections.create_connection(home)
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", [name])
            cursor.execute(f"SELECT nspname FROM pg_namespace WHERE {_OURS}")  # noqa: S608  (a constant)
            for (found,) in cursor.fetchall():
                cursor.execute("SELECT pg_try_advisory_lock(hashtextextended(%s, 0))", [found])
                if cursor.fetchone()[0]:
                    cursor.execute(f"DROP SCHEMA IF EXISTS {found} CASCADE")
                    cursor.execute("SELECT pg_advisory_unlock(hashtextextended(%s, 0))", [found])
            cursor.execute(f"CREATE SCHEMA {name}")
    except DatabaseError as error:
        connection.close()
        who, where = connection.settings_dict["USER"] or "its user", connection.settings_dict["NAME"]
        raise EnvironmentNotReady(
            f"No schema could be created for this run in the database {home!r}: {_one_line(error)}. The lab keeps its jobs "
            f"apart from yours. Allow it (GRANT CREATE ON DATABASE {where} TO {who}), or set SHOP_DATABASE_URL to an SQLite "
            "file (sqlite:///…) for the experiment."
        ) from error
    try:
        yield name
    finally:
        with contextlib.suppress(DatabaseError), connection.cursor() as cursor:  # if it stays, the next run drops it
            cursor.execute(f"DROP SCHEMA IF EXISTS {name} CASCADE")
        connection.close()


@dataclass(frozen=True, slots=True)
class Leftovers:
    """What else must be removed if the run is killed: a folder of sockets, and what the run has on these servers."""

    sockets: str = ""
    servers: tuple[str, ...] = ()
    run: str = ""


@contextlib.contextmanager
def scratch_folder(folder: Path, leftovers: Leftovers) -> Iterator[Path]:
    """A folder for scratch files below the run's ``folder``, removed at the end."""
    with _locked(folder, wait=True):
        own = folder / _FOLDER
        own.mkdir(mode=0o700)
        try:
            shown = replace(leftovers, servers=tuple(map(without_password, leftovers.servers)))
            (own / _LEFTOVERS).write_text(json.dumps(asdict(shown)), encoding="utf-8")
            yield own
        finally:
            shutil.rmtree(own, ignore_errors=True)


def remove_leftovers(runs: Path, *servers: Broker) -> None:
    """Remove what killed runs have left: their files, and what they have on these servers. Raises what ``Broker.remove`` does.

    A run that has something elsewhere too is left to a run that uses the same servers.
    """
    known = {without_password(server.url): server for server in servers}
    for own in runs.glob(f"*/{_FOLDER}"):
        with contextlib.suppress(BlockingIOError, FileNotFoundError), _locked(own.parent, wait=False):
            left = _read_leftovers(own)
            if not known.keys() >= set(left.servers):
                continue
            for server in left.servers:
                known[server].remove(left.run)
            if left.sockets:
                shutil.rmtree(left.sockets, ignore_errors=True)
            shutil.rmtree(own, ignore_errors=True)


@contextlib.contextmanager
def _locked(folder: Path, *, wait: bool) -> Iterator[None]:
    """Hold the lock of this folder, which ends with the process. Raises BlockingIOError if another process holds it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield
    finally:
        os.close(descriptor)


def _read_leftovers(own: Path) -> Leftovers:
    try:
        return Leftovers(**json.loads((own / _LEFTOVERS).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):  # killed before it was written: there is nothing else yet
        return Leftovers()


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".?")

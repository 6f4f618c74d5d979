"""Databases of a run's own, for what its jobs write: the shop's rows, the patterns' tables, the bank's books.

In the project's tables another relay would publish the lab's jobs, and an ordinary worker would run them. The ledger is
shared: the dashboard shows experiments beside everything else.

On SQLite a scratch database is a file in the run's folder, on PostgreSQL a schema in the shop's database (to create one
takes less than to create a database). Both go when the run ends. A run that is killed cannot remove its own: the next one
does. Whether a run lives is known from a lock that ends with its process: a file's in its folder, PostgreSQL's advisory one.
"""

from __future__ import annotations

import contextlib
import copy
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management import call_command
from django.db import DatabaseError, connections, router

from tasks_demo.core.exceptions import EnvironmentNotReady
from tasks_demo.demo.shop.models import Booking
from tasks_demo.lab.processes.brokers import RedisLane, without_password

#: The alias of the scratch database, in the experiment and in its workers.
ALIAS = "lab"
#: What lives there.
APPS = ("shop", "tasks_demo_records")
#: Names of our schemas, for LIKE and for good.
SCHEMA = "tasks_demo_lab_"
_OURS = f"nspname ~ '^{SCHEMA}[0-9a-f]{{10}}$' AND nspowner = (SELECT oid FROM pg_roles WHERE rolname = current_user)"  # noqa: S608
_FOLDER, _NOTE = "scratch", "note.json"


def use(place: str) -> None:
    """Have this process find the tables of the shop and of the patterns in ``place``: a file, or a schema of PostgreSQL."""
    known = copy.deepcopy(connections.settings[router.db_for_write(Booking)])
    if connections[router.db_for_write(Booking)].vendor == "sqlite":
        known["NAME"] = place
    else:
        options = known.setdefault("OPTIONS", {})
        options["options"] = f"{options.get('options', '')} -c search_path={place}".strip()
    connections.settings[ALIAS] = known
    settings.DATABASE_OF_APP = {**settings.DATABASE_OF_APP, **dict.fromkeys(APPS, ALIAS)}


@contextlib.contextmanager
def scratch(folder: Path, run_id: str) -> Iterator[str]:
    """Make empty tables and ``use`` them; remove them at the end. Yields the place, for the ``use`` of other processes.

    Raises EnvironmentNotReady.
    """
    home, homes = router.db_for_write(Booking), settings.DATABASE_OF_APP
    vendor = connections[home].vendor
    if vendor not in ("sqlite", "postgresql"):
        raise EnvironmentNotReady(
            f"The database {home!r} is {connections[home].display_name}: the lab knows SQLite and PostgreSQL. "
            "Set SHOP_DATABASE_URL to an SQLite file (sqlite:///…)."
        )
    with contextlib.ExitStack() as stack:
        place = str(folder / "shop.sqlite3")
        if vendor == "postgresql":
            place = stack.enter_context(_schema(home, f"{SCHEMA}{run_id}"))
        use(place)
        stack.callback(_use_no_more, homes)
        try:
            call_command("migrate", database=ALIAS, verbosity=0, interactive=False)
        except DatabaseError as error:
            raise EnvironmentNotReady(
                f"No tables could be made for this run in the database {home!r}: {_said(error)}. Set SHOP_DATABASE_URL to "
                "an SQLite file (sqlite:///…) or to a database whose owner you are."
            ) from error
        yield place


def _use_no_more(homes: dict[str, str]) -> None:
    connections[ALIAS].close()
    del connections[ALIAS]
    del connections.settings[ALIAS]
    settings.DATABASE_OF_APP = homes


@contextlib.contextmanager
def _schema(home: str, name: str) -> Iterator[str]:
    """A schema of our own, and an advisory lock that says that we live. Drops those whose run does not."""
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
            f"No schema could be created for this run in the database {home!r}: {_said(error)}. The lab keeps its jobs apart "
            f"from yours. Allow it (GRANT CREATE ON DATABASE {where} TO {who}), or set SHOP_DATABASE_URL to an SQLite file "
            "(sqlite:///…) for the experiment."
        ) from error
    try:
        yield name
    finally:
        with contextlib.suppress(DatabaseError), connection.cursor() as cursor:  # what stays, the next run drops
            cursor.execute(f"DROP SCHEMA IF EXISTS {name} CASCADE")
        connection.close()


@contextlib.contextmanager
def kept_apart(folder: Path, note: dict[str, str]) -> Iterator[Path]:
    """A folder for scratch files below the run's ``folder``, removed at the end.

    ``note``: what else must go if this process is killed: ``sockets``, a folder; ``redis`` and ``prefix``, an address and the
    keys there.
    """
    with _locked(folder, wait=True):
        own = folder / _FOLDER
        own.mkdir(mode=0o700)
        try:
            (own / _NOTE).write_text(json.dumps({**note, "redis": without_password(note["redis"])}), encoding="utf-8")
            yield own
        finally:
            shutil.rmtree(own, ignore_errors=True)


def sweep(runs: Path, redis_url: str) -> None:
    """Remove what runs have left that were killed: their files, and their keys if they are on this Redis.

    Raises redis.RedisError.
    """
    for own in runs.glob(f"*/{_FOLDER}"):
        with contextlib.suppress(BlockingIOError, FileNotFoundError), _locked(own.parent, wait=False):
            note = _note(own)
            if note.get("redis"):
                if note["redis"] != without_password(redis_url):
                    continue  # a run on that server removes them
                purge(redis_url, note["prefix"])
            if note.get("sockets"):
                shutil.rmtree(note["sockets"], ignore_errors=True)
            shutil.rmtree(own, ignore_errors=True)


@contextlib.contextmanager
def _locked(folder: Path, *, wait: bool) -> Iterator[None]:
    """Hold the lock of this folder, which ends with the process. Raises BlockingIOError if somebody has it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield
    finally:
        os.close(descriptor)


def purge(redis_url: str, prefix: str) -> None:
    """Delete every key of a run. Raises redis.RedisError."""
    lane = RedisLane(redis_url, prefix)
    try:
        lane.purge()
    finally:
        lane.client.close()


def _note(own: Path) -> dict[str, Any]:
    try:
        note = json.loads((own / _NOTE).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # killed before it was written: there is nothing else yet
        return {}
    return note if isinstance(note, dict) else {}


def _said(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".?")

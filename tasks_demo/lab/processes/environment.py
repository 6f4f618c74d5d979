"""What an experiment runs on: databases, Redis, bank and worker template; checked before anything is published."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import redis
from django.conf import settings as django_settings
from django.db import DEFAULT_DB_ALIAS, DatabaseError, connections, router
from django.db.migrations.executor import MigrationExecutor

from tasks_demo.core.exceptions import EnvironmentNotReady
from tasks_demo.core.wording import counted
from tasks_demo.demo.bank.client import BankClient, BankError
from tasks_demo.demo.shop.models import Booking
from tasks_demo.demo.stack.bank import EmbeddedBank
from tasks_demo.demo.stack.redis import EmbeddedRedis
from tasks_demo.lab.processes.brokers import RedisLane
from tasks_demo.lab.processes.databases import Leftovers, purge, remove_leftovers, scratch_database, scratch_folder
from tasks_demo.lab.processes.template import TemplateClient
from tasks_demo.ledger import database


@dataclass(frozen=True)
class Environment:
    """What the lanes use. ``socket_dir``: private, and short, because a Unix socket's path holds about 100 bytes."""

    redis_url: str
    bank_url: str
    template: TemplateClient
    socket_dir: Path


@contextlib.contextmanager
def environment(folder: Path, broker: str, run_id: str) -> Iterator[Environment]:
    """Start everything, and stop it again however the run ends. Call from the main thread.

    ``broker``: ``redis`` (the server of REDIS_URL, or else an embedded one) or the address of a Redis server. Raises
    EnvironmentNotReady with a sentence that says what to do.
    """
    check_databases()
    prefix = f"lab:{run_id}:"
    embedded = broker == "redis" and django_settings.REDIS_IS_EMBEDDED
    redis_url = "" if embedded else django_settings.REDIS_URL if broker == "redis" else broker
    with contextlib.ExitStack() as stack:
        socket_dir = Path(tempfile.mkdtemp(prefix="lab-"))
        stack.callback(shutil.rmtree, socket_dir, ignore_errors=True)
        own = stack.enter_context(scratch_folder(folder, Leftovers(str(socket_dir), redis_url, prefix)))
        if not embedded:
            stack.callback(
                _purge, redis_url, prefix
            )  # after the last worker has ended; each lane has purged its own keys
        place = stack.enter_context(scratch_database(own, run_id))
        # The template first: it imports while the others start.
        template = TemplateClient(folder / "template.log", place)
        stack.callback(template.close)
        bank_url = django_settings.BANK_URL
        if django_settings.BANK_IS_EMBEDDED:
            books = {"BANK_DATABASE_URL": f"sqlite:///{own / 'bank.sqlite3'}"}
            bank_url = stack.enter_context(EmbeddedBank(folder / "bank.log", env=books, arguments=["--faults"])).url
        if embedded:
            redis_url = stack.enter_context(EmbeddedRedis(own / "redis", socket_dir / "redis.sock")).url
        lane = RedisLane(redis_url, prefix)
        lane.check()
        lane.client.close()
        remove_leftovers(folder.parent, redis_url)
        check_bank(bank_url)
        template.wait_ready()
        yield Environment(redis_url, bank_url, template, socket_dir)


def _purge(redis_url: str, prefix: str) -> None:
    with contextlib.suppress(redis.RedisError):  # the next run removes what stays
        purge(redis_url, prefix)


def check_databases() -> None:
    """Raise EnvironmentNotReady unless the databases of the ledger and of the shop answer and are migrated."""
    for alias in sorted({database.alias(), router.db_for_write(Booking)}):
        _check_database(alias)


def _check_database(alias: str) -> None:
    connection = connections[alias]
    try:
        executor = MigrationExecutor(connection)
        missing = executor.migration_plan(executor.loader.graph.leaf_nodes())
    except DatabaseError as error:
        why = " ".join(str(error).split()).rstrip(".?")
        raise EnvironmentNotReady(
            f"The database {alias!r} cannot be used: {why}. Check DATABASE_URL and SHOP_DATABASE_URL, or unset them for SQLite."
        ) from error
    if missing:
        raise EnvironmentNotReady(
            f"The database {alias!r} lacks {counted(len(missing), 'migration')}, first {missing[0][0]}. "
            f"Run `python manage.py migrate{'' if alias == DEFAULT_DB_ALIAS else f' --database {alias}'}`."
        )


def check_bank(url: str) -> None:
    """Raise EnvironmentNotReady unless the bank answers."""
    try:
        BankClient(url, 5.0).identity()
    except (BankError, ValueError) as error:
        raise EnvironmentNotReady(
            f"The bank at {url} does not answer: {error} Start one with `python manage.py bank` or unset BANK_URL."
        ) from error

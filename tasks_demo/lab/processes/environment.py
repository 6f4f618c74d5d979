"""What an experiment runs on: databases, Redis, broker, bank and worker template; checked before anything is published."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import redis
from celery import current_app
from django.conf import settings as django_settings
from django.db import DEFAULT_DB_ALIAS, DatabaseError, connections, router
from django.db.migrations.executor import MigrationExecutor

from tasks_demo.core.exceptions import EnvironmentNotReady
from tasks_demo.core.wording import counted
from tasks_demo.demo.bank.client import BankClient, BankError
from tasks_demo.demo.defaults import short_temporary_folder
from tasks_demo.demo.shop.models import Booking
from tasks_demo.demo.stack.bank import EmbeddedBank
from tasks_demo.demo.stack.redis import EmbeddedRedis
from tasks_demo.lab.plan.brokers import REDIS, BrokerKind
from tasks_demo.lab.processes.brokers import Broker, connect, redis_plus, reliable
from tasks_demo.lab.processes.brokers.rabbitmq import DEFAULT_URL
from tasks_demo.lab.processes.brokers.redis import RedisBroker
from tasks_demo.lab.processes.databases import Leftovers, remove_leftovers, scratch_database, scratch_folder
from tasks_demo.lab.processes.servers.postgres import PostgresServer
from tasks_demo.lab.processes.template import TemplateClient
from tasks_demo.lab.processes.wall_clock import preloaded
from tasks_demo.ledger import database
from tasks_demo.ledger.models import Event


@dataclass(frozen=True)
class Environment:
    """What the lanes use. ``redis``: of leases and results; the broker too, where that is on Redis. ``brokers``: by kind.

    ``database``: a server of the lab's own for what the jobs write, which it may kill; None: the project's, or a file.
    ``socket_dir``: private, and short, because a Unix socket's path holds about 100 bytes.
    """

    redis: RedisBroker
    brokers: Mapping[str, Broker]
    bank_url: str
    template: TemplateClient
    socket_dir: Path
    database: PostgresServer | None = None


@contextlib.contextmanager
def environment(
    folder: Path,
    kinds: Collection[BrokerKind],
    address: str,
    run_id: str,
    *,
    demo: bool = True,
    own_database: bool = False,
    own_clock: bool = False,
) -> Iterator[Environment]:
    """Start everything, and stop it again however the run ends. Call from the main thread.

    ``kinds``: the brokers.
    ``address``: of the only one; empty: REDIS_URL or an embedded server, or on RabbitMQ BROKER_URL or one on this machine.
    ``demo``: with a bank and a scratch database, for the jobs of the demo; those of the project use the project's databases.
    ``own_database``: the scratch database is on a PostgreSQL server of the lab's own.
    ``own_clock``: the clock of a worker can be moved.

    Raises EnvironmentNotReady with a sentence that says what to do.
    """
    check_databases(demo=demo)
    others = [kind for kind in kinds if not kind.on_redis]
    given = "" if others else reliable.redis_address(redis_plus.redis_address(address))
    embedded = not given and django_settings.REDIS_IS_EMBEDDED
    redis_url = "" if embedded else given or django_settings.REDIS_URL
    with contextlib.ExitStack() as stack:
        socket_dir = Path(tempfile.mkdtemp(prefix="lab-", dir=short_temporary_folder()))
        stack.callback(shutil.rmtree, socket_dir, ignore_errors=True)
        servers: tuple[Broker, ...] = () if embedded else (connect(REDIS, redis_url, run_id),)
        brokers = {kind.name: connect(kind, address or rabbitmq_url(), run_id) for kind in others}
        servers = (*servers, *brokers.values())
        leftovers = Leftovers(str(socket_dir), tuple(server.url for server in servers), run_id)
        own = stack.enter_context(scratch_folder(folder, leftovers))
        for server in servers:  # after the last worker has ended; each lane has purged its own
            stack.callback(_remove, server, run_id)
        database_server = stack.enter_context(_postgres(socket_dir)) if own_database else None
        place = stack.enter_context(scratch_database(own, run_id, database_server)) if demo else ""
        # The template first: it imports while the others start.
        template = TemplateClient(folder / "template.log", place, preloaded() if own_clock else None)
        stack.callback(template.close)
        bank_url = django_settings.BANK_URL
        if demo and django_settings.BANK_IS_EMBEDDED:
            arguments = ["--faults", "--database", str(own / "bank.sqlite3")]
            bank_url = stack.enter_context(EmbeddedBank(folder / "bank.log", arguments=arguments)).url
        if embedded:
            redis_url = stack.enter_context(EmbeddedRedis(own / "redis", socket_dir / "redis.sock")).url
        redis_server = RedisBroker(REDIS, redis_url, run_id)
        redis_server.prepare()
        brokers |= {kind.name: connect(kind, redis_url, run_id) for kind in kinds if kind.on_redis}
        for broker in brokers.values():
            broker.prepare()
        remove_leftovers(folder.parent, redis_server, *servers)
        if demo:
            check_bank(bank_url)
        template.wait_ready()
        yield Environment(redis_server, brokers, bank_url, template, socket_dir, database_server)


def _postgres(socket_dir: Path) -> PostgresServer:
    if os.geteuid() == 0:
        socket_dir.chmod(0o711)  # its user must get through
    return PostgresServer(socket_dir / "pg")


def _remove(server: Broker, run_id: str) -> None:
    with contextlib.suppress(redis.RedisError, OSError):  # the next run removes what stays
        server.remove(run_id)


def rabbitmq_url() -> str:
    """The broker of the Celery app if it is RabbitMQ, else the server of this machine with its usual user."""
    url = str(current_app.conf.broker_url)
    return url if url.startswith(("amqp://", "amqps://")) else DEFAULT_URL


def check_databases(*, demo: bool = True) -> None:
    """Raise EnvironmentNotReady unless the ledger's database answers and is migrated, and that of the shop answers."""
    for alias in sorted({database.alias(), *([router.db_for_write(Booking)] if demo else [])}):
        _check_database(alias, [Event._meta.app_label] if alias == database.alias() else [])


def _check_database(alias: str, labels: list[str]) -> None:
    connection = connections[alias]
    try:
        executor = MigrationExecutor(connection)
        leaves = [leaf for leaf in executor.loader.graph.leaf_nodes() if leaf[0] in labels]
        missing = executor.migration_plan(leaves)
    except DatabaseError as error:
        why = " ".join(str(error).split()).rstrip(".?")
        raise EnvironmentNotReady(
            f"The database {alias!r} cannot be used: {why}. Check DATABASES, or what it is made from "
            "(DATABASE_URL, SHOP_DATABASE_URL)."
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

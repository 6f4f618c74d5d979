"""Relays, publishers, workers, brokers and databases as processes, killed at the worst moment; SQLite and PostgreSQL.

Over 300 lines: every moment, on the same two databases.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import sqlite3
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests import forks
from tests.integration.outbox.outbox_table import copies
from tests.integration.servers.postgres import PostgresServer, own_postgres
from tests.integration.servers.redis import RedisServer
from tests.support import PROJECT, STATE, Home, Worker, queued, until

JOB = "celery.accumulate"
PRELUDE = f"""
import os, signal
from django.db import router, transaction
from tasks_demo.outbox import enqueue
from tasks_demo.records.models import OutboxMessage
JOB, shop = {JOB!r}, router.db_for_write(OutboxMessage)
"""


class Place:
    """A migrated database and the processes that work on it."""

    def __init__(self, home: Home, server: PostgresServer | None) -> None:
        self.home = home
        self.server = server
        self._postgres: psycopg.Connection[Any] | None = None
        home.migrate()

    def close(self) -> None:
        """The next query opens another connection."""
        if self._postgres is not None:
            self._postgres.close()
            self._postgres = None

    def sql(self, statement: str, *, ledger: bool = False) -> list[tuple[Any, ...]]:
        """Query the database of the outbox, or of the ledger, directly, in a separate transaction."""
        if self.server is not None:
            # Kept for the next look: a connection costs more than a query.
            if self._postgres is None:
                self._postgres = psycopg.connect(self.home.database_url, connect_timeout=3, autocommit=True)
            cursor = self._postgres.execute(statement)
            return list(cursor.fetchall()) if cursor.description else []
        path = self.home.state / ("db.sqlite3" if ledger else "shop.sqlite3")
        with contextlib.closing(sqlite3.connect(path, timeout=20)) as file, file:
            return list(file.execute(statement))

    def count(self, condition: str) -> int:
        return int(self.sql(f"SELECT count(*) FROM tasks_demo_records_outboxmessage WHERE {condition}")[0][0])  # noqa: S608

    def python(self, code: str, broker: RedisServer, **env: str) -> int:
        """Run a program that has ``enqueue``; returns its exit code, negative for a signal."""
        done = self.home.python(PRELUDE + code, env={"REDIS_URL": broker.url, **env}, timeout=120)
        assert done.code <= 0, done.err
        return done.code

    def fill(self, count: int, start: int = 0, task: str = JOB, arguments: str = "[[1], {}]") -> set[str]:
        """Commit this many messages in one transaction, as ``enqueue`` would, without a signal; returns their IDs."""
        now = "CURRENT_TIMESTAMP" if self.server else "STRFTIME('%Y-%m-%d %H:%M:%f', 'NOW')"
        numbers = range(start, start + count)
        rows = ",".join(
            f"('job-{n}', '{task}', '{arguments}', 'application/json', 'utf-8', '{{}}', {now}, {now}, 0, 0, '', '', '', -1)"
            for n in numbers
        )
        columns = "task_id, task, arguments, content_type, content_encoding, options, created_at, due_at"
        columns += ", publications, failures, error, queue, started_by, generation"
        self.sql(f"INSERT INTO tasks_demo_records_outboxmessage ({columns}) VALUES {rows}")  # noqa: S608
        return {f"job-{number}" for number in numbers}


class RelayProcess:
    """``manage.py relay``; killed at the end of the block if it still runs."""

    def __init__(self, place: Place, broker: RedisServer, *arguments: str, **env: str) -> None:
        self._log = place.home.state / f"relay-{uuid.uuid4().hex[:8]}.log"
        arguments = ("manage.py", "relay", "--interval", "0.05", *arguments)
        env = {"REDIS_URL": broker.url, **env}
        self.process = forks.spawn(arguments, cwd=PROJECT, env=place.home.env(env), log=self._log)

    def said(self) -> str:
        return self._log.read_text(errors="replace")

    def published(self) -> int:
        return sum(int(number) for number in re.findall(r": (\d+) published, ", self.said()))

    def await_words(self, words: str) -> None:
        until(lambda: words in self.said() or not self.process.alive(), f"{words!r} from the relay")
        assert words in self.said(), self.said()

    def __enter__(self) -> RelayProcess:
        self.await_words("the relay looks every")
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()


def stop_at_work(relay: RelayProcess, place: Place, broker: RedisServer, sent: set[str], spare: int) -> None:
    """SIGSTOP it when some of ``sent`` are published and more than ``spare`` are not; adds more if it was too fast for us."""
    for _ in range(20):
        before = queued(broker.url)
        until(lambda n=before: queued(broker.url) > n, "the first messages")  # type: ignore[misc]
        os.kill(relay.process.pid, signal.SIGSTOP)
        if len(sent) - queued(broker.url) > spare:
            return
        os.kill(relay.process.pid, signal.SIGCONT)
        until(lambda: place.count("published_at IS NULL") == 0, "the rest")
        sent |= place.fill(max(400, 2 * spare), start=len(sent))
    raise AssertionError("it is always done before it is stopped")


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(own_postgres()) if request.param == "postgresql" else None
        state = Path(tempfile.mkdtemp(prefix="r-", dir=STATE))
        place = Place(Home(state, server.url("postgres") if server else ""), server)
        stack.callback(place.close)
        yield place


@pytest.fixture(autouse=True)
def _empty(place: Place) -> None:
    for table in ("tasks_demo_records_outboxmessage", "tasks_demo_records_inboxentry", "shop_booking"):
        place.sql(f"DELETE FROM {table}")  # noqa: S608
    for table in ("tasks_demo_event", "tasks_demo_tally"):
        place.sql(f"DELETE FROM {table}", ledger=True)  # noqa: S608


def test_relays_side_by_side_publish_each_message_once(place: Place, broker: RedisServer) -> None:
    count = 2000 if place.server else 600
    with contextlib.ExitStack() as stack:
        relays = [stack.enter_context(RelayProcess(place, broker)) for _ in range(3)]
        sent: set[str] = set()
        for _ in range(10):  # one relay may have done all before the others got the processor
            sent |= place.fill(count, start=len(sent))
            until(lambda: place.count("published_at IS NULL") == 0, "every publication", 60)
            assert copies(broker.url) == dict.fromkeys(sent, 1)
            assert place.count("publications = 1") == len(sent)
            total = len(sent)
            until(lambda n=total: sum(relay.published() for relay in relays) == n, "the last line of each relay")  # type: ignore[misc]
            if sum(relay.published() > 0 for relay in relays) >= 2:
                break
        else:
            raise AssertionError("they must work at the same time")


def test_publisher_killed_after_its_commit_has_its_job_published_and_one_killed_before_has_none(
    place: Place, broker: RedisServer
) -> None:
    for committed in (True, False):
        killed = place.python(
            "with transaction.atomic(using=shop):\n"
            f"    enqueue('tasks_demo.charge_outbox', kwargs=dict(customer='c', amount=1, operation='order-17'), "
            f"task_id='order-{committed}')\n"
            f"    if not {committed}: os.kill(os.getpid(), signal.SIGKILL)\n"
            "os.kill(os.getpid(), signal.SIGKILL)",
            broker,
        )
        assert killed == -signal.SIGKILL
    done = place.home.manage("relay", "--once", env={"REDIS_URL": broker.url})
    assert (done.code, done.out.strip()) == (0, "1 published"), done.err
    assert copies(broker.url) == {"order-True": 1}
    # The relay knows the task's declaration, so the ledger has the pattern and the operation.
    known = place.sql("SELECT pattern, operation, publications FROM tasks_demo_tally", ledger=True)
    assert known == [("outbox", "order-17", 1)]


EXECUTIONS = "SELECT max(executions), sum(executions) FROM tasks_demo_tally"
#: Three relays, one after the other; each takes ten rows, hands them over five at a time, and kills itself at one moment.
DOOMED = """
from celery import current_app, signals
from tasks_demo.outbox import relay
from tasks_demo.outbox.table import Table
seen, mark = [], Table.mark
def reached(moment):
    seen.append(moment)
    if (moment, seen.count(moment)) == doom: os.kill(os.getpid(), signal.SIGKILL)
def marking(self, published, **options):
    if published: reached("sent")
    mark(self, published, **options)
    if published: reached("marked")
def collected(**_): reached("collected")
signals.before_task_publish.connect(collected)
Table.mark = marking
relay.AT_ONCE = 5
# Import first: the time limit of the batch is half of the lease.
current_app.loader.import_default_modules()
for doom in (("collected", 3), ("sent", 2), ("marked", 1)):
    child = os.fork()
    if not child:
        relay.Relay(batch=10).run_once()
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL, doom
"""


def test_relay_killed_in_a_batch_repeats_only_unmarked_rows(place: Place, broker: RedisServer) -> None:
    sent = place.fill(40, task="tasks_demo.charge_inbox", arguments='[[], {"customer": "c", "amount": 5}]')
    # Jobs 0-9: killed when three of the first five are collected. 10-19: when the second five are sent. 20-29: when the first
    # five are marked.
    assert place.python(DOOMED, broker) == 0
    there = {f"job-{number}" for number in range(10, 25)}
    marked = there - {f"job-{number}" for number in range(15, 20)}
    assert copies(broker.url) == dict.fromkeys(there, 1)
    assert place.count("published_at IS NOT NULL") == len(marked)
    # The leases of the killed relays end.
    place.sql("UPDATE tasks_demo_records_outboxmessage SET due_at = created_at WHERE published_at IS NULL")
    with RelayProcess(place, broker):
        until(lambda: place.count("published_at IS NULL") == 0, "every publication")
        assert copies(broker.url) == {task_id: 1 + (task_id in there - marked) for task_id in sent}
        with Worker(place.home, place.home.state / "inbox-worker.log", {"REDIS_URL": broker.url}):
            until(lambda: place.count("finished_at IS NOT NULL") == 40, "the end of all", 60)
            until(lambda: queued(broker.url) == 0, "the suppressed copies")
            # A slow commit delays no body.
            until(lambda: place.sql(EXECUTIONS, ledger=True)[0][1] == 40, "every start in the ledger")
    assert place.sql("SELECT count(*), count(DISTINCT task_id) FROM shop_booking") == [(40, 40)]
    assert place.sql(EXECUTIONS, ledger=True) == [(1, 40)]


def test_commit_in_another_process_wakes_a_relay(place: Place, broker: RedisServer) -> None:
    with RelayProcess(place, broker, "--interval", "60"):
        for number in range(2):
            place.python(
                f"with transaction.atomic(using=shop): enqueue(JOB, [{number}], task_id='woken-{number}')", broker
            )
            until(lambda number=number: copies(broker.url)[f"woken-{number}"], "its message")  # type: ignore[misc]


def test_broker_that_comes_back_empty_has_everything_run_at_the_end(place: Place, broker: RedisServer) -> None:
    soon = {"TASKS_DEMO_OUTBOX_UNSTARTED_SECONDS": "1"}
    first = place.fill(40)
    with RelayProcess(place, broker, **soon) as relay:
        # Compared by ID: on a slow disk the first messages are published again before the last.
        until(lambda: set(copies(broker.url)) == first, "the first messages in the queue")
        until(lambda: place.count("published_at IS NOT NULL") == 40, "their marks, which follow the broker's answer")
        broker.kill()
        shutil.rmtree(broker.folder / "appendonlydir", ignore_errors=True)
        (broker.folder / "appendonly.aof").unlink(missing_ok=True)
        place.fill(20, start=40)
        relay.await_words("the broker does not answer")
        broker.start()
        with broker.client() as client:
            assert not client.exists("unacked"), "it knows nothing of what it had"
        with Worker(place.home, place.home.state / "worker.log", {"REDIS_URL": broker.url, **soon}):
            until(lambda: place.count("finished_at IS NOT NULL") == 60, "the end of all 60", 60)
        # Marked after the broker's answer; the worker may be faster.
        until(lambda: place.count("publications >= 2") >= 40, "the second publication of what was lost with the broker")


def test_database_that_is_killed_loses_nothing(place: Place, broker: RedisServer) -> None:
    if place.server is None:
        pytest.skip("SQLite has no server to kill")
    sent = place.fill(400)
    # 10 s: how long messages wait whose claim died with the server. The server may take longer to restart, and published
    # messages would then look unstarted; hence --no-reconcile.
    arguments = ("--batch", "20", "--no-reconcile")
    with RelayProcess(place, broker, *arguments, TASKS_DEMO_OUTBOX_UNSTARTED_SECONDS="10") as relay:
        stop_at_work(relay, place, broker, sent, spare=20)  # finding the server's processes takes a while
        place.close()
        place.server.kill()
        os.kill(relay.process.pid, signal.SIGCONT)
        try:
            relay.await_words("the database does not answer")
            assert queued(broker.url) < len(sent), "it was killed too late"
        finally:
            place.server.start()
        until(lambda: place.count("published_at IS NULL") == 0, "every publication", 45)
        found = copies(broker.url)
    assert set(found) == sent
    assert sum(found.values()) <= len(sent) + 20, "no more twice than one batch"


def test_signal_ends_it_after_the_messages_in_hand_and_releases_the_rest(place: Place, broker: RedisServer) -> None:
    sent = place.fill(3000)  # until it looks whether it was asked to stop, some hundreds more are published
    for sign, code in ((signal.SIGINT, 130), (signal.SIGTERM, 0)):
        with RelayProcess(place, broker, "--batch", "500") as relay:
            stop_at_work(relay, place, broker, sent, spare=1000)
            os.kill(relay.process.pid, sign)
            os.kill(relay.process.pid, signal.SIGCONT)
            assert relay.process.wait(30)
            relay.process.kill()  # reaps it
            assert relay.process.returncode == code
            assert "Traceback" not in relay.said()
        assert place.count("published_at IS NOT NULL") == queued(broker.url)
    left = len(sent) - queued(broker.url)
    assert 0 < left < len(sent)
    done = place.home.manage("relay", "--once", env={"REDIS_URL": broker.url})
    assert (done.code, done.out.strip()) == (0, f"{left} published"), "what was released is due at once"
    assert copies(broker.url) == dict.fromkeys(sent, 1)


def test_relay_says_in_a_sentence_what_is_missing(place: Place, broker: RedisServer, tmp_path: Path) -> None:
    if place.server is not None:
        pytest.skip("once is enough")
    place.fill(3)
    broker.kill()
    done = place.home.manage("relay", "--once", env={"REDIS_URL": broker.url})
    assert done.code == 4
    assert "0 published, then: the broker does not answer" in done.sentence()
    assert "The other messages stay in the outbox" in done.err
    nothing = Home(tmp_path).manage("relay", "--once", env={"REDIS_URL": broker.url})
    assert nothing.code == 4
    assert "cannot be read" in nothing.sentence()

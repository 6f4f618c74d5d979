"""Helpers for the tests of ``inbox`` and ``claim_first``: a real worker on migrated databases."""

from __future__ import annotations

import os
import signal
import sqlite3
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg
from celery.result import AsyncResult

from tasks_demo.leases.redis_client import connect
from tests.integration.patterns.once_tasks import app
from tests.integration.servers.postgres import own_postgres
from tests.support import STATE, Home, Worker, emptied, producer_on, until


class OnceWorker(Worker):
    """A worker with the jobs of ``once_tasks`` and its own queue."""

    queue = "once"
    app = "tests.integration.patterns.once_tasks"

    @property
    def options(self) -> Sequence[str]:
        return ("-Q", self.queue)


class Environment:
    """The worker, its databases, and a folder for each test."""

    def __init__(self, stack: ExitStack, home: Home, redis_url: str, log: Path, own_server: bool) -> None:
        self.redis_url = redis_url
        self.folder = STATE / f"once-{uuid.uuid4().hex[:8]}"
        self.folder.mkdir()
        self.postgres = stack.enter_context(own_postgres()) if own_server else None
        self.home = Home(self.folder, self.postgres.url("postgres")) if self.postgres else home
        if self.postgres:
            self.home.migrate()
        self.vendor = "postgresql" if self.home.database_url else "sqlite"
        emptied(redis_url)  # an earlier module may have left messages that ``idle`` would wait for
        # No body may run without the ledger: the tests count what it holds.
        env = {"REDIS_URL": redis_url, "TASKS_DEMO_DEFER_MAX_SECONDS": "1", "TASKS_DEMO_LEDGER_REQUIRED": "1"}
        self.worker = stack.enter_context(OnceWorker(self.home, log, env, concurrency=2))

    def fresh(self, *, gate: bool = False) -> tuple[str, dict[str, str]]:
        """A new operation and the arguments of a job on it, with its own folder and, on request, a closed gate."""
        operation = f"o{uuid.uuid4().hex}"
        folder = self.folder / operation
        folder.mkdir()
        if gate:
            (folder / "gate").touch()
        return operation, {"operation": operation, "folder": str(folder)}

    def open(self, operation: str) -> None:
        (self.folder / operation / "gate").unlink()

    def ran(self, operation: str) -> list[int]:
        """The processes whose bodies ran, in order; one entry per execution."""
        diary = self.folder / operation / "ran"
        return [int(line) for line in diary.read_text().split()] if diary.exists() else []

    def send(
        self, task: str, task_id: str = "", embed: dict[str, Any] | None = None, **kwargs: Any
    ) -> AsyncResult[Any]:
        """Publish a job without apply_async, which would write to this process's ledger. ``embed``: its workflow."""
        task_id = task_id or str(uuid.uuid4())
        with producer_on(self.redis_url) as producer:
            headers = {"task": task, "id": task_id, "lang": "py"}
            producer.publish(
                [[], kwargs, embed or {}], exchange="", routing_key=self.worker.queue, serializer="json", headers=headers,
                correlation_id=task_id, declare=[app.amqp.queues[self.worker.queue]],
            )  # fmt: skip
        return AsyncResult(task_id, app=app)

    def query(self, statement: str, *values: str, ledger: bool = False) -> list[Any]:
        """Run one statement (placeholders: %s) and commit it, in the business database or in the ledger's."""
        if self.home.database_url:
            with psycopg.connect(self.home.database_url, autocommit=True) as connection:
                done = connection.execute(statement, values or None)
                return done.fetchall() if done.description else []
        file = self.home.state / ("db.sqlite3" if ledger else "shop.sqlite3")
        lite = sqlite3.connect(file, timeout=20)
        try:
            with lite:
                return lite.execute(statement.replace("%s", "?"), values).fetchall()
        finally:
            lite.close()

    def count(self, table: str, operation: str) -> int:
        return int(self.query(f"SELECT count(*) FROM {table} WHERE operation = %s", operation)[0][0])  # noqa: S608

    def points(self, task_id: str) -> list[str]:
        """The ledger's points for this task, in the order written."""
        text = "SELECT kind FROM tasks_demo_event WHERE task_id = %s ORDER BY id"
        return [kind for (kind,) in self.query(text, task_id, ledger=True)]

    def idle(self) -> bool:
        """Whether nothing is queued or unacknowledged; one look, because a message moves between the two."""
        with connect(self.redis_url, 5.0) as client, client.pipeline() as pipe:
            pipe.llen(self.worker.queue).hlen("unacked")
            return not any(pipe.execute())

    def has(self, task_id: str, *wanted: str) -> None:
        until(lambda: set(wanted) <= set(self.points(task_id)), f"{wanted} of {task_id}")

    def running(self, operation: str, times: int = 1) -> int:
        """Wait until the body has begun this many times; return the process of the last execution."""
        until(lambda: len(self.ran(operation)) >= times, f"execution {times} of {operation}")
        return self.ran(operation)[-1]

    def killed(self, pid: int) -> None:
        """SIGKILL a pool process and wait until it is gone."""
        os.kill(pid, signal.SIGKILL)

        def gone() -> bool:
            with suppress(ProcessLookupError, FileNotFoundError):
                os.kill(pid, 0)
                return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
            return True

        until(gone, f"the end of {pid}")

    @contextmanager
    def away(self, table: str, *, ledger: bool = False) -> Iterator[None]:
        """Rename a table for the duration of the block, so that writes to it fail."""
        self.query(f"ALTER TABLE {table} RENAME TO {table}_away", ledger=ledger)
        try:
            yield
        finally:
            self.query(f"ALTER TABLE {table}_away RENAME TO {table}", ledger=ledger)

    def returned_to_the_queue(self, task_id: str) -> None:
        """Wait until the worker has received it twice: it was requeued and redelivered."""
        wanted = f"[{task_id}] received"
        until(lambda: self.worker.log.read_text(errors="replace").count(wanted) >= 2, f"another delivery of {task_id}")

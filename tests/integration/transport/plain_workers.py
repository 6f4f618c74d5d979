"""Real workers of ``plain_app`` on a Redis of their own."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import uuid
from collections import Counter
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis
from celery import Celery

from tasks_demo.transport import OwnerState, list_owners
from tests.integration.servers.redis import EMBEDDED, RedisServer
from tests.support import PROJECT, until

Owners = dict[int, OwnerState]
GEVENT = pytest.param(
    ("-P", "gevent", "-c", "2"),
    id="gevent",
    marks=pytest.mark.skipif(find_spec("gevent") is None, reason="gevent is not installed"),
)


@contextlib.contextmanager
def started_template() -> Iterator[subprocess.Popen[str]]:
    """The process that forks the workers."""
    command = [sys.executable, "-m", "tests.integration.transport.template"]
    with subprocess.Popen(command, cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as started:
        yield started
        started.communicate(timeout=10)


@pytest.fixture(scope="session")
def template() -> Iterator[subprocess.Popen[str]]:
    with started_template() as started:
        yield started


class PlainWorker:
    """``celery -A plain_app worker`` with an environment and options of its own."""

    def __init__(
        self, template: subprocess.Popen[str], log: Path, env: dict[str, str], options: tuple[str, ...], host: str = ""
    ) -> None:
        self.log = log
        arguments = ["-A", "tests.integration.transport.plain_app", "worker", "-l", "INFO", "--without-mingle"]
        arguments += ["--without-gossip", f"--hostname=w{uuid.uuid4().hex[:6]}@t", *options]
        assert template.stdin is not None
        assert template.stdout is not None
        template.stdin.write(json.dumps({"log": str(log), "env": env, "arguments": arguments, "host": host}) + "\n")
        template.stdin.flush()
        self.pid = int(template.stdout.readline())
        self._process = psutil.Process(self.pid)

    def await_ready(self) -> PlainWorker:
        until(lambda: "@t ready." in self.said or not self.alive(), "the worker's readiness", 60)
        assert self.alive(), self.said[-3000:]
        return self

    @property
    def said(self) -> str:
        """The log so far."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def alive(self) -> bool:
        return self._process.is_running()

    def kill(self) -> None:
        """SIGKILL to the main process alone; its children notice by themselves."""
        self._process.kill()
        self._process.wait(10)

    def stop(self, seconds: float = 0) -> None:
        """SIGTERM, and SIGKILL after so many seconds; to its children too."""
        with contextlib.suppress(psutil.NoSuchProcess):
            children = self._process.children(recursive=True)
            if seconds:
                self._process.terminate()
                with contextlib.suppress(psutil.TimeoutExpired):
                    self._process.wait(seconds)
            for process in (self._process, *children):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs([self._process, *children], 10)


class Environment:
    """One Redis and its workers.

    ``books``: the Redis where the tasks write down what they did; nobody breaks it, because a client that connects again might
    write twice. ``broker``: the broker's address, if not its Unix socket. ``transport``: options of every publisher and worker.
    """

    def __init__(
        self,
        server: RedisServer,
        books: RedisServer,
        folder: Path,
        stack: contextlib.ExitStack,
        template: subprocess.Popen[str],
        broker: str = "",
        **transport: Any,
    ) -> None:
        self.server = server
        self.redis = stack.enter_context(server.client())
        self._books = str(books.socket)
        self.books = stack.enter_context(redis.Redis(unix_socket_path=self._books))
        self._broker = broker
        self._transport = transport
        self._folder = folder
        self._template = template
        self._stack = stack
        self._apps: dict[str, Celery] = {}

    def url(self, stock: bool = False) -> str:
        return self._broker or f"{'redis' if stock else 'reliable'}+socket://{self.server.socket}"

    def worker(self, *options: str, **how: Any) -> PlainWorker:
        """A worker that is ready, started as by ``launched``; stopped at the end."""
        return self.launched(*options, **how).await_ready()

    def launched(
        self,
        *options: str,
        stock: bool = False,
        hold: str = "",
        prefetch: int = 1,
        broker: str = "",
        host: str = "",
        **transport: Any,
    ) -> PlainWorker:
        """A worker that was started, and may not be ready; stopped at the end. ``host``: its network namespace."""
        env = {**os.environ, "BROKER": broker or self.url(stock), "BOOKS": self._books, "HOLD": hold}
        env |= {"PREFETCH": str(prefetch), "OPTIONS": json.dumps(self._transport | transport)}
        log = self._folder / f"{uuid.uuid4().hex[:8]}.log"
        made = PlainWorker(self._template, log, env, options or ("-P", "solo"), host)
        self._stack.callback(made.stop)
        return made

    def app(self, stock: bool = False, **transport: Any) -> Celery:
        """A publisher."""
        key = f"{stock}{transport}"
        if key not in self._apps:
            app = self._apps[key] = Celery("publisher", broker=self.url(stock), set_as_current=False)
            app.conf.update(task_ignore_result=True, broker_transport_options=self._transport | transport)
            self._stack.callback(app.close)
        return self._apps[key]

    def publish(
        self,
        task: str,
        *words: str,
        stock: bool = False,
        queue: str = "celery",
        priority: int = 0,
        retry: bool = True,
        **options: Any,
    ) -> None:
        """Publish jobs, without Celery's signals: the ledger of this process is not concerned."""
        app = self.app(stock)
        with app.producer_pool.acquire(block=True) as producer:
            for word in words:
                message = app.amqp.as_task_v2(str(uuid.uuid4()), task, (word,), {}, **options)
                producer.publish(
                    message.body,
                    headers=message.headers,
                    exchange="",
                    routing_key=queue,
                    priority=priority,
                    serializer="json",
                    retry=retry,
                    **message.properties,
                )

    def count(self, what: str) -> Counter[str]:
        """How often each word is in a list of the books."""
        return Counter(word.decode() for word in self.books.lrange(what, 0, -1))

    def release(self, *words: str) -> None:
        for word in words:
            self.books.set(f"let-go:{word}", 1)

    def logs(self) -> list[Path]:
        return list(self._folder.glob("*.log"))

    def drop_connections(self) -> int:
        """Close every connection to the broker but ours: consuming, control, acknowledgements, heartbeat."""
        mine = self.redis.client_id()
        rows = [row["id"] for row in self.redis.client_list() if int(row["id"]) != mine]
        return sum(int(self.redis.client_kill_filter(_id=number)) for number in rows)

    def owners(self) -> Owners:
        return {owner.pid: owner for owner in list_owners(self.redis)}

    @property
    def nowhere(self) -> bool:
        """Whether nothing is queued, held or unacknowledged; one look, because messages move between the three."""
        with self.redis.pipeline() as pipe:
            pipe.llen("celery").hlen("unacked").zcard("unacked_index")
            return not any(pipe.execute())


@contextlib.contextmanager
def running_environment(template: subprocess.Popen[str], logs: Path, *options: str) -> Iterator[Environment]:
    """An environment on a Redis with these further options."""
    with tempfile.TemporaryDirectory(prefix="transport-") as folder, contextlib.ExitStack() as stack:
        server = stack.enter_context(RedisServer(Path(folder) / "broker", EMBEDDED, *options))
        books = stack.enter_context(RedisServer(Path(folder) / "books", EMBEDDED))
        yield Environment(server, books, logs, stack, template)


@pytest.fixture
def environment(tmp_path: Path, template: subprocess.Popen[str]) -> Iterator[Environment]:
    with running_environment(template, tmp_path) as made:
        yield made

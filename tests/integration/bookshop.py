"""Run the project under ``examples/bookshop`` as its owner would: real commands, real workers, its own databases.

It uses SQLite files, or two databases on the PostgreSQL server of DATABASE_URL. Its broker is its own Redis or the RabbitMQ
of
``rabbitmq_server``. Programs (``python``, ``value``) are forks of one interpreter with Django set up, because a start takes
most of a second. Fixtures: ``bookshop`` (one project per module, on Redis) and ``any_broker`` (the same, once per broker).
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests import forks
from tests.support import PROJECT, STATE, Finished, Home, Worker, finish, made_once, scratch_database

SHOP = PROJECT / "examples" / "bookshop"
#: The queues that its settings route jobs to.
QUEUES = ("bookshop", "bookshop-mail")


class ShopWorker(Worker):
    """``celery -A bookshop worker``."""

    app, cwd = "bookshop", SHOP

    @property
    def said(self) -> str:
        """The log so far."""
        return self.log.read_text(errors="replace")


PRELUDE = (
    "import bookshop, django; django.setup()\n"
    "from bookshop import celery_app as app\nfrom orders import tasks\nfrom orders.models import Order, Payment\n"
)
#: Reads one request per line, runs it in a fork with nothing opened, and answers with the exit code.
CONSOLE = """
import gc, json, os, sys
gc.freeze()  # else each fork would look through all of Django before it ends
for line in sys.stdin:
    program, out, err = json.loads(line)
    pid = os.fork()
    if not pid:
        for path, stream in ((os.devnull, 0), (out, 1), (err, 2)):
            os.dup2(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), stream)
        exec(compile(program, "<string>", "exec"), {"__name__": "__main__"})
        sys.exit()
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


class Console:
    """An interpreter of the project that runs programs in forks, one at a time, with its own environment."""

    def __init__(self, folder: Path, env: Mapping[str, str]) -> None:
        self._folder = folder
        ours, theirs = socket.socketpair()
        with theirs:
            streams = [theirs.fileno(), theirs.fileno(), 2]
            self._process = forks.start(["-c", PRELUDE + CONSOLE], cwd=SHOP, env=env, streams=streams)
        self._socket, self._answers = ours, ours.makefile()

    def run(self, program: str, timeout: float) -> Finished:
        """Run a program until it exits; kill it and fail if it takes too long."""
        out, err = (self._folder / f"{kind}-{uuid.uuid4().hex[:6]}" for kind in ("out", "err"))
        self._socket.sendall(json.dumps([program, str(out), str(err)]).encode() + b"\n")
        ended = select.select([self._socket], [], [], timeout)[0]
        if not ended:
            self.close()
        said = [path.read_text(errors="replace") if path.exists() else "" for path in (out, err)]
        assert ended, f"not finished within {timeout:g} s; it had said:\n{said[0]}\n{said[1]}"
        code = self._answers.readline()
        assert code, f"the interpreter has ended: {self._process.wait(10)}"
        return Finished(int(code), *said)

    def close(self) -> None:
        """SIGKILL the interpreter and any program that still runs."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(10)
        self._answers.close()
        self._socket.close()


@dataclass(frozen=True)
class Bookshop:
    """The project, with migrated databases."""

    folder: Path
    home: Home
    broker_url: str
    consoles: dict[str, Console] = field(default_factory=dict)

    def env(self, settings: Mapping[str, Any] | None = None) -> dict[str, str]:
        """The environment of its processes; ``settings`` overrides Django settings with Python literals."""
        return self.home.env({"BOOKSHOP_SETTINGS": repr(dict(settings))} if settings else None)

    def manage(self, *arguments: str, settings: Mapping[str, Any] | None = None, timeout: float = 60.0) -> Finished:
        """Run its ``manage.py`` until it exits."""
        return self.home.run("manage.py", *arguments, env=self.env(settings), cwd=SHOP, timeout=timeout)

    def python(self, code: str, *, settings: Mapping[str, Any] | None = None, timeout: float = 60.0) -> Finished:
        """Run a program with Django set up and the project's models and tasks imported."""
        env = {name: value for name, value in self.env(settings).items() if name != "PYTEST_CURRENT_TEST"}
        key = json.dumps(sorted(env.items()))
        if key not in self.consoles:
            self.consoles[key] = Console(self.folder, env)
        return self.consoles[key].run(PRELUDE + code, timeout)

    def program(self, code: str, *, settings: Mapping[str, Any] | None = None, timeout: float = 60.0) -> Finished:
        """Run a program in the project's folder, with nothing imported."""
        process = subprocess.Popen(
            [sys.executable, "-c", code], cwd=SHOP, env=self.env(settings), stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        return finish(process, timeout)

    def value(self, expression: str, *, settings: Mapping[str, Any] | None = None, before: str = "") -> Any:
        """The value of an expression in that program, passed as JSON. ``before`` holds statements to run first."""
        done = self.python(f"{before}\nimport json; print('\\n=>' + json.dumps({expression}))", settings=settings)
        assert done.code == 0, done.err
        return json.loads(done.out.rpartition("\n=>")[2])

    def payments(self, order_id: str) -> int:
        """How often an order was charged."""
        return int(self.value(f"Payment.objects.filter(order_id={order_id!r}).count()"))

    @contextlib.contextmanager
    def worker(
        self, *options: str, settings: Mapping[str, Any] | None = None, queues: str = "bookshop,bookshop-mail"
    ) -> Iterator[ShopWorker]:
        """An ordinary worker; prefork with two processes unless ``options`` say otherwise."""
        log = self.folder / f"worker-{uuid.uuid4().hex[:6]}.log"
        worker = ShopWorker(self.home, log, {"BOOKSHOP_SETTINGS": repr(dict(settings))} if settings else {})
        worker.options = ("-Q", queues, *options)
        with worker:
            yield worker

    @contextlib.contextmanager
    def running(self, *arguments: str, settings: Mapping[str, Any] | None = None) -> Iterator[Any]:
        """Keep a ``manage.py`` command running, such as ``relay``; SIGTERM it afterwards."""
        log = self.folder / f"{arguments[0]}-{uuid.uuid4().hex[:6]}.log"
        process = forks.spawn(["manage.py", *arguments], log=log, env=self.env(settings), cwd=SHOP)
        try:
            yield process
        finally:
            process.stop(10)


@contextlib.contextmanager
def opened(broker_url: str = "", settings: Mapping[str, Any] | None = None) -> Iterator[Bookshop]:
    """A new project with empty, migrated databases. With an empty ``broker_url``, its Redis is also the broker."""
    from tasks_demo.demo.stack import EmbeddedRedis

    name = f"shop_{uuid.uuid4().hex[:10]}"
    with contextlib.ExitStack() as stack:
        folder = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="x-", dir=STATE, ignore_cleanup_errors=True))
        )
        server = stack.enter_context(EmbeddedRedis(folder / "redis", folder / "r.sock"))
        databases = {
            variable: stack.enter_context(scratch_database(f"{name}{kind}"))
            or f"sqlite:///{folder / f'{kind}.sqlite3'}"
            for variable, kind in (("BOOKSHOP_DATABASE_URL", "orders"), ("BOOKSHOP_OPS_DATABASE_URL", "ops"))
        }
        extra = {
            **databases,
            "PYTHONPATH": f"{SHOP}:{PROJECT}",
            "DJANGO_SETTINGS_MODULE": "bookshop.settings",
            "BOOKSHOP_REDIS_URL": server.url,
            "BOOKSHOP_BROKER_URL": broker_url,
        }
        if settings:
            extra["BOOKSHOP_SETTINGS"] = repr(dict(settings))
        project = Bookshop(folder, Home(folder, extra=extra), broker_url or server.url)
        stack.callback(lambda: [console.close() for console in project.consoles.values()])

        def migrate() -> None:
            for alias in ("default", "ops"):
                done = project.manage("migrate", "-v0", "--database", alias)
                assert done.code == 0, done.err

        if databases["BOOKSHOP_DATABASE_URL"].startswith("sqlite"):
            made_once([folder / "orders.sqlite3", folder / "ops.sqlite3"], migrate, repr(settings))
        else:
            migrate()
        yield project


@pytest.fixture(scope="module")
def bookshop() -> Iterator[Bookshop]:
    """The project on Redis."""
    with opened() as project:
        yield project


@pytest.fixture(scope="module", params=["redis", "rabbitmq"])
def any_broker(request: pytest.FixtureRequest) -> Iterator[Bookshop]:
    """The project, once on Redis and once on RabbitMQ. Leases and results stay on Redis."""
    if request.param == "redis":
        with opened() as project:
            yield project
        return
    server = request.getfixturevalue("rabbitmq")
    with server.without(*QUEUES), opened(server.url) as project:
        yield project

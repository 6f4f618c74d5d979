"""Helpers for all tests: a private state folder, real subprocesses, and waiting for evidence.

Importing this module imports nothing of Django, because it sets the environment that the settings read.

Over 300 lines: each helper is used throughout the tests, and they use each other.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit, urlunsplit

import psutil

from tests import forks

T = TypeVar("T")

PROJECT = Path(__file__).resolve().parent.parent
#: Marks every process that the tests start, directly or not: child processes inherit the environment.
MARK = "TASKS_DEMO_TEST_RUN"
TOKEN = uuid.uuid4().hex
#: Short, because Unix sockets are created in it.
STATE = Path(tempfile.mkdtemp(prefix="td-"))
BOUND_SECONDS = 30.0


def private_environment() -> None:
    """Give this process and its children a private state folder and the embedded stack.

    DATABASE_URL is kept: it names the server on which the test databases are created.
    """
    for name in list(os.environ):
        if name.startswith("TASKS_DEMO_") or name in {
            "REDIS_URL",
            "BROKER_URL",
            "BROKER_QUEUE_TYPE",
            "BROKER_TRANSPORT",
            "BANK_URL",
            "BANK_DATABASE_URL",
            "SHOP_DATABASE_URL",
            "DJANGO_PRODUCTION",
        }:
            del os.environ[name]
    os.environ["STATE_DIR"] = str(STATE)
    # A starved database takes longer than the second that a start waits for the ledger; what is counted is counted anyway.
    os.environ["TASKS_DEMO_LEDGER_WAIT_SECONDS"] = "10"
    os.environ["TASKS_DEMO_LEDGER_IN_TESTS"] = "1"  # the ledger is under test; the fixture ``ledger`` empties it
    os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = str(STATE / "hypothesis")  # outside the source tree
    os.environ[MARK] = TOKEN
    # Otherwise several hundred processes would each compile the project again.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False


def until(evidence: Callable[[], T | None], what: str = "the evidence", seconds: float = BOUND_SECONDS) -> T:
    """Poll ``evidence`` and return its first true answer; fail after ``seconds``, naming what was missing.

    The pause between two looks is twice as long as a look takes: what is waited for needs the processor more.
    """
    deadline = time.monotonic() + seconds
    pause = threading.Event()
    while True:
        asked = time.monotonic()
        answer = evidence()
        if answer:
            return answer
        told = time.monotonic()
        assert told < deadline, f"not within {seconds:g} s: {what}"
        pause.wait(max(0.02, min(2 * (told - asked), 0.2)))


def marked(token: str) -> list[psutil.Process]:
    """The running processes, except this one, that carry ``token`` as their mark. Zombies do not count."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE:
                environment = Path(f"/proc/{process.pid}/environ").read_bytes()
                if f"{MARK}={token}".encode() in environment.split(b"\0"):
                    found.append(process)
    return found


def living(processes: Sequence[psutil.Process]) -> list[psutil.Process]:
    """The processes that still run. Neither a zombie nor another process with a reused pid counts."""
    found = []
    for process in processes:
        with contextlib.suppress(psutil.Error):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def all_gone(token: str, seen: Sequence[psutil.Process] = (), seconds: float = BOUND_SECONDS) -> None:
    """Fail unless every process with this mark, and every process in ``seen``, ends within the bound.

    ``seen`` is for redis-server, which overwrites its environment with its title and so loses the mark.
    """

    try:
        until(lambda: not marked(token) and not living(seen), "the end of every process that was started", seconds)
    except AssertionError as error:
        left = {process.pid: describe(process) for process in (*marked(token), *living(seen))}
        raise AssertionError(f"still running after {seconds:g} s: {left}") from error


def describe(process: psutil.Process) -> str:
    """The command line of a process that may end at any moment."""
    try:
        return " ".join(process.cmdline()) or process.name()
    except psutil.Error:
        return "(gone)"


@dataclass(frozen=True)
class Finished:
    """Exit code and output of a command."""

    code: int
    out: str
    err: str

    def sentence(self) -> str:
        """Return what stderr says to the user; fail on a traceback or an empty stderr."""
        assert "Traceback" not in self.err, self.err
        assert self.err.strip(), f"exit {self.code} without a word"
        return self.err


def made_once(files: Sequence[Path], make: Callable[[], None], settings: str = "") -> None:
    """Create these files, or copy the ones created earlier under the same names and settings.

    Each database takes a second to migrate. The settings count because a router decides what is migrated where.
    """
    name = "-".join(file.name for file in files)
    kept = STATE / "made" / f"{name}-{hashlib.sha256(settings.encode()).hexdigest()[:12]}"
    if kept.exists():
        for file in files:
            shutil.copy(kept / file.name, file)
        return
    make()
    kept.mkdir(parents=True)
    for file in files:
        assert not Path(f"{file}-wal").exists(), "a copy would lack what is in the log"
        shutil.copy(file, kept)


@dataclass(frozen=True)
class Home:
    """A state folder with migrated databases, and the commands run in it. ``database_url`` empty: SQLite in ``state``."""

    state: Path
    database_url: str = ""
    extra: dict[str, str] = field(default_factory=dict)

    def env(self, env: Mapping[str, str] | None = None) -> dict[str, str]:
        """The whole environment of a command run here."""
        ours = {"STATE_DIR": str(self.state)}
        inherited = {name: value for name, value in os.environ.items() if name != "DATABASE_URL"}
        if self.database_url:
            ours["DATABASE_URL"] = self.database_url
        return {**inherited, **ours, **self.extra, **(env or {})}

    def start(
        self, *arguments: str | bytes, env: Mapping[str, str] | None = None, own_group: bool = False
    ) -> subprocess.Popen[str]:
        """Start ``manage.py`` with these arguments."""
        command: list[str | bytes] = [sys.executable, str(PROJECT / "manage.py"), *arguments]
        return subprocess.Popen(
            command,
            cwd=PROJECT,
            env=self.env(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=own_group,
        )

    def manage(self, *arguments: str | bytes, env: Mapping[str, str] | None = None, timeout: float = 60.0) -> Finished:
        """Run ``manage.py`` with these arguments until it exits."""
        return self.run(str(PROJECT / "manage.py"), *map(os.fsdecode, arguments), env=self.env(env), timeout=timeout)

    def run(self, *arguments: str, env: Mapping[str, str], cwd: Path = PROJECT, timeout: float = 60.0) -> Finished:
        """Run ``python`` with these arguments until it exits."""
        return Finished(*forks.run(arguments, cwd=cwd, env=env, timeout=timeout))

    def migrate(self) -> None:
        """Create the tables of the ledger, and of the shop if it has its own database."""
        if self.database_url:
            self._migrate()
        else:
            made_once(
                [self.state / "db.sqlite3", self.state / "shop.sqlite3"], lambda: self._migrate("default", "shop")
            )

    def _migrate(self, *aliases: str) -> None:
        for alias in aliases or ("default",):
            done = self.manage("migrate", "-v0", "--database", alias)
            assert done.code == 0, done.err

    def python(self, code: str, env: Mapping[str, str] | None = None, timeout: float = 60.0) -> Finished:
        """Run a program after ``django.setup()``."""
        env = {**self.env(env), "DJANGO_SETTINGS_MODULE": "project.settings"}
        return self.run("-c", f"import django; django.setup()\n{code}", env=env, timeout=timeout)


def first_line(process: subprocess.Popen[str]) -> str:
    """Wait for a command's first line on stdout, and return it."""
    assert process.stdout is not None
    assert select.select([process.stdout], [], [], BOUND_SECONDS)[0], "the command said nothing"
    return process.stdout.readline()


def finish(process: subprocess.Popen[str], timeout: float = 60.0) -> Finished:
    """Wait for a command to end; kill it and fail after ``timeout`` seconds."""
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        raise AssertionError(f"not finished within {timeout:g} s; it had said:\n{out}\n{err}") from None
    return Finished(process.returncode, out, err)


class Worker:
    """A real ``celery worker`` with its own environment; ready when ``start`` returns. Subclasses say what it consumes."""

    app = "project"
    #: Further arguments of ``celery worker``.
    options: Sequence[str] = ()
    cwd: Path = PROJECT
    #: It may have ended when ``start`` returns, if it has been ready.
    may_die = False

    def __init__(self, home: Home, log: Path, env: Mapping[str, str], concurrency: int = 2) -> None:
        self.log = log
        self._env = home.env(env)
        self._concurrency = concurrency
        self._process: Any = None

    @property
    def pid(self) -> int:
        return int(self._process.pid)

    def start(self) -> None:
        arguments = ["-m", "celery", "-A", self.app, "worker", f"--concurrency={self._concurrency}", "--loglevel=INFO"]
        arguments += ["--without-mingle", "--without-gossip", f"--hostname=w{uuid.uuid4().hex[:6]}@t", *self.options]
        self._process = forks.spawn(arguments, cwd=self.cwd, env=self._env, log=self.log)
        until(lambda: self.ready() or not self.alive(), "the worker's readiness", 60)
        assert self.alive() or (self.may_die and self.ready()), self.log.read_text(errors="replace")[-3000:]

    def ready(self) -> bool:
        return self.log.exists() and bool(re.search(r"@t ready\.", self.log.read_text(errors="replace")))

    def alive(self) -> bool:
        return bool(self._process.alive())

    def stop(self, seconds: float = 1.0) -> None:
        """Send SIGTERM, then SIGKILL after ``seconds``. Messages it had fetched return after the visibility timeout."""
        if self._process is not None:
            self._process.stop(seconds)

    def __enter__(self) -> Worker:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def free_port() -> int:
    """A loopback port on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def producer_on(redis_url: str) -> Iterator[Any]:
    """A kombu producer on this Redis, whatever the settings say."""
    from celery import current_app

    with current_app.connection_for_write(redis_url.replace("unix://", "redis+socket://", 1)) as connection:
        yield connection.Producer()


def queued(redis_url: str) -> int:
    """The number of messages in the default queue."""
    from tasks_demo.leases.redis_client import connect

    with connect(redis_url, 5.0) as client:
        return int(client.llen("celery"))


def emptied(redis_url: str) -> None:
    """Empty this Redis, so that no message of an earlier module is queued or unacknowledged."""
    from tasks_demo.leases.redis_client import connect

    with connect(redis_url, 5.0) as client:
        client.flushall()


def databases_of_tests() -> dict[str, str]:
    """The environment variables that point subprocesses to the test databases of pytest-django."""
    from django.db import connections

    urls = {"DATABASE_URL": database_url_of_tests()}
    if "shop" in connections.settings:
        urls["SHOP_DATABASE_URL"] = database_url_of_tests("shop")
    return urls


def database_url_of_tests(alias: str = "default") -> str:
    """The URL of one test database."""
    from django.db import connections

    known = connections[alias].settings_dict
    if connections[alias].vendor == "sqlite":
        return f"sqlite:///{known['NAME']}"
    host = f"{known['HOST'] or '127.0.0.1'}:{known['PORT'] or 5432}"
    if known["HOST"].startswith("/"):
        host = quote(known["HOST"], safe="")  # the folder of a Unix socket
    password = f":{quote(known['PASSWORD'])}" if known["PASSWORD"] else ""
    return f"postgres://{quote(known['USER'])}{password}@{host}/{quote(known['NAME'])}"


@contextlib.contextmanager
def scratch_database(name: str) -> Iterator[str]:
    """Yield the URL of an empty database on the server of DATABASE_URL, or "" for SQLite files."""
    server = os.environ.get("DATABASE_URL", "")
    if not server.startswith(("postgres://", "postgresql://")):
        yield ""
        return
    import psycopg

    with psycopg.connect(server, autocommit=True, connect_timeout=5) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
        try:
            yield urlunsplit(urlsplit(server)._replace(path=f"/{name}"))
        finally:
            connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@contextlib.contextmanager
def migrated_home(name: str) -> Iterator[Home]:
    """Yield a Home whose folder and migrated database are its own. ``name``: short, because sockets are in the folder."""
    state = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=STATE))
    with scratch_database(f"tasks_demo_{name}_{TOKEN[:12]}") as url:
        home = Home(state, url)
        home.migrate()
        yield home


def interrupt(process: subprocess.Popen[str], sign: signal.Signals) -> None:
    """Signal the whole foreground process group, as a terminal does."""
    os.killpg(process.pid, sign)


def written(log_folder: Path, pattern: str, needle: str) -> bool:
    """Whether one of the matching files contains the text."""
    return any(needle in path.read_text(errors="replace") for path in log_folder.glob(pattern))


def together(works: Sequence[Callable[[], T]], threads: int = 4) -> list[T]:
    """Run independent calls in parallel; return the results in order, or raise the first error."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(threads) as pool:
        return [future.result() for future in [pool.submit(work) for work in works]]

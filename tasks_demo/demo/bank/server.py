"""Serving the bank: gunicorn, started from Python, with one worker process, threads and kept-alive connections.

One process, because faults and the keys in hand live in its memory. Its main process restarts it when it dies.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable
from typing import Any, NoReturn

from django.conf import settings
from django.core.handlers.wsgi import WSGIHandler
from django.core.management import call_command
from django.db import DatabaseError, IntegrityError, connections
from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter

from tasks_demo.demo.bank import charging, fault_injection
from tasks_demo.demo.bank.apps import BANK
from tasks_demo.demo.bank.problems import Problem

#: More than a few, because one that makes somebody wait (``bank.fault_injection``) is not there for others.
THREADS = 16
BACKLOG = 512
#: Longer than callers pause between two debits, so that they rarely meet a connection that is just being closed.
KEEPALIVE_SECONDS = 75
#: How long a debit in hand may take to finish after SIGTERM.
GRACE_SECONDS = 5
#: How long a thread waits for the next bytes of a request. A caller that sends a few bytes now and then still holds its
#: thread for longer: only a proxy that takes whole requests before it passes them on bounds that.
SILENCE_SECONDS = 5
#: Exit codes: something broke in here; Ctrl-C.
INTERNAL_ERROR, INTERRUPTED = 5, 130

_PR_SET_PDEATHSIG = 1


class BankNotReady(Exception):
    """The bank cannot be started; the message says why and what to do."""


def prepare() -> None:
    """Bring the database up to date and see that it can be written. Raises BankNotReady."""
    options = connections.settings[BANK]
    # Opening SQLite for every request would cost more than the debit itself.
    options.update(CONN_MAX_AGE=None, CONN_HEALTH_CHECKS=True)
    if connections[BANK].vendor == "sqlite":
        options["OPTIONS"] = {**options["OPTIONS"], "timeout": charging.BUSY_SECONDS}
    try:
        _migrate()
        charging.check_writable()
        charging.identity()
    except (DatabaseError, Problem) as error:
        why = str(error).partition("\n")[0].rstrip(". ")
        raise BankNotReady(
            f"The bank's database cannot be written, so the bank was not started: {why}. Check BANK_DATABASE_URL."
        ) from error
    finally:
        # A connection must not be shared with the worker that is forked later.
        connections.close_all()


def _migrate() -> None:
    """Of several banks that are started on new books at once, each finds what another has just made: it looks again."""
    for last in (False, False, False, True):
        try:
            call_command("migrate", BANK, database=BANK, verbosity=0, interactive=False)
            return
        except DatabaseError as error:
            if last or not (isinstance(error, IntegrityError) or "already exists" in str(error)):
                raise
        time.sleep(0.2)  # for the commit of another process, which announces nothing


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0: the kernel chooses. Raises BankNotReady."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(BACKLOG)
        except OSError:
            listener.close()
            raise
    except (OSError, UnicodeError, OverflowError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise BankNotReady(
            f"The bank cannot listen on {host} port {port} ({why}): it was not started. "
            "End what uses the port, or choose another one with --port."
        ) from error
    return listener


def inherited(descriptor: int) -> socket.socket:
    """The listening TCP socket that the parent process handed over. Raises ValueError."""
    try:
        listener = socket.socket(fileno=descriptor)
    except (OSError, ValueError) as error:
        raise ValueError(f"Descriptor {descriptor} is not an open socket.") from error
    if (
        listener.family not in {socket.AF_INET, socket.AF_INET6}
        or listener.type != socket.SOCK_STREAM
        or not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    ):
        listener.detach()
        raise ValueError(f"Descriptor {descriptor} is not a listening TCP socket.")
    return listener


def serve(listener: socket.socket, *, with_faults: bool, ready: Callable[[str], None]) -> NoReturn:
    """Serve until a signal; exits with 0 on SIGTERM, 130 on Ctrl-C. ``ready`` is told the address once it answers.

    Takes the listener over, and the whole process: Django's settings are narrowed to the bank.
    """
    if with_faults:
        fault_injection.enable()
    # gunicorn bounds no read of its own. Accepted connections inherit this; idle ones are polled, not read.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", SILENCE_SECONDS, 0))
    host, port = listener.getsockname()[:2]
    address = f"http://[{host}]:{port}" if listener.family == socket.AF_INET6 else f"http://{host}:{port}"
    server = _Server(listener.detach(), lambda _: ready(address))
    _Main(server).run()
    raise AssertionError("gunicorn ends by sys.exit()")


def application() -> WSGIHandler:
    """Django with the bank's URLs and nothing else: no admin, no sessions, no middleware. For a process of its own."""
    settings.ROOT_URLCONF = "tasks_demo.demo.bank.urls"
    settings.MIDDLEWARE = []
    # A refused debit is an answer, not an event; failures (5xx) stay in the log.
    logging.getLogger("django.request").setLevel(logging.ERROR)
    return WSGIHandler()


class _Server(BaseApplication):  # type: ignore[misc]  # gunicorn has no types
    def __init__(self, descriptor: int, ready: Callable[[Any], None]) -> None:
        self._chosen = {
            "bind": f"fd://{descriptor}",
            "worker_class": "gthread",
            "workers": 1,
            "threads": THREADS,
            "backlog": BACKLOG,
            "keepalive": KEEPALIVE_SECONDS,
            "graceful_timeout": GRACE_SECONDS,
            "preload_app": True,
            "control_socket_disable": True,
            "loglevel": "warning",
            "proc_name": "bank",
            "when_ready": ready,
            "post_fork": _started,
        }
        super().__init__()

    def load_config(self) -> None:
        for name, value in self._chosen.items():
            self.cfg.set(name, value)

    def load(self) -> WSGIHandler:
        return application()


class _Main(Arbiter):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn's main process, with our exit codes."""

    _interrupted = False

    def handle_int(self) -> None:
        self._interrupted = True
        super().handle_int()

    def halt(self, reason: str | None = None, exit_status: int = 0) -> None:
        try:
            super().halt(reason, exit_status)
        except SystemExit:
            # Chosen here, not passed on: gunicorn logs an end with another status than 0 as an error.
            sys.exit(INTERNAL_ERROR if exit_status else INTERRUPTED if self._interrupted else 0)


def _started(_server: Any, worker: Any) -> None:
    # gunicorn hands every request over between threads; with the default of 5 ms that costs a tenth of the throughput.
    sys.setswitchinterval(0.0005)
    _end_with_parent(worker)


def _end_with_parent(worker: Any) -> None:
    """In the worker: a SIGKILL of the main process must end the bank at once, not when the worker looks next."""
    if not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != worker.ppid:
        os.kill(os.getpid(), signal.SIGKILL)

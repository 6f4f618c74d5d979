"""Serve the bank: one process, one thread per connection, with Django's own threaded server.

SIGTERM ends it immediately, like SIGKILL: confirmed debits are committed, and a key that was in flight is free again. Does
**not** limit the number of threads or slow callers, so it is for loopback and closed networks only.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
from typing import Any, NoReturn

from django.conf import settings
from django.core.handlers.wsgi import WSGIHandler
from django.core.management import call_command
from django.core.servers.basehttp import ThreadedWSGIServer, WSGIRequestHandler
from django.db import DatabaseError, connections

from tasks_demo.demo.bank import charging, fault_injection
from tasks_demo.demo.bank.apps import BANK
from tasks_demo.demo.bank.problems import Problem

BACKLOG = 512


class BankNotReady(Exception):
    """The bank cannot be started; the message says why and what to do."""


class _Handler(WSGIRequestHandler):
    # Longer than callers pause between two debits, so that they rarely use a connection that is just being closed.
    timeout = 75
    # Headers and body are written separately; the body must not wait until the caller acknowledges the headers.
    disable_nagle_algorithm = True

    def handle(self) -> None:
        with contextlib.suppress(OSError):  # the caller disconnected or timed out
            super().handle()

    def get_environ(self) -> dict[str, Any]:
        return {**super().get_environ(), "bank.connection": self.connection}


class _Server(ThreadedWSGIServer):
    def __init__(self, listener: socket.socket) -> None:
        super().__init__(listener.getsockname(), _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self.server_name, self.server_port = listener.getsockname()[:2]
        self.setup_environ()
        self.set_app(WSGIHandler())


def serve(listener: socket.socket, *, with_faults: bool) -> NoReturn:
    """Serve until a signal: exits with 0 on SIGTERM, 130 on Ctrl-C. Restricts Django's settings to the bank."""
    settings.ROOT_URLCONF = "tasks_demo.demo.bank.views"
    settings.MIDDLEWARE = []
    # Refused debits (4xx) are normal responses; only failures (5xx) are logged.
    logging.getLogger("django.request").setLevel(logging.ERROR)
    logging.getLogger("django.server").setLevel(logging.CRITICAL)
    fault_injection.faults = {} if with_faults else None
    for number, code in ((signal.SIGTERM, 0), (signal.SIGINT, 130)):
        signal.signal(number, lambda *_, code=code: os._exit(code))
    _Server(listener).serve_forever()
    raise AssertionError("only a signal ends the bank")


def prepare() -> None:
    """Migrate the database and check that it can be written. Raises BankNotReady."""
    options = connections.settings[BANK]
    # Persistent connections, because opening SQLite for every request would cost more than the debit.
    options.update(CONN_MAX_AGE=None, CONN_HEALTH_CHECKS=True)
    if connections[BANK].vendor == "sqlite":
        options["OPTIONS"] = {**options["OPTIONS"], "timeout": charging.BUSY_SECONDS}
    try:
        call_command("migrate", BANK, database=BANK, verbosity=0, interactive=False)
        charging.check_writable()
        charging.identity()
    except (DatabaseError, Problem) as error:
        why = str(error).partition("\n")[0].rstrip(". ")
        raise BankNotReady(
            f"The bank's database cannot be written, so the bank was not started: {why}. Check BANK_DATABASE_URL."
        ) from error
    finally:
        connections.close_all()


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket; port 0: the kernel chooses. Raises BankNotReady."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise BankNotReady(
            f"The bank cannot listen on {host} port {port} ({why}): it was not started. "
            "Stop the process that uses the port, or choose another port with --port."
        ) from error


def inherited(descriptor: int) -> socket.socket:
    """Return the listening TCP socket that the parent process handed over. Raises ValueError."""
    try:
        listener = socket.socket(fileno=descriptor)
        if listener.type == socket.SOCK_STREAM and listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            return listener
        listener.detach()
    except (OSError, ValueError):
        pass
    raise ValueError(f"Descriptor {descriptor} is not a listening socket.")

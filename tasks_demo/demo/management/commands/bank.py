"""``manage.py bank``: serve the bank until a signal stops it."""

from __future__ import annotations

import ipaddress
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.core.management.base import CommandError, CommandParser
from django.db import connections

from tasks_demo.demo.bank import server
from tasks_demo.demo.bank.apps import BANK
from tasks_demo.demo.defaults import sqlite_file
from tasks_demo.demo.routing import add_database
from tasks_demo.management.arguments import Exit, whole
from tasks_demo.management.base import PackageCommand


class Command(PackageCommand):
    help = (
        "Migrates the bank's own database, then serves the bank, the external service of the payment scenario. "
        "Prints one line on stdout when it is ready. Exit codes: 0 ended by SIGTERM, 2 usage, 4 port in use or database "
        "not writable, 130 Ctrl-C."
    )
    # They would import every view of the project; the bank serves only its own.
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--host", help="address to listen on (default: from BANK_URL, if that is this machine)")
        parser.add_argument(
            "--port", type=whole("--port", 0, 65535), help="port; 0: any free one (default: from BANK_URL)"
        )
        parser.add_argument("--fd", type=int, help="descriptor of a listening socket inherited from the parent process")
        parser.add_argument(
            "--database",
            metavar="FILE",
            help="keep the books in this SQLite file (default: the database 'bank' of DATABASES, or else a file in STATE_DIR)",
        )
        parser.add_argument("--faults", action="store_true", help="let PUT /faults/NAME inject faults")

    def handle(
        self,
        *,
        host: str | None,
        port: int | None,
        fd: int | None,
        database: str | None,
        faults: bool,
        **options: Any,
    ) -> None:
        if database or BANK not in connections.settings:
            add_database(BANK, sqlite_file(database or settings.STATE_DIR / "bank.sqlite3"), [BANK])
        try:
            if fd is None:
                listener = server.listen(*_address(host, port))
            elif host is None and port is None:
                listener = server.inherited(fd)
            else:
                raise ValueError("--fd is a socket that is already bound: leave out --host and --port.")
            server.prepare()
        except ValueError as error:
            raise CommandError(str(error), returncode=Exit.USAGE) from error
        except server.BankNotReady as error:
            raise CommandError(str(error), returncode=Exit.NOT_READY) from error
        name, number = listener.getsockname()[:2]
        self.stdout.write(f"Bank listening on http://{f'[{name}]' if ':' in name else name}:{number}")
        self.stdout.flush()
        server.serve(listener, with_faults=faults)


def _address(host: str | None, port: int | None) -> tuple[str, int]:
    """Return the requested host and port, completed from BANK_URL. Raises ValueError."""
    if host is not None and port is not None:
        return host, port
    url = urlsplit(settings.BANK_URL)
    if url.scheme != "http" or not _is_loopback(url.hostname or ""):
        raise ValueError(f"BANK_URL ({settings.BANK_URL}) is not on this machine: give --host and --port, or --fd.")
    return host if host is not None else url.hostname or "", port if port is not None else url.port or 80


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

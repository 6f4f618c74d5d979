"""``manage.py relay``: publish the outbox's messages until asked to stop."""

from __future__ import annotations

import logging
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

from celery import current_app
from django.core.management.base import CommandError, CommandParser
from django.db import Error, connections, router

from tasks_demo.core.conf import settings
from tasks_demo.core.databases import unsupported
from tasks_demo.core.limited_log import limited_log
from tasks_demo.core.wording import first_line
from tasks_demo.ledger.database import unsupported as cannot_be_kept
from tasks_demo.ledger.reading import read_books
from tasks_demo.ledger.rollups import fold
from tasks_demo.management.arguments import Exit, seconds, whole
from tasks_demo.management.base import PackageCommand
from tasks_demo.management.stopping import stop_signals
from tasks_demo.outbox.relay import Relay
from tasks_demo.outbox.table import overdue
from tasks_demo.records.models import OutboxMessage

logger = logging.getLogger(__name__)
#: Maximum time to count for the dashboard between two reads of the books, seconds.
FOLD_SECONDS = 0.5


class Command(PackageCommand):
    help = (
        "Publishes the jobs in the outbox, and publishes again those that were lost. A commit wakes it. Several may run at once. "
        "Logs one line per batch on stderr. Exit codes: 0 after SIGTERM or --once, 1 --check found an overdue message, 2 "
        "usage, 4 database or broker not ready, 130 Ctrl-C. Publications in progress are completed before the relay exits."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--check",
            type=whole("--check", 1, 86_400),
            metavar="S",
            help="publish nothing; exit 1 if a message has been due for more than S seconds",
        )
        parser.add_argument("--once", action="store_true", help="publish the messages that are due now, and exit")
        parser.add_argument("--batch", type=whole("--batch", 1, 1000), help="messages per batch, default 100")
        parser.add_argument(
            "--interval", type=seconds, metavar="S", help="polling interval when no commit wakes it, default 0.5 s"
        )
        parser.add_argument("--using", choices=sorted(connections), metavar="ALIAS", help="database of the outbox")
        parser.add_argument(
            "--no-reconcile",
            action="store_true",
            help="publish no message again: it is finished when the broker has confirmed it. For workers that cannot reach the "
            "outbox's database. Use the same for all relays of an outbox",
        )

    def handle(
        self,
        *,
        once: bool,
        check: int | None,
        batch: int | None,
        interval: float | None,
        using: str | None,
        no_reconcile: bool,
        **options: Any,
    ) -> None:
        of_publishing = {"once": once, "batch": batch, "interval": interval, "no-reconcile": no_reconcile}
        ignored = [f"--{name}" for name, value in of_publishing.items() if value]
        if check is not None and ignored:
            raise CommandError(
                f"--check publishes nothing, so {', '.join(ignored)} would have no effect: leave it out.",
                returncode=Exit.USAGE,
            )
        if once and interval:
            raise CommandError(
                "--once exits when nothing is due, so --interval would have no effect: leave it out.",
                returncode=Exit.USAGE,
            )
        if options["verbosity"]:
            _show_info(logging.getLogger("tasks_demo.outbox.relay"))
        # Import the tasks as a worker does: only an imported task declares its queue, priority and so on.
        current_app.loader.import_default_modules()
        if why := unsupported(using or router.db_for_write(OutboxMessage)):
            raise CommandError(
                f"This database cannot hold an outbox: {why}. Name its database with --using, or correct the router.",
                returncode=Exit.NOT_READY,
            )
        relay = Relay(using=using, batch=batch or 100, interval=interval or 0.5, reconcile=not no_reconcile)
        try:
            waited = overdue(relay.using)
            if check is not None:
                if waited > check:
                    raise CommandError(
                        f"A message of the outbox on {relay.using!r} has been due for {waited:.0f} s. Nothing is lost. Check "
                        "that `manage.py relay` is running, and whether it logs errors of the broker.",
                        returncode=Exit.BROKEN,
                    )
                return
            code = _until_asked(lambda stop: self._once(relay, stop) if once else _run(relay, stop))
        except Error as error:
            raise CommandError(
                f"The outbox on {relay.using!r} cannot be read ({' '.join(str(error).split())}). Its messages are kept and not "
                "published. Start the database and run `manage.py migrate`.",
                returncode=Exit.NOT_READY,
            ) from error
        sys.exit(code)

    def _once(self, relay: Relay, stop: threading.Event) -> None:
        published = 0
        while not stop.is_set():
            result = relay.run_once(stop)
            published += result.published
            if result.trouble:
                raise CommandError(
                    f"{published} published, then: {result.trouble}. The other messages stay in the outbox. Start the broker, or "
                    "name one that accepts writes in CELERY_BROKER_URL.",
                    returncode=Exit.NOT_READY,
                )
            if not result.taken:
                break
        self.stdout.write(f"{published} published")


def _show_info(logger: logging.Logger) -> None:
    """Show the logger's INFO lines, even in a project that does not configure LOGGING."""
    logger.setLevel(logging.INFO)
    if not logger.hasHandlers():
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        logger.addHandler(handler)


def _run(relay: Relay, stop: threading.Event) -> None:
    """Run the relay until asked to stop. A second thread reads the registered books and updates the dashboard's counts."""
    beside = threading.Thread(target=_read_books, args=(stop,), name="books", daemon=True)
    if settings.LEDGER and not cannot_be_kept():
        beside.start()
    relay.run(stop)


def _read_books(stop: threading.Event) -> None:
    logged: dict[str, str] = {}
    while not stop.wait(settings.BOOKS_SECONDS):
        try:
            troubles = {state.name: state.trouble for state in read_books()} if settings.BOOKS else {}
            for name, trouble in troubles.items():
                if trouble and logged.get(name) != trouble:
                    logger.warning("The books %r cannot be read: %s. Effects may be missing.", name, trouble)
            logged = troubles
            fold(FOLD_SECONDS)
        except Exception as error:  # noqa: BLE001  (routers, books and drivers may raise anything)
            limited_log(
                logger, logging.WARNING, ("books", type(error).__name__),
                "Reading the books or updating the dashboard's counts failed (%s: %s). It is tried again; "
                "until then effects may be missing.",
                type(error).__name__, first_line(error),
            )  # fmt: skip
        finally:
            connections.close_all()


def _until_asked(work: Any) -> int:
    """Run the work in a thread, so that no signal interrupts a publication; return the exit code."""
    stop = threading.Event()

    def run() -> None:
        try:
            work(stop)
        finally:
            connections.close_all()

    with stop_signals() as asked, ThreadPoolExecutor(1) as pool:
        running = pool.submit(run)
        while wait([running], 0.05).not_done:
            if asked:
                stop.set()
        running.result()
    return Exit.INTERRUPTED if signal.SIGINT in asked else Exit.OK

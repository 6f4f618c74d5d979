"""Wakes the relays of an outbox when a message is committed, so that it does not wait for their next look.

    enqueue ─ COMMIT ─▶ signal ─▶ each relay of this database looks at once

What is **not** guaranteed: that a signal arrives. If it is lost, or cannot be sent, the relay finds the message when it looks
next, after its ``interval``. A relay that is woken may find nothing. Signals carry no data.

- PostgreSQL: NOTIFY after the commit, in a transaction of its own. In the business transaction, NOTIFY would make its commit wait
  for all others that notify, and fail if the server's queue of notifications is full. A relay listens on a separate connection.
- SQLite: each relay has a FIFO in the folder ``DATABASE-relays`` beside the database file, for the processes of this machine.
  Writing never blocks. The next signal deletes a FIFO that nobody reads, as a killed relay leaves it.
- Other databases, SQLite in memory, transactions that Django does not manage (AUTOCOMMIT off, BEGIN by hand): no signal.
"""

from __future__ import annotations

import errno
import logging
import os
import selectors
import stat
import threading
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

from django.db import connections, transaction

from tasks_demo.core.lifecycle import described
from tasks_demo.core.limited_log import limited_log

logger = logging.getLogger(__name__)
CHANNEL = "tasks_demo_outbox"
#: Maximum time, in seconds, until a waiting relay notices that it should stop.
STOP_SECONDS = 0.1
#: Pause, in seconds, before a relay tries again to receive signals.
AGAIN_SECONDS = 5.0
#: Maximum time to connect to PostgreSQL, in seconds, if the project sets none.
CONNECT_SECONDS = 3
#: NOTIFY waits at most 100 ms for the lock that all transactions with NOTIFY share. Its own commit need not reach the disk:
#: after a crash of the server no relay listens.
_NOTIFY = f"""
    SELECT set_config('synchronous_commit', 'off', true), set_config('lock_timeout', '100', true), pg_notify('{CHANNEL}', '')
"""
_IDLE = 0  # psycopg: no transaction is open


def wake_on_commit(alias: str) -> None:
    """Wake the relays when the open transaction commits, or now if none is open. A rollback sends nothing. Does not fail."""
    connection = connections[alias]
    hooks = connection.run_on_commit
    # One signal serves all messages of a transaction, unless the last hook is of a savepoint that may still be rolled back.
    if hooks and isinstance(hooks[-1][1], _Signal) and hooks[-1][0] <= set(connection.savepoint_ids):
        return
    with suppress(transaction.TransactionManagementError):  # AUTOCOMMIT is off: Django calls no hooks
        transaction.on_commit(_Signal(alias), using=alias, robust=True)


class _Signal:
    """Wakes the relays of one outbox. Called after the commit."""

    def __init__(self, alias: str) -> None:
        self._alias = alias
        self.__qualname__ = "the signal to the relays"  # Django names it so in its log

    def __call__(self) -> None:
        connection = connections[self._alias]
        try:
            if connection.vendor == "postgresql":
                _notify(connection)
            elif folder := _folder_of_fifos(connection):
                _write_to_fifos(folder)
        except Exception as error:  # noqa: BLE001  (the message is committed: nothing here may fail its caller)
            limited_log(
                logger, logging.INFO, ("wake", self._alias),
                "Outbox %s: no relay was woken (%s). The committed messages are published at its next look.",
                self._alias, described(error),
            )  # fmt: skip


def _notify(connection: Any) -> None:
    # Inside a transaction opened by hand, the settings below would apply to the rest of it.
    if connection.connection.info.transaction_status == _IDLE:
        with connection.cursor() as cursor:
            cursor.execute(_NOTIFY)


def _folder_of_fifos(connection: Any) -> Path | None:
    name = str(connection.settings_dict["NAME"])
    if connection.vendor != "sqlite" or name.startswith(("file:", ":memory:")) or not hasattr(os, "mkfifo"):
        return None
    return Path(f"{os.path.realpath(name)}-relays")


def _write_to_fifos(folder: Path) -> None:
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return  # no relay has run here
    for name in names:
        path = folder / name
        try:
            fifo = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nobody reads it
                with suppress(OSError):
                    path.unlink()
            continue
        try:
            if stat.S_ISFIFO(os.fstat(fifo).st_mode):
                os.write(fifo, b"\n")
        except OSError:
            pass  # full: that relay has unread signals
        finally:
            os.close(fifo)


class _Fifo:
    """The FIFO of one relay, readable when a signal has arrived."""

    def __init__(self, folder: Path) -> None:
        database = Path(str(folder).removesuffix("-relays"))
        folder.mkdir(exist_ok=True)
        _let_in(folder, database.parent.stat())
        while True:
            self._path = folder / f"{os.getpid()}-{uuid.uuid4().hex[:8]}"
            os.mkfifo(self._path)
            _let_in(self._path, database.stat())
            # A signal deletes a FIFO that nobody reads: this one too, until it is open.
            try:
                self._read = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK)
            except FileNotFoundError:
                continue
            try:
                # Without a writer of its own, the FIFO would be readable, at its end, after each signal.
                self._write = os.open(self._path, os.O_WRONLY | os.O_NONBLOCK)
            except FileNotFoundError:
                os.close(self._read)
                continue
            if self._path.exists():
                return
            self._close_files()

    def fileno(self) -> int:
        return self._read

    def drain(self) -> None:
        """Read all signals that have arrived."""
        with suppress(BlockingIOError):
            while os.read(self._read, 4096):
                pass

    def close(self) -> None:
        self._close_files()
        with suppress(OSError):
            self._path.unlink()

    def _close_files(self) -> None:
        os.close(self._read)
        os.close(self._write)


def _let_in(path: Path, like: os.stat_result) -> None:
    """Whoever may write to the database may send signals to its relays, whatever the umask of this process."""
    with suppress(OSError):
        path.chmod(stat.S_IMODE(like.st_mode) & 0o777)


class _Listening:
    """A PostgreSQL connection that listens, readable when a signal has arrived."""

    def __init__(self, alias: str) -> None:
        # Not one of Django's ``connections``: those are closed and may come from a pool.
        self._connection = connections.create_connection(alias)
        known = self._connection.settings_dict
        options = {name: value for name, value in known["OPTIONS"].items() if name != "pool"}
        options.setdefault("connect_timeout", CONNECT_SECONDS)
        self._connection.settings_dict = {**known, "AUTOCOMMIT": True, "OPTIONS": options}
        with self._connection.cursor() as cursor:
            cursor.execute(f"LISTEN {CHANNEL}")

    def fileno(self) -> int:
        return int(self._connection.connection.fileno())

    def drain(self) -> None:
        """Read all signals that have arrived. Raises psycopg.OperationalError if the connection is lost."""
        pgconn = self._connection.connection.pgconn
        pgconn.consume_input()
        while pgconn.notifies() is not None:
            pass

    def close(self) -> None:
        self._connection.close()


class WakeUps:
    """Receives the signals of one outbox. Not thread-safe."""

    def __init__(self, alias: str) -> None:
        self._alias = alias
        self._source: Any = None
        self._open_at = 0.0

    def wait(self, seconds: float, stop: threading.Event) -> bool:
        """Wait for a signal, for ``seconds``, or until ``stop`` is set. Returns whether to look because of a signal.

        Signals that arrived since the last call count. True also when it has just begun to receive signals: messages may have
        been committed before. If no signals can be received, it waits for ``seconds``.
        """
        try:
            if self._source is None and time.monotonic() >= self._open_at:
                self._open_at = time.monotonic() + AGAIN_SECONDS
                self._source = self._opened()
                if self._source is not None:
                    return True
            if self._source is not None:
                return self._signalled(seconds, stop)
        except Exception as error:  # noqa: BLE001  (drivers and file systems may raise anything; looking at intervals is enough)
            self.close()
            limited_log(
                logger, logging.WARNING, ("wake-ups", self._alias),
                "Outbox %s: the relay receives no signals (%s). It looks at intervals only, and tries again in %g s.",
                self._alias, described(error), AGAIN_SECONDS,
            )  # fmt: skip
        stop.wait(seconds)
        return False

    def _opened(self) -> Any:
        connection = connections[self._alias]
        if connection.vendor == "postgresql":
            return _Listening(self._alias)
        folder = _folder_of_fifos(connection)
        return folder and _Fifo(folder)

    def _signalled(self, seconds: float, stop: threading.Event) -> bool:
        deadline, found = time.monotonic() + seconds, False
        with selectors.DefaultSelector() as selector:
            selector.register(self._source, selectors.EVENT_READ)
            # In slices: a selector does not see the event ``stop``.
            while not (found or stop.is_set()) and (left := deadline - time.monotonic()) > 0:
                found = bool(selector.select(min(left, STOP_SECONDS)))
        self._source.drain()
        return found

    def close(self) -> None:
        """Receive no more signals until the next ``wait``."""
        source, self._source = self._source, None
        if source is not None:
            with suppress(Exception):
                source.close()

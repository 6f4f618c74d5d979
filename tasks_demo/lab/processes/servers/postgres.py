"""A PostgreSQL server of the lab's own, which it may kill: a new cluster in a folder, on a Unix socket only.

Survives ``kill`` (SIGKILL of every process). Power failures are not tested: fsync is off. Nothing is downloaded: the server must
be installed.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
from glob import glob
from pathlib import Path

import psutil

from tasks_demo.core.exceptions import EnvironmentNotReady
from tasks_demo.demo.stack.processes import Process, spawn
from tasks_demo.demo.stack.server import EmbeddedServer

#: The superuser of the cluster, and the database that every cluster has.
USER, DATABASE = "tests", "postgres"
_READY_SECONDS, _INITDB_SECONDS, _STOP_SECONDS = 60.0, 120.0, 5.0


class PostgresServer(EmbeddedServer):
    """A server whose data and socket are in ``folder``. As root, it runs as "nobody", because PostgreSQL refuses root."""

    def __init__(self, folder: Path) -> None:
        """Create the cluster. ``folder``: its path must be short enough for a socket in it, and "nobody" must get there.

        Raises EnvironmentNotReady if PostgreSQL is not installed.
        """
        super().__init__(folder / "log", _READY_SECONDS)
        self.folder = folder
        self._binaries = binaries()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._environment = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}
        self._as_nobody: list[str] = []
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            os.chown(folder, nobody.pw_uid, nobody.pw_gid)
            ids = [f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups"]
            # The change of user removes what makes the server end with us: set it again.
            self._as_nobody = ["setpriv", *ids, "--pdeathsig=KILL"]
        self._initdb()

    def __str__(self) -> str:
        return f"The lab's PostgreSQL in {self.folder}"

    def _initdb(self) -> None:
        arguments = ["--auth=trust", f"--username={USER}", "--no-sync", f"--pgdata={self.folder / 'data'}"]
        command = [*self._as_nobody, str(self._binaries / "initdb"), *arguments]
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=self.folder, env=self._environment, timeout=_INITDB_SECONDS, check=False
        )  # fmt: skip
        if done.returncode:
            why = " ".join(done.stderr.split())[-300:]
            raise EnvironmentNotReady(f"{self} could not be created: {why}")

    def _spawn(self) -> Process:
        options = ["-c", "listen_addresses=", "-c", "fsync=off", "-c", f"unix_socket_directories={self.folder}"]
        command = [*self._as_nobody, str(self._binaries / "postgres"), "-D", str(self.folder / "data"), *options]
        return spawn(command, log=self.log, env=self._environment, cwd=self.folder)

    def kill(self) -> None:
        """SIGKILL the server and all its processes, each of which leads a group of its own; they are gone when this returns."""
        if self.process is None:
            return
        everyone: list[psutil.Process] = []
        with contextlib.suppress(psutil.NoSuchProcess):
            everyone = psutil.Process(self.process.pid).children(recursive=True)
        self.process.kill()
        for process in everyone:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(everyone, timeout=10)

    def stop(self) -> None:
        """Shut down without waiting for clients, so that no shared memory is left; then SIGKILL."""
        if self.process and self.process.alive():
            os.kill(self.process.pid, signal.SIGINT)
            self.process.wait(_STOP_SECONDS)
        self.kill()

    def _answers(self) -> bool:
        import psycopg

        try:
            psycopg.connect(host=str(self.folder), user=USER, dbname=DATABASE, connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True


def binaries() -> Path:
    """The folder of its programs. Raises EnvironmentNotReady if they, or what they need here, are missing."""
    found = sorted(glob("/usr/lib/postgresql/*/bin/initdb"), key=lambda path: int(path.split("/")[4]))
    program = found[-1] if found else shutil.which("initdb")
    if program is None or (os.geteuid() == 0 and shutil.which("setpriv") is None):
        raise EnvironmentNotReady(
            "PostgreSQL's server is not installed on this machine, and the lab kills only a server that it has started itself. "
            "Install it (Debian: apt-get install postgresql), or leave this fault out."
        )
    return Path(program).parent

"""A PostgreSQL server that tests may kill: a new cluster in a temporary folder, on a Unix socket only.

``python -m tests.integration.servers.postgres COMMAND ...`` runs a command with DATABASE_URL on such a server.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from glob import glob
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil
import psycopg
import pytest

from tests.support import ends_with_us, until


class PostgresServer:
    """Survives ``kill`` (SIGKILL of every process), as after a crash. Power loss is not tested: fsync is off."""

    def __init__(self, folder: Path, binaries: Path) -> None:
        self._folder, self._binaries = folder, binaries
        # PostgreSQL refuses to run as root.
        self._user = "nobody" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
        if os.geteuid() == 0:
            shutil.chown(folder, self._user)
        self._run("initdb", "--auth=trust", "--username=tests", "--no-sync", f"--pgdata={folder / 'data'}")
        self._process: subprocess.Popen[bytes] | None = None

    def url(self, database: str) -> str:
        return f"postgres://tests@{quote(str(self._folder), safe='')}/{database}"

    def start(self) -> None:
        options = ("-c", "listen_addresses=", "-c", "fsync=off", "-c", f"unix_socket_directories={self._folder}")
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*ends_with_us("INT"), self._binaries / "postgres", "-D", self._folder / "data", *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                **self._as_somebody(),
            )
        until(self._answers, "the start of PostgreSQL")

    def kill(self) -> None:
        """SIGKILL the server and all its processes; they are gone when this returns."""
        if self._process is not None:
            everyone = psutil.Process(self._process.pid).children(recursive=True)
            self._process.kill()
            for process in everyone:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            self._process.wait(10)
            psutil.wait_procs(everyone, timeout=10)
            self._process = None

    def _answers(self) -> bool:
        try:
            psycopg.connect(self.url("postgres"), connect_timeout=3).close()
        except psycopg.OperationalError:
            return False
        return True

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [self._binaries / program, *arguments], capture_output=True, text=True, **self._as_somebody()
        )
        assert done.returncode == 0, done.stderr

    def _as_somebody(self) -> dict[str, Any]:
        environment = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}
        return (
            {"user": self._user, "cwd": self._folder, "env": environment} if os.geteuid() == 0 else {"env": environment}
        )


@contextlib.contextmanager
def own_postgres() -> Iterator[PostgresServer]:
    """A running server. Without PostgreSQL on this machine the test is skipped, except in CI."""
    found = sorted(glob("/usr/lib/postgresql/*/bin/initdb"), key=lambda path: int(path.split("/")[4]))
    programs = found[-1] if found else shutil.which("initdb")
    if programs is None:
        assert not os.environ.get("CI"), "CI must have PostgreSQL's initdb"
        pytest.skip("PostgreSQL's initdb is not installed; the same tests run on SQLite")
    with tempfile.TemporaryDirectory(prefix="pg-") as folder:
        server = PostgresServer(Path(folder), Path(programs).parent)
        server.start()
        try:
            yield server
        finally:
            server.kill()


if __name__ == "__main__":
    with own_postgres() as lent:
        sys.exit(
            subprocess.run(
                sys.argv[1:], env={**os.environ, "DATABASE_URL": lent.url("postgres")}, check=False
            ).returncode
        )

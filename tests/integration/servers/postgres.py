"""A PostgreSQL server that tests may kill: the lab's own.

``python -m tests.integration.servers.postgres COMMAND ...`` runs a command with DATABASE_URL on such a server.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from tasks_demo.core.exceptions import EnvironmentNotReady
from tasks_demo.lab.processes.servers.postgres import USER
from tasks_demo.lab.processes.servers.postgres import PostgresServer as Server


class PostgresServer(Server):
    """Survives ``kill``, as after a crash."""

    def url(self, database: str) -> str:
        return f"postgres://{USER}@{quote(str(self.folder), safe='')}/{database}"


@contextlib.contextmanager
def own_postgres() -> Iterator[PostgresServer]:
    """A running server. Without PostgreSQL on this machine the test is skipped, except in CI."""
    with tempfile.TemporaryDirectory(prefix="pg-") as folder:
        try:
            server = PostgresServer(Path(folder))
        except EnvironmentNotReady:
            assert not os.environ.get("CI"), "CI must have PostgreSQL's initdb"
            pytest.skip("PostgreSQL's initdb is not installed; the same tests run on SQLite")
        with server:
            yield server


if __name__ == "__main__":
    with own_postgres() as lent:
        sys.exit(
            subprocess.run(
                sys.argv[1:], env={**os.environ, "DATABASE_URL": lent.url("postgres")}, check=False
            ).returncode
        )

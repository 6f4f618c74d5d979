"""The environment of the tests of failures outside a body: a worker with the jobs of ``failing_tasks``."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

from celery.result import AsyncResult

from tests.integration.patterns.once_worker import Environment, OnceWorker
from tests.support import STATE, Home, emptied

#: A third of it is far longer than a redelivery takes, and far shorter than the lease.
LEASE_SECONDS = 60


class FailingWorker(OnceWorker):
    queue = "failing"
    app = "tests.integration.patterns.failing_tasks"


class Failing(Environment):
    """The environment of ``once_tasks`` with a separate worker."""

    def __init__(self, home: Home, redis_url: str, **env: str) -> None:
        self.redis_url, self.home, self.postgres = redis_url, home, None
        self.vendor = "postgresql" if home.database_url else "sqlite"
        self.folder = STATE / f"failing-{uuid.uuid4().hex[:8]}"
        self.folder.mkdir()
        emptied(redis_url)
        env = {
            "REDIS_URL": redis_url,
            "TASKS_DEMO_DEFER_MAX_SECONDS": "1",
            "TASKS_DEMO_LEASE_SECONDS": str(LEASE_SECONDS),
            "FAILED_FOLDER": str(self.folder),
            **env,
        }
        self.worker = FailingWorker(home, STATE / "failing.log", env, concurrency=2)

    def job(
        self, pattern: str, operation: str = "", *, gate: bool = False, **kwargs: Any
    ) -> tuple[str, AsyncResult[Any]]:
        """Publish a job that asks for a failure; return the folder with its diary, and its result."""
        operation = f"{operation} {uuid.uuid4().hex[:8]}".strip()
        folder = self.folder / f"{operation} {pattern}".replace(" ", "-")
        folder.mkdir()
        if gate:
            (folder / "gate").touch()
        return str(folder), self.send(f"failing.{pattern}", operation=operation, folder=str(folder), **kwargs)

    def attempts(self, task_id: str) -> tuple[int, str]:
        """Count and history of the attempts of a message."""
        found = self.query("SELECT count, history FROM tasks_demo_records_attempt WHERE task_id = %s", task_id)
        return tuple(found[0]) if found else (0, "")


def executions(folder: str) -> int:
    diary = Path(folder) / "ran"
    return len(diary.read_text().split()) if diary.exists() else 0

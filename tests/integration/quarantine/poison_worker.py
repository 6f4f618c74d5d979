"""What the tests of attempts, parking and decisions share: a worker with poison tasks, and what it wrote."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from celery import current_app

from tasks_demo.ledger.models import Event
from tasks_demo.records.models import Attempt, Decision, Parked
from tests.support import STATE, Home, Worker, databases_of_tests, until


def send(task: str, args: list[Any], kwargs: dict[str, Any] | None = None, **options: Any) -> Any:
    """Publish one of the jobs of ``poison.py``, which this process does not import, as a web process need not."""
    return current_app.send_task(f"poison.{task}", args, kwargs, **options)


class PoisonWorker(Worker):
    """A worker with the poison tasks."""

    queues = "celery,side"

    may_die = True  # poison that waits in the queue kills at once

    @property
    def options(self) -> Sequence[str]:
        return ("-Q", self.queues, "--include", "tests.integration.quarantine.poison")

    def start(self) -> None:
        self.log.unlink(missing_ok=True)
        super().start()


def environment(redis_url: str, **more: str) -> dict[str, str]:
    """The environment of a worker on the test databases."""
    return {
        **databases_of_tests(),
        "REDIS_URL": redis_url,
        "TASKS_DEMO_LEASE_SECONDS": "1",
        "TASKS_DEMO_DEFER_MAX_SECONDS": "1",
        "TASKS_DEMO_MAX_ATTEMPTS": "3",
        "TASKS_DEMO_LEDGER_WAIT_SECONDS": "30",  # no body kills its process before its start is on record
        "POISON_FLAG": str(STATE / "die-after-parking"),
        **more,
    }


@pytest.fixture(scope="module")
def worker(home: Home, redis_url: str, django_db_setup: None) -> Iterator[Worker]:
    with PoisonWorker(home, STATE / "quarantine-worker.log", environment(redis_url)) as running:
        yield running


@pytest.fixture
def records(ledger: None) -> Iterator[None]:
    """The tables of the quarantine, emptied afterwards."""
    yield
    for model in (Decision, Parked, Attempt):
        model.objects.all().delete()


@pytest.fixture
def diary(short: Path) -> Path:
    return short / "diary"


def entries(diary: Path) -> list[dict[str, Any]]:
    """The diary lines of the bodies, in order; one per execution."""
    return [json.loads(line) for line in diary.read_text().splitlines()] if diary.exists() else []


def cure(diary: Path) -> None:
    Path(f"{diary}.cure").touch()


def parked(task_id: str, seconds: float = 30.0) -> Parked:
    """The row of a message, once it is parked."""
    rows = Parked.objects.filter(task_id=task_id, state="parked")
    return until(rows.first, f"{task_id} parked", seconds)


def seen(task_id: str, kind: str) -> int:
    return Event.objects.filter(task_id=task_id, kind=kind).count()


def has(task_id: str, *kinds: str) -> None:
    until(lambda: all(seen(task_id, kind) for kind in kinds), f"{kinds} of {task_id}")

"""Turns invented jobs into rows of the ledger's two tables. Uses the database only to format timestamps."""

from __future__ import annotations

import json
import random
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper

from tasks_demo.core import clock
from tasks_demo.demo.seeding.lives import WORKERS, Job, Life, jobs
from tasks_demo.ledger.events import FAULT
from tasks_demo.ledger.tallies import COUNTS

EVENT_COLUMNS = ("at", "kind", "task_id", "operation", "pattern", "worker", "pid", "run", "source", "detail")
TALLY_COLUMNS = (
    "task_id", "operation", "pattern", "run", "books", "task", *COUNTS, "state", "effects", "first_at", "last_at",
)  # fmt: skip
#: The period over which jobs are spread, microseconds.
WEEK = 7 * 86_400 * 1_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
#: Maximum duration of a life, so that none ends in the future, microseconds.
LONGEST_LIFE = 300_000_000
#: Time after which a worker is restarted and has other process IDs, microseconds.
_RESTART = 6 * 3_600 * 1_000_000


def prefix(seed: int) -> str:
    """Return the prefix of the source of every event of this seed."""
    return f"seed:{seed}:"


@dataclass(slots=True)
class Rows:
    """Some of the rows; values are in the order of the columns."""

    events: list[tuple[Any, ...]] = field(default_factory=list)
    tallies: list[tuple[Any, ...]] = field(default_factory=list)


class RowGenerator:
    """The rows of ``tasks`` task IDs, the last of which ends ``now`` (microseconds since the epoch). One part at a time is in
    memory."""

    def __init__(self, tasks: int, events_per_task: int, seed: int, now: int, connection: BaseDatabaseWrapper) -> None:
        self.tasks, self.seed, self.now = tasks, seed, now
        self._jobs = jobs(seed, events_per_task)
        self._ids = random.Random(f"{seed}:ids")
        self._connection = connection
        self._source = 0

    def parts(self, size: int) -> Iterator[Rows]:
        """Yield the rows in parts of at least ``size`` task IDs."""
        rows, made = Rows(), 0
        while made < self.tasks:
            begun = self.now - LONGEST_LIFE - WEEK + WEEK * made // self.tasks
            made += self._add(rows, next(self._jobs), begun, self.tasks - made)
            if len(rows.tallies) >= size:
                yield rows
                rows = Rows()
        if rows.tallies:
            yield rows

    def _add(self, rows: Rows, job: Job, begun: int, room: int) -> int:
        lives = job.story.lives[:room] if len(job.story.lives) > 1 else job.story.lives
        task_ids = [str(uuid.UUID(int=self._ids.getrandbits(128), version=4)) for _ in lives]
        operation = f"{job.task.rpartition('.')[2]}:{self.seed}.{self._source}" if job.books else task_ids[0]
        run = f"seed{self.seed}:{job.pattern or 'none'}/kill-main" if job.story.in_a_run else ""
        for task_id, life in zip(task_ids, lives, strict=True):
            self._events(rows, job, life, task_id, operation, run, begun)
            counts = life.counts
            rows.tallies.append(
                (
                    task_id, operation, job.pattern, run, job.books, job.task, *counts.numbers,
                    begun * 16 + counts.state if counts.state else 0,
                    job.story.effects,
                    self._moment(begun + round(counts.first_at * 1e6)),
                    self._moment(begun + round(counts.last_at * 1e6)),
                )
            )  # fmt: skip
        return len(lives)

    def _events(self, rows: Rows, job: Job, life: Life, task_id: str, operation: str, run: str, begun: int) -> None:
        restarts = begun // _RESTART
        for step in life.steps:
            number = (job.worker + step.second) % len(WORKERS)
            main = 1_000 + (restarts * len(WORKERS) + number) % 1_000 * 20
            worker, pid = (WORKERS[number], main) if step.by_main is not None else ("", None)
            if step.by_main is False:
                pid = main + 1 + begun % 4
            detail = step.detail
            if step.kind == FAULT:
                detail = {**detail, "pid": main, "main_pid": main, "child_pid": main + 1 + begun % 4}
            rows.events.append(
                (
                    self._moment(begun + step.after), step.kind, task_id, operation, job.pattern, worker, pid, run,
                    f"seed:{self.seed}:{self._source}", json.dumps(detail) if detail else "{}",
                )
            )  # fmt: skip
            self._source += 1

    def _moment(self, microseconds: int) -> Any:
        return clock.for_driver(_EPOCH + timedelta(microseconds=microseconds), self._connection)

"""A body that ends neither with a return nor with an Exception: in each pattern its job ends once and releases everything."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

from tests.integration.bookshop import Bookshop, ShopWorker, opened
from tests.support import until

SETTINGS: dict[str, Any] = {
    "TASKS_DEMO_OUTBOX_UNSTARTED_SECONDS": 0.3,
    "TASKS_DEMO_LEDGER_WRITE_THROUGH": True,
    "TASKS_DEMO_LEDGER_WAIT_SECONDS": 30.0,  # no process dies before its start is on record
    "TASKS_DEMO_MAX_ATTEMPTS": 2,
    # Longer than any test waits: a lease that is not released fails the test.
    "TASKS_DEMO_LEASE_SECONDS": 300.0,
}
ASK = """
from tasks_demo.outbox import enqueue
from tasks_demo.records.models import Attempt, OutboxMessage
from tasks_demo.ledger.models import Event, Tally
def facts(prefix):
    rows = OutboxMessage.objects.filter(task_id__startswith=prefix)
    return {
        row.task_id.removeprefix(prefix): [
            row.publications, row.finished_at is not None,
            Event.objects.filter(task_id=row.task_id, kind="started").count(),
            Attempt.objects.filter(task_id=row.task_id).exists(),
            app.AsyncResult(row.task_id).state,
            Tally.objects.filter(task_id=row.task_id).values_list("outcome", flat=True).first(),
        ] for row in rows
    }
"""
NAMES = [
    "orders.awkward", "orders.awkward_late", "orders.acks_early_awkwardly", "orders.index_awkwardly",
    "orders.claim_first_awkwardly", "orders.dedup_lock_awkwardly", "orders.inbox_awkwardly", "orders.outbox_awkwardly",
]  # fmt: skip
LATE = [f"orders.{name}_awkwardly" for name in ("index", "dedup_lock", "inbox", "outbox")]
ENDS = {
    "cancelled": ["FAILURE", "failed"], "closed": ["FAILURE", "failed"], "stopped": ["FAILURE", "failed"],
    "reject": ["FAILURE", "rejected"], "ignore": ["PENDING", "rejected"],
}  # fmt: skip


@pytest.fixture(scope="module")
def project() -> Iterator[Bookshop]:
    with opened() as project, project.running("relay", "--interval", "0.05", settings=SETTINGS):
        yield project


@pytest.fixture
def worker(project: Bookshop) -> Iterator[ShopWorker]:
    with project.worker(settings=SETTINGS) as worker:
        yield worker


def sent(project: Bookshop, prefix: str, jobs: list[tuple[str, str]]) -> None:
    """Put the jobs into the outbox, each with its prefix, task and way to end; each order is a separate operation."""
    ask(project, "1", f"for name, how in {jobs!r}: enqueue(name, (f'{prefix}{{name}} {{how}}', how), "
        f"task_id=f'{prefix}{{name}} {{how}}')\n")  # fmt: skip


def ask(project: Bookshop, expression: str, before: str = "") -> Any:
    return project.value(expression, settings=SETTINGS, before=ASK + before)


def settled(project: Bookshop, prefix: str, wanted: dict[str, list[Any]]) -> None:
    """Wait for this state of the jobs: Celery's main process and the ledger report an end shortly after its row changes."""
    found: dict[str, list[Any]] = {}

    def known() -> bool:
        found.update(ask(project, f"facts({prefix!r})"))
        return found == wanted

    with suppress(AssertionError):
        until(known, "every end", 60)
    assert found == wanted


def test_outbox_job_of_such_a_body_ends_once_and_is_not_republished(project: Bookshop, worker: ShopWorker) -> None:
    jobs = [(name, how) for name in NAMES for how in ENDS]
    sent(project, "end ", jobs)
    settled(project, "end ", {f"{name} {how}": [1, True, 1, False, *ENDS[how]] for name, how in jobs})
    assert worker.alive()


def test_lease_of_such_a_body_is_not_waited_for(project: Bookshop, worker: ShopWorker) -> None:
    before = (
        "task = app.tasks['orders.dedup_lock_awkwardly']\n"
        f"for how in {sorted(ENDS)!r}:\n"
        "    first = task.delay('free ' + how, how)\n"
        "    while not Event.objects.filter(task_id=first.id, kind__in=['acked', 'rejected']): pass\n"
        "    again = task.delay('free ' + how, how)\n"
        "    while not Event.objects.filter(task_id=again.id, kind='started'): pass\n"
    )
    assert ask(project, "Event.objects.filter(kind='deferred').count()", before) == 0


@pytest.mark.parametrize("pool", ["threads", "solo"])
def test_pools_without_processes_have_the_same_ends(project: Bookshop, pool: str) -> None:
    jobs = [(name, how) for name in LATE for how in ("cancelled", "stopped", "exit")]
    with project.worker("-P", pool, settings=SETTINGS) as worker:
        sent(project, f"{pool} ", jobs)
        settled(project, f"{pool} ", {f"{name} {how}": [1, True, 1, False, "FAILURE", "failed"] for name, how in jobs})
        assert worker.alive()


def test_execution_error_of_a_terminated_process_is_not_a_failure_of_its_job(
    project: Bookshop, worker: ShopWorker
) -> None:
    jobs = [(name, "terminated") for name in LATE]
    sent(project, "term ", jobs)
    until(lambda: all(f"[term {name} terminated] succeeded" in worker.said for name, _ in jobs), "every job done", 60)
    settled(project, "term ", {f"{name} terminated": [1, True, 2, False, "SUCCESS", "succeeded"] for name, _ in jobs})

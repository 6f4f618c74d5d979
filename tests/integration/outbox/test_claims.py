"""A long queue is no loss, and a surplus copy does not run: real relay and worker of another project, on either broker."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration.bookshop import Bookshop, ShopWorker
from tests.support import until

#: The reconciler looks so early that every job here waits ten times as long.
SETTINGS: dict[str, Any] = {
    "TASKS_DEMO_OUTBOX_UNSTARTED_SECONDS": 0.3,
    "TASKS_DEMO_OUTBOX_LEASE_SECONDS": 5.0,
    "TASKS_DEMO_LEDGER_WRITE_THROUGH": True,
    "TASKS_DEMO_LEDGER_WAIT_SECONDS": 30.0,  # no process is killed before its start is on record
}
ASK = """
import time
from django.db.models import Sum
from tasks_demo.outbox import enqueue
from tasks_demo.records.models import OutboxMessage as M
from tasks_demo.ledger.models import Event
def copy(name, task_id, *args, **kwargs):
    app.tasks[name].apply_async(args, kwargs, task_id=task_id, headers={"tasks_demo_outbox": "default"})
def until(task_id, column):
    while not (found := getattr(M.objects.get(task_id=task_id), column)): time.sleep(0.01)
    return found
def facts(task_id):
    kinds = list(Event.objects.filter(task_id=task_id).values_list("kind", flat=True))
    row = M.objects.get(task_id=task_id)
    return [row.publications, kinds.count("started"), kinds.count("suppressed"), row.finished_at is not None]
"""


@pytest.fixture(scope="module")
def worker(any_broker: Bookshop) -> Iterator[ShopWorker]:
    with (
        any_broker.running("relay", "--interval", "0.05", settings=SETTINGS),
        any_broker.worker(settings=SETTINGS) as worker,
    ):
        yield worker


def asked(project: Bookshop, expression: str, statements: str = "") -> Any:
    return project.value(expression, settings=SETTINGS, before=ASK + statements)


def succeeded(worker: ShopWorker, prefix: str) -> int:
    return len(re.findall(rf"\[{prefix}[^]]*\] succeeded", worker.said))


def test_outbox_publishes_no_copies_because_of_a_long_queue(any_broker: Bookshop, worker: ShopWorker) -> None:
    # 4 s of work for two processes, in a queue that the reconciler examines after 0.3 s.
    asked(
        any_broker, "1", "for n in range(80): enqueue(tasks.ship, (f'long-{n}',), {'work': 0.1}, task_id=f'long-{n}')\n"
    )
    until(lambda: succeeded(worker, "long-") >= 80, "the end of all", 60)
    mine = "M.objects.filter(task_id__startswith='long-').aggregate(n=Sum('publications'))['n']"
    sent, done = asked(any_broker, f"[{mine}, Payment.objects.filter(order_id__startswith='long-').count()]")
    assert (sent <= 84, done) == (True, 80), sent


def test_outbox_claim_copy_of_a_job_that_has_ended_is_suppressed(any_broker: Bookshop, worker: ShopWorker) -> None:
    names = ["orders.ship", "orders.plain"]
    asked(any_broker, "1", f"for name in {names}: enqueue(name, (name,), task_id='ended-' + name)\n")
    until(lambda: succeeded(worker, "ended-") == 2, "both ends")
    asked(
        any_broker,
        "1",
        f"for name in {names}: until('ended-' + name, 'finished_at'); copy(name, 'ended-' + name, name)\n",
    )
    for name in names:
        said = f"{name}[ended-{name}], operation 'ended-{name}': not run again: its job has ended"
        until(lambda said=said: said in worker.said, "the reason in the log")  # type: ignore[misc]
        until(
            lambda name=name: asked(any_broker, f"facts('ended-{name}')") == [1, 1, 1, True], "the point in the ledger"
        )  # type: ignore[misc]
        assert any_broker.payments(name) == 1


def test_outbox_claim_copy_of_a_job_that_is_running_is_suppressed_until_its_process_dies(
    any_broker: Bookshop, worker: ShopWorker
) -> None:
    gate = any_broker.folder / "runs"
    holder = asked(
        any_broker,
        "holder.split()[1]",
        f"job = ('runs', {str(gate)!r})\n"
        "enqueue(tasks.index_slowly, job, task_id='runs')\n"
        "holder = until('runs', 'started_by')\n"
        "copy('orders.index_slowly', 'runs', *job)\n",
    )
    until(
        lambda: "[runs], operation 'runs': not run again: it was begun by a worker that lives" in worker.said,
        "the refusal",
    )
    os.kill(int(holder), signal.SIGKILL)
    gate.touch()
    until(lambda: succeeded(worker, "runs"), "its end, in another process")
    found, paid = asked(any_broker, "[facts('runs'), Payment.objects.filter(order_id='runs').count()]")
    assert (found[1], paid) == (2, 1), "it ran again because its first process was killed"


UNCLAIMED = """
from django.db import transaction
from tasks_demo.core.clock import Now
job = ('unclaimed', {gate!r})
row = M.objects.filter(task_id='unclaimed')
with transaction.atomic():
    enqueue(tasks.text_slowly, job, task_id='unclaimed')
    tasks.text_slowly.apply_async(job, task_id='unclaimed')
    while not Event.objects.filter(task_id='unclaimed', kind='started'): time.sleep(0.01)
    row.update(published_at=Now(), publications=1, queue='bookshop', due_at=Now())
looks = set()
while len(looks) < 6 and row.get().publications == 1:
    looks.add(row.get().due_at)
    time.sleep(0.01)
"""


def test_outbox_claim_acknowledged_job_without_a_claimed_row_is_not_lost(
    any_broker: Bookshop, worker: ShopWorker
) -> None:
    gate = any_broker.folder / "unclaimed"
    # Its message lacks the outbox's header, so it never claims its row: as if it had stopped between acknowledgement and claim.
    looks = asked(any_broker, "len(looks)", UNCLAIMED.format(gate=str(gate)))
    gate.touch()
    assert looks == 6, "published again while a worker held it"
    until(lambda: succeeded(worker, "unclaimed"), "its end")


def test_outbox_claim_retry_that_is_due_later_is_waited_for_and_starts_no_second_chain(
    any_broker: Bookshop, worker: ShopWorker
) -> None:
    asked(
        any_broker,
        "1",
        "enqueue(tasks.ship_when_packed, ('packed', 2), task_id='packed')\n"
        "until('packed', 'publications')\n"
        "copy('orders.ship_when_packed', 'packed', 'packed', 2)\n",
    )
    until(lambda: "[packed], operation 'packed': not run again: " in worker.said, "the refusal")
    until(lambda: succeeded(worker, "packed"), "the end")
    until(lambda: asked(any_broker, "facts('packed')")[:3] == [1, 2, 1], "the points in the ledger")
    assert any_broker.payments("packed") == 1


REFUSALS = """
from tasks_demo.core.exceptions import OutboxRefused
def said(name, **options):
    try:
        return enqueue(name, ('x',), countdown=3600, **options) and "written"
    except OutboxRefused as error:
        return str(error)
"""


@pytest.mark.parametrize(
    ("settings", "queue"),
    [
        ({"CELERY_TASK_CREATE_MISSING_QUEUES": False}, "the queue 'bookshp' is not declared; did you mean 'bookshop'?"),
        ({"CELERY_TASK_QUEUES": {"bookshop": {}}}, "pass external=True if others read it"),
    ],
)
def test_enqueue_refuses_what_no_worker_would_run_and_names_the_nearest(
    any_broker: Bookshop, settings: dict[str, Any], queue: str
) -> None:
    calls = (
        "said('orders.shipp'), said('nope'), said('orders.ship', queue='bookshp'), said('another.app', external=True)"
    )
    answers = any_broker.value(f"[{calls}]", settings=settings, before=ASK + REFUSALS)
    for answer, wanted in zip(
        answers, ("did you mean 'orders.ship'?", "no task 'nope' is registered", queue, "written"), strict=True
    ):
        assert wanted in answer

"""SQLite with Django's defaults (no WAL, no IMMEDIATE transactions), with orders, records and ledger in one file."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.integration.bookshop import Bookshop, opened
from tests.support import until

pytestmark = pytest.mark.skipif("DATABASE_URL" in os.environ, reason="is about SQLite's defaults")
#: Task names, each of another pattern.
TASKS = ("charge", "book", "mail_receipt", "index", "count_view", "ship")
EACH = 40
LOOK = (
    "from tasks_demo.ledger.models import Tally\nfrom tasks_demo.records.models import Attempt, OutboxMessage, Parked\n"
)


@pytest.fixture(scope="module")
def one_file() -> Iterator[Bookshop]:
    with opened(settings={"DATABASE_ROUTERS": []}) as project:
        yield project


def test_store_jobs_of_every_pattern_come_to_their_end_side_by_side(one_file: Bookshop) -> None:
    mode = "connection.cursor().execute('PRAGMA journal_mode').fetchone()[0]"
    assert one_file.value(mode, before="from django.db import connection") == "delete"
    with one_file.running("relay") as _, one_file.worker("--concurrency=4") as worker:
        sent = one_file.python(
            "from tasks_demo.outbox import enqueue\n"
            f"for number in range({EACH}):\n"
            f"    for name in {TASKS!r}:\n"
            "        kwargs = {'order_id': f'{name} {number}'}\n"
            "        enqueue(tasks.ship, kwargs=kwargs) if name == 'ship' else getattr(tasks, name).delay(**kwargs)\n",
            timeout=120,
        )
        assert sent.code == 0, sent.err
        until(
            lambda: one_file.value("Tally.objects.filter(outcome='succeeded').count()", before=LOOK) == EACH * len(TASKS),
            f"the ends; the worker said {worker.said[-3000:]}", 120,
        )  # fmt: skip
        # Ends are reported to the outbox, and starts to the ledger, while nobody waits.
        counts = (
            "[Tally.objects.filter(executions=1, publications=1).count(), Attempt.objects.count(), "
            "Parked.objects.count(), OutboxMessage.objects.filter(finished_at=None).count()]"
        )
        until(lambda: one_file.value(counts, before=LOOK) == [EACH * len(TASKS), 0, 0, 0], "each once, and reported")
        assert "Traceback" not in worker.said
    of_orders = "sorted(set(Payment.objects.values_list('order_id', flat=True))).__len__()"
    assert one_file.value(f"[Payment.objects.count(), {of_orders}]") == [EACH * len(TASKS)] * 2
    verified = one_file.manage("verify_ledger")
    assert verified.code == 0, verified.out

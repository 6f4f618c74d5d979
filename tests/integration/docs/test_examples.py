"""The example project does what its README says, on both brokers and both databases."""

from __future__ import annotations

from tests.integration.bookshop import Bookshop
from tests.support import until

#: Tasks sent twice, as by a double click, with the number of charges per order.
ONCE = {"charge": 1, "book": 1, "mail_receipt": 1, "index": 2, "count_view": 2, "plain": 2, "plain_late": 2}


def test_examples_have_no_migrations_left(any_broker: Bookshop) -> None:
    done = any_broker.manage("makemigrations", "--check", "--dry-run")
    assert (done.code, done.out.strip()) == (0, "No changes detected"), done.err


def test_examples_run_a_double_click_as_often_as_each_pattern_promises(any_broker: Bookshop) -> None:
    with any_broker.worker() as worker, any_broker.running("relay"):
        sent = any_broker.python(
            f"for name in {list(ONCE)!r}:\n"
            "    for _ in range(2):\n"
            "        getattr(tasks, name).delay(order_id=name, cents=5)\n"
            "from tasks_demo.outbox import enqueue\n"
            "from django.db import transaction\n"
            "with transaction.atomic():\n"
            "    Order.objects.create(title='A book', cents=5)\n"
            "    enqueue(tasks.ship, kwargs={'order_id': 'ship'})\n"
        )
        assert sent.code == 0, sent.err
        ended = "sorted(Event.objects.filter(kind__in=['returned', 'suppressed']).values_list('kind', flat=True))"
        # Seven tasks twice and one shipment; three of the copies are suppressed.
        expected = ["returned"] * 12 + ["suppressed"] * 3
        until(
            lambda: any_broker.value(ended, before="from tasks_demo.ledger.models import Event") == expected,
            f"12 returned, 3 suppressed; the worker said {worker.said[-2000:]}", 60,
        )  # fmt: skip
    counted = {name: any_broker.payments(name) for name in (*ONCE, "ship")}
    assert counted == {**ONCE, "ship": 1}


def test_examples_check_names_no_task_with_a_pattern(any_broker: Bookshop) -> None:
    done = any_broker.manage("check", "--tag", "celery")
    assert done.code == 0, done.err
    assert [name for name in ONCE if not name.startswith("plain") and f"orders.{name}:" in done.err] == []

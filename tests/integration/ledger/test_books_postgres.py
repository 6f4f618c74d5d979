"""ModelBooks on PostgreSQL: a row read again, after a change or a lost cursor, is no new effect."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration.bookshop import Bookshop, opened
from tests.integration.servers.postgres import own_postgres

BOOKS: dict[str, Any] = {"TASKS_DEMO_BOOKS": {"till": "tests.integration.project_routers.Payments"}}
EVENTS = "from tasks_demo.ledger.models import BookCursor, Event\nfrom tasks_demo.ledger.reading import read_books\n"
COUNT = "Event.objects.filter(kind='effect').count()"
READ = "[state.trouble for state in read_books()]"


@pytest.fixture
def shop() -> Iterator[Bookshop]:
    with own_postgres() as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("DATABASE_URL", server.url("postgres"))
        with opened() as project:
            yield project


def test_books_do_not_read_pruned_entries_as_new(shop: Bookshop) -> None:
    def after(statements: str) -> int:
        before = f"{EVENTS}{statements}\nassert {READ} == [''], {READ}\n"
        return int(shop.value(COUNT, settings=BOOKS, before=before))

    made = "Payment.objects.bulk_create(Payment(order_id=f'o{n}', cents=1, by='t') for n in range(300))"
    assert after(made) == 300
    pruned = shop.manage("prune", "--only", "ledger", settings={**BOOKS, "TASKS_DEMO_LEDGER_RETENTION_SECONDS": 0.001})
    assert "100 events" in pruned.out, pruned
    assert after("Payment.objects.filter(order_id='o5').update(cents=7)") == 200
    assert after("Payment.objects.filter(order_id='o250').update(cents=7)") == 200
    assert after("BookCursor.objects.all().delete()") == 200
    assert after("Payment.objects.all().update(cents=8)") == 200
    assert after("Payment.objects.create(order_id='new', cents=1, by='t')") == 201
    late = (
        "from django.db import connections, transaction\n"
        "import threading\n"
        "inserted, commit = threading.Event(), threading.Event()\n"
        "def slow():\n"
        "    with transaction.atomic():\n"
        "        Payment.objects.create(order_id='late', cents=1, by='t')\n"
        "        inserted.set(); commit.wait(30)\n"
        "    connections.close_all()\n"
        "thread = threading.Thread(target=slow); thread.start(); assert inserted.wait(30)\n"
        "Payment.objects.create(order_id='quick', cents=1, by='t')\n"
        f"assert {READ} == ['']\nassert {COUNT} == 202\ncommit.set(); thread.join()"
    )
    assert after(late) == 203

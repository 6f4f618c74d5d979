"""Calls and declarations in another project, with a real worker: each spelling, each type, each mistake."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.bookshop import Bookshop, ShopWorker, opened
from tests.support import until


@pytest.fixture(scope="module")
def shop() -> Iterator[Bookshop]:
    with opened() as project:
        yield project


@pytest.fixture(scope="module")
def worker(shop: Bookshop) -> Iterator[ShopWorker]:
    with shop.worker() as running:
        yield running


def test_every_spelling_of_one_call_charges_once(shop: Bookshop, worker: ShopWorker) -> None:
    before = (
        "calls = [tasks.charge.delay(42, 100), tasks.charge.delay(42), tasks.charge.delay(order_id=42, cents=100),\n"
        "         tasks.charge.delay(cents=100, order_id=42), tasks.charge.s(100).delay(42),\n"
        "         tasks.charge.s(cents=100).delay(42)]\n"
        "answers = [call.get(timeout=30) for call in calls]"
    )
    assert shop.value("len(set(answers))", before=before) == 1
    assert shop.payments("42") == 1


def test_arguments_that_json_carries_work(shop: Bookshop, worker: ShopWorker) -> None:
    before = (
        "import datetime, decimal, uuid\nfrom django.utils.translation import gettext_lazy\n"
        "given = [uuid.UUID(int=7), decimal.Decimal('1.50'), datetime.date(2026, 1, 2), datetime.datetime(2026, 1, 2),\n"
        "         datetime.time(3), b'bytes', gettext_lazy('lazy'), (1, 2), {1: 2}]\n"
        "calls = [tasks.ship_to.delay(each, when=each) for each in given for _ in range(2)]\n"
        "answers = [call.get(timeout=30) for call in calls]"
    )
    assert shop.value("[len(calls), len(set(answers))]", before=before) == [18, 9]


@pytest.mark.parametrize("given", ["object()", "{1, 2}", "datetime.timedelta(1)"])
def test_arguments_that_json_does_not_carry_are_refused_in_the_caller(shop: Bookshop, given: str) -> None:
    done = shop.python(f"import datetime\ntasks.ship_to.delay({given})")
    assert done.code == 1
    assert "ArgumentsNotJson" in done.err
    assert "Nothing was published" in done.err


def test_arguments_operation_is_computed_by_the_publisher_only(
    shop: Bookshop, worker: ShopWorker, tmp_path: Path
) -> None:
    log = tmp_path / "operations"
    before = f"import os\ntasks.charge_counted.delay(1, {str(log)!r}).get(timeout=30)"
    publisher = shop.value("os.getpid()", before=before)
    assert log.read_text().split() == [str(publisher)]
    # Sent by name, without the header: one execution on each side.
    before = f"import os\napp.send_task('orders.charge_counted', args=[2, {str(log)!r}]).get(timeout=30)"
    publisher = shop.value("os.getpid()", before=before)
    others = [int(pid) for pid in log.read_text().split()[1:] if int(pid) != publisher]
    assert len(others) == 1


def test_arguments_body_that_nobody_ran_is_a_failure_each_time(shop: Bookshop, worker: ShopWorker) -> None:
    before = "calls = [tasks.charge_async.delay(1) for _ in range(2)]\n[call.get(timeout=30, propagate=False) for call in calls]"
    assert (
        shop.value("[[call.state, type(call.result).__name__] for call in calls]", before=before)
        == [["FAILURE", "BodyNotRun"]] * 2
    )
    assert "never awaited" not in worker.said


def test_arguments_errback_with_several_arguments_is_a_job_of_its_own(shop: Bookshop, worker: ShopWorker) -> None:
    before = (
        "from celery import chord, group\nfrom tasks_demo.ledger.models import Tally\n"
        "back = tasks.ship_to.si('back', 3)\n"
        "failing = [tasks.fail.apply_async(['one'], link_error=back), group([tasks.fail.s('two')]).on_error(back).delay()[0]]\n"
        "[call.get(timeout=30, propagate=False) for call in failing]\n"
        "import time; until = time.monotonic() + 20\n"
        "jobs = Tally.objects.filter(task='orders.ship_to', operation='ship:back')\n"
        "while time.monotonic() < until and [job.outcome for job in jobs.all()] != ['succeeded'] * 2: time.sleep(0.05)"
    )
    counts = "[[job.outcome for job in jobs.all()], sum(job.executions for job in jobs.all())]"
    assert shop.value(counts, before=before) == [["succeeded"] * 2, 1]
    assert shop.payments("back") == 1


def test_arguments_job_published_in_the_transaction_of_an_inbox_is_named(shop: Bookshop, worker: ShopWorker) -> None:
    assert shop.python("tasks.book_and_notify.delay(1).get(timeout=30)").code == 0
    until(lambda: "orders.count_view is published at " in worker.said, "the warning")
    assert "orders/tasks.py:" in worker.said.partition("orders.count_view is published at ")[2].partition("\n")[0]


def test_arguments_requeues_and_retries_are_not_named(worker: ShopWorker) -> None:
    assert worker.said.count(" is published at ") <= 1

"""The screen Failed: which jobs can be run again, with which arguments and key, by whom, and what is kept."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.db import router
from django.test import Client

from tasks_demo.ledger.recorder import recorder
from tasks_demo.outbox.enqueue import enqueue
from tasks_demo.records.models import OutboxMessage
from tests.integration.dashboard.pages import confirm, somebody, text
from tests.integration.ledger.ledger_rows import append, event, life
from tests.integration.quarantine.parked_rows import lying

pytestmark = pytest.mark.usefixtures("records")

PAGE = "/admin/tasks_demo/tally/failed/"
TASK = "tasks_demo.charge_outbox"


@pytest.fixture
def keeper(client: Client) -> Client:
    return somebody(client, "keeper", "view_tally", "run_again")


def failed(operation: str = "", task: str = TASK) -> str:
    """A job of the outbox that has failed, by its task ID."""
    kwargs: dict[str, Any] = {"customer": "c", "amount": 7}
    if operation:
        kwargs["operation"] = operation
    task_id = enqueue(TASK, kwargs=kwargs, queue="nobody")
    append(life(task_id, "published", "received", "started", "failed", operation=operation or task_id, task=task))
    return task_id


def ask(client: Client, *task_ids: str, query: str = "", **fields: str) -> Any:
    return client.post(f"{PAGE}{query}", {"task_id": list(task_ids), **fields})


def again(*first: str) -> list[OutboxMessage]:
    return list(OutboxMessage.objects.exclude(task_id__in=first))


def test_failed_job_runs_again_with_its_arguments_and_its_key(keeper: Client) -> None:
    one = failed("charge:17")
    assert "possible" in text(keeper.get(PAGE))
    asked = ask(keeper, one)
    assert "Run again: 1 job" in text(asked)
    assert again(one) == [], "counting publishes nothing"
    assert confirm(keeper, PAGE, asked, "the bank is back").headers["Location"] == PAGE
    (new,) = again(one)
    first = OutboxMessage.objects.get(task_id=one)
    assert (new.task, new.arguments, new.options) == (first.task, first.arguments, first.options)
    assert new.options["headers"]["tasks_demo_operation"].endswith(":charge:17")
    entry = LogEntry.objects.get()
    assert (
        f"1 job published again. Why: the bank is back Filter: none. New task IDs: {new.task_id}."
        in entry.change_message
    )
    confirm(keeper, PAGE, asked, "the bank is back")
    assert len(again(one)) == 1, "a form that is sent twice acts once"


def test_failed_page_says_why_a_job_failed(keeper: Client) -> None:
    one = failed("k")
    same: dict[str, Any] = {"task_id": one, "operation": "k", "pattern": "acks_late"}
    append([event("failed", 90, **same, detail={"why": "an earlier error"})])
    assert "an earlier error" in keeper.get(PAGE).text
    append([event("failed", 99, **same, detail={"why": "BankRefused: 400: <b>no such account</b>"})])
    page = keeper.get(PAGE).text
    assert "BankRefused: 400: &lt;b&gt;no such account&lt;/b&gt;" in page
    assert "an earlier error" not in page


def test_job_whose_key_is_its_task_id_keeps_it(keeper: Client) -> None:
    one = failed()
    confirm(keeper, PAGE, ask(keeper, one))
    (new,) = again(one)
    assert new.options["headers"]["tasks_demo_operation"].endswith(f":{one}")


def test_failed_page_runs_all_again_that_match_the_filter(keeper: Client) -> None:
    ours, other = [failed(f"k{number}") for number in range(3)], failed("other", task="shop.other")
    asked = ask(keeper, query=f"?task={TASK}", all="1")
    assert "Run again: 3 jobs" in text(asked)
    confirm(keeper, f"{PAGE}?task={TASK}", asked)
    assert len(again(*ours, other)) == 3
    assert f"task={TASK}" in LogEntry.objects.get().change_message


def test_failed_page_says_why_a_job_cannot_be_run_again(keeper: Client) -> None:
    unknown = str(uuid.uuid4())
    append(life(unknown, "published", "received", "started", "failed", task=TASK))
    done = failed("paid")
    append(life(str(uuid.uuid4()), "published", "received", "started", "returned", operation="paid", task=TASK))
    parked = lying().task_id
    append(life(parked, "published", "received", "failed", task="poison.acks_late"))
    seen = text(keeper.get(PAGE))
    for part in (
        "its arguments are unknown",
        "another job of its operation is on record as",
        "is not registered here",
    ):
        assert part in seen, part
    assert "possible" not in seen
    asked = ask(keeper, unknown, done, parked)
    assert "There is nothing to run again" in text(asked)
    assert len(again(done)) == 0


def test_failed_page_does_not_rerun_a_job_that_has_succeeded_meanwhile(keeper: Client) -> None:
    one = failed("k")
    asked = ask(keeper, one)
    append(life(str(uuid.uuid4()), "published", "received", "started", "returned", operation="k", task=TASK))
    confirm(keeper, PAGE, asked, "the bank is back")
    assert again(one) == []
    assert "1 left alone, because changed meanwhile" in text(keeper.get(PAGE))


def test_failed_page_offers_a_viewer_no_rerun(client: Client) -> None:
    one = failed("k")
    viewer = somebody(client, "viewer", "view_tally")
    assert "chosen ones again" not in text(viewer.get(PAGE))
    assert ask(viewer, one).status_code == 403
    assert viewer.post(PAGE, {"all": "1"}).status_code == 403
    assert again(one) == []
    recorder.try_flush()


@pytest.mark.parametrize(
    "query", ["?task=%00", "?task=%3Cb%3E", "?outcome=x", "?outcome=rejected", f"?task={'x' * 5000}"]
)
def test_failed_page_answers_any_filter(keeper: Client, query: str) -> None:
    assert keeper.get(f"{PAGE}{query}").status_code == 200


def test_failed_page_has_a_bounded_number_of_queries(keeper: Client, django_assert_max_num_queries: Any) -> None:
    for number in range(10):
        failed(f"k{number}")
    for alias in {"default", router.db_for_write(OutboxMessage)}:
        with django_assert_max_num_queries(10, using=alias):
            keeper.get(PAGE)

"""What the page of a task ID says of a loss, a repetition and an error, and what it says to write instead."""

from __future__ import annotations

import html

import pytest
from django.test import Client

from tests.integration.dashboard.pages import text
from tests.integration.dashboard.test_task_page import page_of
from tests.integration.ledger.ledger_rows import append, event, killed, life, lost

pytestmark = [pytest.mark.django_db(transaction=True, databases=["default"]), pytest.mark.usefixtures("ledger")]


@pytest.mark.parametrize("books", ["bank", ""])
def test_body_that_failed_with_its_own_error_is_not_called_a_lost_message(admin_client: Client, books: str) -> None:
    append(life("t", "published", "received", "started", "failed", "acked", "settled", books=books))
    page = page_of("t")
    assert ("failed with its own error" in page.why, page.better, page.broken) == (True, None, None)
    assert (page.badge.word, page.outcome) == ("ok", "No message was lost: the promise was kept.")
    shown = text(admin_client.get("/admin/tasks_demo/tally/t/change/"))
    assert "Verdict ok: it ended with its own error, so no message is missing" in shown


def test_job_that_a_time_limit_ended_is_lost_by_no_error_of_its_own() -> None:
    append(
        life("t", "published", "received", "started"), [event("failed", 50, task_id="t", detail={"abandoned": True})]
    )
    append([event("settled", 60, task_id="t", operation="t", pattern="acks_late", books="bank")])
    assert page_of("t").badge.word == "lost"
    assert "killed, by a time limit for example" in page_of("t").why


@pytest.mark.parametrize(
    ("pattern", "lines"),
    [
        (
            "dedup_lock",
            ["from tasks_demo.patterns import DedupLock, lease", 'key=f"charge:{order}", fence=lease().fence)'],
        ),
        ("inbox", ["@Inbox.task(operation=", "Booking.objects.create("]),
    ],
)
def test_double_charge_that_is_allowed_is_said_in_words_with_the_code_to_write(
    admin_client: Client, pattern: str, lines: list[str]
) -> None:
    append(killed("t"))
    page = admin_client.get("/admin/tasks_demo/tally/t/change/").content.decode()
    assert "The effect happened twice, and still acks_late kept its promise: at-least-once allows that." in page
    instead = html.unescape(page.partition("What to use instead")[2])
    written = instead.partition(f'id="pattern-{pattern}"')[2].partition("<pre")[2].partition("</pre>")[0]
    assert not [line for line in lines if line not in written]


@pytest.mark.parametrize(
    ("pattern", "point", "helps", "outcome"),
    [
        ("acks_late", "fetched", ["outbox"], "published again"),
        ("acks_early", "fetched", ["outbox"], "published again"),
        ("acks_early", "started", ["acks_late", "dedup_lock", "inbox"], "delivered again"),
    ],
)
def test_advice_names_what_would_have_prevented_a_loss(
    pattern: str, point: str, helps: list[str], outcome: str
) -> None:
    kill = {"what": "kill-main", "victim": "main", "point": point, "pid": 100, "landed": True, "died": "SIGKILL"}
    fault = event("fault", 25, task_id="t", operation="t", pattern=pattern, books="bank", detail=kill)
    append(lost("t", pattern=pattern), [fault])
    found = page_of("t").better
    assert found is not None
    assert [each.name for each in found.patterns] == helps
    assert outcome in found.outcome
    assert point in page_of("t").why

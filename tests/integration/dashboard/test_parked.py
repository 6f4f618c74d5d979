"""/admin/tasks_demo_records/parked/: who may view, who may decide, and the audit record."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.test import Client

from tasks_demo.dashboard import acts
from tasks_demo.records.models import Parked
from tests.integration.dashboard.pages import confirm, somebody, sure, text
from tests.integration.ledger.ledger_rows import append, life
from tests.integration.quarantine.parked_rows import QUEUE, lying, states

pytestmark = pytest.mark.usefixtures("records")

LIST = "/admin/tasks_demo_records/parked/"


@pytest.fixture
def viewer(client: Client) -> Client:
    return somebody(client, "viewer", "view_parked")


@pytest.fixture
def decider(client: Client) -> Client:
    return somebody(client, "decider", "view_parked", "requeue_parked", "discard_parked")


def page(row: Parked) -> str:
    return f"{LIST}{row.pk}/change/"


def choose(client: Client, act: str, *rows: Parked, **more: str) -> Any:
    """Post the selection."""
    data = {"action": f"{act}_selected", "_selected_action": [str(row.pk) for row in rows], "index": "0", **more}
    return client.post(LIST, data)


def decide(client: Client, act: str, *rows: Parked, why: str = "because") -> Any:
    """Post the selection, then the form of the page of confirmation."""
    return confirm(client, f"{LIST}act/", choose(client, act, *rows), why)


# -- viewing ---------------------------------------------------------------------------------------------------------


def test_parked_page_lists_undecided_messages_first(viewer: Client) -> None:
    rows = [lying(state=state) for state in ("parked", "discarded", "parked", "requeued")]
    shown = [row.pk for row in viewer.get(LIST).context["cl"].result_list]
    assert shown == [rows[2].pk, rows[0].pk, rows[3].pk, rows[1].pk]


def test_parked_page_filters_and_searches(viewer: Client) -> None:
    rows = [lying(task="a.b", operation="order-17"), lying(task="c.d", state="requeued")]

    def found(query: str) -> list[int]:
        return [row.pk for row in viewer.get(LIST + query).context["cl"].result_list]

    assert found("?state__exact=requeued") == [rows[1].pk]
    assert found("?task=a.b") == [rows[0].pk]
    assert found("?q=order-1") == [rows[0].pk]
    assert found(f"?q={rows[1].task_id[:13]}") == [rows[1].pk]
    assert found("?q=x%27%3B--") == []


def test_parked_page_shows_all_that_a_decision_needs(viewer: Client) -> None:
    history = [{"at": "2026-01-02T03:04:05.678901+00:00", "worker": "w1@<b>host</b>", "pid": 1234567}]
    note = {"grüße": "<script>", "nul": "\0", "half": "\ud800"}
    row = lying(history=history, reason="Begun once <and> never ended.", note=note)
    seen = text(viewer.get(page(row)))
    for part in (
        row.task_id, "waits for a decision", "Begun once &lt;and&gt; never ended", "2026-01-02 03:04:05.678901 UTC",
        "w1@&lt;b&gt;host&lt;/b&gt;", "1234567", "grüße", "&lt;script&gt;", "\\x00", "\\ud800", QUEUE,
    ):  # fmt: skip
        assert part in seen, part
    assert "Requeue…" not in seen, "a viewer decides nothing"


def test_message_that_cannot_be_read_is_shown_as_it_is(viewer: Client) -> None:
    assert "The message cannot be read (DecodeError" in text(viewer.get(page(lying(message='{"broken'))))


def test_parked_page_of_an_unknown_id_is_not_found(viewer: Client) -> None:
    for number in ("0", "x", "99999999999999999999"):
        response = viewer.get(f"{LIST}{number}/change/")
        assert response.headers["Location"] == LIST


@pytest.mark.parametrize("method", ["post", "put", "patch", "delete"])
def test_parked_page_allows_no_edit_addition_or_deletion(decider: Client, method: str) -> None:
    row = lying()
    assert getattr(decider, method)(page(row)).status_code == 403
    assert getattr(decider, method)(f"{LIST}add/").status_code == 403
    assert getattr(decider, method)(f"{LIST}{row.pk}/delete/").status_code == 403
    assert states() == ["parked"]


# -- deciding --------------------------------------------------------------------------------------------------------


def test_requeue_asks_first_then_publishes_and_keeps_who_and_why(decider: Client, queue: Callable[[], int]) -> None:
    row = lying()
    asked = text(choose(decider, "requeue", row))
    assert "Requeue: 1 message" in asked
    assert row.task_id in asked
    assert (states(), queue()) == (["parked"], 0)

    response = decide(decider, "requeue", row, why="the disk is back")
    assert response.headers["Location"] == page(row)
    assert (states(), queue()) == (["requeued"], 1)
    seen = text(decider.get(page(row)))
    for part in ("1 message requeued.", "was published again", "decider", "the disk is back"):
        assert part in seen, part
    assert "Requeue…" not in seen
    entry = LogEntry.objects.get()
    assert (entry.user.get_username(), entry.object_id) == ("decider", str(row.pk))
    assert "1 message requeued. Why: the disk is back Filter: none." in entry.get_change_message()


def test_discard_sends_nothing_and_keeps_the_row(decider: Client, queue: Callable[[], int]) -> None:
    rows = [lying(), lying()]
    assert decide(decider, "discard", *rows).headers["Location"] == LIST
    assert (states(), queue()) == (["discarded"] * 2, 0)
    assert "2 messages discarded." in text(decider.get(LIST))
    assert [entry.object_repr for entry in LogEntry.objects.all()] == ["Discard: 2 messages"]


@pytest.mark.parametrize("why", ["", "  \n"])
def test_parked_page_does_nothing_without_a_reason(decider: Client, queue: Callable[[], int], why: str) -> None:
    assert "Please say why" in text(decide(decider, "requeue", lying(), why=why))
    assert (states(), queue()) == (["parked"], 0)


def test_parked_page_leaves_a_message_alone_that_was_decided_meanwhile(
    decider: Client, queue: Callable[[], int]
) -> None:
    rows = [lying(), lying(), lying(state="discarded"), lying(state="requeued")]
    asked = choose(decider, "requeue", *rows)
    assert "Not possible for 2: not parked any more" in text(asked)
    Parked.objects.filter(pk=rows[0].pk).update(state="discarded")
    confirm(decider, f"{LIST}act/", asked)
    assert (states(), queue()) == (["discarded", "requeued", "discarded", "requeued"], 1)
    assert "1 message requeued, 1 left alone, because changed meanwhile." in text(decider.get(LIST))
    assert "nothing to discard" in text(choose(decider, "discard", *rows))


def all_that_match(client: Client, act: str, query: str, any_row: Parked) -> Any:
    data = {"action": f"{act}_selected", "_selected_action": str(any_row.pk), "select_across": "1", "index": "0"}
    return client.post(f"{LIST}{query}", data)


def test_parked_page_acts_on_the_matches_that_it_has_counted(decider: Client, queue: Callable[[], int]) -> None:
    rows = [lying(task="a.b"), lying(task="a.b"), lying(task="c.d")]
    asked = all_that_match(decider, "requeue", "?task=a.b", rows[0])
    assert "Requeue: 2 messages" in text(asked)
    assert "Filter: task = a.b" in text(asked)
    assert (states(), queue(), LogEntry.objects.count()) == (["parked"] * 3, 0, 0), "counting changes nothing"
    lying(task="a.b")
    assert confirm(decider, f"{LIST}act/", asked).headers["Location"] == f"{LIST}?task=a.b"
    assert (states(), queue()) == (["requeued", "requeued", "parked", "parked"], 2), "what came later was not counted"
    said = LogEntry.objects.get().get_change_message()
    assert "2 messages requeued. Why: because Filter: task=a.b." in said


def test_parked_page_acts_once_on_a_form_that_is_sent_twice(decider: Client, queue: Callable[[], int]) -> None:
    row = lying()
    asked = choose(decider, "requeue", row)
    confirm(decider, f"{LIST}act/", asked)
    Parked.objects.filter(pk=row.pk).update(state="parked")  # even then
    confirm(decider, f"{LIST}act/", asked)
    assert (queue(), LogEntry.objects.count()) == (1, 1)
    assert "sent before" in text(decider.get(LIST))


def test_parked_page_refuses_a_form_that_was_changed_or_is_another_user_s(
    decider: Client, queue: Callable[[], int]
) -> None:
    asked = choose(decider, "requeue", lying())
    decider.post(f"{LIST}act/", {"sure": sure(asked)[:-1], "why": "x"})
    assert "Nothing was done" in text(decider.get(LIST))
    other = somebody(Client(), "other", "view_parked", "requeue_parked")
    assert confirm(other, f"{LIST}act/", asked).status_code == 403
    assert decider.get(f"{LIST}act/").status_code == 405
    assert (states(), queue()) == (["parked"], 0)


def test_batch_is_bounded_and_says_what_is_left(
    decider: Client, queue: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acts, "MOST_AT_ONCE", 2)
    rows = [lying() for _ in range(5)]
    asked = all_that_match(decider, "discard", "", rows[0])
    assert "3 more match and are left for the next time" in text(asked)
    confirm(decider, f"{LIST}act/", asked)
    assert states() == ["discarded"] * 2 + ["parked"] * 3
    assert "2 messages discarded, 3 left: do it again for these." in text(decider.get(LIST))


def test_parked_page_needs_a_permission_for_each_action(client: Client) -> None:
    row = lying()
    only = somebody(client, "only", "view_parked", "discard_parked")
    seen = text(only.get(page(row)))
    assert "Discard…" in seen
    assert "Requeue…" not in seen
    assert "Discard all that match…" in text(only.get(LIST))
    choose(only, "requeue", row)
    assert states() == ["parked"]


def test_arguments_with_declared_names_are_masked(viewer: Client, settings: Any) -> None:
    note = {"password": "hunter2", "deep": [{"api_key": "hunter2"}], "text": "token=hunter2", "seen": "kept"}
    row = lying(note=note)
    assert "hunter2" not in (seen := text(viewer.get(page(row))))
    assert "kept" in seen
    settings.TASKS_DEMO_MASKED = ["deed"]
    seen = text(viewer.get(page(row)))
    assert ("hunter2" in seen, "nothing" in seen) == (True, False)


@pytest.mark.parametrize("act", ["requeue", "discard"])
def test_parked_page_offers_a_viewer_no_decision(viewer: Client, queue: Callable[[], int], act: str) -> None:
    row = lying()
    for _ in (choose(viewer, act, row), decide(viewer, act, row)):
        assert (states(), queue(), LogEntry.objects.count()) == (["parked"], 0, 0)
    assert "Requeue the selected" not in text(viewer.get(LIST))


@pytest.mark.usefixtures("no_broker")
def test_parked_page_says_that_the_broker_is_down_and_changes_nothing(decider: Client) -> None:
    rows = [lying(), lying()]
    decide(decider, "requeue", *rows)
    assert states() == ["parked", "parked"]
    seen = text(decider.get(LIST))
    assert seen.count("It is still parked and nothing was changed") == 1
    assert "0 messages requeued, 2 left" in LogEntry.objects.get().get_change_message().replace(
        "no messages", "0 messages"
    )


def test_message_that_cannot_be_sent_does_not_keep_the_others_from_it(
    decider: Client, queue: Callable[[], int]
) -> None:
    asked = choose(decider, "requeue", lying(message="{"), lying())
    assert "Not possible for 1: no message can be made of it (DecodeError)" in text(asked)
    confirm(decider, f"{LIST}act/", asked)
    assert (states(), queue()) == (["parked", "requeued"], 1)


def test_forged_request_is_refused(decider: Client) -> None:
    strict = Client(enforce_csrf_checks=True)
    strict.cookies = decider.cookies
    assert decide(strict, "discard", lying()).status_code == 403
    assert states() == ["parked"]


def test_task_page_links_to_the_parked_message(client: Client) -> None:
    row = lying()
    append(life(row.task_id, "published", "received", "quarantined", "acked"))
    staff = somebody(client, "both", "view_tally", "view_parked")
    seen = staff.get(f"/admin/tasks_demo/tally/{row.task_id.replace('_', '_5F')}/change/").content.decode()
    (address,) = re.findall(r'href="([^"]+)">Where it is parked', seen)
    assert [found.pk for found in staff.get(address).context["cl"].result_list] == [row.pk]
    assert f'href="/admin/tasks_demo/tally/{row.task_id}/change/"' in staff.get(page(row)).content.decode()

"""/admin/tasks_demo_records/outboxmessage/: what waits and why, publishing now, cancelling, masked arguments."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.test import Client
from django.utils import timezone

from tasks_demo.outbox.enqueue import enqueue
from tasks_demo.outbox.relay import Relay
from tasks_demo.records.models import OutboxMessage
from tests.integration.dashboard.pages import confirm, somebody, text

pytestmark = pytest.mark.usefixtures("records")

LIST = "/admin/tasks_demo_records/outboxmessage/"
TASK = "tasks_demo.charge_outbox"
HOSTILE = "<script>alert(1)</script>\u202e\n" + "x" * 5000
QUEUE = "nobody-reads-this"


def waiting(**options: Any) -> OutboxMessage:
    task_id = enqueue(TASK, kwargs={"customer": "hunter2", "amount": 5}, queue=QUEUE, **options)
    return OutboxMessage.objects.get(task_id=task_id)


def act(client: Client, name: str, *rows: OutboxMessage, why: str = "because") -> tuple[str, Any]:
    """The page of confirmation as text, and the answer to its form."""
    data = {"action": f"{name}_selected", "_selected_action": [str(row.pk) for row in rows], "index": "0"}
    asked = client.post(LIST, data)
    return text(asked), confirm(client, f"{LIST}act/", asked, why)


@pytest.fixture
def keeper(client: Client) -> Client:
    return somebody(client, "keeper", "view_outboxmessage", "hasten_outboxmessage", "cancel_outboxmessage")


def test_publish_now_makes_it_due_and_a_relay_publishes_it(keeper: Client, redis_url: str) -> None:
    later, sent = waiting(countdown=3600), waiting()
    OutboxMessage.objects.filter(pk=sent.pk).update(
        published_at=timezone.now(), publications=1, due_at=timezone.now() + timedelta(hours=1)
    )
    relay = Relay()
    assert relay.run_once().published == 0, "neither is due for its first publication"
    asked, answer = act(keeper, "hasten", later, sent)
    assert "Publish now: 1 message" in asked
    assert "Not possible for 1: the broker or a worker has it already" in asked
    assert answer.status_code == 302
    assert relay.run_once().published == 1
    relay.close()
    later.refresh_from_db()
    assert later.publications == 1
    entry = LogEntry.objects.get()
    assert (entry.object_repr, entry.object_id) == ("Publish now: 1 message", str(later.pk))


def test_outbox_page_cancels_a_message(keeper: Client, redis_url: str) -> None:
    row, begun = waiting(), waiting(countdown=3600)
    OutboxMessage.objects.filter(pk=begun.pk).update(started_by="m|1|1|w", started_at=timezone.now())
    asked, _ = act(keeper, "cancel", row, begun, why="ordered by mistake")
    assert "Not possible for 1: a worker has begun it" in asked
    assert Relay().run_once().taken == 0
    row.refresh_from_db()
    assert row.finished_at is not None
    assert row.error == "cancelled by keeper"
    begun.refresh_from_db()
    assert begun.finished_at is None
    assert "Why: ordered by mistake" in LogEntry.objects.get().get_change_message()


def test_outbox_page_leaves_a_job_alone_that_has_begun_before_the_confirmation(keeper: Client) -> None:
    row = waiting()
    data = {"action": "cancel_selected", "_selected_action": [str(row.pk)], "index": "0"}
    asked = keeper.post(LIST, data)
    OutboxMessage.objects.filter(pk=row.pk).update(started_by="m|1|1|w", started_at=timezone.now())
    confirm(keeper, f"{LIST}act/", asked)
    row.refresh_from_db()
    assert row.finished_at is None
    assert "1 left alone, because changed meanwhile" in text(keeper.get(LIST))


def test_overdue_and_refused_rows_with_their_error(keeper: Client) -> None:
    row, later = waiting(), waiting(countdown=3600)
    OutboxMessage.objects.filter(pk=row.pk).update(
        due_at=timezone.now() - timedelta(hours=1), failures=3, error=f"ChannelError: password=hunter2 {HOSTILE}"
    )
    for state in ("overdue", "failing"):
        shown = [found.pk for found in keeper.get(f"{LIST}?state={state}").context["cl"].result_list]
        assert shown == [row.pk], state
    seen = keeper.get(LIST).content.decode()
    assert "ChannelError: password=(masked)" in seen
    assert "<script>alert" not in seen
    assert "\u202e" not in seen
    assert later.task_id in seen


def test_arguments_are_masked_by_their_declared_names(keeper: Client, settings: Any) -> None:
    row = waiting(headers={"x-token": "hunter3"})
    address = f"{LIST}{row.pk}/change/"
    seen = text(keeper.get(address))
    assert "hunter2" in seen
    assert "hunter3" not in seen
    settings.TASKS_DEMO_MASKED = ["customer"]
    assert "hunter2" not in text(keeper.get(address))


def test_outbox_page_offers_a_viewer_no_action(client: Client) -> None:
    viewer, row = somebody(client, "viewer", "view_outboxmessage"), waiting(countdown=3600)
    before = OutboxMessage.objects.values().get(pk=row.pk)
    for name in ("hasten", "cancel"):
        viewer.post(LIST, {"action": f"{name}_selected", "_selected_action": [str(row.pk)], "index": "0"})
    assert OutboxMessage.objects.values().get(pk=row.pk) == before
    assert "all that match" not in text(viewer.get(LIST))
    assert LogEntry.objects.count() == 0


def test_outbox_page_shows_messages_and_changes_nothing(keeper: Client) -> None:
    row = waiting()
    for query in ("", "?state=open", f"?q={row.task_id[:8]}"):
        assert row.task_id in text(keeper.get(LIST + query))
    assert row.task_id not in text(keeper.get(f"{LIST}?state=ended"))
    page = f"{LIST}{row.pk}/change/"
    assert keeper.get(page).status_code == 200
    assert keeper.get(f"{LIST}add/").status_code == 403
    assert keeper.post(page, {"task": "x"}).status_code == 403
    assert keeper.post(f"{LIST}{row.pk}/delete/", {"post": "yes"}).status_code == 403
    assert OutboxMessage.objects.get().task == TASK

"""/admin/tasks_demo_records/forgottenoperation/: who may view an operation, who may forget it, and the audit record."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.test import Client
from django.utils import timezone
from pytest_django import Settings

from tasks_demo.operations import find_records
from tasks_demo.records.models import Claim, ForgottenOperation, InboxEntry
from tests.integration.dashboard.pages import somebody

pytestmark = pytest.mark.usefixtures("records", "redis_url", "no_task_elsewhere")

LIST = "/admin/tasks_demo_records/forgottenoperation/"
LOOK = f"{LIST}look/"
HOSTILE = "{a}&<b>Grüße</b> 'x' %7B"


@pytest.fixture
def viewer(client: Client) -> Client:
    return somebody(client, "somebody", "view_forgottenoperation")


@pytest.fixture
def forgetter(client: Client) -> Client:
    return somebody(client, "somebody", "view_forgottenoperation", "forget_operation")


def done(operation: str) -> None:
    InboxEntry.objects.create(operation=operation, task_id="t", digest="d", result="1", completed_at=timezone.now())


def text(response: Any) -> str:
    return re.sub(r"\s+", " ", response.content.decode())


def forget(client: Client, key: str, **more: str) -> Any:
    """Press the button on the page of the operation."""
    mark = re.search(r'name="mark" value="(\w+)"', client.get(LOOK, {"key": key}).content.decode())
    return client.post(LOOK, {"key": key, "mark": mark[1] if mark else "", **more}, follow=True)


def test_viewer_looks_and_cannot_forget(viewer: Client) -> None:
    done(HOSTILE)
    assert "Look at an operation" in text(viewer.get(LIST))
    shown = text(viewer.get(LOOK, {"key": HOSTILE}))
    assert "&lt;b&gt;Grüße&lt;/b&gt;" in shown
    assert "<b>Grüße" not in shown
    assert "<td>inbox</td>" in shown
    assert "Forget this operation" not in shown
    assert viewer.post(LOOK, {"key": HOSTILE, "why": "because"}).status_code == 403
    assert InboxEntry.objects.count() == 1


def test_operations_page_forgets_an_operation_and_keeps_the_reason(forgetter: Client) -> None:
    done(HOSTILE)
    assert "Forget this operation" in text(forgetter.get(LOOK, {"key": HOSTILE}))
    assert InboxEntry.objects.count() == 1, "looking changes nothing"
    refused = forget(forgetter, HOSTILE, why=" ")
    assert "Please say why" in text(refused)
    assert InboxEntry.objects.count() == 1
    shown = text(forget(forgetter, HOSTILE, why="refunded"))
    assert "Forgotten: inbox (database" in shown
    assert "What was forgotten before" in shown
    assert InboxEntry.objects.count() == 0
    (act,) = ForgottenOperation.objects.all()
    assert (act.operation, act.by, act.why, act.outcome) == (HOSTILE, "somebody", "refunded", "removed")
    (logged,) = LogEntry.objects.filter(object_id=str(act.pk))
    assert (logged.user.get_username(), "refunded" in logged.change_message) == ("somebody", True)
    page = forgetter.get(f"{LIST}{act.pk}/change/")
    assert "refunded" in text(page)
    assert 'name="_save"' not in page.content.decode()


def test_operations_page_asks_twice_before_it_forgets_what_may_be_running(forgetter: Client) -> None:
    Claim.objects.create(operation="op", task_id="t", digest="d", worker="w@h", claimed_at=timezone.now())
    assert "A worker may be running it now" in text(forgetter.get(LOOK, {"key": "op"}))
    shown = text(forget(forgetter, "op", why="x"))
    assert "Nothing was removed" in shown
    assert Claim.objects.count() == 1
    forget(forgetter, "op", why="x", even_if_held="on")
    assert Claim.objects.count() == 0


def test_operations_page_keeps_a_record_that_has_changed_since_it_was_shown(forgetter: Client) -> None:
    done("op")
    mark = find_records("op").mark
    assert find_records("op").mark == mark
    InboxEntry.objects.update(task_id="another")
    shown = text(forgetter.post(LOOK, {"key": "op", "mark": mark, "why": "x"}, follow=True))
    assert "It has changed since it was shown" in shown
    assert InboxEntry.objects.count() == 1


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ({"key": "x" * 300}, "200 are allowed"),
        ({"key": "a\0b"}, "control character"),
        ({"key": "op", "task": "no.such"}, "No task &#x27;no.such&#x27;"),
        ({"key": "never-heard"}, "Nothing is known of it"),
        ({}, "Operation key"),
    ],
    ids=str,
)
def test_operations_page_answers_odd_questions_with_sentences(
    query: dict[str, str], said: str, forgetter: Client
) -> None:
    response = forgetter.get(LOOK, query)
    assert response.status_code == 200
    assert said in text(response)
    assert "Forget this operation" not in text(response)


def test_store_that_does_not_answer_is_said_and_nothing_can_be_forgotten(forgetter: Client, settings: Settings) -> None:
    done("op")
    settings.TASKS_DEMO_REDIS_URL = "redis://:swordfish@127.0.0.1:1/0"
    shown = text(forgetter.get(LOOK, {"key": "op"}))
    assert "Redis did not show the record" in shown
    assert "swordfish" not in shown
    assert "Forget this operation" not in shown
    forgetter.post(LOOK, {"key": "op", "why": "x"})
    assert InboxEntry.objects.count() == 1

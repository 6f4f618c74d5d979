"""/admin/tasks_demo/tally/dead-letters/: who may see and decide, what is shown as text, and that looking changes nothing."""

from __future__ import annotations

from typing import Any

import pytest
from celery import current_app
from django.contrib.admin.models import LogEntry
from django.test import Client

from tasks_demo.dashboard import acts, dead_letters
from tasks_demo.dashboard.needs import AnswerCache
from tasks_demo.records.models import Decision, Parked
from tests.integration.dashboard.pages import confirm, somebody, text
from tests.integration.quarantine.letters import GARBAGE, QUEUE, dead, message

pytestmark = pytest.mark.usefixtures("records")

PAGE = "/admin/tasks_demo/tally/dead-letters/"


@pytest.fixture
def decider(client: Client) -> Client:
    return somebody(client, "decider", "view_tally", "view_parked", "requeue_parked", "discard_parked")


def kept(broker_client: Any) -> dict[str, Any]:
    """Everything in Redis, in a form that can be compared."""
    return {
        key: broker_client.dump(key)
        for key in broker_client.scan_iter()
        if b"dead_letters" in key or key == QUEUE.encode()
    }


def test_dead_letters_need_the_permission_to_view_and_one_for_each_act(broker_client: Any, client: Client) -> None:
    token = dead(broker_client, message("t1"))
    viewer = somebody(client, "viewer", "view_tally", "view_parked")
    seen = viewer.get(PAGE).content.decode()
    assert "t1" in seen
    assert "checkbox" not in seen
    assert viewer.post(PAGE, {"token": token, "discard": "1"}).status_code == 403
    requeuer = somebody(client, "requeuer", "view_parked", "requeue_parked")
    asked = requeuer.post(PAGE, {"token": token, "requeue": "1"})
    assert confirm(somebody(client, "other", "view_parked", "requeue_parked"), PAGE, asked).status_code == 403
    assert len(broker_client.hkeys("_kombu.claims.dead_letters")) == 1


def test_dead_letters_are_shown_as_text_and_looking_changes_nothing(broker_client: Any, decider: Client) -> None:
    dead(broker_client, GARBAGE)
    dead(broker_client, message("<script>alert(1)</script>\x1b[0m", task="<u>task</u>"))
    before = kept(broker_client)
    seen = decider.get(PAGE).content.decode()
    for hostile in ("<b>", "<u>", "<script>alert", "\x1b", "\0", "<i>"):
        assert hostile not in seen, hostile
    assert "it can only be discarded" in seen
    for act in ("requeue", "discard"):
        asked = decider.post(PAGE, {"all": "1", act: "1"})
        assert not any(hostile in asked.content.decode() for hostile in ("<u>", "<script>alert", "\x1b", "<i>"))
    assert "Discard: 2 dead letters" in text(asked)
    assert (kept(broker_client), Parked.objects.count(), LogEntry.objects.count()) == (before, 0, 0)


def test_dead_letters_are_requeued_once_by_a_confirmed_form_with_a_reason(broker_client: Any, decider: Client) -> None:
    token, _ = dead(broker_client, message("t1")), dead(broker_client, GARBAGE)
    asked = decider.post(PAGE, {"token": [token, "gone"], "requeue": "1"})
    assert "Requeue: 1 dead letter" in text(asked)
    assert "say why" in text(confirm(decider, PAGE, asked, why=""))
    assert confirm(decider, PAGE, asked).headers["Location"] == PAGE
    confirm(decider, PAGE, asked)
    assert (broker_client.llen(QUEUE), broker_client.hlen("_kombu.claims.dead_letters")) == (1, 1)
    assert list(Decision.objects.values_list("decision", "by", "why")) == [("requeue", "decider", "because")]
    assert "1 dead letter requeued. Why: because" in LogEntry.objects.get().change_message


def test_dead_letters_are_discarded_all_at_once_the_oldest_first(
    broker_client: Any, decider: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead_letters, "MOST_AT_ONCE", 3)
    for number in range(5):
        dead(broker_client, message(f"t{number}"), at=number + 1)
    asked = decider.post(PAGE, {"all": "1", "discard": "1"})
    assert "2 more match and are left for the next time" in text(asked)
    dead(broker_client, message("later"))
    confirm(decider, PAGE, asked)
    assert sorted(Parked.objects.values_list("task_id", flat=True)) == ["t0", "t1", "t2"]
    assert "3 dead letters discarded, 2 left: do it again for these" in LogEntry.objects.get().change_message
    assert acts.MOST_AT_ONCE > 3


def test_dead_letters_that_no_worker_can_read_are_not_requeued(broker_client: Any, decider: Client) -> None:
    dead(broker_client, GARBAGE)
    asked = text(decider.post(PAGE, {"all": "1", "requeue": "1"}))
    assert "There is nothing to requeue" in asked
    assert "Not possible for 1: no worker can read it" in asked


def test_dead_letters_of_a_redis_that_does_not_answer(decider: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(current_app.conf, "broker_read_url", "redis+socket:///nobody/listens/here.sock")
    seen = decider.get(PAGE)
    assert "did not list or decide its dead letters" in text(seen)
    assert "did not list or decide its dead letters" in text(decider.post(PAGE, {"all": "1", "discard": "1"}))


def test_dead_letters_are_named_on_the_overview_and_not_where_there_can_be_none(
    broker_client: Any, decider: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead(broker_client, message())
    monkeypatch.setattr(dead_letters, "_looked", AnswerCache(10.0))
    seen = decider.get("/admin/tasks_demo/tally/overview/")
    assert "1 dead letter" in text(seen)
    assert f'href="{PAGE}"' in seen.content.decode()
    monkeypatch.setitem(current_app.conf, "broker_read_url", "memory://")
    seen = decider.get("/admin/tasks_demo/tally/overview/")
    assert PAGE not in seen.content.decode()
    assert decider.get(PAGE).status_code == 404

"""``manage.py outbox``: what it lists, has published now and cancels, and what it refuses."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.utils.timezone import now

from tasks_demo.outbox.enqueue import enqueue
from tasks_demo.records.models import OutboxMessage
from tests.integration.management.conftest import Run

COMMAND = "outbox"
pytestmark = pytest.mark.django_db(databases="__all__")
TASK = "tasks_demo.charge_outbox"


def waiting(**fields: Any) -> str:
    """A message that is due in an hour."""
    task_id = enqueue(TASK, kwargs={"customer": "c", "amount": 1}, countdown=3600, independent=True)
    OutboxMessage.objects.filter(task_id=task_id).update(**{"failures": 0, **fields})
    return task_id


def row(task_id: str) -> OutboxMessage:
    return OutboxMessage.objects.get(task_id=task_id)


def test_outbox_lists_what_has_not_ended(run: Run) -> None:
    assert run() == (0, "No message waits.\n", "")
    one, ended = waiting(error="password=swordfish refused"), waiting(finished_at=now())
    code, out, _ = run()
    assert (code, one in out, ended in out, "swordfish" in out) == (0, True, False, False)


def test_outbox_has_published_now_what_waits(run: Run) -> None:
    one, other, handed = waiting(), waiting(), waiting(published_at=now())
    code, out, err = run("publish", one, handed, "unknown")
    assert (code, out) == (1, f"{one} is due now: a running relay publishes it\n")
    assert f"{handed} is due, was handed over, or has ended: nothing was done." in err
    assert "unknown is not in the outbox." in err
    assert row(one).due_at <= now() < row(other).due_at - timedelta(minutes=50)


def test_outbox_cancels_what_no_worker_has_begun(run: Run) -> None:
    one, begun = waiting(), waiting(started_by="w1", started_at=now())
    assert run("cancel", "--all")[0] == 0
    assert (row(one).finished_at is not None, row(begun).finished_at) == (True, None)
    assert row(one).error.startswith("cancelled by ")
    assert run("cancel", one)[0] == 1


@pytest.mark.parametrize("arguments", [("cancel",), ("publish", "x", "--all"), ("list", "x"), ("cancel", "a\0b")])
def test_outbox_refuses_what_has_no_meaning(arguments: tuple[str, ...]) -> None:
    with pytest.raises(CommandError) as error:
        call_command("outbox", *arguments)
    assert error.value.returncode == 2

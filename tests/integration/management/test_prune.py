"""prune: the function of the outbox, and the command for all kinds of rows."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db.models import Model
from django.utils import timezone

from tasks_demo.demo.tasks import CHARGES
from tasks_demo.outbox import enqueue
from tasks_demo.outbox.table import prune
from tasks_demo.records.models import Attempt, Claim, Fence, InboxEntry, OutboxMessage
from tests.integration.outbox.outbox_table import JOB, charge

pytestmark = pytest.mark.usefixtures("table")


def test_prune_removes_what_was_finished_before_and_nothing_else(table: str) -> None:
    now = timezone.now()
    ages = {"old": now - timedelta(days=2), "young": now - timedelta(hours=1), "open": None}
    for task_id, finished in ages.items():
        enqueue(charge, kwargs=JOB, task_id=task_id)
        OutboxMessage.objects.using(table).filter(task_id=task_id).update(finished_at=finished)
    assert prune(now - timedelta(days=1)) == 1
    assert set(OutboxMessage.objects.values_list("task_id", flat=True)) == {"young", "open"}
    assert prune(now - timedelta(days=1)) == 0
    assert prune(now, most=0) == 0


@pytest.mark.usefixtures("no_task_elsewhere")
def test_prune_command_removes_what_is_older_than_the_retention_of_every_kind(
    table: str, settings: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    settings.TASKS_DEMO_RETENTION_SECONDS = 3600.0
    old_and_young(table)
    call_command("prune")
    assert f"Removed {ONE_OF_EACH} from before" in capsys.readouterr().out
    assert left(table) == YOUNG


@pytest.mark.usefixtures("no_task_elsewhere")
@pytest.mark.parametrize("named", [False, True])
def test_prune_command_looks_where_a_task_writes_and_where_it_is_told(
    table: str,
    elsewhere: str,
    named: bool,
    settings: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings.TASKS_DEMO_RETENTION_SECONDS = 3600.0
    old_and_young(elsewhere)
    call_command("prune")
    assert left(elsewhere) == ["old", "young"] * 5, "nothing says that it belongs to us"
    if not named:
        monkeypatch.setattr(CHARGES["inbox"], "using", elsewhere)
    call_command("prune", *(["--using", elsewhere] if named else []))
    assert f"Removed {ONE_OF_EACH} from before" in capsys.readouterr().out
    assert left(elsewhere) == YOUNG


@pytest.mark.parametrize("alias", ["bank", "nowhere"])
def test_prune_command_says_that_a_database_cannot_be_pruned(alias: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CHARGES["inbox"], "using", alias)  # without these tables, or not an alias
    with pytest.raises(CommandError, match=r"stopped answering \(.*\)\. Removed before that: nothing\.") as caught:
        call_command("prune")
    assert caught.value.returncode == 4


ONE_OF_EACH = "1 claim, 1 inbox entry, 1 outbox message, 1 attempt, 1 fence"
YOUNG = ["young"] * 5
RECORDS: tuple[type[Model], ...] = (Claim, InboxEntry, OutboxMessage, Attempt, Fence)


def old_and_young(alias: str) -> None:
    """A record of each kind from now, and one from two hours ago."""
    now = timezone.now()
    for name, moment in (("old", now - timedelta(hours=2)), ("young", now)):
        Claim.objects.using(alias).create(operation=name, task_id=name, digest="d", claimed_at=moment)
        InboxEntry.objects.using(alias).create(operation=name, task_id=name, digest="d", completed_at=moment)
        Attempt.objects.using(alias).create(task_id=name, count=1, history="", last_at=moment)
        Fence.objects.using(alias).create(operation=name, token=1, at=moment)
        enqueue(charge, kwargs=JOB, task_id=name, using=alias)
        OutboxMessage.objects.using(alias).filter(task_id=name).update(finished_at=moment)


def left(alias: str) -> list[str]:
    """What is left of ``old_and_young``, by kind."""
    names: list[str] = []
    for model in RECORDS:
        name = "operation" if model is Fence else "task_id"
        names += sorted(model._default_manager.using(alias).values_list(name, flat=True))
    return names

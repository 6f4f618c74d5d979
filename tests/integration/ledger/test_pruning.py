"""Pruning the ledger: old tallies are deleted with their events; open jobs, and effects that others count, stay."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connection
from django.utils.timezone import now

from tasks_demo.ledger import pruning
from tasks_demo.ledger.events import EFFECT, SETTLED, WORKER, EventData
from tasks_demo.ledger.models import Event, Tally
from tasks_demo.ledger.store import store
from tasks_demo.ledger.verify import differences
from tasks_demo.records.models import Parked

pytestmark = pytest.mark.usefixtures("ledger", "no_task_elsewhere")
DAY = 86400.0
OLD, YOUNG = time.time() - 40 * DAY, time.time() - 5 * DAY
#: The events of a job, and whether it may be deleted.
LIVES: dict[str, tuple[list[str], str, bool]] = {
    "succeeded": (["published", "received", "started", "returned", "acked"], "", True),
    "failed": (["published", "received", "started", "failed"], "", True),
    "revoked": (["published", "received", "revoked"], "", True),
    "expired": (["published", "received", "expired"], "", True),
    "settled": (["published", "received", "started", "returned", SETTLED], "bank", True),
    "unsettled": (["published", "received", "started", "returned"], "bank", False),
    "waiting": (["published"], "", False),
    "running": (["published", "received", "started"], "", False),
    "retrying": (["published", "received", "started", "retried"], "", False),
    "parked": (["published", "received", "started", "quarantined"], "", False),
}


def live(task_id: str, at: float, kinds: list[str], books: str = "", operation: str = "") -> None:
    store.append(
        [
            EventData(at=at + number / 1000, kind=kind, source=uuid.uuid4().hex, task_id=task_id, operation=operation or task_id,
                pattern="acks_late", books=books, task="shop.charge")
            for number, kind in enumerate(kinds)
        ]
    )  # fmt: skip


def effect(number: int, operation: str, at: float, task_id: str = "") -> None:
    store.append([EventData(at=at, kind=EFFECT, source=f"bank:b:{number}", task_id=task_id, operation=operation)])


def left() -> set[str]:
    assert list(differences()) == []
    return set(Tally.objects.values_list("task_id", flat=True))


@pytest.fixture(autouse=True)
def nothing_parked(ledger: None) -> Iterator[None]:
    yield
    Parked.objects.all().delete()


def park(task_id: str, state: str) -> None:
    Parked.objects.create(task_id=task_id, task="shop.charge", attempts=5, message="", parked_at=now(), state=state)


@pytest.mark.parametrize("young", [False, True])
def test_pruning_removes_only_what_has_ended_long_ago(young: bool, capsys: pytest.CaptureFixture[str]) -> None:
    for name, (kinds, books, _) in LIVES.items():
        live(name, YOUNG if young else OLD, kinds, books)
    park("parked", "parked")
    call_command("prune")
    stay = {name for name, (_, _, leaves) in LIVES.items() if young or not leaves}
    assert left() == stay
    assert set(Event.objects.values_list("task_id", flat=True)) == stay
    assert ("5 older task IDs were kept" in capsys.readouterr().out) is not young


def test_pruning_removes_parked_messages_that_were_decided() -> None:
    for state in ("parked", "discarded", "requeued"):
        live(state, OLD, ["received", "started", "quarantined"])
        park(state, state)
    call_command("prune", "--only", "ledger")
    assert left() == {"parked"}


def test_pruning_keeps_an_old_job_with_new_events() -> None:
    live("t", OLD, ["published", "received", "started", "returned"])
    live("t", YOUNG, ["received", "suppressed"])
    call_command("prune")
    assert left() == {"t"}
    assert Event.objects.count() == 6


def test_pruning_keeps_effects_while_somebody_counts_them() -> None:
    live("a", OLD, ["received", "started", "returned"], "bank", "order-1")
    live("b", YOUNG, ["received", "started", "returned"], "bank", "order-1")
    live("c", OLD, ["received", "started", "returned"], "bank", "order-2")
    effect(1, "order-1", OLD, "a")
    effect(2, "order-2", OLD, "c")
    effect(3, "nobody knows it", OLD)
    effect(10_000, "newer", YOUNG)
    call_command("prune")
    assert left() == {"b"}
    assert Tally.objects.get().effects == 1
    assert set(Event.objects.filter(at__lt=now() - timedelta(days=30)).values_list("source", flat=True)) == {"bank:b:1"}
    effect(10_001, "order-1", YOUNG, "b")
    assert left() == {"b"}
    assert Tally.objects.get().effects == 2


def test_pruning_keeps_the_newest_entries_of_each_book() -> None:
    for number in range(1, 2 * pruning.NEWEST_KEPT + 1):
        effect(number, f"order-{number}", OLD)
    call_command("prune")
    kept = sorted(int(source.split(":")[2]) for source in Event.objects.values_list("source", flat=True))
    assert kept == list(range(pruning.NEWEST_KEPT + 1, 2 * pruning.NEWEST_KEPT + 1)), "a reader would copy them again"


def test_pruning_removes_events_without_a_task_by_their_age() -> None:
    for number, at in enumerate((OLD, YOUNG)):
        store.append([EventData(at=at, kind=WORKER, source=f"w:{number}")])
    call_command("prune")
    assert Event.objects.get().source == "w:1"


def test_pruning_works_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pruning, "TALLIES_AT_ONCE", 7)
    monkeypatch.setattr(pruning, "EVENTS_AT_ONCE", 11)
    for number in range(50):
        live(f"t{number}", OLD, ["published", "received", "started", *(["returned"] if number % 3 else [])])
    pruned = pruning.prune(now() - timedelta(days=30))
    assert (pruned.tallies, pruned.open) == (33, 17)
    assert left() == {f"t{number}" for number in range(0, 50, 3)}


@pytest.mark.parametrize("given", [0, None, "0"])
def test_pruning_can_be_switched_off(given: Any, settings: Any) -> None:
    settings.TASKS_DEMO_LEDGER_RETENTION_SECONDS = given
    live("t", OLD, ["received", "started", "returned"])
    call_command("prune")
    assert left() == {"t"}


@pytest.mark.parametrize("arguments", [["--dry-run"], ["--only", "patterns"]])
def test_pruning_dry_run_removes_nothing(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    live("t", OLD, ["received", "started", "returned"])
    call_command("prune", *arguments)
    assert left() == {"t"}
    said = capsys.readouterr().out
    assert ("Would remove 1 task ID and 3 events of the ledger" in said) is (arguments == ["--dry-run"])


def test_pruning_job_that_comes_again_while_it_is_pruned_is_counted_afresh() -> None:
    live("t", OLD, ["published", "received", "started", "returned"])
    store.append(
        [EventData(at=time.time(), kind="acked", source="late", task_id="t", operation="t")]
    )  # no column counts it
    call_command("prune")
    live("t", time.time(), ["received", "suppressed"])
    assert left() == {"t"}
    assert Tally.objects.get().deliveries == 1
    with connection.cursor() as cursor:  # nothing is left open
        cursor.execute("SELECT 1")

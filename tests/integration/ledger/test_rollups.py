"""Rollups equal a recount of the tallies, however and whenever they are folded."""

from __future__ import annotations

import random
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connections, transaction
from django.test.utils import CaptureQueriesContext

from tasks_demo.core import clock
from tasks_demo.dashboard.labels import outcome_badge
from tasks_demo.ledger import rollups
from tasks_demo.ledger.database import alias
from tasks_demo.ledger.models import Event, Tally
from tasks_demo.ledger.pruning import prune
from tasks_demo.ledger.rollup_models import Rollup
from tests.integration.ledger.ledger_rows import append, event, killed, life, lost, ok

pytestmark = [pytest.mark.django_db(transaction=True, databases="__all__"), pytest.mark.usefixtures("ledger")]


def folded() -> None:
    for _ in range(1000):
        if rollups.fold(seconds=1):
            return
    raise AssertionError("never up to date")


def recounted() -> list[dict[str, Any]]:
    """The same numbers from a scan of all tallies, in Python."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for tally in Tally.objects.all():
        row = found.setdefault((tally.pattern, tally.task), dict.fromkeys(rollups.COUNTED, 0))
        over = {"waiting": ["lost"], "running": ["lost", "ok"]}
        waits = tally.verdict not in over.get(tally.outcome, [])
        named = [
            "task_ids", f"executions_{min(tally.executions, 2)}", f"effects_{min(tally.effects, 2)}",
            *(name for name in ("suppressed", "deferred", "broken") if getattr(tally, name)),
            *(["published"] if tally.publications else []), *(["booked"] if tally.books else []),
            *(["lost"] if tally.verdict == "lost" else []), *([tally.outcome] if tally.outcome in row and waits else []),
        ]  # fmt: skip
        for name in named:
            row[name] += 1
    return [{"task": task, "pattern": pattern, **row} for (pattern, task), row in sorted(found.items())]


def shifted(rows: list[Any], seconds: float) -> list[Any]:
    return [
        type(row)(**{**{name: getattr(row, name) for name in row.__slots__}, "at": row.at + seconds}) for row in rows
    ]


def everything(number: int) -> list[Any]:
    """Ten lives of several patterns and kinds, spread over days."""
    pick = random.Random(number)
    lives = [
        ok(f"ok-{number}", task="shop.charge"),
        killed(f"killed-{number}"),
        killed(f"broken-{number}", pattern="dedup_lock"),
        lost(f"lost-{number}", task="shop.mail"),
        life(f"done-{number}", "published", "received", "started", "effect", "settled", pattern="acks_early"),
        life(f"waits-{number}", "published", task="shop.mail"),
        life(f"runs-{number}", "published", "received", "started", pattern="", books=""),
        life(f"failed-{number}", "published", "received", "started", "failed", pattern="acks_early"),
        life(f"again-{number}", "published", "received", "suppressed", "acked", pattern="inbox"),
    ]
    return [row for one in lives for row in shifted(one, -pick.random() * 200_000)]


def test_rollups_equal_a_recount_after_each_fold() -> None:
    rows = [row for number in range(8) for row in everything(number)]
    random.Random(5).shuffle(rows)
    for begin in range(0, len(rows), 40):
        append(rows[begin : begin + 40])
        folded()
        assert rollups.totals() == recounted()
    assert rollups.totals(rollups.HOUR) == recounted()
    # Those that were old when they were first counted are counted per hour.
    assert 0 < sum(row["task_ids"] for row in rollups.totals(rollups.MINUTE)) < Tally.objects.count()


def test_job_that_its_books_call_lost_waits_no_longer() -> None:
    published, settled = life("never-received", "published", "settled", task="shop.mail")
    append([published])
    folded()
    assert [(row["waiting"], row["lost"]) for row in rollups.totals()] == [(1, 0)]
    append([settled])
    folded()
    assert Tally.objects.get().outcome == "waiting"
    assert [(row["waiting"], row["lost"]) for row in rollups.totals()] == [(0, 1)]
    assert rollups.backlog(0)[-1].oldest == 0


def test_job_whose_process_was_killed_runs_no_longer_once_its_books_were_read() -> None:
    *running, settled = life("t", "published", "received", "started", "effect", "settled", pattern="acks_early")
    append(running)
    folded()
    assert [(row["running"], row["effects_1"]) for row in rollups.totals()] == [(1, 1)]
    append([settled])
    folded()
    tally = Tally.objects.get()
    assert (tally.outcome, tally.verdict) == ("running", "ok")
    assert [(row["running"], row["effects_1"]) for row in rollups.totals()] == [(0, 1)]


def test_job_that_a_person_requeued_waits_though_its_verdict_is_ok() -> None:
    again = event("published", 90, task_id="t", operation="t", detail={"requeued": True})
    append([*life("t", "received", "rejected", pattern="", books=""), again])
    folded()
    tally = Tally.objects.get()
    assert (tally.outcome, tally.verdict) == ("waiting", "ok")
    assert outcome_badge(tally.outcome, tally.verdict).word == "waiting"
    assert [row["waiting"] for row in rollups.totals()] == [1]


def test_rollups_of_a_ledger_that_was_there_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollups, "UNITS_AT_ONCE", 3)
    append([row for number in range(5) for row in everything(number)])
    assert not rollups.fold(seconds=0)
    assert 3 <= sum(row["task_ids"] for row in rollups.totals()) < Tally.objects.count()
    folded()
    assert rollups.totals() == recounted()


def test_rollups_that_are_far_behind_count_the_tallies(monkeypatch: pytest.MonkeyPatch) -> None:
    append(everything(1))
    folded()
    monkeypatch.setattr(rollups, "MOST_BEHIND", 20)
    append([row for number in range(2, 5) for row in everything(number)])
    folded()
    assert rollups.totals() == recounted()


def test_rollups_see_an_event_that_was_committed_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its number is below one that was folded: PostgreSQL assigns numbers before a transaction commits."""
    append(ok("early"))
    folded()
    append(life("late", "published"))
    late = Event.objects.filter(task_id="late")
    append(life("after", "published"))
    numbers = list(late.values_list("id", flat=True))
    rollups.RollupState.objects.update(
        first_pass_event=Event.objects.order_by("-id")[0].id, folded_at=time.time()
    )  # as if it had not been there
    folded()
    assert len(numbers) == 1
    assert rollups.totals() != recounted()
    later = time.time() + rollups.LAG_SECONDS + 1
    monkeypatch.setattr(rollups.time, "time", lambda: later)
    folded()
    later += rollups.LAG_SECONDS + 1
    folded()
    assert rollups.totals() == recounted()


def test_rollups_of_two_processes_count_once(monkeypatch: pytest.MonkeyPatch) -> None:
    append(ok("one"))
    folded()
    append(ok("two"))
    counting = rollups._counted

    def overtaken(using: str, unit: rollups.Unit) -> list[Rollup]:
        monkeypatch.setattr(rollups, "_counted", counting)
        counted_too_early = counting(using, unit)
        append(ok("three"))
        assert rollups.fold(seconds=0)
        return counted_too_early

    monkeypatch.setattr(rollups, "_counted", overtaken)
    folded()
    assert rollups.totals() == recounted()
    assert sum(row["task_ids"] for row in rollups.totals()) == 3


def test_rollups_see_an_effect_that_another_task_id_of_the_operation_caused() -> None:
    append(shifted(life("first", "published", "received", "started", operation="charge:1"), -7_200))
    folded()
    append([event("effect", task_id="second", operation="charge:1", pattern="acks_late", books="bank")])
    folded()
    assert Tally.objects.get(task_id="first").effects == 1
    assert rollups.totals() == recounted()


def test_rollups_forget_what_was_pruned() -> None:
    append(shifted(ok("old"), -90_000), shifted(life("old-and-open", "published", "received", "started"), -95_000))
    append([row for number in range(5) for row in everything(number)], ok("new"))
    folded()
    before = rollups.totals()
    assert prune(clock.for_column(datetime.now(UTC) - timedelta(days=1))).tallies > 1
    assert 0 < sum(row["task_ids"] for row in rollups.totals()) < sum(row["task_ids"] for row in before)
    folded()
    assert Tally.objects.filter(task_id="old-and-open").exists()
    assert rollups.totals() == recounted()
    assert rollups.totals(rollups.HOUR) == recounted()


def test_rollups_that_are_up_to_date_are_only_read() -> None:
    append(ok("one"))
    folded()
    with CaptureQueriesContext(connections[alias()]) as queries:
        rollups.fold()
    assert len(queries) <= 6
    assert [each["sql"] for each in queries if not each["sql"].startswith("SELECT")] == []


def test_rollups_fold_holds_no_lock_while_it_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    append(ok("one"))
    counting = rollups._counted

    def looked(using: str, unit: rollups.Unit) -> list[Rollup]:
        assert not transaction.get_connection(using).in_atomic_block
        return counting(using, unit)

    monkeypatch.setattr(rollups, "_counted", looked)
    folded()
    append([event("published", task_id="two", operation="two", pattern="acks_late")])
    folded()
    assert rollups.totals() == recounted()

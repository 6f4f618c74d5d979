"""The tally's generated columns: outcome, verdict and broken promise."""

from __future__ import annotations

import random
import time
from typing import Any

import pytest

from tasks_demo.ledger.events import EFFECT, KNOWS_ITS_TASK, SETTLED
from tasks_demo.ledger.models import Event, Tally
from tasks_demo.ledger.store import store
from tests.integration.ledger.ledger_table import consistent, row

pytestmark = pytest.mark.usefixtures("ledger")


def test_tally_takes_the_operation_from_the_worker_not_from_a_publisher_by_name() -> None:
    store.append([row("published", "t", operation="t")])
    store.append([row(EFFECT, "t", operation="charge:17")])
    store.append(
        [row("received", "t", operation="charge:17", pattern="dedup_lock", books="bank"), row("received", "u")]
    )
    store.append([row("returned", "t", operation="charge:17", pattern="dedup_lock")])
    tally = Tally.objects.get(task_id="t")
    assert (tally.operation, tally.effects, tally.verdict) == ("charge:17", 1, "ok")
    store.append([row("received", "t", operation="charge:18", pattern="dedup_lock", books="bank")])
    assert Tally.objects.get(task_id="t").operation == "charge:17", "corrected once, never changed"
    assert Tally.objects.get(task_id="u").operation == "u"
    consistent()


@pytest.mark.parametrize("kind", sorted(KNOWS_ITS_TASK))
def test_tally_takes_pattern_and_books_from_the_worker_where_the_publisher_named_none(kind: str) -> None:
    store.append([row("published", "t", operation="t")])
    store.append([row(kind, "t", operation="t", pattern="acks_late")])
    store.append([row(kind, "t", operation="t", pattern="inbox", books="bank")])
    tally = Tally.objects.get(task_id="t")
    assert (tally.pattern, tally.books) == ("acks_late", "bank"), "filled in where empty, never changed"


P, R, S, RET, E, Z = "published", "received", "started", "returned", EFFECT, SETTLED


@pytest.mark.parametrize(
    ("kinds", "verdict", "broken"),
    [
        # (events, verdict, the patterns whose promise is broken)
        ([P], "unresolved", ""),
        ([P, R, S], "unresolved", ""),
        ([P, R, S, E], "unresolved", ""),
        ([P, R, S, E, RET], "ok", ""),
        ([P, R, S, E, Z], "ok", ""),
        ([P, R, S, R, S, E, RET], "recovered", "acks_early"),
        ([P, R, R, S, E, RET], "recovered", ""),
        ([P, R, S, RET], "unresolved", ""),
        ([P, R, S, RET, Z], "lost", "acks_late dedup_lock"),
        ([P, Z], "lost", "acks_late dedup_lock"),
        ([R, S, Z], "unresolved", ""),
        ([P, R, S, E, E], "duplicated", "acks_early dedup_lock"),
        ([P, R, S, R, S, E, E, RET, Z], "duplicated", "acks_early dedup_lock"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else str(value),
)
def test_tally_verdict_and_broken_promise_of_each_combination(kinds: list[str], verdict: str, broken: str) -> None:
    for pattern in ("acks_early", "acks_late", "dedup_lock", ""):
        for kind in kinds:
            store.append([row(kind, f"t-{pattern}", pattern=pattern, books="bank")])
        tally = Tally.objects.get(task_id=f"t-{pattern}")
        assert tally.verdict == verdict
        assert tally.broken == (pattern in broken.split()), pattern
    consistent()


D, F, U, Q, X, V, J, I_, Y = (
    "deferred", "failed", "suppressed", "quarantined", "expired", "revoked", "rejected", "ignored", "retried"
)  # fmt: skip


KILLED, AGAIN, BY_HAND = ("failed", "abandoned"), ("deferred", "requeued"), ("published", "requeued")


@pytest.mark.parametrize(
    ("events", "outcome", "verdict", "broken"),
    [
        # (events in order of time, outcome, verdict where nobody counts effects, patterns whose promise is broken)
        ([P], "waiting", "unresolved", ""),
        ([P, R], "waiting", "unresolved", ""),
        ([P, R, S], "running", "unresolved", ""),
        ([P, R, S, RET], "succeeded", "ok", ""),
        ([P, R, S, F], "failed", "ok", ""),
        ([P, R, S, Y], "retrying", "unresolved", ""),
        ([P, R, S, P, Y, R, S], "running", "unresolved", "acks_early"),
        ([P, R, S, P, Y, R, S, RET], "succeeded", "recovered", "acks_early"),
        ([P, R, S, P, Y, R, S, F], "failed", "recovered", "acks_early"),
        ([P, R, S, R, S, RET], "succeeded", "recovered", "acks_early"),
        ([P, R, S, RET, R], "succeeded", "recovered", ""),
        ([P, R, S, RET, R, S], "running", "recovered", "acks_early"),
        ([P, R, S, RET, R, S, RET], "succeeded", "duplicated", "acks_early"),
        ([P, R, S, KILLED], "failed", "lost", "acks_late dedup_lock"),
        ([P, R, S, KILLED, R, S, RET], "succeeded", "recovered", "acks_early"),
        ([P, R, X], "expired", "dropped", ""),
        ([P, R, V], "revoked", "dropped", ""),
        ([P, R, S, V], "revoked", "dropped", ""),
        ([P, J], "rejected", "lost", "acks_late dedup_lock"),
        ([P, R, S, J], "rejected", "ok", ""),
        ([P, R, S, I_], "rejected", "ok", ""),
        ([P, R, S, AGAIN], "waiting", "unresolved", ""),
        ([P, R, S, AGAIN, R, S, RET], "succeeded", "recovered", "acks_early"),
        ([P, R, S, "replaced", R], "waiting", "unresolved", ""),
        ([P, R, P, D, R, S], "running", "unresolved", ""),
        ([P, R, S, R, P, D], "running", "unresolved", ""),
        ([P, R, S, R, S, R, Q], "parked", "parked", "acks_early"),
        ([P, R, S, R, Q, BY_HAND], "waiting", "parked", ""),
        ([P, R, S, R, Q, BY_HAND, R, S, RET], "succeeded", "recovered", "acks_early"),
        ([P, R, U], "succeeded", "ok", ""),
        ([P, R, S, F, R, U], "failed", "recovered", ""),
        ([P, R, S, RET, R, U], "succeeded", "recovered", ""),
    ],
    ids=lambda value: (
        "-".join(item if isinstance(item, str) else item[1] for item in value) if isinstance(value, list) else ""
    ),
)
def test_tally_outcome_and_verdict_without_books_whatever_batch_is_committed_last(
    events: list[Any], outcome: str, verdict: str, broken: str
) -> None:
    start = time.time()
    for order in ("in order", "backwards", "all at once", "shuffled"):
        for pattern in ("acks_early", "acks_late", "dedup_lock", ""):
            name = f"{order} {pattern}"
            rows = []
            for number, item in enumerate(events):
                kind, flag = item if isinstance(item, tuple) else (item, "")
                detail = {flag: True} if flag else {}
                rows.append(row(kind, name, pattern=pattern, task="shop.x", detail=detail))
                object.__setattr__(rows[-1], "at", start + number)
            batches = [rows] if order == "all at once" else [[each] for each in rows]
            if order == "backwards":
                batches.reverse()
            elif order == "shuffled":
                random.shuffle(batches)
            for batch in batches:
                store.append(batch)
            tally = Tally.objects.get(task_id=name)
            assert (tally.outcome, tally.verdict, tally.broken) == (
                outcome,
                verdict,
                pattern in broken.split(),
            ), name
            assert tally.task == "shop.x"
    consistent()


@pytest.mark.parametrize(
    ("events", "verdict"),
    [
        # The body ended by itself: no message is missing, whether books count its effects or not (docs/decisions/0080).
        ([P, R, S, F], "ok"),
        ([P, R, F], "ok"),
        ([P, R, S, R, S, F], "recovered"),
        ([P, R, S, P, Y, R, S, F], "recovered"),
        ([P, R, S, J], "ok"),
        ([P, R, S, I_], "ok"),
        # It did not.
        ([P, R, S, KILLED], "lost"),
        ([P, J], "lost"),
    ],
    ids=lambda value: "-".join(map(str, value)) if isinstance(value, list) else str(value),
)
def test_tally_of_a_job_without_an_effect_has_one_verdict_with_books_and_without(
    events: list[Any], verdict: str
) -> None:
    start = time.time()
    found: dict[tuple[str, str], list[tuple[str, bool]]] = {}
    for pattern in ("acks_early", "acks_late", "dedup_lock", ""):
        for books, run in (("", ""), ("bank", ""), ("bank", "r1:x/none")):
            name = f"{pattern}-{books}-{run}"
            for number, item in enumerate([*events, Z]):
                kind, flag = item if isinstance(item, tuple) else (item, "")
                same: dict[str, Any] = {
                    "pattern": pattern,
                    "books": books,
                    "run": run,
                    "detail": {flag: True} if flag else {},
                }
                event = row(kind, name, **same)
                object.__setattr__(event, "at", start + number)
                store.append([event])
            tally = Tally.objects.get(task_id=name)
            found.setdefault((books, run), []).append((tally.verdict, tally.broken))
    broken = [verdict == "recovered", verdict == "lost", verdict == "lost", False]
    assert found["", ""] == found["bank", ""] == [(verdict, each) for each in broken]
    # In an experiment no body fails by itself: without its charge a job is lost there, as its verdict says, too.
    assert [each for each, _ in found["bank", "r1:x/none"]] == ["lost"] * 4
    assert found["bank", "r1:x/none"][1:3] == [("lost", True)] * 2
    consistent()


def test_tally_of_a_failed_job_waits_for_its_books() -> None:
    for kind in (P, R, S, F):
        store.append([row(kind, pattern="acks_late", books="bank")])
    assert Tally.objects.get().verdict == "unresolved"
    store.append([row(E, operation="t")])
    assert Tally.objects.get().verdict == "ok"


@pytest.mark.parametrize(
    ("pattern", "outcome"),
    [("dedup_lock", "succeeded"), ("inbox", "succeeded"), ("claim_first", "running"), ("acks_late", "running")],
)
def test_tally_of_a_suppressed_copy_is_done_where_there_is_a_marker(pattern: str, outcome: str) -> None:
    for kind in (P, R, S, R, U):
        store.append([row(kind, pattern=pattern)])
    assert Tally.objects.get().outcome == outcome


def test_tally_of_a_revoked_task_with_books_is_dropped_and_breaks_no_promise() -> None:
    for kind in (P, R, V, Z):
        store.append([row(kind, pattern="dedup_lock", books="bank")])
    tally = Tally.objects.get()
    assert (tally.verdict, tally.broken) == ("dropped", False)


def test_tally_of_an_unconfirmed_publication_is_never_lost() -> None:
    store.append([row("published", detail={"outcome": "info"}, pattern="acks_late", books="bank"), row(SETTLED)])
    tally = Tally.objects.get()
    assert (tally.verdict, tally.broken) == ("unresolved", False)


def test_tally_and_event_cannot_be_edited_through_the_models() -> None:
    store.append([row("received")])
    for thing in (Event.objects.get(), Tally.objects.get()):
        with pytest.raises(TypeError, match="read-only"):
            thing.save()
        with pytest.raises(TypeError, match="read-only"):
            thing.delete()

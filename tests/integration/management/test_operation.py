"""``manage.py operation``: show what is remembered of an operation, or forget it so that it can run again; both are audited."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone
from pytest_django import Settings

from tasks_demo.core.conf import settings as ours
from tasks_demo.core.exceptions import OperationHeld
from tasks_demo.leases.keys import record_key
from tasks_demo.leases.protocol import Claimed, Completed, Held
from tasks_demo.leases.redis_client import connect
from tasks_demo.leases.redis_store import RedisLeaseStore
from tasks_demo.operations import find_records, forget
from tasks_demo.records.models import Claim, Fence, ForgottenOperation, InboxEntry
from tests.integration.bookshop import Bookshop
from tests.integration.management.conftest import Run
from tests.support import until

COMMAND = "operation"
pytestmark = [
    pytest.mark.django_db(databases="__all__", transaction=True),
    pytest.mark.usefixtures("ledger", "no_task_elsewhere"),
]

HOSTILE = [
    "charge:17",
    "{a}:{b}",
    "a*?[x]",
    "Grüße 寿司 🍣",
    "with space",
    "x" * 200,
    "'; DROP--",
    "[bold]red[/]",
    "-dash",
    "%7B",
]


@pytest.fixture
def store(redis_url: str) -> Iterator[RedisLeaseStore]:
    """The lease store as a worker has it, on the Redis of the settings."""
    with connect(redis_url, 5.0) as client:
        yield RedisLeaseStore(client, ours.KEY_PREFIX, ours.LEASE_SECONDS, ours.RETENTION_SECONDS)
        client.flushall()


def claimed(store: RedisLeaseStore, operation: str, digest: str = "d") -> Claimed:
    reply = store.claim(operation, digest)
    assert isinstance(reply, Claimed)
    return reply


def completed(store: RedisLeaseStore, operation: str) -> Claimed:
    claim = claimed(store, operation)
    assert store.complete(claim, '{"debit": 7}')
    return claim


def forgets(run: Run, key: str, *more: str) -> tuple[int, str, str]:
    return run("forget", "--why", "the bank lost it", "--yes", *more, "--", key)


# -- the lock ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", HOSTILE)
def test_marker_is_shown_and_forgotten_and_the_fence_only_grows(key: str, store: RedisLeaseStore, run: Run) -> None:
    first = completed(store, key)
    assert isinstance(store.claim(key, "d"), Completed)
    code, out, _ = run("show", "--", key)
    assert code == 0
    assert out.startswith(f"Operation {key}\n")
    assert "dedup_lock (Redis): completed" in out
    assert f"fence: {first.fence}" in out
    assert first.owner not in out
    assert "debit" not in out, "a result may hold what not everybody should read"
    code, out, _ = forgets(run, key)
    assert (code, out.splitlines()[-1]) == (0, "Removed: dedup_lock (Redis), completed.")
    again = claimed(store, key, "other arguments")  # neither marker nor digest prevents it
    assert again.fence > first.fence
    assert again.attempt == 2
    assert store.complete(again, None)
    assert isinstance(store.claim(key, "other arguments"), Completed)


def test_operation_that_was_forgotten_is_not_completed_by_a_late_holder(store: RedisLeaseStore) -> None:
    holder = claimed(store, "op")
    with pytest.raises(OperationHeld, match="a worker holds its lease for"):
        forget(find_records("op"), by="me", why="because")
    assert isinstance(store.claim("op", "d"), Held)
    assert ForgottenOperation.objects.count() == 0
    (removed,) = forget(find_records("op"), by="me", why="because", even_if_held=True)
    assert removed.state == "claimed"
    assert store.renew(holder) is None
    assert store.complete(holder, None) is False
    assert store.release(holder) is False
    assert claimed(store, "op").fence > holder.fence


def test_lease_that_has_ended_is_not_held(redis_url: str, run: Run) -> None:
    with connect(redis_url, 5.0) as client:
        short = RedisLeaseStore(client, ours.KEY_PREFIX, 0.05, 60)
        claimed(short, "ended")
        until(lambda: not find_records("ended").traces[0].held, "the end of the lease")
        assert forgets(run, "ended")[0] == 0


def test_operation_command_keeps_a_record_that_has_changed_since_it_was_shown(store: RedisLeaseStore) -> None:
    completed(store, "op")
    shown = find_records("op")
    assert forget(shown, by="me", why="first") != []
    newer = claimed(store, "op")
    assert forget(shown, by="me", why="late", even_if_held=True) == []
    assert store.complete(newer, None)
    late, first = ForgottenOperation.objects.all()
    assert late.removed == []
    assert "changed meanwhile, so not removed: dedup_lock in Redis" in late.outcome
    assert first.outcome == "removed"


def test_operation_command_forgets_a_damaged_record(store: RedisLeaseStore, redis_url: str, run: Run) -> None:
    with connect(redis_url, 5.0) as client:
        client.set(record_key(ours.KEY_PREFIX, "text"), "no hash")
        client.hset(record_key(ours.KEY_PREFIX, "half"), "state", "claimed")
        for key in ("text", "half"):
            assert run("show", key)[0] == 0
            assert forgets(run, key)[0] == 0
            assert isinstance(store.claim(key, "d"), Claimed)


def test_record_s_retention_begins_anew(store: RedisLeaseStore, redis_url: str) -> None:
    completed(store, "op")
    with connect(redis_url, 5.0) as client:
        key = record_key(ours.KEY_PREFIX, "op")
        client.pexpire(key, 5000)
        forget(find_records("op"), by="me", why="because")
        assert client.pttl(key) > (ours.RETENTION_SECONDS - 60) * 1000
        assert set(client.hgetall(key)) == {b"state", b"fence", b"attempt"}


# -- rows ------------------------------------------------------------------------------------------------------------------------


def test_claim_an_entry_and_a_fence(redis_url: str, run: Run) -> None:
    old = timezone.now() - timedelta(seconds=ours.LEASE_CAP_SECONDS + 60)
    Claim.objects.create(operation="op", task_id="t1", digest="d", worker="w@h", claimed_at=old)
    InboxEntry.objects.create(operation="op", task_id="t2", digest="d", result="1", completed_at=old)
    Fence.objects.create(operation="op", token=99, at=old)
    code, out, _ = run("show", "op", "--json")
    assert code == 0
    document = json.loads(out)
    assert {(store["kind"], store["state"]) for store in document["stores"]} == {
        ("claim_first", "claimed"), ("inbox", "completed"), ("fence", "stays"),
    }  # fmt: skip
    code, out, _ = forgets(run, "op", "--json")
    assert (code, len(json.loads(out)["removed"])) == (0, 2)
    assert (Claim.objects.count(), InboxEntry.objects.count(), Fence.objects.get().token) == (0, 0, 99)
    (act,) = ForgottenOperation.objects.all()
    assert (act.operation, act.why, act.outcome, act.task) == ("op", "the bank lost it", "removed", "")
    assert act.by
    assert {one["kind"] for one in act.removed} == {"claim_first", "inbox"}
    assert {one["task_id"] for one in act.removed} == {"t1", "t2"}


def test_young_claim_may_still_be_running(redis_url: str, run: Run) -> None:
    Claim.objects.create(operation="op", task_id="t1", digest="d", worker="w@h", claimed_at=timezone.now())
    code, _, err = forgets(run, "op")
    assert code == 1
    assert "Nothing was removed" in err
    assert "--even-if-held" in err
    assert Claim.objects.count() == 1
    assert forgets(run, "op", "--even-if-held")[0] == 0
    assert Claim.objects.count() == 0


def test_task_restricts_it_to_what_its_pattern_keeps(store: RedisLeaseStore, run: Run) -> None:
    completed(store, "op")
    InboxEntry.objects.create(operation="op", task_id="t2", digest="d", completed_at=timezone.now())
    assert forgets(run, "op", "--task", "tasks_demo.charge_inbox")[0] == 0
    assert InboxEntry.objects.count() == 0
    assert isinstance(store.claim("op", "d"), Completed)
    assert ForgottenOperation.objects.get().task == "tasks_demo.charge_inbox"
    code, _, err = run("show", "op", "--task", "tasks_demo.nope")
    assert (code, "No task 'tasks_demo.nope'" in err) == (2, True)


# -- usage and errors --------------------------------------------------------------------------------------------------


def test_operation_command_without_records_is_exit_1(redis_url: str, run: Run) -> None:
    code, out, _ = run("show", "never-heard")
    assert (code, "Nothing is recorded about it" in out) == (1, True)
    code, _, err = forgets(run, "never-heard")
    assert (code, "nothing to remove" in err) == (1, True)
    assert ForgottenOperation.objects.count() == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("forget", "op"), "--why"),
        (("forget", "op", "--why", " "), "--why"),
        (("forget", "op", "--why", "x"), "--yes"),
        (("show", "op", "--yes"), "show takes no"),
        (("show", ""), "empty"),
        (("show", "x" * 201), "200 are allowed"),
        (("show", "a\nb"), "control character"),
        (("show", "\ud800"), "surrogate"),
    ],
    ids=str,
)
def test_usage_is_code_2(arguments: tuple[str, ...], said: str, store: RedisLeaseStore, run: Run) -> None:
    completed(store, "op")
    code, _, err = run(*arguments)
    assert (code, said in err) == (2, True), err
    assert isinstance(store.claim("op", "d"), Completed)


def test_store_that_does_not_answer_is_code_4_and_nothing_is_removed(
    settings: Settings, redis_url: str, run: Run
) -> None:
    old = timezone.now() - timedelta(days=2)
    Claim.objects.create(operation="op", task_id="t1", digest="d", claimed_at=old)
    settings.TASKS_DEMO_REDIS_URL = "redis://:hidden@127.0.0.1:1/0"
    for arguments in (("show", "op"), ("forget", "op", "--why", "x", "--yes")):
        code, out, err = run(*arguments)
        assert code == 4
        assert "claim_first (database" in out  # the parts that answered are shown
        assert "Redis did not show the record" in err
        assert "hidden" not in out + err
    assert Claim.objects.count() == 1
    assert ForgottenOperation.objects.count() == 0


def test_ledger_s_counts_are_told(redis_url: str, run: Run) -> None:
    from tasks_demo.core.lifecycle import Point, Subject, reached
    from tasks_demo.ledger.recorder import recorder

    reached(Point.STARTED, Subject("the-task", "op-of-ledger", "dedup_lock"))
    recorder.try_flush()
    code, out, _ = run("show", "op-of-ledger")
    assert code == 0, out
    assert "ledger the-task: 1 executions" in out


# -- in a project ---------------------------------------------------------------------------------------------------------------


def test_operation_that_is_forgotten_is_done_again(bookshop: Bookshop) -> None:
    def charge() -> None:
        assert bookshop.python("tasks.charge.delay(order_id='again')").code == 0

    def ended(kind: str) -> Any:
        return bookshop.value(
            f"Event.objects.filter(kind={kind!r}, operation='charge:again').count()",
            before="from tasks_demo.ledger.models import Event",
        )

    with bookshop.worker():
        charge()
        until(lambda: ended("returned") == 1, "the first charge", 60)
        charge()
        until(lambda: ended("suppressed") == 1, "its copy", 60)
        shown = bookshop.manage("operation", "show", "charge:again")
        assert "dedup_lock (Redis): completed" in shown.out
        done = bookshop.manage("operation", "forget", "charge:again", "--why", "refunded by hand", "--yes")
        assert done.code == 0, done.err
        charge()
        until(lambda: ended("returned") == 2, "the second charge", 60)
    assert bookshop.payments("again") == 2
    acts = "[[a.operation, a.why, a.outcome] for a in ForgottenOperation.objects.all()]"
    kept = bookshop.value(acts, before="from tasks_demo.records.models import ForgottenOperation")
    assert kept == [["charge:again", "refunded by hand", "removed"]]

"""claim_first on real workers, SQLite and PostgreSQL: never a second execution, whatever is killed, unavailable or sent
twice.
"""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from celery.result import AsyncResult
from django.db import connections, router

from tasks_demo.core.exceptions import OperationMismatch
from tasks_demo.patterns import claim_first, operation_records
from tasks_demo.records.models import Claim
from tests.integration.patterns.once_tasks import app
from tests.integration.patterns.once_worker import Environment, OnceWorker
from tests.support import until

DATABASES = pytest.mark.django_db(transaction=True, databases="__all__")


def test_claim_first_second_task_of_an_operation_is_suppressed_and_other_arguments_fail(
    environment: Environment,
) -> None:
    operation, job = environment.fresh()
    first = environment.send("once.claim", **job)
    assert first.get(timeout=30) == {"number": 1}
    environment.has(first.id, "acked", "returned")
    mine = [point for point in environment.points(first.id) if point not in {"received", "acked"}]
    assert mine == ["claimed", "started", "returned"]
    second = environment.send("once.claim", **job)
    assert second.get(timeout=30) is None
    environment.has(second.id, "suppressed", "acked")
    third = environment.send("once.claim", **job, first="x")
    assert "already used by another task or with other arguments. Nothing was run" in str(
        third.get(timeout=30, propagate=False)
    )
    assert (len(environment.ran(operation)), environment.count("tasks_demo_records_claim", operation)) == (1, 1)


def test_claim_first_another_task_under_the_same_key_fails_and_is_not_taken_for_done(environment: Environment) -> None:
    operation, job = environment.fresh()
    environment.send("once.claim", **job).get(timeout=30)
    other = environment.send("once.claim_too", **job)
    assert "already used by another task" in str(other.get(timeout=30, propagate=False))
    assert len(environment.ran(operation)) == 1


def test_suppressed_copy_starts_nothing_that_was_to_follow_the_work(environment: Environment) -> None:
    operation, job = environment.fresh()
    follow: Any = app.tasks["once.follow"].s(folder=job["folder"]).set(queue=OnceWorker.queue)
    followed = environment.folder / operation / "followed"
    workflows: list[dict[str, Any]] = [{"chain": [follow]}, {"callbacks": [follow]}]
    first = environment.send("once.claim", embed=workflows[0], **job)
    assert first.get(timeout=30) == {"number": 1}
    until(followed.exists, "what follows the first")
    for embed in workflows:
        environment.send("once.claim", task_id=first.id, embed=embed, **job)
    until(lambda: environment.points(first.id).count("suppressed") == 2, "both copies suppressed")
    until(environment.idle, "an idle worker: what the copies might have published has been run")
    assert followed.read_text() == "{'number': 1}\n"


def test_duplicate_of_a_running_job_is_suppressed_at_once(environment: Environment) -> None:
    operation, job = environment.fresh(gate=True)
    first = environment.send("once.claim", **job)
    environment.running(operation)
    second = environment.send("once.claim", **job)
    environment.has(second.id, "suppressed")
    environment.open(operation)
    assert first.get(timeout=30) == {"number": 1}
    assert len(environment.ran(operation)) == 1


def test_pool_process_killed_in_the_body_is_never_followed_by_another_execution(environment: Environment) -> None:
    operation, job = environment.fresh(gate=True)
    sent = environment.send("once.claim", **job)
    pid = environment.running(operation)
    environment.has(sent.id, "started", "acked")
    environment.killed(pid)
    # The broker redelivers it twice, as after a lost acknowledgement; then another caller requests the same operation.
    for _ in range(2):
        environment.send("once.claim", task_id=sent.id, **job)
    other = environment.send("once.claim", **job)
    environment.has(other.id, "suppressed")
    until(lambda: environment.points(sent.id).count("suppressed") == 2, "both copies suppressed")
    assert environment.ran(operation) == [pid]


def test_body_that_raised_is_not_run_again(environment: Environment) -> None:
    operation, job = environment.fresh()
    sent = environment.send("once.claim", **job, first="no luck")
    assert str(sent.get(timeout=30, propagate=False)) == "no luck"
    environment.has(sent.id, "failed")
    again = environment.send("once.claim", **job, first="no luck")
    environment.has(again.id, "suppressed")
    assert again.get(timeout=30) is None, "a double click gets an answer"
    environment.send("once.claim", task_id=sent.id, **job, first="no luck")
    environment.has(sent.id, "suppressed")
    until(environment.idle, "the copy's end")
    assert (sent.state, str(AsyncResult(sent.id, app=app).result)) == ("FAILURE", "no luck")
    assert len(environment.ran(operation)) == 1


@pytest.mark.parametrize(("table", "ledger"), [("tasks_demo_event", True), ("tasks_demo_records_claim", False)])
def test_claim_first_without_its_ledger_or_claims_requeues_the_job(
    environment: Environment, table: str, ledger: bool
) -> None:
    operation, job = environment.fresh()
    with environment.away(table, ledger=ledger):
        sent = environment.send("once.claim", **job)
        environment.returned_to_the_queue(sent.id)
        assert environment.ran(operation) == []
    assert sent.get(timeout=30) == {"number": 1}
    assert (len(environment.ran(operation)), environment.count("tasks_demo_records_claim", operation)) == (1, 1)


def test_claim_first_runs_no_body_twice_when_the_database_is_killed(
    environment: Environment,
) -> None:
    if environment.postgres is None:
        pytest.skip("no server of its own to be killed; the test runs on the other environment")
    jobs = [environment.fresh(gate=True) for _ in range(4)]
    sent = [environment.send("once.claim", **job) for _, job in jobs]
    until(lambda: sum(len(environment.ran(operation)) for operation, _ in jobs) == 2, "two bodies behind their claims")
    environment.postgres.kill()
    for operation, _ in jobs:
        environment.open(operation)
    for one in sent[2:]:
        environment.returned_to_the_queue(one.id)
    environment.postgres.start()
    assert [one.get(timeout=30) for one in sent] == [{"number": 1}] * 4
    for (_, job), one in zip(jobs, sent, strict=True):
        environment.send("once.claim", task_id=one.id, **job)
    for one in sent:
        environment.has(one.id, "suppressed")
    assert [len(environment.ran(operation)) for operation, _ in jobs] == [1] * 4


# -- without a worker ----------------------------------------------------------------------------------------------------


def claim(operation: str, **fields: object) -> Claim:
    return Claim(**{"operation": operation, "task_id": "t", "digest": "d", "claimed_at": datetime.now(UTC), **fields})


@DATABASES
def test_claim_first_lets_exactly_one_of_many_claim() -> None:
    alias, both, won = router.db_for_write(Claim), threading.Barrier(8, timeout=20), []

    def deliver(number: int) -> None:
        try:
            both.wait()
            won.append(operation_records.find_or_insert(claim("raced", task_id=str(number)), alias) is None)
        finally:
            connections[alias].close()

    threads = [threading.Thread(target=deliver, args=[number]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(won) == [False] * 7 + [True]


@DATABASES
def test_claim_first_undoes_exactly_its_own_claim() -> None:
    alias = router.db_for_write(Claim)
    mine = claim("given-back")
    assert operation_records.find_or_insert(mine, alias) is None
    bookshop = claim("given-back", claimed_at=mine.claimed_at + timedelta(microseconds=1))
    assert claim_first._undo(bookshop, alias)
    with pytest.raises(OperationMismatch):
        operation_records.find_or_insert(claim("given-back", digest="other"), alias)
    assert claim_first._undo(mine, alias)
    assert operation_records.find_or_insert(bookshop, alias) is None


@DATABASES
def test_prune_deletes_what_is_older() -> None:
    Claim.objects.all().delete()
    now = datetime.now(UTC)
    Claim.objects.bulk_create([claim("old", claimed_at=now - timedelta(days=8)), claim("new")])
    assert claim_first.prune(now - timedelta(days=7)) == 1
    assert list(Claim.objects.values_list("pk", flat=True)) == ["new"]

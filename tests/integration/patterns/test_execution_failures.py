"""Failures outside the body: before it, the delivery is requeued and runs later; after it, the job is done regardless.

Over 300 lines: every moment of one execution, on the same workers.
"""

from __future__ import annotations

import os
import signal
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery.result import AsyncResult

from tests.integration.patterns.failing_tasks import ERRORS, PATTERNS, app
from tests.integration.patterns.failing_worker import LEASE_SECONDS, Failing, executions
from tests.support import Home, until

NAMES = [pattern.pattern for pattern in PATTERNS]
CLAIMING = {"claim_first", "dedup_lock"}
BEFORE = {name: ["claimed", "started"] if name in CLAIMING else ["started"] for name in NAMES}
AFTER = {name: ["effect_begun", "effect_done", "returned", "received", "acked"] for name in NAMES}
AFTER["dedup_lock"].append("completed")
AFTER["inbox"].append("completed")


@pytest.fixture(scope="module")
def environment(home: Home, redis_url: str) -> Iterator[Failing]:
    made = Failing(home, redis_url)
    with made.worker:
        yield made
    made.query("DELETE FROM tasks_demo_records_parked")  # the home is shared


@pytest.mark.parametrize("pattern", NAMES)
def test_observer_that_fails_before_the_body_has_the_delivery_requeued(environment: Failing, pattern: str) -> None:
    jobs = {
        f"{point} {error}": environment.job(pattern, f"{point} {error}")
        for point in BEFORE[pattern]
        for error in ERRORS
    }
    results = {why: sent.get(timeout=30, propagate=False) for why, (_, sent) in jobs.items()}
    assert results == {why: {"number": 1} for why in jobs}
    assert {why: executions(folder) for why, (folder, _) in jobs.items()} == dict.fromkeys(jobs, 1)
    log = environment.worker.log.read_text(errors="replace")
    assert all((sent.id, log.count(f"[{sent.id}] received")) == (sent.id, 2) for _, sent in jobs.values())


@pytest.mark.parametrize("pattern", NAMES)
def test_observer_that_fails_after_the_start_fails_no_job_and_loses_none(environment: Failing, pattern: str) -> None:
    # A soft time limit raised during the body, even in an observer, belongs to the body.
    jobs = {
        f"{point} {error}": environment.job(pattern, f"{point} {error}")
        for point in AFTER[pattern] for error in ERRORS
        if (point.partition("_")[0], error) != ("effect", "SoftTimeLimitExceeded")
    }  # fmt: skip
    results = {why: sent.get(timeout=30, propagate=False) for why, (_, sent) in jobs.items()}
    assert results == {why: {"number": 1} for why in jobs}
    assert {why: executions(folder) for why, (folder, _) in jobs.items()} == dict.fromkeys(jobs, 1)
    until(environment.idle, "every job acknowledged")
    assert environment.worker.alive()


@pytest.mark.parametrize("pattern", NAMES)
@pytest.mark.parametrize("error", ["KeyError", "RecursionError", "MemoryError", "Unspeakable", "Ignore"])
def test_result_that_cannot_be_serialised_is_none_and_its_job_is_done(
    environment: Failing, pattern: str, error: str
) -> None:
    folder, sent = environment.job(pattern, result=error)
    assert (sent.get(timeout=30, propagate=False), sent.state) == (None, "SUCCESS")
    assert executions(folder) == 1
    log = environment.worker.log.read_text(errors="replace")
    assert "its result, a Hostile, cannot be encoded for the result backend" in log
    assert f"[{sent.id}]: the result backend did not store SUCCESS" not in log


@pytest.mark.parametrize("pattern", ["dedup_lock", "inbox"])
def test_operation_is_completed_after_a_result_that_cannot_be_stored(environment: Failing, pattern: str) -> None:
    folder, sent = environment.job(pattern, result="KeyError")
    sent.get(timeout=30, propagate=False)
    operation = folder.rpartition("/")[2].partition("-")[0]
    again = environment.send(f"failing.{pattern}", operation=operation, folder=folder, result="KeyError")
    assert again.get(timeout=30) is None
    environment.has(again.id, "suppressed")
    assert executions(folder) == 1


@pytest.mark.parametrize("pattern", NAMES)
def test_execution_without_its_result_store_a_job_is_run_once_and_acknowledged(
    environment: Failing, pattern: str
) -> None:
    folder, sent = environment.job(f"{pattern}.storeless")
    environment.has(sent.id, "returned", "acked")
    assert executions(folder) == 1
    log = environment.worker.log.read_text(errors="replace")
    assert f"[{sent.id}] raised" not in log
    assert f"[{sent.id}] succeeded" in log


def test_heartbeat_that_cannot_be_started_releases_the_lease_and_requeues(environment: Failing) -> None:
    folder, sent = environment.job("dedup_lock", "no threads")
    assert sent.get(timeout=20) == {"number": 1}
    environment.has(sent.id, "deferred", "completed")
    assert executions(folder) == 1
    assert "can't start new thread" in environment.worker.log.read_text(errors="replace")


def test_claim_that_cannot_be_undone_is_taken_over_by_the_copy_and_by_nobody_else(environment: Failing) -> None:
    operation = f"started OSError {uuid.uuid4().hex[:8]}"
    name = "durable_claim_kept"
    if environment.vendor == "sqlite":
        body = "BEGIN SELECT RAISE(ABORT, 'not today'); END"
        environment.query(f"CREATE TRIGGER {name} BEFORE DELETE ON tasks_demo_records_claim {body}")
    else:
        environment.query(
            f"CREATE FUNCTION {name}() RETURNS trigger AS $$ BEGIN RAISE 'not today'; END $$ LANGUAGE plpgsql"
        )
        environment.query(f"CREATE TRIGGER {name} BEFORE DELETE ON tasks_demo_records_claim EXECUTE FUNCTION {name}()")
    try:
        folder, sent = environment.job("claim_first", operation)
        assert sent.get(timeout=20) == {"number": 1}
        assert executions(folder) == 1
    finally:
        environment.query(
            f"DROP TRIGGER {name}" + ("" if environment.vendor == "sqlite" else " ON tasks_demo_records_claim")
        )
    assert "could not be deleted" in environment.worker.log.read_text(errors="replace")


def test_lease_whose_holder_was_killed_is_taken_over_as_soon_as_the_message_is_back(environment: Failing) -> None:
    folder, sent = environment.job("dedup_lock", gate=True)
    until(lambda: executions(folder) == 1, "the first execution")
    victim = int((Path(folder) / "ran").read_text())
    began = time.monotonic()
    environment.killed(victim)
    until(lambda: executions(folder) == 2, "the second execution", LEASE_SECONDS / 3)
    took = time.monotonic() - began
    (Path(folder) / "gate").unlink()
    assert sent.get(timeout=20) == {"number": 2}
    assert took < LEASE_SECONDS / 3, f"{took:.1f} s"


def test_lease_whose_holder_lives_is_waited_for(environment: Failing) -> None:
    folder, sent = environment.job("dedup_lock", gate=True)
    until(lambda: executions(folder) == 1, "the first execution")
    operation = folder.rpartition("/")[2].partition("-")[0]
    second = environment.send("failing.dedup_lock", operation=operation, folder=folder)
    environment.has(second.id, "deferred")
    os.kill(int((Path(folder) / "ran").read_text()), signal.SIGSTOP)
    until(lambda: environment.points(second.id).count("deferred") >= 2, "another deferral")
    assert executions(folder) == 1
    os.kill(int((Path(folder) / "ran").read_text()), signal.SIGCONT)
    (Path(folder) / "gate").unlink()
    assert sent.get(timeout=20) == second.get(timeout=20) == {"number": 1}


# -- suppressing a delivery changes no outcome ----------------------------------------------------------------------------------


def now(sent: AsyncResult[Any]) -> tuple[str, Any]:
    """State and result, without the client's cache."""
    app.backend._cache.clear()
    fresh: AsyncResult[Any] = AsyncResult(sent.id, app=app)
    return fresh.state, fresh.result


@pytest.mark.parametrize("pattern", ["dedup_lock", "inbox"])
def test_execution_copy_of_a_task_that_has_an_outcome_changes_nothing_and_starts_nothing(
    environment: Failing, pattern: str
) -> None:
    folder, first = environment.job(pattern)
    assert first.get(timeout=20) == {"number": 1}
    operation = folder.rpartition("/")[2].partition("-")[0]
    follow = app.tasks["once.follow"].s(folder=folder).set(queue=environment.worker.queue)
    for embed in {"chain": [follow]}, {"callbacks": [follow]}, {"errbacks": [follow]}:
        environment.send(f"failing.{pattern}", task_id=first.id, embed=embed, operation=operation, folder=folder)
    until(lambda: environment.points(first.id).count("suppressed") == 3, "all copies suppressed")
    failed = environment.send(f"failing.{pattern}", operation=operation, folder=folder, result="KeyError")
    failed.get(timeout=20, propagate=False)
    environment.send(f"failing.{pattern}", task_id=failed.id, operation=operation, folder=folder)
    environment.has(failed.id, "suppressed")
    until(environment.idle, "the ends of the copies")
    assert now(first) == ("SUCCESS", {"number": 1})
    assert (now(failed)[0], "already used" in str(now(failed)[1])) == ("FAILURE", True)
    assert not (Path(folder) / "followed").exists()
    assert executions(folder) == 1


@pytest.mark.parametrize("pattern", ["dedup_lock", "inbox"])
def test_execution_copy_of_a_task_killed_before_its_outcome_was_stored_stores_it(
    environment: Failing, pattern: str
) -> None:
    folder, first = environment.job(pattern)
    first.get(timeout=20)
    operation = folder.rpartition("/")[2].partition("-")[0]
    first.forget()  # as if the first had been killed after its marker
    follow = app.tasks["once.follow"].s(folder=folder).set(queue=environment.worker.queue)
    environment.send(
        f"failing.{pattern}", task_id=first.id, embed={"chain": [follow]}, operation=operation, folder=folder
    )
    until((Path(folder) / "followed").exists, "what follows")
    until(lambda: now(first) == ("SUCCESS", {"number": 1}), "its outcome")
    environment.has(first.id, "deferred", "suppressed")  # the first might have been about to store it
    assert executions(folder) == 1


@pytest.mark.parametrize("pattern", ["claim_first", "dedup_lock", "inbox"])
def test_mismatching_message_does_not_make_an_ended_task_a_failure(environment: Failing, pattern: str) -> None:
    folder, first = environment.job(pattern)
    assert first.get(timeout=20) == {"number": 1}
    operation = folder.rpartition("/")[2].partition("-")[0]
    environment.send(f"failing.{pattern}", task_id=first.id, operation=operation, folder=folder, result="KeyError")
    environment.has(first.id, "suppressed")
    until(environment.idle, "its end")
    assert now(first) == ("SUCCESS", {"number": 1})
    other = environment.send(f"failing.{pattern}", operation=operation, folder=folder, result="KeyError")
    assert "already used" in str(other.get(timeout=20, propagate=False))


def test_execution_logs_suppressed_and_held_jobs_with_task_id_and_operation(
    environment: Failing,
) -> None:
    # a task of its own: equal lines about one task are limited per minute, and the worker serves this file's other tests
    folder, first = environment.job("dedup_lock.logged", gate=True)
    until(lambda: executions(folder) == 1, "the execution")
    operation = folder.rpartition("/")[2].partition("-")[0]
    second = environment.send("failing.dedup_lock.logged", operation=operation, folder=folder)
    environment.has(second.id, "deferred")
    (Path(folder) / "gate").unlink()
    assert first.get(timeout=20) == second.get(timeout=20) == {"number": 1}
    about = f"failing.dedup_lock.logged[{second.id}], operation {operation!r}: "

    def said() -> list[str]:
        return [line for line in environment.worker.log.read_text().splitlines() if about in line]

    until(lambda: "the body was not run" in said()[-1], "the last line, which may follow the result")
    held, *_, suppressed = said()
    assert "requeued, to be delivered again in" in held
    assert "held by another worker" in held
    assert suppressed.endswith("the body was not run: its operation is completed: the stored result is its outcome")
    assert "INFO" in held
    assert "INFO" in suppressed


def test_requeue_after_a_kill_says_so_in_the_log_with_task_id_and_operation(environment: Failing) -> None:
    """Celery's own lines name neither: "Process ... exited with 'signal 9'", "Task handler raised error: WorkerLostError"."""
    folder, sent = environment.job("dedup_lock.logged", gate=True)
    until(lambda: executions(folder) == 1, "the execution")
    environment.killed(int((Path(folder) / "ran").read_text()))
    operation = folder.rpartition("/")[2].partition("-")[0]
    about = f"failing.dedup_lock.logged[{sent.id}], operation {operation!r}: requeued: the pool process that ran it has ended ("
    (line,) = until(
        lambda: [line for line in environment.worker.log.read_text().splitlines() if about in line],
        "the reason in the log",
    )
    assert "WARNING/MainProcess" in line
    assert "signal 9 (SIGKILL)" in line
    (Path(folder) / "gate").unlink()
    assert sent.get(timeout=20) == {"number": 2}


# -- the quarantine's count -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("around", ["InATransaction", "WithoutAutocommit"])
@pytest.mark.parametrize("pattern", sorted({*NAMES} - {"acks_early"}))
def test_inside_a_transaction_of_somebody_else_nothing_is_run_or_counted(
    environment: Failing, pattern: str, around: str
) -> None:
    folder, sent = environment.job(f"{pattern}.{around}")
    assert "A rollback would erase the row" in str(sent.get(timeout=20, propagate=False))
    until(environment.idle, "its acknowledgement")
    assert executions(folder) == 0


@pytest.mark.parametrize("pattern", ["acks_late", "outbox"])
def test_ended_copy_removes_only_its_own_attempt(environment: Failing, pattern: str) -> None:
    folder, first = environment.job(pattern, gate=True)
    until(lambda: executions(folder) == 1, "the first copy")
    operation = folder.rpartition("/")[2].partition("-")[0]
    slow = int((Path(folder) / "ran").read_text())
    environment.send(f"failing.{pattern}", task_id=first.id, operation=operation, folder=folder)
    until(lambda: executions(folder) == 2, "the second copy")
    assert environment.attempts(first.id)[0] == 2
    os.kill(slow, signal.SIGSTOP)
    try:
        (Path(folder) / "gate").unlink()
        until(lambda: environment.points(first.id).count("returned") == 1, "the end of the second copy")
        _, history = until(lambda: (row := environment.attempts(first.id))[0] == 1 and row, "its attempt taken back")
        assert f'"pid": {slow},' in history
    finally:
        os.kill(slow, signal.SIGCONT)
    until(lambda: environment.attempts(first.id) == (0, ""), "the other attempt taken back")


def test_execution_what_has_ended_leaves_no_attempt_of_a_process_that_died(environment: Failing) -> None:
    folder, sent = environment.job("acks_late", gate=True)
    until(lambda: executions(folder) == 1, "the first copy")
    environment.killed(int((Path(folder) / "ran").read_text()))
    until(lambda: executions(folder) == 2, "the second copy")
    assert environment.attempts(sent.id)[0] == 2
    (Path(folder) / "gate").unlink()
    assert sent.get(timeout=20) == {"number": 2}
    until(lambda: environment.attempts(sent.id) == (0, ""), "no attempt left")


# -- the hard time limit --------------------------------------------------------------------------------------------------------

#: On SQLite a hanging inbox job holds the write lock: the others would be killed before their bodies.
LATE = [pattern.pattern for pattern in PATTERNS if pattern.acks_late and pattern.pattern != "inbox"]


def test_execution_late_job_over_its_hard_limit_fails_once_and_is_acknowledged(
    environment: Failing,
) -> None:
    jobs = [environment.job(f"{pattern}.acknowledged", gate=True) for pattern in LATE]
    for folder, sent in jobs:
        assert "TimeLimitExceeded" in repr(sent.get(timeout=30, propagate=False))
        environment.has(sent.id, "failed", "acked")
        assert (executions(folder), environment.points(sent.id).count("failed")) == (1, 1)
    until(environment.idle, "every job acknowledged")


def test_execution_late_job_can_be_requeued_by_its_hard_limit_until_parked(
    environment: Failing,
) -> None:
    jobs = [environment.job(f"{pattern}.requeued", gate=True) for pattern in LATE]
    for folder, sent in jobs:
        environment.has(sent.id, "quarantined")
        # An attempt is counted before its body, and may be killed in between.
        assert 1 <= executions(folder) <= 2, folder
        assert environment.points(sent.id).count("failed") == 0
        assert "deferred" in environment.points(sent.id)
        assert now(sent)[0] == "PENDING"
        operation = folder.rpartition("/")[2].partition("-")[0]
        assert (
            f"[{sent.id}], operation {operation!r}: requeued: its hard time limit" in environment.worker.log.read_text()
        )
    until(environment.idle, "every job acknowledged")

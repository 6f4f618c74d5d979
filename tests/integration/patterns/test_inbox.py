"""inbox on real workers, on SQLite and PostgreSQL: one effect per operation, whatever is killed, delayed or sent twice.

Over 300 lines: one pattern on two databases, with the same tables.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
from celery import current_app
from celery.app.trace import build_tracer
from django.db import connections, router, transaction

from tasks_demo.core.databases import execute
from tasks_demo.core.exceptions import OtherDatabaseUsed, TransactionOpen
from tasks_demo.patterns import attempts, inbox, operation_records, transactions
from tasks_demo.records.models import Attempt, InboxEntry
from tests.integration.patterns.once_worker import Environment
from tests.support import until

DATABASES = pytest.mark.django_db(transaction=True, databases="__all__")


def test_inbox_second_caller_gets_the_stored_result_and_other_arguments_fail(environment: Environment) -> None:
    operation, job = environment.fresh()
    first = environment.send("once.book", **job)
    assert first.get(timeout=30) == {"number": 1}
    environment.has(first.id, "acked", "returned")
    mine = [point for point in environment.points(first.id) if point not in {"received", "acked"}]
    assert mine == ["started", "completed", "returned"]
    second = environment.send("once.book", **job)
    assert second.get(timeout=30) == {"number": 1}
    environment.has(second.id, "suppressed", "acked")
    assert "started" not in environment.points(second.id)
    third = environment.send("once.book", **job, wait="before")
    assert "already used by another task or with other arguments. Nothing was run" in str(
        third.get(timeout=30, propagate=False)
    )
    assert (len(environment.ran(operation)), environment.count("shop_booking", operation)) == (1, 1)
    assert environment.query("SELECT result FROM tasks_demo_records_inboxentry WHERE operation = %s", operation) == [
        ('{"number": 1}',)
    ]


def test_duplicate_of_a_running_job_waits_and_is_suppressed_with_its_result(environment: Environment) -> None:
    operation, job = environment.fresh(gate=True)
    sent = [environment.send("once.book", **job) for _ in range(2)]
    environment.running(operation)
    waits(environment)
    environment.open(operation)
    assert [one.get(timeout=30) for one in sent] == [{"number": 1}] * 2
    assert (len(environment.ran(operation)), environment.count("shop_booking", operation)) == (1, 1)


def test_inbox_runs_the_waiting_duplicate_if_the_first_rolls_back(environment: Environment) -> None:
    operation, job = environment.fresh(gate=True)
    sent = [environment.send("once.book", **job, first="error") for _ in range(2)]
    environment.running(operation)
    waits(environment)
    environment.open(operation)
    results = [one.get(timeout=30, propagate=False) for one in sent]
    assert sorted(map(str, results)) == ["error", "{'number': 2}"]
    assert (len(environment.ran(operation)), environment.count("shop_booking", operation)) == (2, 1)


def waits(environment: Environment) -> None:
    """Wait until the duplicate waits for the row. Only PostgreSQL shows that; on SQLite it may not have come that far."""
    if environment.vendor == "postgresql":
        text = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%records_inbox%'"
        until(lambda: environment.query(text), "the waiting INSERT")


def test_body_that_asks_for_a_retry_leaves_nothing_behind(environment: Environment) -> None:
    operation, job = environment.fresh()
    sent = environment.send("once.book", **job, first="retry")
    assert sent.get(timeout=30) == {"number": 2}
    environment.has(sent.id, "retried", "completed")
    assert (len(environment.ran(operation)), environment.count("shop_booking", operation)) == (2, 1)


@pytest.mark.parametrize("wait", ["before", "after"])
def test_pool_process_killed_on_either_side_of_the_effect_leaves_one_effect(
    environment: Environment, wait: str
) -> None:
    operation, job = environment.fresh(gate=True)
    sent = environment.send("once.book", **job, wait=wait)
    environment.killed(environment.running(operation))
    environment.running(operation, 2)
    environment.open(operation)
    assert sent.get(timeout=30) == {"number": 2}
    assert (len(environment.ran(operation)), environment.count("shop_booking", operation)) == (2, 1)


@pytest.mark.parametrize(
    ("how", "error", "left"),
    [
        ("other", "used the database 'bank', but its transaction is on '(default|shop)'", 0),
        ("other-swallowed", "as it should", 0),
        ("set_rollback", "is not the one it was given .it was marked for rollback", 0),
        ("close", "is not the one it was given", 0),
        ("rollback", "is not the one it was given", 0),
        ("commit", "what the body committed by hand stays", 1),
        ("driver", "what the body committed by hand stays", 1),
        ("statement", "nowhere", 0),
    ],
)
def test_body_that_leaves_its_transaction_fails(environment: Environment, how: str, error: str, left: int) -> None:
    operation, job = environment.fresh()
    sent = environment.send("once.misuse", **job, how=how)
    with pytest.raises(Exception, match=error):
        sent.get(timeout=30)
    environment.has(sent.id, "failed")
    assert "completed" not in environment.points(sent.id)
    assert environment.count("shop_booking", operation) == left
    assert environment.count("tasks_demo_records_inboxentry", operation) == left
    attempts = "SELECT count FROM tasks_demo_records_attempt WHERE task_id = %s"
    until(lambda: environment.query(attempts, sent.id) == [], "the attempt taken back")


def test_statement_that_takes_too_long_fails_and_is_not_requeued_forever(environment: Environment) -> None:
    if environment.vendor != "postgresql":
        pytest.skip("SQLite has no bound on a statement")
    operation, job = environment.fresh()
    sent = environment.send("once.misuse", **job, how="too slow")
    with pytest.raises(Exception, match="statement timeout"):
        sent.get(timeout=30)
    environment.has(sent.id, "failed", "acked")
    assert environment.count("shop_booking", operation) == 0


def test_inbox_result_that_is_too_large_is_not_stored_and_a_duplicate_gets_none(environment: Environment) -> None:
    operation, job = environment.fresh()
    assert environment.send("once.misuse", **job, how="large").get(timeout=30)
    assert environment.send("once.misuse", **job, how="large").get(timeout=30) is None
    assert environment.count("shop_booking", operation) == 1


def test_demo_job_writes_one_booking_and_announces_its_effect(environment: Environment) -> None:
    operation, _ = environment.fresh()
    job = {"customer": "c", "amount": 5, "operation": operation, "work_ms": 5}
    first = environment.send("tasks_demo.charge_inbox", **job)
    assert first.get(timeout=30)["amount"] == 5
    environment.has(first.id, "started", "effect_begun", "effect_done", "completed", "returned", "acked")
    assert environment.send("tasks_demo.charge_inbox", **job).get(timeout=30) == first.get()
    assert environment.query("SELECT task_id, amount FROM shop_booking WHERE operation = %s", operation) == [
        (first.id, 5)
    ]


def test_swallowed_database_error_is_not_lost(environment: Environment) -> None:
    """PostgreSQL aborts the transaction after the error; SQLite undoes only the statement."""
    operation, job = environment.fresh()
    sent = environment.send("once.misuse", **job, how="swallowed")
    answer = sent.get(timeout=30, propagate=False)
    assert (answer == "swallowed") is (environment.vendor == "sqlite")
    assert environment.count("shop_booking", operation) == environment.count("tasks_demo_records_inboxentry", operation)
    assert environment.count("shop_booking", operation) == (1 if environment.vendor == "sqlite" else 0)


@pytest.mark.parametrize(("table", "ledger"), [("tasks_demo_event", True), ("tasks_demo_records_inboxentry", False)])
def test_inbox_without_its_ledger_or_its_entries_no_body_runs_and_nothing_is_lost(
    environment: Environment, table: str, ledger: bool
) -> None:
    operation, job = environment.fresh()
    with environment.away(table, ledger=ledger):
        sent = environment.send("once.book", **job)
        environment.returned_to_the_queue(sent.id)
        assert (environment.ran(operation), environment.count("shop_booking", operation)) == ([], 0)
    assert sent.get(timeout=30) == {"number": 1}
    assert environment.count("shop_booking", operation) == 1


def test_inbox_has_one_effect_for_each_operation_when_the_database_is_killed(
    environment: Environment,
) -> None:
    if environment.postgres is None:
        pytest.skip("no server of its own to be killed; the test runs on the other environment")
    jobs = [environment.fresh(gate=True) for _ in range(5)]
    sent = [environment.send("once.book", **job) for _, job in jobs]
    until(
        lambda: sum(len(environment.ran(operation)) for operation, _ in jobs) == 2,
        "two bodies inside their transactions",
    )
    environment.postgres.kill()
    for operation, _ in jobs:
        environment.open(operation)
    for one in sent[:2]:
        environment.returned_to_the_queue(one.id)
    environment.postgres.start()
    for (operation, _), one in zip(jobs, sent, strict=True):
        assert one.get(timeout=30) == {"number": len(environment.ran(operation))}
        assert (
            environment.count("shop_booking", operation)
            == environment.count("tasks_demo_records_inboxentry", operation)
            == 1
        )
    assert sum(len(environment.ran(operation)) for operation, _ in jobs) >= 7


def test_inbox_requeues_a_duplicate_that_cannot_wait(
    environment: Environment,
) -> None:
    """REPEATABLE READ: the winner's row is not in the duplicate's snapshot, and PostgreSQL reports a serialisation failure."""
    if environment.vendor == "sqlite":
        pytest.skip("SQLite's transactions are serial; the test runs on the other environment")
    operation, job = environment.fresh(gate=True)
    sent = [environment.send("once.book_repeatable_read", **job) for _ in range(2)]
    environment.running(operation)
    waits(environment)
    environment.open(operation)
    assert [one.get(timeout=30) for one in sent] == [{"number": 1}] * 2
    assert (len(environment.ran(operation)), environment.count("shop_booking", operation)) == (1, 1)
    text = "SELECT detail::text FROM tasks_demo_event WHERE kind = 'deferred' AND operation = %s"
    until(
        lambda: any(
            "could not serialize access" in why and "nothing need be done" in why
            for (why,) in environment.query(text, operation)
        ),
        "the reason in the ledger, which nobody waits for",
    )


# -- without a worker ----------------------------------------------------------------------------------------------------


def entry(operation: str, **fields: object) -> InboxEntry:
    return InboxEntry(
        **{"operation": operation, "task_id": "t", "digest": "d", "completed_at": datetime.now(UTC), **fields}
    )


@DATABASES
@pytest.mark.parametrize("mode", ["IMMEDIATE", None, "DEFERRED"])
def test_inbox_first_statement_takes_sqlite_s_write_lock_whatever_the_transaction_mode(
    mode: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    alias = router.db_for_write(InboxEntry)
    if connections[alias].vendor != "sqlite":
        pytest.skip("PostgreSQL waits for the row")
    InboxEntry.objects.all().delete()
    both, answers = threading.Barrier(2, timeout=20), []

    def deliver(name: str) -> None:
        connection = connections[alias]  # each thread has its own connection
        connection.close()
        connection.settings_dict = {**connection.settings_dict}
        connection.settings_dict["OPTIONS"] = {**connection.settings_dict["OPTIONS"], "transaction_mode": mode}
        try:
            both.wait()
            with transaction.atomic(using=alias, durable=True):
                there = operation_records.find_or_insert(entry("same", task_id=name), alias)
                InboxEntry.objects.using(alias).filter(pk="same").update(result=f"{there and there.task_id}")
                answers.append((name, there and there.task_id))
        finally:
            connection.close()

    threads = [threading.Thread(target=deliver, args=[name]) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    winner = InboxEntry.objects.get(pk="same").task_id
    assert sorted(answers, key=lambda answer: answer[0] != winner) == [
        (winner, None),
        (({"a", "b"} - {winner}).pop(), winner),
    ]


@DATABASES
def test_attempt_is_taken_back_with_the_effect_and_postgresql_is_asked_four_times(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from tests.integration.patterns.once_tasks import book

    alias, said = router.db_for_write(InboxEntry), []

    def spy(alias: str, statement: str, parameters: Sequence[object]) -> tuple[int, list[object]]:
        said.append(statement.split()[0] + ("" if connections[alias].in_atomic_block else " alone"))
        return execute(alias, statement, parameters)

    for module in (attempts, inbox, operation_records):
        monkeypatch.setattr(module, "execute", spy)
    monkeypatch.setattr(book, "run_body", lambda **_: {"number": 1})
    request = {
        "id": "round-trips",
        "hostname": "w@t",
        "delivery_info": {},
        "headers": {},
        "is_eager": False,
        "retries": 0,
    }
    done = build_tracer(book.name, book, app=current_app)(
        "round-trips", (), {"operation": "round-trips", "folder": ""}, request
    )
    assert (done.retval, done.info) == ({"number": 1}, None)
    on_sqlite = ["INSERT alone", "INSERT", "SAVEPOINT", "RELEASE", "UPDATE", "DELETE"]
    on_postgresql = ["INSERT alone", "SELECT alone", "INSERT", "WITH"]
    assert said == (on_sqlite if connections[alias].vendor == "sqlite" else on_postgresql)
    assert InboxEntry.objects.get(pk="round-trips").result == '{"number": 1}'
    assert not Attempt.objects.filter(task_id="round-trips").exists()


@DATABASES
def test_inside_an_open_transaction_it_is_refused() -> None:
    from tests.integration.patterns.once_tasks import book

    alias = router.db_for_write(InboxEntry)
    transactions.outside_transactions(book, alias)
    with transaction.atomic(using=alias), pytest.raises(TransactionOpen, match="A rollback would erase the row"):
        transactions.outside_transactions(book, alias)


@DATABASES
def test_guard_names_both_databases_and_ends_with_the_body() -> None:
    alias = router.db_for_write(InboxEntry)
    with inbox.only_database(alias):
        with connections[alias].cursor() as cursor:
            cursor.execute("SELECT 1")
        with pytest.raises(OtherDatabaseUsed, match=f"'bank', but its transaction is on '{alias}'"):
            connections["bank"].cursor().execute("SELECT 1")
    connections["bank"].cursor().execute("SELECT 1")


@DATABASES
def test_prune_deletes_what_is_older_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    InboxEntry.objects.all().delete()
    now = datetime.now(UTC)
    InboxEntry.objects.bulk_create([entry(f"old-{n}", completed_at=now - timedelta(days=8)) for n in range(5)])
    InboxEntry.objects.bulk_create([entry("edge", completed_at=now - timedelta(days=7)), entry("new")])
    monkeypatch.setattr(operation_records, "BATCH", 2)
    assert inbox.prune(now - timedelta(days=7)) == 5
    assert set(InboxEntry.objects.values_list("pk", flat=True)) == {"edge", "new"}
    assert inbox.prune(now - timedelta(days=7), using=router.db_for_write(InboxEntry)) == 0

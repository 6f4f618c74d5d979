"""The relay and its reconciler in this process, on a real broker that fails in every way. Processes: test_relay_processes.

Over 300 lines: every failure of a broker, seen by one relay on the same table.
"""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import kombu
import pytest
from django.core.management import CommandError, call_command
from django.db.models import F
from django.utils import timezone

from tasks_demo.demo.tasks import CHARGES
from tasks_demo.leases.process import this_process
from tasks_demo.outbox import enqueue, publisher
from tasks_demo.outbox.publisher import Answers
from tasks_demo.outbox.relay import Relay, _back_off
from tasks_demo.outbox.table import overdue
from tasks_demo.records.models import OutboxMessage, Parked
from tests.integration.outbox.outbox_table import copies, messages, relay_to, row
from tests.integration.servers.rabbitmq import RabbitServer, queue_name
from tests.integration.servers.redis import RedisServer, full, read_only
from tests.support import until

JOB = "celery.accumulate"


# -- in this process ---------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("table")
def test_reconciler_republishes_a_popped_and_dropped_message_under_its_id_and_doubles_the_wait(
    broker: RedisServer, settings: Any
) -> None:
    """Reproduces the fetch window by hand: a worker that dies between BRPOP and its record of the message leaves this state."""
    settings.TASKS_DEMO_OUTBOX_UNSTARTED_SECONDS = 1.0
    task_id = enqueue(JOB, [1])
    relay = relay_to(broker.url)
    assert relay.run_once().published == 1
    for wait in (timedelta(seconds=1), timedelta(seconds=1), timedelta(seconds=2)):
        with broker.client() as client:
            assert client.rpop("celery") is not None
        before = row(task_id).due_at
        result = published(relay)
        assert (result.published, result.republished) == (1, 1)
        assert copies(broker.url) == Counter({task_id: 1})
        found = row(task_id)
        assert found.published_at is not None
        assert found.published_at >= before, "it was too early to call it lost"
        # The wait counts from the moment of the claim, which was between the two.
        assert before + wait <= found.due_at <= found.published_at + wait
    assert row(task_id).publications == 4


def published(relay: Relay) -> Any:
    results: list[Any] = []

    def one() -> bool:
        results.append(relay.run_once())
        return bool(results[-1].taken)

    until(one, "a message that is due")
    return results[-1]


def after_publishing(relay: Relay, happens: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run this after the relay has published a batch and before it marks it."""
    publish = relay._publisher.publish

    def published(rows: Sequence[OutboxMessage]) -> Answers:
        answers = publish(rows)
        happens()
        return answers

    monkeypatch.setattr(relay._publisher, "publish", published)


def begun(task_id: str, by: str) -> None:
    """Leave the row as a worker that has claimed it does, with its first check due."""
    at = F("published_at")
    OutboxMessage.objects.filter(task_id=task_id).update(
        started_at=at, seen_at=at, due_at=at, started_by=by, generation=0
    )


@pytest.mark.usefixtures("table")
def test_reconciler_republishes_what_a_dead_worker_began_and_leaves_what_has_ended(
    broker: RedisServer, settings: Any
) -> None:
    alive, dead, silent, ended = (enqueue(JOB, [1]) for _ in range(4))
    relay = relay_to(broker.url)
    assert relay.run_once().published == 4
    settings.TASKS_DEMO_OUTBOX_UNSTARTED_SECONDS = 0.5
    here = this_process("w@t")
    begun(alive, str(here))
    begun(dead, str(replace(here, start="1")))  # another process has this pid now
    begun(silent, str(replace(here, where="another machine")))
    OutboxMessage.objects.filter(task_id=ended).update(finished_at=F("published_at"), due_at=F("published_at"))
    until(lambda: relay.run_once().held >= 3, "a look at all of them")
    assert copies(broker.url) == Counter((alive, dead, silent, ended)), "what its broker holds comes again by itself"
    broker.client().flushall()
    until(lambda: relay.run_once().published, "the second publication")
    assert copies(broker.url) == Counter((dead,))
    OutboxMessage.objects.filter(task_id=silent).update(seen_at=F("published_at") - timedelta(seconds=61))
    until(lambda: relay.run_once().published, "the publication of what a worker elsewhere is silent about")
    assert copies(broker.url) == Counter((dead, silent))


@pytest.mark.usefixtures("table")
def test_reconciler_never_takes_a_queued_or_held_message_for_lost(broker: RedisServer, settings: Any) -> None:
    queued, fetched, popped = enqueue(JOB, [1], task_id="job-1"), enqueue(JOB, [2]), enqueue(JOB, [3], priority=6)
    side, overtaken = enqueue(JOB, [4], queue="side"), enqueue(JOB, [5], task_id="job-10")
    relay = relay_to(broker.url)
    assert relay.run_once().published == 5
    places = ("celery at priority 0", "celery at priority 6", "side at priority 0")
    assert tuple(row(task_id).queue for task_id in (queued, popped, side)) == places
    with broker.client() as client:
        for raw in client.lrange("celery", 0, -1):
            if f'"{fetched}"'.encode() in raw:  # kombu's record of a message that a worker holds
                client.hset("unacked", "tag", json.dumps([json.loads(raw), "", "celery"]))
            if f'"{queued}"'.encode() not in raw:
                client.lrem("celery", 1, raw)
        client.delete("celery\x06\x166", "side")
    OutboxMessage.objects.update(due_at=F("published_at"))
    result = relay.run_once()
    assert (result.taken, result.published, result.republished, result.held) == (5, 3, 3, 2)
    found = copies(broker.url) + copies(broker.url, "side") + copies(broker.url, "celery\x06\x166")
    assert found == Counter((popped, side, overtaken, queued))
    settings.TASKS_DEMO_OUTBOX_LOST_SECONDS = 0.01  # Redis reports that it has them: then age proves nothing
    OutboxMessage.objects.filter(task_id__in=(queued, popped)).update(due_at=F("published_at"))
    assert relay.run_once().published == 0


def put_in_quarantine(task_id: str, *states: str, task: str = JOB, using: str | None = None) -> None:
    """Leave a row for each of these states, as the quarantine does, the latest last."""
    for state in states:
        Parked.objects.using(using).create(
            task_id=task_id, task=task, message="", attempts=3, reason="x", state=state, parked_at=timezone.now()
        )


@pytest.mark.usefixtures("table")
def test_reconciler_leaves_what_quarantine_holds_and_ends_what_its_latest_decision_discarded(
    broker: RedisServer,
) -> None:
    parked, discarded, requeued = (enqueue(JOB, [1]) for _ in range(3))
    relay = relay_to(broker.url)
    assert relay.run_once().published == 3
    put_in_quarantine(parked, "parked")
    put_in_quarantine(discarded, "requeued", "discarded")
    put_in_quarantine(requeued, "discarded", "requeued")
    OutboxMessage.objects.update(due_at=F("published_at"))
    broker.client().flushall()
    result = relay.run_once()
    assert (result.taken, result.published, result.held) == (3, 1, 2)
    assert copies(broker.url) == Counter({requeued: 1})
    assert row(discarded).error == "discarded from quarantine"
    assert [row(task_id).finished_at is None for task_id in (parked, discarded, requeued)] == [True, False, True]


WITH_PATTERN = CHARGES["outbox"]
CHARGE = {"customer": "c", "amount": 5}


def test_reconciler_asks_for_parked_messages_where_the_task_has_its_tables(
    broker: RedisServer, elsewhere: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(WITH_PATTERN, "using", elsewhere)
    sent = {state: enqueue(WITH_PATTERN, kwargs=CHARGE) for state in ("parked", "discarded", "requeued")}
    OutboxMessage.objects.update(publications=1, published_at=F("created_at"))
    for state, task_id in sent.items():
        put_in_quarantine(task_id, state, task=WITH_PATTERN.name, using=elsewhere)
    plain = enqueue(JOB, [1])
    result = relay_to(broker.url).run_once()
    assert (result.taken, result.published, result.held) == (4, 2, 2)
    assert copies(broker.url) == Counter((sent["requeued"], plain))
    assert row(sent["discarded"]).error == "discarded from quarantine"


@pytest.mark.parametrize("alias", ["bank", "nowhere"])
def test_reconciler_goes_on_if_one_database_does_not_say_what_is_parked(
    table: str, broker: RedisServer, alias: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(WITH_PATTERN, "using", alias)  # without these tables, or not an alias
    again = enqueue(WITH_PATTERN, kwargs=CHARGE)
    plain = enqueue(JOB, [1])
    OutboxMessage.objects.update(publications=1, published_at=F("created_at"))
    new = enqueue(WITH_PATTERN, kwargs=CHARGE)
    result = relay_to(broker.url).run_once()
    assert (result.taken, result.published, result.held, result.trouble) == (3, 2, 1, "")
    assert copies(broker.url) == Counter((plain, new))
    assert f"the quarantine on {alias!r} could not be read" in caplog.text
    assert row(again).finished_at is None


@pytest.mark.usefixtures("table")
def test_relay_ends_an_expired_message_without_publishing_it(broker: RedisServer) -> None:
    task_id = enqueue(JOB, [1], expires=0)
    result = relay_to(broker.url).run_once()
    assert (result.taken, result.published, result.held) == (1, 0, 1)
    assert (row(task_id).error, messages(broker.url)) == ("expired", [])
    assert row(task_id).finished_at is not None


@pytest.mark.usefixtures("table")
def test_relay_without_the_reconciler_publishes_nothing_on_suspicion(broker: RedisServer) -> None:
    task_id = enqueue(JOB, [1])
    assert relay_to(broker.url, reconcile=False).run_once().published == 1
    found = row(task_id)
    assert found.finished_at == found.published_at, "nobody else says that it has ended: it would be overdue for ever"
    OutboxMessage.objects.update(due_at=F("published_at") - timedelta(hours=1))
    assert overdue() == 0
    assert relay_to(broker.url).run_once().taken == 0
    assert copies(broker.url) == Counter({task_id: 1})


@pytest.mark.usefixtures("table")
def test_relay_without_the_reconciler_ends_what_was_published_when_it_is_due_again(broker: RedisServer) -> None:
    before, expired, new = enqueue(JOB, [1]), enqueue(JOB, [2], expires=3600), enqueue(JOB, [3], countdown=3600)
    assert relay_to(broker.url).run_once().published == 2
    relay = relay_to(broker.url, reconcile=False)
    assert relay.run_once().taken == 0, "another relay may still wait for its workers"
    OutboxMessage.objects.update(due_at=F("created_at") - timedelta(hours=1))
    OutboxMessage.objects.filter(task_id=expired).update(options={"expires": 0})
    result = relay.run_once()
    assert (result.taken, result.published, result.held) == (3, 1, 2)
    assert overdue() == 0
    assert [row(task_id).finished_at is None for task_id in (before, expired, new)] == [False] * 3
    assert copies(broker.url) == Counter((before, expired, new))


@pytest.mark.usefixtures("table")
def test_relay_without_the_reconciler_keeps_the_reason_of_an_end(
    broker: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    task_id = enqueue(JOB, [1])
    relay = relay_to(broker.url, reconcile=False)

    def revoked() -> None:
        OutboxMessage.objects.update(finished_at=F("created_at"), error="revoked")

    after_publishing(relay, revoked, monkeypatch)
    assert relay.run_once().published == 1
    found = row(task_id)
    assert (found.finished_at, found.error, found.publications) == (found.created_at, "revoked", 1)


@pytest.mark.usefixtures("table")
def test_relay_postpones_a_refused_message_alone(broker: RedisServer) -> None:
    with broker.client() as client:
        client.set("broken", "a queue's key that is no list")
    serializer, key = enqueue(JOB, [1]), enqueue(JOB, [2], queue="broken")
    OutboxMessage.objects.filter(task_id=serializer).update(options={"serializer": "nonsense"})
    good = [enqueue(JOB, [number]) for number in range(3)]
    result = relay_to(broker.url).run_once()
    assert (result.taken, result.published, result.refused, result.trouble) == (5, 3, 2, "")
    assert copies(broker.url) == Counter(good)
    for task_id, said in ((serializer, "nonsense"), (key, "WRONGTYPE")):
        bad = row(task_id)
        assert (bad.failures, bad.publications, bad.published_at) == (1, 0, None)
        assert said in bad.error
        assert bad.due_at > bad.created_at
    with broker.client() as client:
        client.delete("broken")
    OutboxMessage.objects.filter(task_id=key).update(due_at=F("created_at"))
    assert relay_to(broker.url).run_once().published == 1
    assert (row(key).failures, row(key).error) == (0, ""), "a hand-over clears what was said before"


@pytest.mark.usefixtures("table")
@pytest.mark.parametrize("refusing", [read_only, full])
def test_relay_stops_the_batch_at_a_broker_that_refuses_writes_and_loses_nothing(
    broker: RedisServer, refusing: Callable[[Any], AbstractContextManager[None]]
) -> None:
    sent = [enqueue(JOB, [number]) for number in range(10)]
    relay = relay_to(broker.url)
    with broker.client() as client, refusing(client):
        result = relay.run_once()
    assert (result.taken, result.published, result.refused) == (10, 0, 3)
    assert "3 messages in a row were refused" in result.trouble
    until(lambda: relay.run_once().taken == 0 and not unpublished(), "every publication")
    assert copies(broker.url) == Counter(sent)


def unpublished() -> int:
    return OutboxMessage.objects.filter(published_at=None).count()


@pytest.mark.usefixtures("table")
def test_relay_stops_the_batch_at_a_broker_that_is_gone_and_releases_the_rest(broker: RedisServer) -> None:
    sent = [enqueue(JOB, [number]) for number in range(10)]
    broker.kill()
    relay = relay_to(broker.url)
    result = relay.run_once()
    assert (result.taken, result.published, result.refused) == (10, 0, 1)
    assert "the broker does not answer" in result.trouble
    assert sorted(OutboxMessage.objects.values_list("failures", flat=True)) == [0] * 9 + [1]
    broker.start()
    until(lambda: relay.run_once().taken == 0 and not unpublished(), "every publication")
    assert copies(broker.url) == Counter(sent)


@pytest.mark.usefixtures("table")
def test_relay_gives_up_a_broker_that_hangs_within_the_bound(
    broker: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher, "BROKER_SECONDS", 0.3)
    task_id = enqueue(JOB, [1])
    os.kill(broker.pid, signal.SIGSTOP)
    try:
        result = relay_to(broker.url).run_once()
    finally:
        os.kill(broker.pid, signal.SIGCONT)
    assert "the broker does not answer" in result.trouble
    assert (row(task_id).failures, row(task_id).published_at) == (1, None)


def test_relay_back_off_doubles_with_jitter_up_to_a_bound(settings: Any) -> None:
    settings.TASKS_DEMO_DEFER_MAX_SECONDS = 30.0
    waits = [_back_off(times) for times in (1, 2, 3, 7, 50, 10**6)]
    for wait, base in zip(waits, (0.5, 1, 2, 30, 30, 30), strict=True):
        assert base <= wait <= base * 1.25
    assert len({_back_off(1) for _ in range(10)}) > 1


@pytest.mark.usefixtures("table")
def test_relay_lease_that_expires_releases_the_rest(
    broker: RedisServer, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.TASKS_DEMO_OUTBOX_UNSTARTED_SECONDS = 2.0
    sent = [enqueue(JOB, [number]) for number in range(3)]
    clock = [0.0]

    def slow() -> None:
        clock[0] += 1.5

    relay = relay_to(broker.url)
    monkeypatch.setattr("tasks_demo.outbox.relay.AT_ONCE", 1)
    after_publishing(relay, slow, monkeypatch)
    monkeypatch.setattr("tasks_demo.outbox.relay.time.monotonic", lambda: clock[0])
    result = relay.run_once()
    assert (result.taken, result.published) == (3, 1)
    monkeypatch.undo()
    assert relay_to(broker.url).run_once().published == 2
    assert copies(broker.url) == Counter(sent)


@pytest.mark.usefixtures("table")
def test_relay_prunes_what_finished_before_the_retention(broker: RedisServer, settings: Any) -> None:
    settings.TASKS_DEMO_RETENTION_SECONDS = 3600.0
    kept, old = enqueue(JOB, [1]), enqueue(JOB, [2])
    OutboxMessage.objects.filter(task_id=kept).update(finished_at=timezone.now())
    OutboxMessage.objects.filter(task_id=old).update(finished_at=timezone.now() - timedelta(hours=2))
    relay = relay_to(broker.url)
    relay._prune_now_and_then()
    assert set(OutboxMessage.objects.values_list("task_id", flat=True)) == {kept}
    OutboxMessage.objects.update(finished_at=timezone.now() - timedelta(hours=2))
    relay._prune_now_and_then()
    assert OutboxMessage.objects.count() == 1, "it has looked a moment ago"


@pytest.mark.usefixtures("table")
def test_relay_age_of_the_first_due_message_is_reported(broker: RedisServer) -> None:
    assert overdue() == 0
    enqueue(JOB, [1], countdown=3600)
    assert overdue() == 0
    OutboxMessage.objects.update(due_at=F("created_at") - timedelta(seconds=90))
    assert 90 <= overdue() < 120
    call_command("relay", "--check", "3600")
    with pytest.raises(CommandError, match=r"has been due for \d+ s\. Nothing is lost") as caught:
        call_command("relay", "--check", "60")
    assert caught.value.returncode == 1


# -- RabbitMQ ------------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("table")
def test_relay_on_rabbitmq_marks_what_is_confirmed_and_refuses_what_has_no_queue(rabbitmq: RabbitServer) -> None:
    with queue_name(rabbitmq) as name, kombu.Connection(rabbitmq.url) as connection:
        channel: Any = connection.default_channel
        exchange = f"{name}_x"
        channel.exchange_declare(exchange, "topic", durable=False, auto_delete=False)
        nowhere = enqueue(JOB, [1], exchange=exchange, routing_key="nowhere")
        sent = [enqueue(JOB, [number], queue=name) for number in range(5)]
        relay = relay_to(rabbitmq.url)
        result = relay.run_once()
        assert (result.published, result.refused, result.trouble) == (5, 1, "")
        relay.close()
        assert "NO_ROUTE" in row(nowhere).error
        assert row(nowhere).published_at is None
        got = [channel.basic_get(name, no_ack=True).headers["id"] for _ in range(5)]
        assert got == sent

"""The outbox: what it commits with the business data, what it refuses at once, and what the worker reports back."""

from __future__ import annotations

import base64
import json
import pickle
import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from datetime import time as dtime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from celery import Celery, current_app
from celery.app.task import Context
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.db import connections, transaction
from django.db.models import Model
from django.test import Client
from django.utils import timezone
from django.utils.translation import gettext_lazy
from kombu.utils.json import loads

from tasks_demo.core.exceptions import ContradictoryDeclaration, OutboxRefused
from tasks_demo.demo.shop.models import Order
from tasks_demo.demo.tasks import CHARGES
from tasks_demo.leases.protocol import digest
from tasks_demo.leases.redis_client import connect
from tasks_demo.ledger.models import Event
from tasks_demo.outbox import completion, enqueue
from tasks_demo.outbox.relay import Relay
from tasks_demo.outbox.reporting import HEADER
from tasks_demo.outbox.table import prune
from tasks_demo.records.models import Attempt, Claim, Fence, InboxEntry, OutboxMessage, Parked
from tests.integration.outbox.outbox_ground import elsewhere, environment, messages, relay_to, row, table
from tests.integration.servers.redis import RedisServer
from tests.support import PROJECT, STATE, Home, Worker, producer_on, queued, until

__all__ = ["elsewhere", "table"]
pytestmark = pytest.mark.usefixtures("table")

JOB = {"customer": "c", "amount": 5}
charge = CHARGES["outbox"]


@pytest.fixture
def queue(short: Path) -> Iterator[RedisServer]:
    """A separate broker; no worker consumes from it."""
    with RedisServer(short) as server:
        yield server


def count() -> int:
    return OutboxMessage.objects.count()


# -- with the business data ------------------------------------------------------------------------------------------------


def test_a_commit_is_one_row_and_one_message_under_the_same_id(table: str, queue: RedisServer) -> None:
    with transaction.atomic(using=table):
        task_id = enqueue(charge, kwargs=JOB)
        Order.objects.using(table).create(task_id=task_id, customer="c", amount=5)
    relay = relay_to(queue.url)
    assert (relay.run_once().published, relay.run_once().taken) == (1, 0)
    (message,) = messages(queue.url)
    assert (message["headers"]["id"], message["headers"]["task"]) == (task_id, "tasks_demo.charge_outbox")
    assert message["content"][:2] == [[], JOB]
    found = row(task_id)
    assert (found.publications, found.failures, found.error) == (1, 0, "")
    assert found.created_at <= (found.published_at or found.created_at) < found.due_at


def test_a_rollback_takes_the_message_with_it(table: str, queue: RedisServer) -> None:
    def order() -> None:
        with transaction.atomic(using=table):
            enqueue(charge, kwargs=JOB)
            assert count() == 1
            raise RuntimeError("the customer changed her mind")

    with pytest.raises(RuntimeError):
        order()
    assert count() == 0
    assert relay_to(queue.url).run_once().taken == 0
    assert messages(queue.url) == []


def test_outside_a_transaction_it_is_durable_by_itself() -> None:
    assert row(enqueue("tasks_demo.charge_outbox", kwargs=JOB)).call(current_app)[1] == JOB


def test_a_relay_inside_a_transaction_refuses_to_publish_what_may_be_rolled_back(
    table: str, queue: RedisServer
) -> None:
    with transaction.atomic(using=table):
        enqueue(charge, kwargs=JOB)
        with pytest.raises(RuntimeError, match="durable"):
            relay_to(queue.url).run_once()
    assert messages(queue.url) == []


def test_a_transaction_on_another_database_only_is_the_classic_mistake(table: str) -> None:
    other = "bank"
    with transaction.atomic(using=other):
        with pytest.raises(OutboxRefused, match=f"open on '{other}', but the outbox is in '{table}'.*independent=True"):
            enqueue(charge, kwargs=JOB)
        assert count() == 0
        enqueue(charge, kwargs=JOB, independent=True)
        with transaction.atomic(using=table):
            enqueue(charge, kwargs=JOB)
    assert count() == 2


def test_a_task_id_is_taken_once_and_the_transaction_lives_on(table: str) -> None:
    with transaction.atomic(using=table):
        assert enqueue(charge, kwargs=JOB, task_id="order-17") == "order-17"
        with pytest.raises(OutboxRefused, match=r"order-17 is in the outbox already.*the first message stands"):
            enqueue(charge, kwargs={**JOB, "amount": 6}, task_id="order-17")
        enqueue(charge, kwargs=JOB)
    assert count() == 2
    assert row("order-17").call(current_app)[1] == JOB


def test_options_reach_the_broker_as_given_to_apply_async(queue: RedisServer) -> None:
    when = datetime.now(UTC) + timedelta(hours=1)
    task_id = enqueue(
        "somewhere.else", (1, [None, True, 1.5, "☃"]), {"a": {"b": ()}},
        queue="side", priority=6, headers={"mine": 1}, expires=when, ignore_result=True,
        time_limit=7, soft_time_limit=3.5, shadow="name", compression="zlib", external=True,
    )  # fmt: skip
    assert relay_to(queue.url).run_once().published == 1
    with connect(queue.url, 5.0) as client:
        (key,) = client.keys("side*")
    assert key.endswith(b"6"), "kombu keeps a list per priority"
    assert row(task_id).queue == "side at priority 6"
    (message,) = messages(queue.url, key.decode())
    headers = message["headers"]
    wanted = {
        "id": task_id, "task": "somewhere.else", "mine": 1, HEADER: Relay().using, "ignore_result": True,
        "timelimit": [7, 3.5], "shadow": "name", "compression": "application/x-gzip", "eta": None, "retries": 0,
    }  # fmt: skip
    assert {name: headers[name] for name in wanted} == wanted
    assert datetime.fromisoformat(headers["expires"]) == when


NUMBERS = [1e16, -0.0, 1.0, 1e300, 5e-324, 0.1, 2**70, -1, True]


def test_arguments_arrive_as_a_direct_message_brings_them_so_that_both_are_one_operation(queue: RedisServer) -> None:
    enqueue("somewhere.else", NUMBERS, {"deep": [{"b": 1e22, "a": -0.0}]}, queue="kept", external=True)
    assert relay_to(queue.url).run_once().published == 1
    with producer_on(queue.url) as producer:
        direct: Any = {"args": NUMBERS, "kwargs": {"deep": [{"b": 1e22, "a": -0.0}]}, "queue": "direct"}
        current_app.send_task("somewhere.else", producer=producer, ignore_result=True, **direct)
    (kept,), (sent,) = messages(queue.url, "kept"), messages(queue.url, "direct")
    assert repr(kept["content"][:2]) == repr(sent["content"][:2])
    assert digest("t", *kept["content"][:2]) == digest("t", *sent["content"][:2])


def test_a_countdown_is_waited_for_in_the_outbox(queue: RedisServer) -> None:
    task_id = enqueue(charge, kwargs=JOB, countdown=5)
    relay = relay_to(queue.url)
    assert relay.run_once().taken == 0
    until(lambda: relay.run_once().published, "the publication")
    found = row(task_id)
    assert found.published_at is not None
    assert 5 <= (found.published_at - found.created_at).total_seconds() < 15
    (message,) = messages(queue.url)
    assert message["headers"]["eta"] is None


def test_an_eta_is_the_moment_it_is_due_and_one_that_has_passed_is_now(queue: RedisServer) -> None:
    tomorrow = timezone.now() + timedelta(days=1)
    assert row(enqueue(charge, kwargs=JOB, eta=tomorrow)).due_at == tomorrow
    enqueue(charge, kwargs=JOB, eta=timezone.now() - timedelta(days=1))
    assert relay_to(queue.url).run_once().taken == 1


# -- refused at once --------------------------------------------------------------------------------------------------------


def _of_another_app() -> Any:
    """A task that our app does not know. Its app is in no module: the checks would judge it with the project's own."""

    def stranger() -> None: ...

    return Celery("never", set_as_current=False).task(name="never.registered", shared=False)(stranger)


stranger = _of_another_app()


REFUSED: list[tuple[Any, Any, Any, dict[str, Any], str]] = [
    (None, (), {}, {}, "None is neither a task nor the name of one"),
    (len, (), {}, {}, "neither a task nor the name"),
    (charge.s(**JOB), (), {}, {}, "pass a signature's task, args and kwargs separately"),
    (stranger, (), {}, {}, "'never.registered' is not registered"),
    ("", (), {}, {}, "must have 1 to 255 characters"),
    ("x" * 256, (), {}, {}, "must have 1 to 255 characters"),
    ("a", "text", {}, {}, "must be a list or tuple and a dict"),
    ("a", 5, {}, {}, "must be a list or tuple and a dict"),
    ("a", (), [1], {}, "must be a list or tuple and a dict"),
    (charge, (), {}, {}, "the arguments do not fit tasks_demo.charge_outbox"),
    (charge, (), {**JOB, "surprise": 1}, {}, "surprise"),
    ("a", (len,), {}, {}, "the serializer 'json' cannot carry its arguments .*pass text|Pass text"),
    ("a", (), {"when": timedelta(1)}, {}, "cannot carry its arguments .*timedelta"),
    ("a", ([{"x": {1, 2}}],), {}, {}, "cannot carry its arguments"),
    ("a", ({(1, 2): 3},), {}, {}, "cannot carry its arguments"),
    ("a", ({"__type__": "unheard of", "__value__": 1},), {}, {}, "cannot carry its arguments .*Unsupported type"),
    ("a", ({1, 2},), {}, {"serializer": "pickle"}, "the serializer 'pickle' writes: it is not in accept_content"),
    ("a", (), {}, {"surprise": 1}, "the option 'surprise' cannot be kept; known are queue"),
    ("a", (), {}, {"link": "b"}, "the option 'link' cannot be kept"),
    ("a", (), {}, {"queue": 5}, "queue=5 is not str"),
    ("a", (), {}, {"priority": "high"}, "priority='high' is not int"),
    ("a", (), {}, {"priority": True}, "priority=True is not int"),
    ("a", (), {}, {"headers": {"x": uuid.UUID(int=1)}}, r"headers\['x'\] is UUID"),
    ("a", (), {}, {"serializer": "nonsense"}, "the serializer 'nonsense' is not installed"),
    ("a", (), {}, {"compression": "nonsense"}, "the compression 'nonsense' is not installed"),
    ("a", (), {}, {"headers": {"x": "nul\0"}}, "a NUL or half a surrogate pair"),
    ("a", (), {}, {"headers": {"x": float("nan")}}, r"headers\['x'\] is nan"),
    ("a", (), {}, {"headers": {1: 2}}, "the key 1, and JSON has text keys only"),
    ("a", (), {}, {"countdown": -1}, "not between 0 seconds and a year"),
    ("a", (), {}, {"countdown": float("nan")}, "not between 0 seconds and a year"),
    ("a", (), {}, {"countdown": 1e300}, "not between 0 seconds and a year"),
    ("a", (), {}, {"countdown": "soon"}, "countdown='soon' is not int or float"),
    ("a", (), {}, {"eta": 5}, "eta=5 is not datetime"),
    ("a", (), {}, {"eta": datetime(2026, 1, 1)}, "has no time zone"),  # noqa: DTZ001
    ("a", (), {}, {"countdown": 1, "eta": datetime(2026, 1, 1, tzinfo=UTC)}, "exclude each other"),
    ("a", (), {}, {"task_id": ""}, "1 to 255 printable characters"),
    ("a", (), {}, {"task_id": "two\nlines"}, "1 to 255 printable characters"),
]


@pytest.mark.parametrize(("task", "args", "kwargs", "options", "why"), REFUSED, ids=lambda value: ascii(value)[:40])
def test_what_could_not_be_published_later_is_refused_now(
    task: Any, args: Any, kwargs: Any, options: dict[str, Any], why: str
) -> None:
    with pytest.raises(OutboxRefused, match=why) as caught:
        enqueue(task, args, kwargs, external=True, **options)
    assert "Nothing was written to the outbox" in str(caught.value)
    assert count() == 0


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"expires": 60}, "dropped without having run"),
        ({"acks_late": False}, "acknowledged early"),
        ({"max_retries": 3}, "has no effect when a job is published"),
        ({"quue": "side"}, "Did you mean 'queue'"),
        ({"time_limit": 2}, "soft_time_limit=60 is not below time_limit=2"),
        ({"soft_time_limit": 100, "time_limit": 100}, "soft_time_limit=100 is not below time_limit=100"),
        ({"time_limit": "2"}, "Write seconds"),
    ],
)
def test_what_publishing_it_would_refuse_is_refused_in_the_transaction_with_the_same_words(
    options: dict[str, Any], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(charge, "soft_time_limit", 60)
    said = []
    for publish_it in (
        lambda: charge.apply_async(kwargs=JOB, **options),
        lambda: enqueue(charge, kwargs=JOB, **options),
    ):
        with pytest.raises(ContradictoryDeclaration, match=why) as refused:
            publish_it()
        said.append(str(refused.value))
    assert said[0] == said[1]
    assert count() == 0


def test_limits_with_which_celery_publishes_nothing_are_refused_in_the_transaction(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain: Any = current_app.tasks["celery.accumulate"]
    monkeypatch.setattr(plain, "soft_time_limit", 60)
    monkeypatch.setattr(plain, "time_limit", 2)
    with pytest.raises(ValueError, match="soft_time_limit"):
        plain.apply_async()
    with pytest.raises(OutboxRefused, match=r"soft_time_limit=60 above time_limit=2.*Nothing was written"):
        enqueue(plain)


CARRIED: list[Any] = [
    uuid.UUID(int=7), Decimal("1.50"), datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2), date(2026, 1, 2),  # noqa: DTZ001
    dtime(3, 4), b"text", b"\xff\x00", gettext_lazy("yes"), (1, (2,)), {1: 2, None: 3}, float("nan"), float("inf"),
    "nul\0 and half \ud800", {"__type__": "uuid", "__value__": {"hex": "0" * 32}}, Parked.State.PARKED,
]  # fmt: skip


def test_what_the_serializer_carries_arrives_as_a_direct_message_brings_it(queue: RedisServer) -> None:
    enqueue("somewhere.else", CARRIED, {"when": CARRIED}, queue="kept", external=True)
    assert relay_to(queue.url).run_once().published == 1
    with producer_on(queue.url) as producer:
        options: Any = {"producer": producer, "ignore_result": True, "queue": "direct"}
        current_app.send_task("somewhere.else", CARRIED, {"when": CARRIED}, **options)
    (kept,), (sent,) = messages(queue.url, "kept"), messages(queue.url, "direct")
    assert kept["body"] == sent["body"]
    arrived = loads(base64.b64decode(kept["body"]))
    assert digest("t", *arrived[:2]) == digest("t", CARRIED, {"when": CARRIED})


@contextmanager
def accepting(*names: str) -> Iterator[None]:
    conf = current_app.conf
    before = conf.accept_content
    conf.accept_content = list(names)
    try:
        yield
    finally:
        conf.accept_content = before


def test_a_serializer_of_bytes_carries_what_it_can(queue: RedisServer) -> None:
    with accepting("json", "pickle"):
        task_id = enqueue("somewhere.else", [{1, 2}], {}, serializer="pickle", external=True)
        assert row(task_id).content_encoding == "binary"
        assert relay_to(queue.url).run_once().published == 1
    with connect(queue.url, 5.0) as client:
        (message,) = (json.loads(raw) for raw in client.lrange("celery", 0, -1))
    assert message["content-type"] == "application/x-python-serialize"
    assert pickle.loads(base64.b64decode(message["body"]))[0] == [{1, 2}]  # noqa: S301  (our own)


def test_what_a_relay_may_not_read_any_more_waits_and_holds_up_nobody(queue: RedisServer) -> None:
    with accepting("json", "pickle"):
        enqueue("somewhere.else", serializer="pickle", external=True, task_id="unreadable")
    enqueue("somewhere.else", external=True, task_id="readable")
    assert relay_to(queue.url).run_once().published == 1
    assert "ContentDisallowed" in row("unreadable").error
    assert row("readable").error == ""


# -- what the worker reports -------------------------------------------------------------------------------------------------


class OutboxWorker(Worker):
    """A worker that also has the jobs of ``outbox_tasks``."""

    def start(self) -> None:
        from tasks_demo.demo.stack.processes import spawn

        command = [sys.executable, "-m", "celery", "-A", "project", "worker"]
        command += ["--include", "tests.integration.outbox.outbox_tasks"]
        command += [f"--concurrency={self._concurrency}", "--loglevel=INFO", "--without-mingle", "--without-gossip"]
        name = f"--hostname=w{uuid.uuid4().hex[:6]}@t"
        self._process = spawn([*command, name], log=self.log, env=self._env, cwd=PROJECT)
        until(lambda: self.ready() or not self.alive(), "the worker's readiness", 60)
        assert self.alive(), self.log.read_text(errors="replace")[-3000:]


@pytest.fixture(scope="module")
def worker(home: Home, redis_url: str, django_db_setup: None) -> Iterator[Worker]:
    """A worker on the broker of the settings; its bank is not running."""
    env = environment(redis_url, BANK_URL="http://127.0.0.1:1", TASKS_DEMO_OUTBOX_LEASE_SECONDS="50")
    with OutboxWorker(home, STATE / "outbox-worker.log", env) as running:
        yield running


def publish(task: Any, *args: Any, **options: Any) -> str:
    task_id = enqueue(task, args, external=True, **options)
    assert Relay().run_once().published == 1
    return task_id


def ended(task_id: str) -> OutboxMessage:
    until(lambda: row(task_id).finished_at, "the end of the message")
    return row(task_id)


def test_any_task_that_succeeds_is_marked_begun_and_ended(worker: Worker) -> None:
    found = ended(publish("celery.accumulate", 1, 2))
    assert found.published_at is not None
    assert found.started_at is not None
    assert found.finished_at is not None
    assert found.created_at <= found.started_at <= found.finished_at
    # Begun: the next check is due after the maximum time to wait for an end, counted from the start.
    assert found.due_at - found.started_at == timedelta(seconds=50)


def test_a_failure_is_an_end(worker: Worker) -> None:
    found = ended(publish(CHARGES["acks_early"], kwargs=JOB))
    assert (found.publications, found.error) == (1, "")
    assert current_app.AsyncResult(found.task_id).get(timeout=10, propagate=False) is not None


@pytest.mark.parametrize("task", ["ignored", "replaced"])
def test_a_job_that_its_body_has_celery_ignore_does_not_come_again(worker: Worker, task: str) -> None:
    found = ended(publish(f"outbox_tasks.{task}"))
    assert (found.publications, found.error) == (1, "")


def test_a_job_that_is_deferred_has_not_ended(worker: Worker) -> None:
    found = ended(publish("outbox_tasks.later"))
    first, second = (
        Event.objects.filter(task_id=found.task_id, kind="started").order_by("id").values_list("at", flat=True)
    )
    assert found.finished_at is not None
    assert first < second < found.finished_at


# Celery counts the hard limit from the soft one on.
LIMITS = {"soft_time_limit": 2, "time_limit": 2.5}


@pytest.mark.parametrize("task", ["early", "late"])
def test_a_hard_time_limit_is_an_end_although_its_process_cannot_report_it(worker: Worker, task: str) -> None:
    found = ended(publish(f"outbox_tasks.{task}", **LIMITS))
    assert (found.publications, found.error) == (1, "")
    assert found.started_at is not None
    until(lambda: current_app.AsyncResult(found.task_id).state == "FAILURE", "the result")


def test_a_hard_time_limit_after_which_the_message_goes_back_is_no_end(worker: Worker) -> None:
    task_id = publish("outbox_tasks.back", **LIMITS)
    until(lambda: row(task_id).started_at, "the first start")
    first = row(task_id).started_at
    # Started again: Celery has sent its last signal of the first start, and the message was redelivered.
    until(lambda: row(task_id).started_at != first, "the start of what came back")
    assert row(task_id).finished_at is None
    current_app.control.revoke(task_id, terminate=True, signal="SIGKILL", reply=True, limit=1, timeout=5)
    assert ended(task_id).error == "revoked"


def test_a_mark_that_does_not_come_back_does_not_hold_up_the_event_loop(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    opened, marked = threading.Event(), threading.Event()

    def hanging(*_: Any, **values: Any) -> None:
        opened.wait(60)
        marked.set()

    monkeypatch.setattr(completion, "_report", hanging)
    monkeypatch.setattr(completion, "MAIN_SECONDS", 0.1)
    completion._revoked(request=Context(id="job-17", headers={HEADER: "nowhere"}))
    assert not marked.is_set(), "it has waited for the mark"
    assert "has not answered for 0.1 s: job-17 may be published again" in caplog.text
    opened.set()
    assert marked.wait(30)


def test_a_retry_is_not_an_end_and_its_copy_still_reports(worker: Worker) -> None:
    task_id = publish(charge, kwargs=JOB)
    until(lambda: row(task_id).started_at, "the first start")
    first = row(task_id).started_at
    until(lambda: row(task_id).started_at != first, "the start of the copy that the retry has published")
    assert row(task_id).finished_at is None
    current_app.control.revoke(task_id, reply=True, limit=1, timeout=5)
    assert ended(task_id).error == "revoked"


def test_what_somebody_revoked_is_not_brought_back(worker: Worker) -> None:
    task_id = enqueue("celery.accumulate", [1])
    current_app.control.revoke(task_id, reply=True, limit=1, timeout=5)
    Relay().run_once()
    found = ended(task_id)
    assert (found.error, found.started_at) == ("revoked", None)


def test_a_message_that_came_another_way_marks_nothing(worker: Worker) -> None:
    task_id = enqueue("celery.accumulate", [1], countdown=3600)
    assert current_app.send_task("celery.accumulate", [1], task_id=task_id).get(timeout=30) == [1]
    assert (row(task_id).started_at, row(task_id).finished_at) == (None, None)


def test_an_outbox_that_the_worker_does_not_know_is_said_and_the_job_is_done(worker: Worker) -> None:
    sent = current_app.send_task("celery.accumulate", [2], headers={HEADER: "nowhere"})
    assert sent.get(timeout=30) == [2]
    until(lambda: f"{sent.id} could not be marked" in worker.log.read_text(), "the warning")


def test_a_mark_that_fails_changes_nothing_and_the_message_comes_again(
    worker: Worker, table: str, settings: Any
) -> None:
    settings.TASKS_DEMO_OUTBOX_UNSTARTED_SECONDS = 1.0
    task_id = enqueue("celery.accumulate", [3])
    rows, _ = Relay()._table.take(1)
    with connections[table].cursor() as cursor:
        cursor.execute("ALTER TABLE tasks_demo_records_outboxmessage RENAME TO outbox_away")
        try:
            relay = Relay()
            relay._publisher.publish(rows[0])
            assert current_app.AsyncResult(task_id).get(timeout=30) == [3]
            until(lambda: worker.log.read_text().count(f"{task_id} could not be marked") == 2, "both warnings")
        finally:
            cursor.execute("ALTER TABLE outbox_away RENAME TO tasks_demo_records_outboxmessage")
    assert row(task_id).started_at is None
    until(lambda: Relay().run_once().published, "its publication")
    assert ended(task_id).error == ""
    assert "It runs all the same, and may be published again" in worker.log.read_text()


def test_a_worker_s_broker_is_empty_afterwards(worker: Worker, redis_url: str) -> None:
    until(lambda: queued(redis_url) == 0, "an empty queue")
    assert worker.alive()


# -- commands -----------------------------------------------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True, databases="__all__")
def test_the_admin_shows_it_and_changes_nothing(client: Client) -> None:
    client.force_login(User.objects.create_superuser("root-of-outbox"))
    task_id = enqueue(charge, kwargs=JOB)
    list_of_all = "/admin/tasks_demo_records/outboxmessage/"
    for query in ("", "?state=open", f"?q={task_id[:8]}"):
        page = client.get(list_of_all + query)
        assert page.status_code == 200
        assert task_id in page.content.decode()
    assert task_id not in client.get(list_of_all + "?state=ended").content.decode()
    assert client.get(f"{list_of_all}{row(task_id).id}/change/").status_code == 200
    assert client.get(f"{list_of_all}add/").status_code == 403
    assert client.post(f"{list_of_all}{row(task_id).id}/change/", {"task": "x"}).status_code == 403
    assert client.post(f"{list_of_all}{row(task_id).id}/delete/", {"post": "yes"}).status_code == 403
    assert row(task_id).task == charge.name


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
def test_the_prune_command_removes_what_is_older_than_the_retention_of_every_kind(
    table: str, settings: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    settings.TASKS_DEMO_RETENTION_SECONDS = 3600.0
    old_and_young(table)
    call_command("prune")
    assert f"Removed {ONE_OF_EACH} from before" in capsys.readouterr().out
    assert left(table) == YOUNG


@pytest.mark.usefixtures("no_task_elsewhere")
@pytest.mark.parametrize("named", [False, True])
def test_the_prune_command_looks_where_a_task_says_that_it_writes_and_where_it_is_told(
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
def test_the_prune_command_says_in_a_sentence_that_a_database_cannot_be_pruned(
    alias: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CHARGES["inbox"], "using", alias)  # without these tables, or not an alias
    with pytest.raises(CommandError, match=r"stopped answering \(.*\)\. Removed until then: nothing\.") as caught:
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

"""What enqueue refuses at once because it could not be published later, and what it accepts."""

from __future__ import annotations

import base64
import json
import pickle
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from datetime import time as dtime
from decimal import Decimal
from typing import Any

import pytest
from celery import Celery, current_app
from django.utils.translation import gettext_lazy
from kombu.utils.json import loads

from tasks_demo.core.digest import digest
from tasks_demo.core.exceptions import ContradictoryDeclaration, OutboxRefused
from tasks_demo.leases.redis_client import connect
from tasks_demo.outbox import enqueue
from tasks_demo.records.models import Parked
from tests.integration.outbox.outbox_table import JOB, charge, count, messages, relay_to, row
from tests.integration.servers.redis import RedisServer
from tests.support import producer_on

pytestmark = pytest.mark.usefixtures("table")


def _of_another_app() -> Any:
    """A task that our app does not know. Its app is in no module: the checks would judge it with the project's own."""

    def bookshop() -> None: ...

    return Celery("never", set_as_current=False).task(name="never.registered", shared=False)(bookshop)


bookshop = _of_another_app()


REFUSED: list[tuple[Any, Any, Any, dict[str, Any], str]] = [
    (None, (), {}, {}, "None is neither a task nor the name of one"),
    (len, (), {}, {}, "neither a task nor the name"),
    (charge.s(**JOB), (), {}, {}, "pass a signature's task, args and kwargs separately"),
    (bookshop, (), {}, {}, "'never.registered' is not registered"),
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
def test_validation_refuses_what_could_not_be_published_later(
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
def test_validation_refuses_in_the_transaction_what_publishing_would_refuse_with_the_same_words(
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


def test_validation_refuses_limits_with_which_celery_publishes_nothing(
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
    1e16, -0.0, 1.0, 1e300, 5e-324, 0.1, 2**70, -1, True, {"b": 1e22, "a": -0.0},
]  # fmt: skip


def test_validation_accepts_what_the_serializer_carries_and_it_arrives_as_a_direct_message_brings_it(
    broker: RedisServer,
) -> None:
    enqueue("somewhere.else", CARRIED, {"when": CARRIED}, queue="kept", external=True)
    assert relay_to(broker.url).run_once().published == 1
    with producer_on(broker.url) as producer:
        options: Any = {"producer": producer, "ignore_result": True, "queue": "direct"}
        current_app.send_task("somewhere.else", CARRIED, {"when": CARRIED}, **options)
    (kept,), (sent,) = messages(broker.url, "kept"), messages(broker.url, "direct")
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


def test_validation_accepts_what_a_serializer_of_bytes_carries(broker: RedisServer) -> None:
    with accepting("json", "pickle"):
        task_id = enqueue("somewhere.else", [{1, 2}], {}, serializer="pickle", external=True)
        assert row(task_id).content_encoding == "binary"
        assert relay_to(broker.url).run_once().published == 1
    with connect(broker.url, 5.0) as client:
        (message,) = (json.loads(raw) for raw in client.lrange("celery", 0, -1))
    assert message["content-type"] == "application/x-python-serialize"
    assert pickle.loads(base64.b64decode(message["body"]))[0] == [{1, 2}]  # noqa: S301  (our own)


def test_relay_lets_wait_what_it_may_not_read_and_delays_nobody(broker: RedisServer) -> None:
    with accepting("json", "pickle"):
        enqueue("somewhere.else", serializer="pickle", external=True, task_id="unreadable")
    enqueue("somewhere.else", external=True, task_id="readable")
    assert relay_to(broker.url).run_once().published == 1
    assert "ContentDisallowed" in row("unreadable").error
    assert row("readable").error == ""

"""The screen Publish: which tasks, which arguments, once or twice, by whom, and what is kept."""

from __future__ import annotations

import html
import json
import re
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from celery import current_app
from django.contrib.admin.models import LogEntry
from django.db import connections
from django.test import Client

from tasks_demo.leases.redis_client import connect
from tasks_demo.ledger.recorder import recorder
from tasks_demo.records.models import OutboxMessage
from tests.integration.dashboard.pages import somebody, text
from tests.support import together

pytestmark = pytest.mark.usefixtures("records")

PAGE = "/admin/tasks_demo/tally/publish/"
LATE, OUTBOX = "tasks_demo.charge_acks_late", "tasks_demo.charge_outbox"
ARGUMENTS = {"customer": "c1", "amount": 5}


@pytest.fixture
def queue(redis_url: str) -> Iterator[Any]:
    """What waits in the default queue, which nobody consumes here: the headers and arguments of each message."""

    def waiting() -> list[tuple[dict[str, Any], Any]]:
        with connect(redis_url, 5.0) as client:
            found = [json.loads(each) for each in client.lrange(name, 0, -1)]
        return [(each["headers"], each) for each in found]

    name = current_app.conf.task_default_queue
    with connect(redis_url, 5.0) as client:
        client.delete(name)
        yield waiting
        client.delete(name)


@pytest.fixture
def publisher(client: Client) -> Client:
    return somebody(client, "publisher", "view_tally", "publish_job")


def form(task: str = LATE, arguments: Any = ARGUMENTS, **fields: str) -> dict[str, str]:
    typed = arguments if isinstance(arguments, str) else json.dumps(arguments)
    return {"task": task, "arguments": typed, "token": uuid.uuid4().hex, **fields}


def test_job_is_published_and_its_task_id_linked(publisher: Client, queue: Any) -> None:
    assert LATE in text(publisher.get(PAGE))
    assert "&quot;customer-1&quot;" in publisher.get(f"{PAGE}?task={LATE}").text, "a template that the bank accepts"
    assert (queue(), LogEntry.objects.count()) == ([], 0)
    answer = publisher.post(PAGE, form(operation="charge:17"))
    assert answer.status_code == 302
    ((headers, _),) = queue()
    assert headers["task"] == LATE
    assert headers["tasks_demo_operation"].endswith(":charge:17")
    recorder.try_flush()
    seen = publisher.get(answer.headers["Location"]).content.decode()
    (address,) = re.findall(r'<li><a href="([^"]+)"><code>[0-9a-f-]{36}', seen)
    assert headers["id"] in address
    assert "charge:17" in text(publisher.get(address))
    entry = LogEntry.objects.get()
    assert (entry.user.get_username(), entry.object_repr) == ("publisher", f"Publish {LATE} once")
    assert headers["id"] in entry.get_change_message()


def test_send_twice_publishes_two_jobs_of_one_operation(publisher: Client, queue: Any) -> None:
    publisher.post(PAGE, form(twice="on"))
    (one, _), (two, _) = queue()
    assert one["id"] != two["id"]
    assert one["tasks_demo_operation"] == two["tasks_demo_operation"]
    assert ":by-hand:" in one["tasks_demo_operation"]


def test_publish_page_publishes_once_if_a_form_is_sent_twice(publisher: Client, queue: Any) -> None:
    sent = form()
    first, second = publisher.post(PAGE, sent), publisher.post(PAGE, sent)
    assert first.headers["Location"] == second.headers["Location"]
    assert len(queue()) == 1
    assert "sent before" in text(publisher.get(second.headers["Location"]))
    assert LogEntry.objects.count() == 1


def test_publish_page_publishes_once_if_a_form_is_sent_twice_at_a_time(publisher: Client, queue: Any) -> None:
    sent = form()

    def post() -> int:
        client = Client()
        client.cookies = publisher.cookies
        try:
            return client.post(PAGE, sent).status_code
        finally:
            connections.close_all()

    assert together([post] * 4) == [302] * 4
    assert (len(queue()), LogEntry.objects.count()) == (1, 1)


def test_job_of_an_outbox_task_goes_into_the_outbox(publisher: Client, queue: Any) -> None:
    answer = publisher.post(PAGE, form(OUTBOX, twice="on"))
    assert answer.status_code == 302
    rows = OutboxMessage.objects.all()
    assert {row.task for row in rows} == {OUTBOX}
    assert len({row.options["headers"]["tasks_demo_operation"] for row in rows}) == 1
    assert (len(rows), queue()) == (2, [])


WRONG: dict[str, tuple[Any, str]] = {
    "no json": ("{", "are not JSON: Expecting property name enclosed in double quotes at line 1, column 2"),
    "nan": ('{"customer": "c", "amount": NaN}', "JSON has no NaN"),
    "too large a number": ('{"customer": "c", "amount": 1e999}', "a number is too large"),
    "deep": ("[" * 30_000, "not valid JSON"),
    "a number": ("17", "must be a JSON object"),
    "nul": ({"customer": "a\0b", "amount": 1}, "a text contains NUL"),
    "half": ('{"customer": "\\ud800", "amount": 1}', "lone surrogate"),
    "missing": ({"customer": "c"}, "missing"),
    "unknown": ({"customer": "c", "amount": 1, "colour": "red"}, "unexpected keyword argument"),
    "too many": (["c", 1, 2, "k", 5, 6], "positional arguments"),
    "type": ({"customer": "c", "amount": "five"}, "amount must be a whole number, not text"),
    "bool": ({"customer": "c", "amount": True}, "amount must be a whole number, not true or false"),
    "null": ({"customer": None, "amount": 1}, "customer must be text, not null"),
    "large": ({"customer": "c" * 70_000, "amount": 1}, "and at most 65,536"),
}


@pytest.mark.parametrize(("arguments", "said"), WRONG.values(), ids=WRONG)
def test_publish_page_refuses_wrong_arguments_and_says_what_to_write(
    publisher: Client, queue: Any, arguments: Any, said: str
) -> None:
    answer = publisher.post(PAGE, form(arguments=arguments))
    assert answer.status_code == 400
    (error,) = re.findall(r'<p class="errornote" role="alert">(.*?)</p>', answer.content.decode(), re.DOTALL)
    assert said in error.replace("&#x27;", "'").replace("&quot;", '"')
    assert "Nothing was published" in error
    assert (queue(), LogEntry.objects.count()) == ([], 0)


@pytest.mark.parametrize("operation", ["k" * 201, "a\nb", "a\0"])
def test_publish_page_refuses_an_invalid_operation_key(publisher: Client, queue: Any, operation: str) -> None:
    answer = publisher.post(PAGE, form(operation=operation))
    assert answer.status_code == 400
    assert "An operation key must be" in answer.content.decode() or "operation" in answer.content.decode()
    assert queue() == []


def test_publish_page_keeps_what_was_typed_and_shows_it_as_text(publisher: Client) -> None:
    hostile = '{"<script>alert(1)</script>": "</textarea><b>"'
    seen = publisher.post(PAGE, form(arguments=hostile)).content.decode()
    assert "<script>alert" not in seen
    assert "&lt;/textarea&gt;&lt;b&gt;" in seen


@pytest.mark.parametrize("task", ["celery.backend_cleanup", "no.such.task", "", "<b>"])
def test_publish_page_offers_only_tasks_that_the_project_allows(publisher: Client, queue: Any, task: str) -> None:
    assert publisher.post(PAGE, form(task)).status_code == 400
    assert publisher.get(PAGE, {"task": task}).status_code == 200
    assert queue() == []


def test_publish_page_is_absent_without_the_setting(publisher: Client, settings: Any) -> None:
    for value in ([], 17):
        settings.TASKS_DEMO_PUBLISHABLE = value
        assert publisher.get(PAGE).status_code == 404
        assert publisher.post(PAGE, form()).status_code == 404
        assert ">Publish<" not in publisher.get("/admin/tasks_demo/tally/").content.decode()


def test_publish_page_lets_a_viewer_publish_nothing(client: Client, queue: Any) -> None:
    viewer = somebody(client, "viewer", "view_tally")
    assert viewer.get(PAGE).status_code == 403
    assert viewer.post(PAGE, form()).status_code == 403
    assert ">Publish<" not in viewer.get("/admin/tasks_demo/tally/").content.decode()
    assert (queue(), LogEntry.objects.count()) == ([], 0)


def test_publish_page_says_that_the_broker_is_down(publisher: Client, queue: Any) -> None:
    app = current_app._get_current_object()
    app.conf.broker_write_url = "redis+socket:///nobody/listens/here.sock"
    try:
        answer = publisher.post(PAGE, form())
    finally:
        app.conf.broker_write_url = app.conf.broker_url
    assert answer.status_code == 400
    assert "The broker did not accept the job" in text_of(answer)
    assert "Failed" in LogEntry.objects.get().get_change_message()


def test_job_that_no_queue_takes_is_refused(publisher: Client, queue: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    task = current_app.tasks[LATE]
    monkeypatch.setattr(task, "exchange", "nobody", raising=False)
    monkeypatch.setattr(task, "routing_key", "nowhere", raising=False)
    monkeypatch.setattr(task, "_exec_options", None)  # Celery reads the two once
    answer = publisher.post(PAGE, form())
    assert answer.status_code == 400
    assert "No queue is bound to exchange 'nobody' with routing key 'nowhere'" in html.unescape(text_of(answer))
    assert "Nothing was published" in text_of(answer)
    assert queue() == []


def text_of(answer: Any) -> str:
    return re.sub(r"<[^>]+>", " ", answer.content.decode())

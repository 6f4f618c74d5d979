"""A project with USE_TZ=False and its own time zone: every pattern runs, and every time is the project's local time."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.bookshop import Bookshop, opened
from tests.support import until

TASKS = ("charge", "book", "mail_receipt", "index", "count_view", "plain", "plain_late")
#: Every model of ours with a time that the run below writes.
MOMENTS = """
from datetime import datetime, timedelta
from django.db.models import DateTimeField
from tasks_demo.ledger.models import Event, Tally
from tasks_demo.records.models import Claim, InboxEntry, OutboxMessage
def off():
    found = {}
    for model in (Event, Tally, Claim, InboxEntry, OutboxMessage):
        rows = list(model.objects.all())
        for field in model._meta.fields:
            if isinstance(field, DateTimeField) and field.name != 'due_at':
                moments = [getattr(row, field.name) for row in rows if getattr(row, field.name)]
                aware = [one for one in moments if one.tzinfo]
                late = [str(one) for one in moments if not one.tzinfo and abs(datetime.now() - one) > timedelta(minutes=30)]
                found[f'{model.__name__}.{field.name}'] = [len(moments) > 0, len(aware), late]
    return found
"""


@pytest.fixture(scope="module")
def local() -> Iterator[Bookshop]:
    """The project without time zones, in a zone with summer time, after all its tasks have run."""
    with opened(settings={"USE_TZ": False, "TIME_ZONE": "America/New_York"}) as project:
        with project.worker() as worker, project.running("relay"):
            sent = project.python(
                "from datetime import datetime, timedelta\n"
                "from tasks_demo.outbox import enqueue\n"
                f"for name in {TASKS!r}:\n"
                "    getattr(tasks, name).delay(order_id=name)\n"
                "tasks.fail.delay('x')\n"
                "soon = datetime.now() + timedelta(seconds=2)\n"
                "enqueue(tasks.ship, kwargs={'order_id': 'ship'}, eta=soon)\n"
                "enqueue(tasks.ship, kwargs={'order_id': 'ship'}, countdown=1)\n"
                "from zoneinfo import ZoneInfo\n"
                "enqueue(tasks.ship, kwargs={'order_id': 'ship'}, eta=datetime.now(ZoneInfo('Asia/Tokyo')))\n"
                "far = datetime.now() + timedelta(hours=1)\n"
                "enqueue(tasks.ship, kwargs={'order_id': 'never'}, task_id='far', eta=far)\n"
                "gone = datetime.now() - timedelta(seconds=1)\n"
                "enqueue(tasks.plain, args=['expired'], task_id='expired', expires=gone)\n"
                "enqueue(tasks.plain, args=['in time'], task_id='in time', expires=far)\n"
                "enqueue(tasks.plain, args=['in time'], task_id='in time too', expires=600)\n"
            )
            assert sent.code == 0, sent.err
            # Seven tasks, three shipments and two that expire later; then the one that had already expired.
            until(
                lambda: project.value(
                    "[Payment.objects.count(), OutboxMessage.objects.get(task_id='expired').error, "
                    "Event.objects.filter(kind='returned').count()]", before=MOMENTS
                ) == [12, "expired", 12],
                f"twelve payments and an end; the worker said {worker.said[-3000:]}", 60,
            )  # fmt: skip
        yield project


def test_clock_without_use_tz_stores_local_moments_without_a_zone(local: Bookshop) -> None:
    found = local.value("off()", before=MOMENTS)
    assert {name: seen for name, seen in found.items() if seen != [True, 0, []]} == {}


def test_clock_without_use_tz_delays_jobs_until_they_are_due(local: Bookshop) -> None:
    waiting = local.value(
        "[m.publications, 1800 < (m.due_at - datetime.now()).total_seconds() < 3600, overdue()]",
        before=MOMENTS + "from tasks_demo.outbox.table import overdue\nm = OutboxMessage.objects.get(task_id='far')",
    )
    assert waiting == [0, True, 0.0]


@pytest.mark.parametrize(
    "command",
    [["verify_ledger"], ["prune"], ["check", "--tag", "celery"], ["quarantine", "list"], ["doctor"]],
    ids=lambda command: command[0],
)
def test_clock_without_use_tz_is_understood_by_every_command(local: Bookshop, command: list[str]) -> None:
    done = local.manage(*command)
    assert "Traceback" not in done.err, done.err
    assert done.code in ({0, 1, 4} if command == ["doctor"] else {0}), done.err + done.out


def test_doctor_says_when_a_message_was_parked_in_utc(local: Bookshop) -> None:
    seen = local.value(
        "[row.seen for row in _parked(Setup(app, ()))]",
        before=MOMENTS + "from tasks_demo.doctor.records import _parked\nfrom tasks_demo.checks.setup import Setup\n"
        "from tasks_demo.records.models import Parked\n"
        "mine = Parked.objects.create(task_id='p', task='t', message='', content_type='', content_encoding='', attempts=1, "
        "reason='', parked_at=datetime(2026, 1, 15, 12, 30))\n"
        "import atexit; atexit.register(mine.delete)\n",
    )
    assert seen == ["1 message without a decision, the first since 2026-01-15 17:30 UTC (t)"]


def test_timeline_says_the_zone(local: Bookshop) -> None:
    task_id = local.value("Tally.objects.filter(pattern='inbox').get().task_id", before=MOMENTS)
    assert local.manage("timeline", task_id).code == 0
    done = local.manage("timeline", task_id, "--json")
    assert done.code == 0, done.err
    assert "-05:00" in done.out or "-04:00" in done.out


def test_clock_without_use_tz_is_shown_by_every_page(local: Bookshop) -> None:
    pages = """
from django.contrib.auth.models import User
from django.test import Client
client = Client()
client.force_login(User.objects.create_superuser('a'))
def status(url):
    return client.get(url, HTTP_HOST='localhost').status_code
"""
    urls = "['/admin/tasks_demo/tally/', *[f'/admin/tasks_demo/tally/{t.pk}/change/' for t in Tally.objects.all()], "
    urls += "'/admin/tasks_demo_records/outboxmessage/', '/admin/tasks_demo_records/parked/']"
    seen = local.value(f"[status(url) for url in {urls}]", before=MOMENTS + pages)
    assert len(seen) > 10
    assert set(seen) <= {200, 302}, seen

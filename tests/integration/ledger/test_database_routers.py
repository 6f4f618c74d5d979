"""Projects whose router reads from another database than it writes to, or moves one model: it works, or ``check`` reports
it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration.bookshop import Bookshop, opened
from tests.support import until

pytestmark = pytest.mark.timeout(180)
HERE = "tests.integration.project_routers"
TASKS = ("charge", "book", "mail_receipt", "index", "count_view")
LEDGER = (
    "from django.db.models import Count\nfrom tasks_demo.ledger.models import Event, Tally\n"
    "from tasks_demo.records.models import Decision, InboxEntry, Parked\n"
)


def databases(project: Bookshop) -> dict[str, Any]:
    """The project's databases and a replica: a copy made while everything was empty and never updated."""
    known = ("ENGINE", "NAME", "USER", "PASSWORD", "HOST", "PORT")
    found: dict[str, Any] = project.value(
        f"{{a: {{k: str(d[k]) for k in {known!r} if d.get(k)}} for a, d in settings.DATABASES.items()}}",
        before="from django.conf import settings",
    )
    return {**found, "replica": found["ops"]}


@pytest.fixture(scope="module")
def split() -> Iterator[tuple[Bookshop, dict[str, Any]]]:
    """A project that reads from a replica."""
    with opened(settings={"DATABASE_ROUTERS": []}) as project:
        yield (
            project,
            {
                "DATABASES": databases(project),
                "DATABASE_ROUTERS": [f"{HERE}.ReadsFromAReplica"],
                "TASKS_DEMO_BOOKS": {"payments": f"{HERE}.Payments"},
            },
        )


def test_router_with_a_replica_keeps_every_promise(split: tuple[Bookshop, dict[str, Any]]) -> None:
    project, settings = split
    with project.worker(settings=settings), project.running("relay", "--interval", "0.1", settings=settings):
        sent = project.python(
            "from tasks_demo.outbox import enqueue\n"
            f"for name in {TASKS!r}:\n    [getattr(tasks, name).delay(order_id=name) for click in range(2)]\n"
            "enqueue(tasks.ship, ('ship',))\n",
            settings=settings,
        )
        assert sent.code == 0, sent.err
        counts = (
            f"[dict(Payment.objects.using('default').filter(order_id__in={[*TASKS, 'ship']!r})"
            ".values_list('order_id').annotate(n=Count('id'))), "
            # Without the jobs that other tests of this project have made up.
            "Tally.objects.using('default').filter(outcome='succeeded').exclude(task_id__in=['paid', 'unpaid', 'p']).count()]"
        )
        wanted = [{"charge": 1, "book": 1, "mail_receipt": 1, "index": 2, "count_view": 2, "ship": 1}, 11]
        until(
            lambda: project.value(counts, settings=settings, before=LEDGER) == wanted,
            "each as often as promised", 60,
        )  # fmt: skip
    assert project.manage("check", "--tag", "celery", settings=settings).err.count("W018") == 0


def test_database_read_books_reads_the_database_that_is_written_to(split: tuple[Bookshop, dict[str, Any]]) -> None:
    """Two jobs ended. The replica has neither job, nor the payment of one, nor the cursor of the books."""
    project, settings = split
    made = (
        "import time\nfrom tasks_demo.ledger.events import EventData\nfrom tasks_demo.ledger.store import store\n"
        "from tasks_demo.ledger.reading import read_books, states\nfrom tasks_demo.ledger import record_effect\n"
        "Payment(order_id='paid', cents=1, by='t').save(using='default')\n"
        "def event(job, number, kind):\n"
        "    return EventData(at=time.time() - 9, kind=kind, task_id=job, operation=job, pattern='acks_late',\n"
        "                     source=f'{job}:{number}', books='payments', task='orders.index')\n"
        "for job in ('paid', 'unpaid'):\n"
        "    store.append([event(job, n, kind) for n, kind in enumerate(['published', 'received', 'started', 'returned'])])\n"
        "troubles = [state.trouble for _ in range(2) for state in read_books()]\n"
        "known = [state.as_of is not None for state in states()]\n"
        "again = [record_effect('mine', key='once') for _ in range(2)]\n"
        "verdicts = dict(Tally.objects.using('default').filter(books='payments').values_list('task_id', 'verdict'))\n"
    )
    seen = project.value(
        "[troubles, known, again, {job: verdicts[job] for job in ('paid', 'unpaid')}, "
        "Event.objects.using('default').filter(kind='effect', operation='mine').count()]",
        settings=settings, before=LEDGER + made,
    )  # fmt: skip
    assert seen == [["", ""], [True], [True, True], {"paid": "ok", "unpaid": "lost"}, 1]


def test_router_with_a_replica_decisions_are_written_beside_the_parked_message(
    split: tuple[Bookshop, dict[str, Any]],
) -> None:
    project, settings = split
    made = (
        "from django.contrib.auth.models import User\nfrom django.test import Client\nfrom django.utils.timezone import now\n"
        "import django.conf; django.conf.settings.SESSION_ENGINE = 'django.contrib.sessions.backends.signed_cookies'\n"
        "from django.contrib.auth import get_user_model\n"
        "parked = Parked(task_id='p', task='orders.index', message='', content_type='', content_encoding='', attempts=1,\n"
        "                reason='', parked_at=now())\n"
        "parked.save(using='default')\n"
        "Entry = InboxEntry(operation='book:9', task_id='t', digest='d', completed_at=now())\n"
        "Entry.save(using='default')\n"
        "user = User(username='a', is_staff=True, is_superuser=True)\n"
        "[user.save(using=alias) for alias in ('default', 'replica') if not setattr(user, 'pk', 1)]\n"
        "client = Client(HTTP_HOST='localhost')\nclient.force_login(user)\n"
        "page = client.get(f'/admin/tasks_demo_records/parked/{parked.pk}/change/').status_code\n"
        "chosen = {'action': 'discard_selected', '_selected_action': [parked.pk], 'index': 0}\n"
        "asked = client.post('/admin/tasks_demo_records/parked/', chosen).content.decode()\n"
        "sure = asked.partition('name=\"sure\" value=\"')[2].partition('\"')[0]\n"
        "posted = client.post('/admin/tasks_demo_records/parked/act/', {'sure': sure, 'why': 'w'}).status_code\n"
    )
    seen = project.value(
        "[page, posted, Parked.objects.using('default').get(pk=parked.pk).state, "
        "[act.why for act in Decision.objects.using('default').all()]]",
        settings=settings, before=LEDGER + made,
    )  # fmt: skip
    assert seen == [200, 302, "discarded", ["w"]]


def test_check_w018_names_models_of_one_transaction_in_several_databases(
    split: tuple[Bookshop, dict[str, Any]],
) -> None:
    project, settings = split
    settings = {**settings, "DATABASE_ROUTERS": [f"{HERE}.SomeModelsElsewhere"]}
    done = project.manage("check", "--tag", "celery", settings=settings)
    assert (
        "(tasks_demo.W018) The ledger's tables are written in one transaction, but the router sends Event to"
        in done.err
    )
    assert "and Tally to 'ops': all are written to 'default'" in done.err
    assert (
        "(tasks_demo.W018) The quarantine's tables are written in one transaction, but the router sends Attempt"
        in done.err
    )
    assert "Route the whole app 'tasks_demo_records' to one database." in done.err


def test_check_w018_names_one_model_in_an_unsupported_database(split: tuple[Bookshop, dict[str, Any]]) -> None:
    project, settings = split
    mysql = {"ENGINE": "tests.integration.checks.mysql_like", "NAME": "shop"}
    settings = {**settings, "DATABASE_ROUTERS": [f"{HERE}.SomeModelsElsewhere"]}
    settings["DATABASES"] = {**settings["DATABASES"], "ops": mysql}
    said = project.manage("check", "--tag", "celery", settings=settings).err
    (line,) = [line for line in said.splitlines() if "the database 'ops' is MySQL" in line]
    assert "tasks (orders.book, orders.book_and_notify, orders.book_slowly" in line, said

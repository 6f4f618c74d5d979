"""``manage.py doctor`` in another project: its app, workers, queues and tables, and the messages waiting there.

Over 300 lines: one project in a folder, with each of its faults.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.integration.bookshop import Bookshop, opened
from tests.integration.doctor.doctor_command import read
from tests.integration.servers.rabbitmq import RabbitServer
from tests.support import PROJECT, Finished, finish, until

pytestmark = pytest.mark.timeout(180)
Rows = dict[tuple[str, str], dict[str, str]]


def doctor(project: Bookshop, settings: dict[str, Any] | None = None) -> tuple[int, Rows]:
    seen = read(project.manage("doctor", "--json", settings=settings))
    return seen.code, seen.rows


def answered(project: Bookshop) -> tuple[int, Rows]:
    """The doctor's answer when the worker was in time for each of its questions: a starved one needs more than a second."""

    def asked() -> tuple[int, Rows] | None:
        code, rows = doctor(project)
        jobs = " ".join(row["seen"] for (part, _), row in rows.items() if part == "jobs")
        in_time = "1 answers: w" in jobs and "pool unknown" not in jobs and "consumed by w" in jobs
        return (code, rows) if in_time else None

    return until(asked, "a worker that answers the doctor", 60)


def failed(rows: Rows) -> set[tuple[str, str]]:
    return {key for key, row in rows.items() if row["state"] == "fail"}


def without(*names: str) -> dict[str, list[str]]:
    apps = [
        f"django.contrib.{name}" for name in ("admin", "auth", "contenttypes", "sessions", "messages", "staticfiles")
    ]
    return {
        "INSTALLED_APPS": [name for name in [*apps, "tasks_demo", "tasks_demo.records", "orders"] if name not in names]
    }


# -- workers and queues --------------------------------------------------------------------------------------------------------


def test_doctor_finds_a_project_at_rest_well_and_misses_nothing_of_the_demo(bookshop: Bookshop) -> None:
    code, rows = doctor(bookshop)
    assert (code, failed(rows)) == (0, set()), rows
    assert ("connections", "bank") not in rows
    assert rows["Celery app", "application"]["seen"] == "bookshop"
    workers = rows["jobs", "workers"]
    assert (workers["state"], workers["seen"][:24]) == ("warn", "none answers within 1 s ")
    for queue in ("bookshop", "bookshop-mail"):
        assert rows["jobs", f"queue {queue}"]["seen"].startswith("empty; no worker")
    assert rows["records", "tables"]["state"] == "ok"
    assert "once a worker is started" in bookshop.manage("doctor").out.replace("\n", " ")


def test_doctor_shows_a_backlog_with_its_age_and_its_workers(bookshop: Bookshop) -> None:
    sent = "[tasks.count_view.apply_async(kwargs={'order_id': n}, priority=p) for n in range(2) for p in (0, 9)]"
    assert bookshop.python(f"{sent}; tasks.mail_receipt.delay(order_id=1)").code == 0
    code, rows = doctor(bookshop)
    assert code == 4, rows
    assert failed(rows) == {("jobs", "queue bookshop"), ("jobs", "queue bookshop-mail")}
    seen = rows["jobs", "queue bookshop"]["seen"]
    assert seen.startswith("4 wait, the oldest for ")
    assert seen.partition("the oldest for ")[2].partition(" s; ")[0].isdigit(), seen
    assert "worker -Q bookshop`" in rows["jobs", "queue bookshop"]["fix"]
    with bookshop.worker("-P", "threads", queues="bookshop,extra") as worker:
        until(lambda: bookshop.payments("1") == 2, "two views", 60)
        code, rows = answered(bookshop)
        assert failed(rows) == {("jobs", "queue bookshop-mail")}, rows  # nobody consumes it
        workers = rows["jobs", "workers"]
        assert workers["seen"].startswith("1 answers: w")
        assert "(thread, 2)" in workers["seen"]
        assert "time limits of our tasks are not enforced on" in workers["seen"]
        for queue in ("bookshop", "extra"):  # only the worker's command line names the second
            assert rows["jobs", f"queue {queue}"]["seen"].startswith("empty; consumed by w"), worker.said
        assert "not in our settings" not in rows["Redis (broker, results, leases)", "other users"]["seen"]
    with bookshop.worker(queues="bookshop-mail"):
        until(lambda: bookshop.payments("1") == 3, "the receipt", 60)


@pytest.mark.parametrize(
    ("setting", "value", "fix"),
    [
        ("CELERY_TASK_SERIALIZER", "msgpack7", "correct the spelling of CELERY_TASK_SERIALIZER"),
        ("CELERY_ACCEPT_CONTENT", ["yaml"], "Add this content type to CELERY_ACCEPT_CONTENT"),
    ],
)
def test_doctor_does_not_blame_the_broker_for_a_serializer(
    bookshop: Bookshop, setting: str, value: object, fix: str
) -> None:
    with bookshop.worker(queues="extra"):
        answered(bookshop)
        _, rows = doctor(bookshop, {setting: value})
    row = rows["jobs", "workers"]
    assert fix in row["fix"], row


def test_doctor_counts_what_workers_hold_and_what_dead_ones_left(bookshop: Bookshop) -> None:
    with redis.Redis.from_url(bookshop.broker_url) as client:
        client.hset("unacked", "tag", "x")
        client.zadd("unacked_index", {"tag": 1})
        try:
            _, rows = doctor(bookshop)
        finally:
            client.delete("unacked", "unacked_index")
    row = rows["jobs", "unacknowledged"]
    assert row["state"] == "warn"
    assert row["seen"].startswith("1 held by workers, running or killed; the oldest for ")
    assert "beyond the visibility timeout of 900 s" in row["seen"]


def test_doctor_takes_queues_named_in_settings_for_ours(bookshop: Bookshop) -> None:
    """In routes (for known and unknown tasks), in the schedule, or as a plain name; only ``stray`` is unknown."""
    settings = {
        "CELERY_TASK_ROUTES": [{"elsewhere.*": {"queue": "q-route"}, "orders.plain": "q-plain"}],
        "CELERY_BEAT_SCHEDULE": {"n": {"task": "orders.plain", "schedule": 60, "options": {"queue": "q-beat"}}},
    }
    names = ["q-route", "q-plain", "q-beat", "stray"]
    with redis.Redis.from_url(bookshop.broker_url) as client:
        keys = [*(f"_kombu.binding.{name}" for name in names), "_kombu.binding_permanent.q-beat"]
        for key in keys:
            client.sadd(key, "x")
        client.zadd("_kombu.binding_deadlines", {"q-beat": time.time() + 3600})  # as kombu 5.7 stores it
        _, rows = doctor(bookshop, settings)
        client.delete(*keys)
    seen = rows["Redis (broker, results, leases)", "other users"]["seen"]
    assert "a queue that is not in our settings: stray (1)" in seen
    assert not [name for name in names[:-1] if f"settings: {name}" in seen]
    assert "_kombu" not in seen


def test_doctor_shows_what_waits_in_a_queue_that_only_a_call_names(bookshop: Bookshop) -> None:
    """Also for a function in ``task_routes`` that depends on the arguments: no setting names the queue."""
    typo = "a-mistyped-name-that-is-longer-than-is-shown-of-others"
    sent = bookshop.python(
        f"[tasks.count_view.apply_async(kwargs={{'order_id': n}}, queue='{typo}') for n in range(3)]"
    )
    assert sent.code == 0, sent.err
    code, rows = doctor(bookshop)
    with redis.Redis.from_url(bookshop.broker_url) as client:
        client.delete(typo, f"_kombu.binding.{typo}", f"_kombu.binding_permanent.{typo}")
    row = rows["Redis (broker, results, leases)", "other users"]
    assert (code, row["state"]) == (0, "warn")
    assert f"a queue that is not in our settings: {typo} (" in row["seen"]
    assert f"). Messages: 3 wait in {typo}. " in row["seen"]
    assert "start a worker for it, with -Q" in row["fix"]


# -- what jobs need ------------------------------------------------------------------------------------------------------------


def test_doctor_says_that_jobs_cannot_run_without_the_redis_of_the_leases(bookshop: Bookshop) -> None:
    code, rows = doctor(bookshop, {"TASKS_DEMO_REDIS_URL": ""})
    assert code == 4
    assert failed(rows) == {("connections", "leases")}
    assert "orders.charge" in rows["connections", "leases"]["seen"]


def test_doctor_misses_records_that_are_not_installed_or_not_migrated(bookshop: Bookshop, short: Path) -> None:
    empty = {"ENGINE": "django.db.backends.sqlite3", "NAME": str(short / "empty.sqlite3")}
    code, rows = doctor(
        bookshop, {**without("tasks_demo.records"), "DATABASES": {"default": empty}, "DATABASE_ROUTERS": []}
    )
    assert code == 4
    missing = {what for part, what in failed(rows) if part == "records"}
    named = ("claim", "inboxentry", "outboxmessage", "attempt", "parked")
    assert missing == {f"table tasks_demo_records_{name}" for name in named} | {
        "table tasks_demo_event",
        "table tasks_demo_tally",
    }
    row = rows["records", "table tasks_demo_records_claim"]
    assert "orders.mail_receipt are deferred and do not run" in row["seen"]
    assert row["fix"].startswith("Write 'tasks_demo.records' into INSTALLED_APPS.")


def test_doctor_looks_for_the_tables_where_the_router_writes_them(bookshop: Bookshop, short: Path) -> None:
    settings = bookshop.value("{n: {k: str(d[k]) for k in d if k in ('ENGINE', 'NAME', 'USER', 'HOST', 'PORT')} "
                              "for n, d in settings.DATABASES.items()}", before="from django.conf import settings")  # fmt: skip
    settings["ops"] = {"ENGINE": "django.db.backends.sqlite3", "NAME": str(short / "ops.sqlite3")}
    code, rows = doctor(bookshop, {"DATABASES": settings, "DATABASE_ROUTERS": ["bookshop.routers.LedgerInOps"]})
    assert code == 4
    row = rows["records", "table tasks_demo_event"]
    assert "missing in the database 'ops', where the router writes it (the ledger)" in row["seen"]
    assert row["fix"] == "Run `python manage.py migrate --database ops`."


def test_doctor_shows_what_waits_for_people_or_for_a_relay(bookshop: Bookshop) -> None:
    made = bookshop.python(
        "from datetime import timedelta\n"
        "from django.utils.timezone import now\n"
        "from tasks_demo.records.models import OutboxMessage, Parked\n"
        "then = now() - timedelta(seconds=3000)\n"
        "OutboxMessage.objects.create(task_id='a', task='orders.ship', created_at=then, due_at=then)\n"
        "OutboxMessage.objects.create(task_id='b', task='orders.nope', created_at=then, due_at=then, failures=3,\n"
        "                             error='no such')\n"
        "Parked.objects.create(task_id='c', task='orders.charge', message='', content_type='', content_encoding='', attempts=5,\n"
        "                      reason='', parked_at=then)\n"
    )
    assert made.code == 0, made.err
    try:
        code, rows = doctor(bookshop)
    finally:
        bookshop.python(
            "from tasks_demo.records.models import *\nOutboxMessage.objects.all().delete(); Parked.objects.all().delete()"
        )
    assert code == 4
    assert failed(rows) == {("records", "outbox in default")}
    assert rows["records", "outbox in default"]["seen"].startswith("2 messages due, the first for 30")
    assert "orders.nope, 3 times: no such" in rows["records", "refused in default"]["seen"]
    assert "1 message without a decision" in rows["records", "parked in default"]["seen"]
    assert "quarantine" in rows["records", "parked in default"]["fix"]


# -- RabbitMQ ------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def on_rabbitmq(rabbitmq: RabbitServer) -> Iterator[Bookshop]:
    with opened(rabbitmq.url, {"CELERY_TASK_DEFAULT_QUEUE": "doctor-test", "CELERY_TASK_ROUTES": {}}) as project:
        yield project


def test_doctor_asks_rabbitmq_for_what_it_says_of_itself(on_rabbitmq: Bookshop) -> None:
    assert on_rabbitmq.python("[tasks.count_view.delay(order_id=n) for n in range(3)]").code == 0
    code, rows = doctor(on_rabbitmq)
    assert code == 4
    assert rows["jobs", "queue doctor-test"]["seen"].startswith("3 wait, the oldest for ")
    assert rows["RabbitMQ", "queue doctor-test"]["seen"] == "as declared (classic)"
    row = rows["RabbitMQ", "consumer_timeout"]
    assert (row["state"], "the checks assume 1800 s" in row["seen"]) == ("warn", True)
    assert "rabbitmqctl environment" in row["fix"]
    with on_rabbitmq.worker(queues="doctor-test"):
        until(lambda: on_rabbitmq.payments("2") == 1, "the last view", 60)
        code, rows = answered(on_rabbitmq)
    assert (code, failed(rows)) == (0, set()), rows
    assert rows["jobs", "queue doctor-test"]["seen"].startswith("empty; consumed by w")


def test_doctor_finds_a_queue_that_differs_from_its_declaration(on_rabbitmq: Bookshop) -> None:
    on_rabbitmq.python(
        "tasks.count_view.delay(order_id='x')",
        settings={"CELERY_TASK_DEFAULT_QUEUE": "doctor-kind", "CELERY_TASK_ROUTES": {}},
    )
    quorum = {
        "CELERY_TASK_DEFAULT_QUEUE": "doctor-kind",
        "CELERY_TASK_ROUTES": {},
        "CELERY_TASK_DEFAULT_QUEUE_TYPE": "quorum",
    }
    code, rows = doctor(on_rabbitmq, quorum)
    assert code == 4
    row = rows["RabbitMQ", "queue doctor-kind"]
    assert row["state"] == "fail"
    assert "x-queue-type" in row["seen"]
    assert "W021" in rows["settings", "system checks"]["seen"]


def test_doctor_warns_of_a_quorum_queue_that_drops_messages(on_rabbitmq: Bookshop) -> None:
    made = (
        "from kombu import Queue\n"
        "arguments = {'x-queue-type': 'quorum', 'x-delivery-limit': 3}\n"
        "app.conf.task_queues = [Queue('doctor-quorum', queue_arguments=arguments)]\n"
        "app.conf.task_default_queue = 'doctor-quorum'\n"
        "with app.connection() as connection: app.conf.task_queues[0](connection.channel()).declare()\n"
        "from tasks_demo.doctor import examine\n"
        "print('\\n=>' + [row.seen for row in examine() if (row.part, row.what) == ('RabbitMQ', 'queue doctor-quorum')][0])\n"
        "with app.connection() as connection: connection.channel().queue_delete('doctor-quorum')\n"
    )
    done = on_rabbitmq.python(made)
    assert "quorum without a declared dead-letter exchange: a message is dropped after 3 deliveries" in done.out, (
        done.err
    )


# -- which application ----------------------------------------------------------------------------------------------------------

HIDDEN = {
    "hidden/__init__.py": "",
    "hidden/settings.py": """
        import os
        SECRET_KEY = "of a test"
        INSTALLED_APPS = ["django.contrib.contenttypes", "django.contrib.auth", "tasks_demo", "tasks_demo.records"]
        DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": os.environ["HIDDEN_DATABASE"]}}
        CELERY_BROKER_URL = TASKS_DEMO_REDIS_URL = "redis://127.0.0.1:1/0"
    """,
    "hidden/celery.py": """
        from celery import Celery
        app = Celery("hidden-shop")
        app.config_from_object("django.conf:settings", namespace="CELERY")
    """,
    "alone.py": "from hidden.settings import *",
}


@pytest.fixture(scope="module")
def hidden(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("hidden")
    for name, text in HIDDEN.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(textwrap.dedent(text))

    def run(*arguments: str, settings: str = "hidden.settings", command: str = "doctor") -> Finished:
        env = {**os.environ, "PYTHONPATH": f"{folder}:{PROJECT}", "DJANGO_SETTINGS_MODULE": settings}
        return finish(
            subprocess.Popen(
                [sys.executable, "-m", "django", command, *arguments], cwd=folder, stdin=subprocess.DEVNULL,
                env={**env, "HIDDEN_DATABASE": str(folder / "db.sqlite3")},
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )
        )  # fmt: skip

    return run


def test_doctor_finds_a_celery_app_that_nothing_imports(hidden: Any) -> None:
    rows = read(hidden("--json")).rows
    row = rows["Celery app", "application"]
    assert row["state"] == "warn"
    assert row["seen"].startswith("hidden-shop, found in hidden.celery:app, but commands and web processes")
    assert row["fix"] == "Add `from hidden.celery import app as celery_app` to hidden/__init__.py."
    assert rows["connections", "broker"]["seen"].startswith("redis://127.0.0.1:1")


def test_doctor_never_takes_celerys_default_app_for_the_projects(hidden: Any) -> None:
    seen = read(hidden("--json", settings="alone"))
    assert seen.code == 4
    row = seen.rows["Celery app", "application"]
    assert row["seen"].startswith(
        "only Celery's default app was found (DJANGO_SETTINGS_MODULE names no package to look in)"
    )
    assert "--app package.module:app" in row["fix"]


def test_check_says_which_celery_app_it_has_looked_at(hidden: Any) -> None:
    found = hidden("--tag", "celery", command="check")
    assert (
        "(tasks_demo.W000) Commands and web processes of this project do not import the Celery app hidden.celery:app"
        in found.err
    )
    assert "from hidden.celery import app as celery_app" in found.err
    nothing = hidden("--tag", "celery", command="check", settings="alone")
    assert "(tasks_demo.W000) Only Celery's default app was found, so none of your tasks was judged." in nothing.err


def test_doctor_takes_the_celery_app_that_is_named(hidden: Any) -> None:
    rows = read(hidden("--json", "--app", "hidden.celery:app", settings="alone")).rows
    assert rows["Celery app", "application"]["seen"] == "hidden.celery:app: hidden-shop"
    for wrong, said in (("no.such", "No module named"), ("hidden.settings:SECRET_KEY", "not a Celery app")):
        done = hidden("--app", wrong, settings="alone")
        assert (done.code, done.out) == (4, "")
        assert said in done.sentence()

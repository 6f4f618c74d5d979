"""An experiment beside a running stack touches none of its tables, its queue or its worker, and leaves nothing behind."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from tasks_demo.lab.plan.brokers import REDIS
from tasks_demo.lab.processes.brokers import connect as broker
from tasks_demo.lab.processes.databases import Leftovers, remove_leftovers, scratch_folder
from tasks_demo.leases.redis_client import connect
from tests.integration.servers.postgres import own_postgres
from tests.support import PROJECT, Home, migrated_home, together, until

pytestmark = pytest.mark.timeout(480)

COUNTS = (
    "import json\nfrom django.apps import apps\n"
    "models = [model for app in ('tasks_demo_records', 'shop') for model in apps.get_app_config(app).get_models()]\n"
    "print(json.dumps({model._meta.label: model.objects.count() for model in models}))"
)
#: Every pattern that writes to those tables, with parked and due messages; and a run beside it.
EXPERIMENTS = (
    ("--pattern", "outbox", "inbox", "claim_first", "--fault", "poison", "--tasks", "6", "--seed", "1"),
    ("--pattern", "outbox", "dedup_lock", "--fault", "kill-main", "--point", "fetched", "--tasks", "6", "--seed", "2"),
)


def counts(home: Home) -> dict[str, int]:
    done = home.python(COUNTS)
    assert done.code == 0, done.err
    found: dict[str, int] = json.loads(done.out)
    return found


def left_behind(home: Home) -> list[Path]:
    return list(home.state.glob("runs/2*/scratch"))


@contextmanager
def up(home: Home) -> Iterator[Path]:
    """``manage.py up``, ready: Redis, bank, worker, relay and dashboard. Yields its output."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    said = home.state / "up.log"
    with said.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "manage.py", "up", "--port", str(port)],
            cwd=PROJECT, env=home.env(), stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
        )  # fmt: skip
        try:
            until(
                lambda: " ready." in said.read_text() and "the relay looks" in said.read_text(), "worker and relay", 120
            )
            yield said
        finally:
            process.terminate()
            process.wait(60)


@pytest.fixture(scope="module")
def home() -> Iterator[Home]:
    with migrated_home("i") as place:
        yield place


def test_experiments_beside_make_up_are_as_predicted_and_leave_its_tables_and_its_worker_alone(home: Home) -> None:
    with up(home) as said:
        ordinary = home.manage("enqueue", "outbox", "-n", "2").out.split()
        until(lambda: said.read_text().count("succeeded in") == 2, "the ordinary jobs")
        assert home.manage("timeline", ordinary[0]).code == 0  # which reads the shop's books
        before = counts(home)
        assert (before["tasks_demo_records.OutboxMessage"], before["tasks_demo_records.Parked"]) == (2, 0)
        ran = together(
            [lambda what=what: home.manage("experiment", *what, timeout=240) for what in EXPERIMENTS],  # type: ignore[misc]
            len(EXPERIMENTS),
        )
        assert [done.code for done in ran] == [0, 0], [done.out + done.err for done in ran]
        assert all("as predicted" in done.out for done in ran)
        parked = home.manage("quarantine", "requeue", "--all")
        assert (parked.code, parked.out) == (1, ""), "a message of the lab would go to the real queue"
        assert counts(home) == before
        received = [line for line in said.read_text().splitlines() if "] received" in line]
        assert len(received) == len(ordinary), received
    assert not left_behind(home)
    tallies = home.python("from tasks_demo.ledger.models import Tally\nprint(Tally.objects.exclude(run='').count())")
    assert int(tallies.out) == 3 * 6 + 2 * 6, "the dashboard shows the experiments"


def test_databases_of_a_killed_run_are_removed_by_the_next(redis_url: str, tmp_path: Path, short: Path) -> None:
    note = {"sockets": str(short), "servers": [redis_url], "run": "dead"}
    elsewhere = {"sockets": "", "servers": [redis_url, "amqp://127.0.0.1:1"], "run": "far"}
    for name in ("dead", "far", "alive", "young"):
        (tmp_path / name).mkdir()
    for name, left in (("dead", note), ("far", elsewhere)):
        (tmp_path / name / "scratch").mkdir()
        (tmp_path / name / "scratch" / "shop.sqlite3").touch()
        (tmp_path / name / "scratch" / "leftovers.json").write_text(json.dumps(left))
    (tmp_path / "young" / "scratch").mkdir()  # killed before it had created anything
    with connect(redis_url, 5.0) as client:
        for key in ("lab:dead:celery", "lab:dead:x:unacked", "lab:alive:celery", "celery"):
            client.set(key, "1")
        with scratch_folder(tmp_path / "alive", Leftovers(str(short), (redis_url,), "alive")) as own:
            remove_leftovers(tmp_path, broker(REDIS, redis_url, "new"))
            assert {path.parent.name for path in tmp_path.glob("*/scratch")} == {"far", "alive"}
            assert own.is_dir()
            assert {key.decode() for key in client.scan_iter()} == {"lab:alive:celery", "celery"}
            assert not short.exists()
    assert {path.parent.name for path in tmp_path.glob("*/scratch")} == {"far"}


def test_databases_on_postgresql_are_a_schema_that_comes_and_goes(short: Path) -> None:
    with own_postgres() as server:
        with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
            connection.execute("CREATE ROLE weak LOGIN")
            home = Home(short, server.url("postgres"))
            home.migrate()
            before = counts(home)
            for name in ("0123456789", "abcdefabcd"):  # one of a run that was killed, one of a run that is alive
                connection.execute(f"CREATE SCHEMA tasks_demo_lab_{name}")
            connection.execute("CREATE SCHEMA tasks_demo_lab_results")  # not the lab's
            connection.execute("SELECT pg_advisory_lock(hashtextextended('tasks_demo_lab_abcdefabcd', 0))")
            for table in ("event", "tally"):
                connection.execute(f"GRANT ALL ON tasks_demo_{table} TO weak")
            connection.execute("GRANT SELECT ON django_migrations TO weak")
            weak = server.url("postgres").replace("tests@", "weak@")
            done = home.manage(
                "experiment", "--pattern", "outbox", "inbox", "--fault", "none", "--tasks", "4", "--seed", "1"
            )
            refused = home.manage("experiment", "--fault", "none", "--tasks", "4", env={"DATABASE_URL": weak})
            schemas = {name for (name,) in connection.execute("SELECT nspname FROM pg_namespace").fetchall()}
        assert done.code == 0, done.out + done.err
        assert {name for name in schemas if "lab" in name} == {"tasks_demo_lab_abcdefabcd", "tasks_demo_lab_results"}
        assert counts(home) == before
        assert refused.code == 4, refused
        assert "GRANT CREATE ON DATABASE postgres TO weak" in refused.sentence()
        assert "SHOP_DATABASE_URL" in refused.sentence()
        assert not left_behind(home)


def test_dashboard_settles_no_task_of_a_run(ledger: None) -> None:
    """The lab's books are its own and the dashboard does not read them: it would call every charge in progress lost."""
    from tasks_demo.ledger.events import EventData
    from tasks_demo.ledger.models import Tally
    from tasks_demo.ledger.settling import settle
    from tasks_demo.ledger.store import store

    at = {"at": 1.0, "operation": "", "pattern": "acks_late", "books": "bank"}
    for task_id, run in (("theirs", "r:acks_late/none"), ("ours", "")):
        for kind in ("published", "received", "started", "returned"):
            store.append([EventData(kind=kind, source=f"{task_id}{kind}", task_id=task_id, run=run, **at)])  # type: ignore[arg-type]
    assert settle(before=2e9, books="bank") == 1
    assert dict(Tally.objects.values_list("task_id", "settled")) == {"ours": 1, "theirs": 0}

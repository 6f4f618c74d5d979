"""``manage.py doctor`` against real servers: safe ones, unsafe ones, ones that refuse, and missing ones."""

from __future__ import annotations

import json
import socket
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from tasks_demo.doctor.connections import broker
from tasks_demo.doctor.database import clock
from tasks_demo.doctor.findings import Finding, State, address, side_by_side
from tasks_demo.doctor.redis_server import OLDEST, RedisUser, examine, group
from tasks_demo.management.arguments import Exit
from tests.integration.servers.rabbitmq import RabbitServer
from tests.integration.servers.redis import EMBEDDED, RedisServer
from tests.support import Finished, Home, Worker, together, until

pytestmark = pytest.mark.timeout(120)

#: The embedded server's configuration, which is also the recommended one.
SOUND = ("--appendfsync", "everysec", "--maxmemory-policy", "noeviction")
PASSWORD = "correct horse"


@dataclass(frozen=True)
class Seen:
    """The doctor's output, as JSON."""

    code: int
    rows: dict[tuple[str, str], dict[str, str]]
    whole: str

    def row(self, what: str, part: str = "Redis (broker, results, leases)") -> dict[str, str]:
        return self.rows[part, what]

    def failed(self) -> set[str]:
        return {what for (_, what), row in self.rows.items() if row["state"] == "fail"}


def doctor(home: Home, **env: str) -> Seen:
    done = home.manage("doctor", "--json", env=env)
    assert "Traceback" not in done.err, done.err
    document = json.loads(done.out)  # nothing else is on stdout
    assert document["schema"] == "doctor/1"
    assert document["exit"] == done.code
    rows = {(row["part"], row["what"]): row for row in document["rows"]}
    assert len(rows) == len(document["rows"])
    for row in rows.values():
        assert set(row) == {"part", "what", "state", "seen", "fix"}
        assert row["state"] in {"ok", "warn", "fail"}
        assert row["state"] != "fail" or row["fix"], row
    return Seen(done.code, rows, done.out + done.err)


@pytest.fixture
def server(short: Path) -> Iterator[RedisServer]:
    with RedisServer(short, EMBEDDED, *SOUND) as running:
        yield running


# -- a sound stack -----------------------------------------------------------------------------------------------------------


def test_a_sound_stack_is_well(home: Home, server: RedisServer) -> None:
    seen = doctor(home, REDIS_URL=server.url)
    assert seen.code == 0, seen.whole
    assert seen.failed() == set()
    assert seen.row("broker", "connections")["seen"] == f"redis+socket://{server.socket}"
    assert seen.row("version")["seen"].startswith("Redis ")
    assert seen.row("eviction")["seen"].startswith("noeviction")
    assert "appendfsync everysec" in seen.row("persistence")["seen"]
    assert seen.row("company")["seen"].startswith("no keys of others")
    assert seen.row("migrations", "database default")["seen"] == "all applied"
    assert [seen.row(f"writes of {role}")["state"] for role in ("broker", "results", "leases")] == ["ok"] * 3
    # A warning only: the bank is not running here.
    assert seen.row("bank", "connections")["state"] == "warn"


def test_what_it_writes_ends_by_itself(home: Home, server: RedisServer) -> None:
    doctor(home, REDIS_URL=server.url)
    with server.client() as client:
        left = [key for key in client.scan_iter() if b"doctor" in key]
        assert all(client.pttl(key) != -1 and client.pttl(key) <= 1000 for key in left), "-1: it never ends"
        until(lambda: not [key for key in client.scan_iter() if b"doctor" in key], "the end of the probes")


def test_the_table_says_it_to_people(home: Home, server: RedisServer) -> None:
    done = home.manage("doctor", env={"REDIS_URL": server.url})
    assert (done.code, done.err) == (0, "")
    for text in (
        "settings",
        "connections",
        "Redis (broker, results, leases)",
        "noeviction",
        " warn ",
        "0 fail. Jobs can run",
    ):
        assert text in done.out, done.out
    assert "→ Only the demo's tasks need it" in done.out


def test_warnings_of_the_checks_are_counted(home: Home, server: RedisServer) -> None:
    seen = doctor(home, REDIS_URL=server.url, TASKS_DEMO_LEASE_SECONDS="6", TASKS_DEMO_RETENTION_SECONDS="60")
    assert seen.code == 0
    row = seen.row("system checks", "settings")
    assert (row["state"], row["fix"]) == ("warn", "Run `python manage.py check --tag celery`.")
    assert "tasks_demo.W010, tasks_demo.W011" in row["seen"]


# -- a promise would be broken -----------------------------------------------------------------------------------------------


def test_eviction_and_no_persistence_break_promises(home: Home, short: Path) -> None:
    unsafe = ("--appendonly", "no", "--maxmemory-policy", "allkeys-lru", "--maxmemory", "50mb")
    with RedisServer(short, EMBEDDED, *unsafe) as server:
        seen = doctor(home, REDIS_URL=server.url)
        shown = home.manage("doctor", env={"REDIS_URL": server.url})
    assert seen.code == shown.code == 1, seen.whole
    assert seen.failed() == {"eviction", "persistence"}
    assert "drops queues, leases and completed markers" in seen.row("eviction")["seen"]
    assert "a restart loses every queued job" in seen.row("persistence")["seen"]
    assert "promises would be broken" in shown.out


def rows_of(server: RedisServer, *, role: str = "broker", needed: bool = True) -> dict[str, Finding]:
    """The rows of one server for one user, without a subprocess."""
    user = RedisUser(role, server.client(), "tasks_demo:" if role == "leases" else "", needed=needed)
    with closing(user.client):
        return {row.what: row for row in examine([user], frozenset({"celery"}))}


@pytest.mark.parametrize(
    ("options", "what", "state", "said"),
    [
        (
            {"maxmemory": "50mb", "maxmemory-policy": "volatile-ttl"},
            "eviction",
            State.FAIL,
            "drops leases and completed",
        ),
        ({"maxmemory-policy": "allkeys-lru"}, "eviction", State.WARN, "without a maxmemory"),
        ({"appendfsync": "no"}, "persistence", State.WARN, "the kernel had not written"),
        ({"appendfsync": "always"}, "persistence", State.OK, "costs nothing"),
        ({"appendonly": "no", "save": "60 1"}, "persistence", State.WARN, "snapshots only"),
        ({"appendonly": "no"}, "persistence", State.FAIL, "none"),
        ({"maxmemory": "nearly full"}, "memory", State.WARN, "soon no job can be sent"),
        ({"maxmemory": "100mb"}, "memory", State.OK, "of 100.0 MiB used"),
        ({"maxmemory": "1"}, "writes of broker", State.FAIL, "refused: OutOfMemoryError"),
        ({"min-replicas-to-write": "1"}, "writes of broker", State.FAIL, "NOREPLICAS"),
    ],
    ids=str,
)
def test_what_a_configuration_means(
    options: dict[str, str], what: str, state: State, said: str, server: RedisServer
) -> None:
    with server.client() as client:
        for name, value in options.items():
            # The memory of an empty server depends on its build.
            nearly = int(client.info("memory")["used_memory"] * 1.03)
            client.config_set(name, str(nearly) if value == "nearly full" else value)
    row = rows_of(server)[what]
    assert (row.state, row.ready) == (state, what != "writes of broker"), row
    assert said in row.seen
    assert bool(row.fix) == (state is not State.OK)


def test_results_are_only_convenient(short: Path) -> None:
    with RedisServer(
        short, EMBEDDED, "--appendonly", "no", "--maxmemory", "50mb", "--maxmemory-policy", "allkeys-lru"
    ) as bare:
        rows = rows_of(bare, role="results", needed=False)
    assert (rows["eviction"].state, rows["persistence"].state) == (State.WARN, State.WARN)


def test_an_old_server_cannot_bring_messages_back(monkeypatch: pytest.MonkeyPatch, server: RedisServer) -> None:
    monkeypatch.setattr("tasks_demo.doctor.redis_server.OLDEST", (99, 0))
    assert OLDEST == (6, 2)
    assert rows_of(server)["version"].state is State.FAIL


# -- a part that cannot be used ----------------------------------------------------------------------------------------------


def not_ready(seen: Seen) -> None:
    assert seen.code == 4, seen.whole


def test_a_redis_that_is_not_there_is_code_4_and_says_what_starts_it(home: Home) -> None:
    embedded, other = together([lambda: doctor(home), lambda: doctor(home, REDIS_URL="redis://127.0.0.1:1/0")], 2)
    for seen in (embedded, other):
        not_ready(seen)
        assert seen.failed() == {"broker", "results", "leases"}
    assert "`python manage.py redis`" in embedded.row("broker", "connections")["fix"]
    assert "`make up`" in embedded.row("leases", "connections")["fix"]
    assert "CELERY_BROKER_URL" in other.row("broker", "connections")["fix"]
    shown = home.manage("doctor", env={"REDIS_URL": "redis://127.0.0.1:1/0"})
    assert shown.code == 4
    assert "Not ready" in shown.out


def test_no_password_is_ever_shown(home: Home, server: RedisServer) -> None:
    with server.client() as client:
        client.config_set("requirepass", PASSWORD)
    address_with = server.url.replace("unix://", "unix://:{}@").format
    given = [PASSWORD.replace(" ", "%20"), "battery", ""]
    right, wrong, missing = together(
        [
            lambda word=word: doctor(home, REDIS_URL=address_with(word) if word else server.url)  # type: ignore[misc]
            for word in given
        ],
        2,
    )
    assert right.code == 0, right.whole
    for seen in (wrong, missing):
        not_ready(seen)
        assert "AuthenticationError" in seen.row("broker", "connections")["seen"]
    for seen in (right, wrong, missing):
        for word in (PASSWORD, *given[:2], "horse"):
            assert word not in seen.whole


@pytest.mark.parametrize("url", ["redis://:pa/ss@127.0.0.1:6379/0", "redis://:12/ss@127.0.0.1:1", "redis://:p#ss@h/0"])
def test_a_password_that_spoils_its_address_is_not_shown_either(home: Home, url: str) -> None:
    """The settings already refuse some of them; ``12`` looks like a port, so that address reaches the doctor."""
    done = home.manage("doctor", "--json", env={"REDIS_URL": url})
    assert done.code == Exit.NOT_READY
    assert "REDIS_URL has no valid port" in done.err or "its address cannot be read" in done.out
    for told in (done.out, done.err):
        assert "ss@" not in told
        assert "'pa'" not in told


def test_a_read_only_replica_cannot_be_used(home: Home, server: RedisServer) -> None:
    with server.client() as client:
        client.execute_command("REPLICAOF", "127.0.0.1", "1")
    seen = doctor(home, REDIS_URL=server.url)
    not_ready(seen)
    assert seen.failed() == {f"writes of {role}" for role in ("broker", "results", "leases")}
    assert "This is a replica" in seen.row("writes of leases")["fix"]


def test_a_managed_redis_without_config_is_examined_by_info(home: Home, server: RedisServer) -> None:
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "tenant", "on", ">pw", "~*", "&*", "+@all", "-config", "-client")
    seen = doctor(home, REDIS_URL=server.url.replace("unix://", "unix://tenant:pw@"))
    assert seen.code == 0, seen.whole
    assert seen.row("eviction")["state"] == "ok"
    assert "appendfsync unknown (CONFIG is refused)" in seen.row("persistence")["seen"]
    assert "CLIENT LIST is refused" in seen.row("company")["seen"]


def test_a_user_who_may_do_little_gets_sentences(home: Home, server: RedisServer) -> None:
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "guest", "on", ">pw", "~other:*", "+ping", "+time", "+set")
    seen = doctor(home, REDIS_URL=server.url.replace("unix://", "unix://guest:pw@"))
    not_ready(seen)
    assert "INFO is refused" in seen.row("settings")["seen"]
    assert "ACL SETUSER" in seen.row("writes of broker")["fix"]


def test_a_server_that_never_answers_is_given_up_within_seconds(home: Home) -> None:
    with closing(socket.create_server(("127.0.0.1", 0), backlog=64)) as listening:
        host, port = listening.getsockname()
        begun = time.monotonic()
        redis, amqp = together(
            [
                lambda: doctor(home, REDIS_URL=f"redis://{host}:{port}/0"),
                lambda: doctor(home, CELERY_BROKER_URL=f"amqp://u:hidden@{host}:{port}//"),
            ],
            2,
        )
        assert time.monotonic() - begun < 30
    for seen in (redis, amqp):
        not_ready(seen)
        assert "hidden" not in seen.whole
    assert redis.failed() == {"broker", "results", "leases"}


def test_a_setting_of_ours_that_cannot_work_is_named(home: Home, server: RedisServer) -> None:
    seen = doctor(home, REDIS_URL=server.url, TASKS_DEMO_KEY_PREFIX="ok:", TASKS_DEMO_BANK_URL="nonsense")
    assert seen.code == 0, seen.whole
    seen = doctor(home, REDIS_URL=server.url, TASKS_DEMO_REDIS_URL="http://u:hidden@h")
    not_ready(seen)
    assert "its scheme is 'http'" in seen.row("leases", "connections")["seen"]
    assert "hidden" not in seen.whole


# -- RabbitMQ ---------------------------------------------------------------------------------------------------------------


def test_rabbitmq_without_confirms_breaks_the_promise(home: Home, server: RedisServer, rabbitmq: RabbitServer) -> None:
    seen = doctor(home, REDIS_URL=server.url, CELERY_BROKER_URL=rabbitmq.url)
    assert seen.code == 1, seen.whole
    assert seen.failed() == {"confirms"}
    assert seen.row("broker", "connections")["seen"].startswith(f"amqp://127.0.0.1:{rabbitmq.port} RabbitMQ ")
    assert "'confirm_publish': True" in seen.row("confirms", "connections")["fix"]
    assert "guest" not in seen.whole
    assert ("Redis (results, leases)", "eviction") in seen.rows


def test_rabbitmq_with_confirms(rabbitmq: RabbitServer) -> None:
    app = Celery("shop", broker=rabbitmq.url, set_as_current=False, fixups=[])
    app.conf.broker_transport_options = {"confirm_publish": True}
    users: list[RedisUser] = []
    assert {row.what: row.state for row in broker(app, users)} == {"broker": State.OK, "confirms": State.OK}
    assert users == []


def test_a_refused_login_of_rabbitmq_shows_no_password(rabbitmq: RabbitServer) -> None:
    app = Celery("shop", broker=rabbitmq.url.replace("guest:guest", "guest:hidden"), set_as_current=False, fixups=[])
    (row,) = broker(app, [])
    assert (row.state, row.ready) == (State.FAIL, False)
    assert "hidden" not in row.seen + row.fix


# -- databases ---------------------------------------------------------------------------------------------------------------


def test_missing_migrations_are_code_4(home: Home, short: Path, server: RedisServer) -> None:
    seen = doctor(home, REDIS_URL=server.url, DATABASE_URL=f"sqlite:///{short}/empty.sqlite3")
    not_ready(seen)
    row = seen.row("migrations", "database default")
    assert row["state"] == "fail"
    assert row["fix"] == "Run `python manage.py migrate --database default`."


def test_a_locked_database_is_code_4(short: Path, server: RedisServer) -> None:
    home = Home(short)
    home.migrate()
    with closing(sqlite3.connect(short / "db.sqlite3", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        seen = doctor(home, REDIS_URL=server.url)
        other.execute("ROLLBACK")
    not_ready(seen)
    row = seen.row("writes", "database default")
    assert "database is locked" in row["seen"]
    assert "write transaction open" in row["fix"]
    assert seen.row("journal", "database default")["seen"].startswith("WAL")


def test_a_database_that_is_not_there_is_code_4(home: Home, server: RedisServer) -> None:
    nowhere = "postgres://somebody:hidden@127.0.0.1:1/none"
    folder = "sqlite:////no/such/folder/db.sqlite3"
    for seen in together(
        [lambda url=url: doctor(home, REDIS_URL=server.url, DATABASE_URL=url) for url in (nowhere, folder)],  # type: ignore[misc]
        2,
    ):
        not_ready(seen)
        assert seen.row("answers", "database default")["state"] == "fail"
        assert "hidden" not in seen.whole


def test_postgresql_is_described(home: Home, server: RedisServer) -> None:
    if not home.database_url:
        pytest.skip("DATABASE_URL names no PostgreSQL")
    seen = doctor(home, REDIS_URL=server.url)
    assert seen.code == 0, seen.whole
    assert seen.row("answers", "database default")["seen"].startswith("PostgreSQL ")
    assert seen.row("writes", "database default")["state"] == "ok"
    assert seen.row("clock", "database default")["state"] == "ok"


# -- other users of the server -------------------------------------------------------------------------------------------------


@contextmanager
def keys(server: RedisServer, *names: str) -> Iterator[None]:
    with server.client() as client:
        for name in names:
            client.set(name, "1")
        yield
        client.flushall()


def test_who_else_is_there(server: RedisServer) -> None:
    ours = [
        "celery",
        "celery\x06\x163",
        "_kombu.binding.celery",
        "_kombu.binding.celery.pidbox",
        "_kombu.binding_permanent.celery",
        "_kombu.binding_deadlines",
        "unacked",
        "unacked_index",
    ]
    ours += [
        "_kombu.binding.reply.celery.pidbox",
        "_kombu.binding.celeryev",
        "celery-task-meta-1",
        "a.reply.celery.pidbox",
    ]
    with keys(server, *ours):
        row = rows_of(server)["company"]
        assert (row.state, row.seen) == (State.OK, f"no keys of others among {len(ours)}")
    with keys(server, *ours, "cache:1", "cache:2", "other:unacked", "other:_kombu.binding.celery", "tasks_demo:{a}"):
        row = rows_of(server)["company"]
        assert row.state is State.OK
        assert "cache: (2)" in row.seen
        assert "Celery with the prefix other: (2)" in row.seen
        assert "tasks_demo:" not in rows_of(server, role="leases")["company"].seen
    with keys(server, *ours, "_kombu.binding.theirs"):
        row = rows_of(server)["company"]
        assert row.state is State.WARN
        assert "a queue that is not in our settings: theirs" in row.seen
        assert "the shorter visibility timeout holds for both" in row.seen
        assert "global_keyprefix" in row.fix
        row = rows_of(server, role="results")["company"]  # the broker is elsewhere: no visibility timeout applies here
        assert (row.state, "queues of Celery (" in row.seen) == (State.OK, True), row


def test_the_app_s_own_names_for_kombu_s_keys_are_ours(home: Home, server: RedisServer) -> None:
    """As Celery documents it: priorities (``sep``), and apps that share a Redis (prefix, names, exchanges)."""
    options = {"global_keyprefix": "shop:", "sep": ":", "unacked_key": "held", "unacked_index_key": "held_index"}
    code = (
        "import json\n"
        "from celery import current_app as app\n"
        f"app.conf.broker_transport_options = {options!r}\n"
        "app.conf.update(control_exchange='shop', event_exchange='shop-events', event_queue_prefix='shop-ev')\n"
        "from tasks_demo.doctor import examine\n"
        "print('=>' + json.dumps([row.seen for row in examine() if row.what == 'company']))\n"
    )
    ours = ["celery", "celery:3", "celery:9", "held", "held_index", "_kombu.binding.shop.pidbox"]
    ours += [
        "_kombu.binding.reply.shop.pidbox",
        "a.reply.shop.pidbox",
        "_kombu.binding.shop-events",
        "_kombu.binding.celery",
    ]
    with keys(server, *(f"shop:{name}" for name in ours), "shop:theirs:3"):
        done = home.python(code, env={"REDIS_URL": server.url})
    (seen,) = json.loads(done.out.rpartition("=>")[2])
    assert seen.startswith(f"keys of others among {len(ours) + 1}: shop: (1)"), seen


def test_connections_with_a_name_are_named(server: RedisServer) -> None:
    with server.client() as other:
        connection = other.connection_pool.get_connection()
        connection.send_command("CLIENT", "SETNAME", "the-shop")
        connection.read_response()
        assert rows_of(server)["company"].seen.endswith("named connections: the-shop")
        other.connection_pool.release(connection)


def test_users_of_one_server_are_examined_together(server: RedisServer) -> None:
    users = [RedisUser(role, server.client(), "") for role in ("broker", "results", "leases")]
    assert [[user.role for user in its] for its in group(users)] == [["broker", "results", "leases"]]
    for user in users:
        user.client.close()


# -- the rest ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("theirs", "state", "said"),
    [
        (100.0, State.OK, "at most 0.0 s from ours"),
        (101.4, State.OK, "at most 0.9 s from ours"),
        (102.0, State.WARN, "1.5 s ahead of ours"),
        (90.0, State.WARN, "10.0 s behind ours"),
    ],
)
def test_a_clock_is_judged_by_the_moments_around_the_question(theirs: float, state: State, said: str) -> None:
    row = clock("Redis", theirs, before=100.0, after=100.5)
    assert row.state is state
    assert said in row.seen


def test_a_part_that_hangs_or_crashes_hides_no_other() -> None:
    def crash() -> list[Finding]:
        raise ZeroDivisionError("a driver's own")

    with closing(socket.create_server(("127.0.0.1", 0))) as listening:

        def hang() -> list[Finding]:
            with listening.accept()[0]:
                return []

        works: dict[tuple[str, str], Any] = {
            ("a", "hangs"): hang,
            ("b", "crashes"): crash,
            ("c", "answers"): lambda: [Finding("c", "answers", State.OK, "well")],
        }
        rows = side_by_side(works, seconds=0.2)
        socket.create_connection(listening.getsockname()).close()  # lets the thread end
    assert [(row.part, row.state, row.ready) for row in rows] == [
        ("a", State.FAIL, False), ("b", State.FAIL, False), ("c", State.OK, True),
    ]  # fmt: skip
    assert rows[0].seen == "no answer within 0.2 s"
    assert rows[1].seen == "ZeroDivisionError: a driver's own"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://user:pw@host:6380/2", "redis://host:6380"),
        ("unix://:pw@/run/redis.sock", "unix:///run/redis.sock"),
        ("redis+socket:///run/re%20dis.sock", "redis+socket:///run/re dis.sock"),
        ("amqp://guest:guest@host//", "amqp://host"),
        ("sentinel://:pw@a:26379,b:26380/0?master=m&sentinel_password=pw", "sentinel://a:26379,b:26380"),
        ("sentinel://:pw@a:26379;sentinel://:pw@b:26380", "sentinel://a:26379;sentinel://b:26380"),
        ("sentinel://:pw@a:x,b:26380", ""),
        ("redis://:a/b@host", ""),
        ("redis://[", ""),
        ("", ""),
        ("nonsense", ""),
    ],
)
def test_an_address_is_shown_without_what_could_be_secret(url: str, shown: str) -> None:
    assert address(url) == shown


def test_usage(home: Home) -> None:
    done: Finished = home.manage("doctor", "--surprise")
    assert (done.code, done.out) == (2, "")


def test_a_worker_logs_the_warnings_that_celery_throws_away(home: Home, redis_url: str, short: Path) -> None:
    log = short / "worker.log"
    environment = {"REDIS_URL": redis_url, "TASKS_DEMO_LEASE_SECONDS": "6"}
    with Worker(home, log, environment):
        text = log.read_text(errors="replace")
    assert text.count("tasks_demo.W010: Task tasks_demo.charge_dedup_lock: ") == 1, text
    assert "Write TASKS_DEMO_LEASE_SECONDS of at least 15" in text

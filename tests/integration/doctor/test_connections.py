"""Which servers the doctor asks, who else uses them, and that no password is shown."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest

from tasks_demo.doctor.findings import State, address
from tasks_demo.doctor.redis_server import RedisUser, group
from tasks_demo.management.arguments import Exit
from tests.integration.doctor.doctor_command import doctor, not_ready, rows_of
from tests.integration.servers.redis import RedisServer
from tests.support import Home, together

pytestmark = pytest.mark.timeout(120)


PASSWORD = "correct horse"


def test_connections_show_no_password(home: Home, server: RedisServer) -> None:
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
def test_connections_show_no_password_that_spoils_its_address(home: Home, url: str) -> None:
    """The settings already refuse some of them; ``12`` looks like a port, so that address reaches the doctor."""
    done = home.manage("doctor", "--json", env={"REDIS_URL": url})
    assert done.code == Exit.NOT_READY
    assert "REDIS_URL has no valid port" in done.err or "its address cannot be read" in done.out
    for told in (done.out, done.err):
        assert "ss@" not in told
        assert "'pa'" not in told


def test_connections_give_a_silent_server_up_within_seconds(home: Home) -> None:
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


def test_connections_name_a_setting_of_ours_that_cannot_work(home: Home, server: RedisServer) -> None:
    seen = doctor(home, REDIS_URL=server.url, TASKS_DEMO_KEY_PREFIX="ok:", TASKS_DEMO_BANK_URL="nonsense")
    assert seen.code == 0, seen.whole
    seen = doctor(home, REDIS_URL=server.url, TASKS_DEMO_REDIS_URL="http://u:hidden@h")
    not_ready(seen)
    assert "its scheme is 'http'" in seen.row("leases", "connections")["seen"]
    assert "hidden" not in seen.whole


@contextmanager
def keys(server: RedisServer, *names: str) -> Iterator[None]:
    with server.client() as client:
        for name in names:
            client.set(name, "1")
        yield
        client.flushall()


def test_connections_name_other_users_of_the_server(server: RedisServer) -> None:
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
        row = rows_of(server)["other users"]
        assert (row.state, row.seen) == (State.OK, f"no keys of others among {len(ours)}")
    with keys(server, *ours, "cache:1", "cache:2", "other:unacked", "other:_kombu.binding.celery", "tasks_demo:{a}"):
        row = rows_of(server)["other users"]
        assert row.state is State.OK
        assert "cache: (2)" in row.seen
        assert "Celery with the prefix other: (2)" in row.seen
        assert "tasks_demo:" not in rows_of(server, role="leases")["other users"].seen
    with keys(server, *ours, "_kombu.binding.theirs"):
        row = rows_of(server)["other users"]
        assert row.state is State.WARN
        assert "a queue that is not in our settings: theirs" in row.seen
        assert "the shorter visibility timeout applies to both" in row.seen
        assert "global_keyprefix" in row.fix
        row = rows_of(server, role="results")[
            "other users"
        ]  # the broker is elsewhere: no visibility timeout applies here
        assert (row.state, "queues of Celery (" in row.seen) == (State.OK, True), row


def test_connections_know_the_apps_own_names_for_kombus_keys(home: Home, server: RedisServer) -> None:
    """As Celery documents it: priorities (``sep``), and apps that share a Redis (prefix, names, exchanges)."""
    options = {"global_keyprefix": "shop:", "sep": ":", "unacked_key": "held", "unacked_index_key": "held_index"}
    code = (
        "import json\n"
        "from celery import current_app as app\n"
        f"app.conf.broker_transport_options = {options!r}\n"
        "app.conf.update(control_exchange='shop', event_exchange='shop-events', event_queue_prefix='shop-ev')\n"
        "from tasks_demo.doctor import examine\n"
        "print('=>' + json.dumps([row.seen for row in examine() if row.what == 'other users']))\n"
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
        assert rows_of(server)["other users"].seen.endswith("named connections: the-shop")
        other.connection_pool.release(connection)


def test_connections_to_one_server_are_examined_together(server: RedisServer) -> None:
    users = [RedisUser(role, server.client(), "") for role in ("broker", "results", "leases")]
    assert [[user.role for user in its] for its in group(users)] == [["broker", "results", "leases"]]
    for user in users:
        user.client.close()


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
def test_connections_show_an_address_without_secrets(url: str, shown: str) -> None:
    assert address(url) == shown

"""The doctor with Sentinels: it examines the primary that they name, and reports a wrong name for that primary."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery
from pytest_django import Settings

from tasks_demo.doctor.connections import RedisUser, broker, leases, results
from tasks_demo.doctor.findings import State
from tasks_demo.doctor.redis_server import examine, group
from tests.integration.servers.sentinel import ENCODED, PASSWORD, Servers


@pytest.fixture(scope="module")
def sentinel() -> Iterator[tuple[int, int]]:
    """The ports of a Sentinel and of the primary that it watches."""
    with tempfile.TemporaryDirectory(prefix="sentinel-") as folder, ExitStack() as stack:
        servers = Servers(stack, Path(folder))
        yield servers.sentinel, servers.first


def shop(port: int, **options: Any) -> Celery:
    app = Celery("shop", set_as_current=False, fixups=[])
    app.conf.broker_url = app.conf.result_backend = f"sentinel://:{ENCODED}@127.0.0.1:{port}"
    app.conf.broker_transport_options = app.conf.result_backend_transport_options = options
    return app


def test_doctor_with_sentinels_primary_is_named_and_examined(sentinel: tuple[int, int]) -> None:
    port, watched = sentinel
    app = shop(port, master_name="mymaster")
    users: list[RedisUser] = []
    (row,) = broker(app, users)
    assert (row.state, row.seen) == (
        State.OK, f"sentinel://127.0.0.1:{port}, the primary is 127.0.0.1:{watched}",
    )  # fmt: skip
    (row,) = results(app, users)
    assert row.state is State.OK, row
    direct = RedisUser("leases", redis.Redis("127.0.0.1", watched, password=PASSWORD), "tasks_demo:")
    try:
        assert [[user.role for user in its] for its in group([*users, direct])] == [["broker", "leases"]]
        rows = {row.what: row for row in examine(users, frozenset({"celery"}))}
        assert rows["writes of broker"].state is State.OK
        assert rows["persistence"].seen.startswith("nothing on disk, 1 replica")  # a row of this primary
    finally:
        for user in (*users, direct):
            user.client.connection_pool.disconnect()


def test_doctor_examines_leases_behind_sentinels(sentinel: tuple[int, int], settings: Settings) -> None:
    port, watched = sentinel
    users: list[RedisUser] = []
    settings.TASKS_DEMO_REDIS_URL = f"sentinel://:{ENCODED}@127.0.0.1:{port},127.0.0.1:{port}/0?master=mymaster"
    (row,) = leases(shop(port), users)
    assert row.state is State.OK, row
    assert row.seen.endswith(f"127.0.0.1:{port}, the primary is 127.0.0.1:{watched}")
    users[0].client.connection_pool.disconnect()
    for wrong, said in (("master=nope", "Correct master_name"), ("", "Write TASKS_DEMO_REDIS_URL as in")):
        settings.TASKS_DEMO_REDIS_URL = f"sentinel://127.0.0.1:{port}?{wrong}"
        (row,) = leases(shop(port), [])
        assert (row.state, row.ready) == (State.FAIL, False)
        assert said in row.fix, row


@pytest.mark.parametrize(
    ("options", "said"), [({}, "Write master_name in"), ({"master_name": "nope"}, "Correct master_name in")]
)
def test_doctor_does_not_blame_a_wrong_name_of_sentinels_on_the_password(
    options: dict[str, str], said: str, sentinel: tuple[int, int]
) -> None:
    app = shop(sentinel[0], **options)
    for rows, setting in (
        (broker(app, []), "CELERY_BROKER_TRANSPORT_OPTIONS"),
        (results(app, []), "CELERY_RESULT_BACKEND_TRANSPORT_OPTIONS"),
    ):
        (row,) = rows
        assert (row.state, row.ready) == (State.FAIL, False)
        assert row.fix.startswith(f"{said} {setting}"), row
        assert "password" not in row.fix

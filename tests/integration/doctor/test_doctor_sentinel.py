"""The doctor with Sentinels: it examines the primary that they name, and reports a wrong name for that primary."""

from __future__ import annotations

import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery
from pytest_django import Settings

from tasks_demo.doctor.connections import RedisUser, broker, leases, results
from tasks_demo.doctor.findings import State
from tasks_demo.doctor.redis_server import examine, group
from tests.integration.servers.redis import EMBEDDED
from tests.support import until


def free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as listening:
        return int(listening.getsockname()[1])


@pytest.fixture(scope="module")
def sentinel() -> Iterator[tuple[int, int]]:
    """The ports of a Sentinel and of the primary that it watches as ``shop-primary``."""
    port, watched = free_port(), free_port()
    with tempfile.TemporaryDirectory(prefix="sentinel-") as name, ExitStack() as stack:
        folder = Path(name)
        options = f"bind 127.0.0.1\ndir {folder}\nlogfile {folder}/log\n"
        (folder / "primary.conf").write_text(f'port {watched}\nsave ""\n{options}')
        (folder / "sentinel.conf").write_text(
            f"port {port}\n{options}sentinel monitor shop-primary 127.0.0.1 {watched} 1\n"
        )
        for arguments in (["primary.conf"], ["sentinel.conf", "--sentinel"]):
            process = subprocess.Popen(
                [EMBEDDED, *arguments], cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
            )
            stack.callback(process.wait)
            stack.callback(process.kill)

        def names_the_primary() -> bool:
            try:
                with redis.Redis(port=port, decode_responses=True) as client:
                    return bool(client.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "shop-primary"))
            except redis.ConnectionError:
                return False

        until(names_the_primary)
        yield port, watched


def shop(port: int, **options: Any) -> Celery:
    app = Celery("shop", broker=f"sentinel://:secret@127.0.0.1:{port}", set_as_current=False, fixups=[])
    app.conf.result_backend = f"sentinel://127.0.0.1:{port}"
    app.conf.broker_url = f"sentinel://127.0.0.1:{port}"
    app.conf.broker_transport_options = app.conf.result_backend_transport_options = options
    return app


def test_doctor_with_sentinels_primary_is_named_and_examined(sentinel: tuple[int, int]) -> None:
    port, watched = sentinel
    app = shop(port, master_name="shop-primary")
    users: list[RedisUser] = []
    (row,) = broker(app, users)
    assert (row.state, row.seen) == (
        State.OK, f"sentinel://127.0.0.1:{port}, the primary is 127.0.0.1:{watched}",
    )  # fmt: skip
    (row,) = results(app, users)
    assert row.state is State.OK, row
    direct = RedisUser("leases", redis.Redis("127.0.0.1", watched), "tasks_demo:")
    try:
        assert [[user.role for user in its] for its in group([*users, direct])] == [["broker", "leases"]]
        rows = {row.what: row for row in examine(users, frozenset({"celery"}))}
        assert rows["writes of broker"].state is State.OK
        assert rows["persistence"].state is State.FAIL  # a row of this primary
    finally:
        for user in (*users, direct):
            user.client.connection_pool.disconnect()


def test_doctor_with_sentinels_leases_behind_sentinels_are_asked_for_too(
    sentinel: tuple[int, int], settings: Settings
) -> None:
    port, watched = sentinel
    users: list[RedisUser] = []
    settings.TASKS_DEMO_REDIS_URL = f"sentinel://127.0.0.1:{port},127.0.0.1:{port}/0?master=shop-primary"
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
def test_doctor_with_sentinels_wrong_name_is_not_blamed_on_the_password(
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

"""What the doctor says about RabbitMQ."""

from __future__ import annotations

import pytest
from celery import Celery

from tasks_demo.doctor.connections import broker
from tasks_demo.doctor.findings import State
from tasks_demo.doctor.redis_server import RedisUser
from tests.integration.doctor.doctor_command import doctor
from tests.integration.servers.rabbitmq import RabbitServer
from tests.integration.servers.redis import RedisServer
from tests.support import Home

pytestmark = pytest.mark.timeout(120)


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


def test_rabbitmq_that_refuses_the_login_shows_no_password(rabbitmq: RabbitServer) -> None:
    app = Celery("shop", broker=rabbitmq.url.replace("guest:guest", "guest:hidden"), set_as_current=False, fixups=[])
    (row,) = broker(app, [])
    assert (row.state, row.ready) == (State.FAIL, False)
    assert "hidden" not in row.seen + row.fix

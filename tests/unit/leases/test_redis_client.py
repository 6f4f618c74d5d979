"""The address of the lock's Redis: options that Celery's result backend requires are understood here too."""

from __future__ import annotations

import ssl

import pytest
from celery import Celery
from pytest_django import Settings

from tasks_demo.doctor.connections import leases
from tasks_demo.doctor.findings import State
from tasks_demo.leases.redis_client import connect
from tasks_demo.patterns import DedupLock


@pytest.mark.parametrize("spelt", ["CERT_REQUIRED", "required"])
def test_redis_client_one_tls_address_serves_celery_s_backend_and_the_lock(spelt: str) -> None:
    url = f"rediss://127.0.0.1:1/0?ssl_cert_reqs={spelt}"
    pool = connect(url, 1.0).connection_pool
    assert pool.make_connection().cert_reqs == ssl.CERT_REQUIRED
    assert Celery("shop", backend=url, set_as_current=False).backend.connparams["ssl_cert_reqs"] == ssl.CERT_REQUIRED


def test_redis_client_doctor_fails_a_lock_without_a_redis_only_where_a_task_uses_it(settings: Settings) -> None:
    settings.TASKS_DEMO_REDIS_URL = ""
    app = Celery("shop", set_as_current=False, fixups=[])
    for name in [name for name in app.tasks if not name.startswith("celery.")]:
        app.tasks.unregister(name)
    assert [row.state for row in leases(app, [])] == [State.OK]

    def charge() -> None:
        """Does nothing: the doctor only inspects it."""

    app.task(name="shop.charge", base=DedupLock, shared=False)(charge)
    (row,) = leases(app, [])
    assert (row.state, "shop.charge" in row.seen) == (State.FAIL, True)

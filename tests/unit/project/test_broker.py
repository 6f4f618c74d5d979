"""The broker of the demo project: its Redis by the reliable transport, or by stock kombu."""

from __future__ import annotations

import importlib
from collections.abc import Iterator

import pytest
from celery import current_app
from django.core.exceptions import ImproperlyConfigured

from project import settings


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    yield
    importlib.reload(settings)


@pytest.mark.parametrize(
    ("redis", "transport", "broker", "results"),
    [
        ("unix:///run/r.sock", "", "reliable+socket:///run/r.sock", "redis+socket:///run/r.sock"),
        ("unix:///run/r.sock", "redis", "redis+socket:///run/r.sock", "redis+socket:///run/r.sock"),
        ("redis://:p@h:1/2", "reliable", "reliable+redis://:p@h:1/2", "redis://:p@h:1/2"),
        (
            "rediss://h/0", "", "reliable+rediss://h/0?ssl_cert_reqs=required", "rediss://h/0?ssl_cert_reqs=required",
        ),
    ],
)  # fmt: skip
def test_broker_is_the_transport_unless_stock_redis_is_named(
    redis: str, transport: str, broker: str, results: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("REDIS_URL", redis)
        patch.setenv("BROKER_TRANSPORT", transport)
        loaded = importlib.reload(settings)
        assert (broker, results) == (loaded.CELERY_BROKER_URL, loaded.CELERY_RESULT_BACKEND)
        assert loaded.TASKS_DEMO_REDIS_URL.startswith(redis)


def test_broker_of_another_name_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("BROKER_TRANSPORT", "kafka")
        with pytest.raises(ImproperlyConfigured, match="write reliable or redis"):
            importlib.reload(settings)


def test_settings_have_no_name_that_celery_reads_as_an_old_one_of_its_own() -> None:
    """``BROKER_TRANSPORT`` as a setting would make Celery use that transport for every address."""
    assert [name for name in dir(settings) if name.startswith(("BROKER_", "CELERYD_", "CELERYBEAT_"))] == []
    assert current_app.conf.broker_transport is None

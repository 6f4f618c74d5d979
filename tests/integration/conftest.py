"""Fixtures that the integration tests share: the example project, RabbitMQ, Redis, the table of the outbox."""

from collections.abc import Iterator

import pytest

from tests.integration.bookshop import any_broker, bookshop
from tests.integration.outbox.outbox_table import elsewhere, table
from tests.integration.quarantine.letters import broker_client
from tests.integration.servers.rabbitmq import rabbitmq

__all__ = ["any_broker", "bookshop", "broker_client", "elsewhere", "no_task_elsewhere", "rabbitmq", "table"]


@pytest.fixture
def no_task_elsewhere() -> Iterator[None]:
    """Hide tasks of other modules whose records are on an alias without our tables."""
    from celery import current_app

    elsewhere = {name: task for name, task in current_app.tasks.items() if getattr(task, "using", None)}
    for name in elsewhere:
        del current_app.tasks[name]
    yield
    current_app.tasks.update(elsewhere)

"""Fixtures of the example project, for every module here."""

from tests.integration.rabbitmq_server import rabbitmq
from tests.integration.stranger import any_broker, stranger

__all__ = ["any_broker", "rabbitmq", "stranger"]

"""A relay that hands its messages to the tasks instead of a broker; what it takes, and when, is the real relay's decision."""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery import current_app
from django.db.models.functions import Now

from tasks_demo.outbox.progress import HEADER
from tasks_demo.outbox.relay import Relay
from tasks_demo.outbox.suspects import Suspects
from tasks_demo.records.models import OutboxMessage
from tasks_demo.testing.messages import Message

if TYPE_CHECKING:
    from tasks_demo.testing.deliveries import Delivered, Deliveries


class NoBroker(Suspects):
    """Nothing keeps a copy between two drains: what is due again, and runs nowhere, comes again."""

    def _lost(self, rows: list[OutboxMessage]) -> list[OutboxMessage]:
        return rows


class DrainingRelay(Relay):
    """Not for several threads at once."""

    def __init__(self, deliveries: Deliveries, using: str | None) -> None:
        super().__init__(using=using)
        self._suspects = NoBroker(self)
        self.delivered: list[Delivered] = []
        self.errors: list[Exception] = []
        self._deliveries = deliveries

    def _publish(self, row: OutboxMessage) -> None:
        headers = {**row.options.get("headers", {}), HEADER: self.using}
        message = Message(row.task, *row.call(self._app), row.task_id, headers)
        try:
            delivered = self._deliveries._deliver(message.through_its_serializer(), redelivered=row.publications > 0)
        except Exception as error:
            self.errors.append(error)  # not an answer of a broker: the test is told
            raise
        self.delivered.append(delivered)


def drain(deliveries: Deliveries, using: str | None, future: bool) -> list[Delivered]:
    """Deliver until nothing is due. Raises what kept a row from being delivered."""
    relay = DrainingRelay(deliveries, using)
    while not relay.errors:
        if future:
            waiting = OutboxMessage.objects.using(relay.using).filter(finished_at=None, published_at=None)
            waiting.update(due_at=Now())
        if not relay.run_once().taken:
            break
    failed = [delivered.error for delivered in relay.delivered if delivered.error is not None]
    for error in [*relay.errors, *(failed if current_app.conf.task_eager_propagates else [])]:
        raise error
    return relay.delivered

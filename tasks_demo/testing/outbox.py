"""A relay that delivers messages directly to the tasks instead of a broker. It selects messages as the real relay does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from celery import current_app
from django.db.models.functions import Now

from tasks_demo.outbox.publisher import Answers, Publisher
from tasks_demo.outbox.reconciler import Reconciler
from tasks_demo.outbox.relay import Relay
from tasks_demo.outbox.reporting import HEADER
from tasks_demo.records.models import OutboxMessage
from tasks_demo.testing.messages import Message

if TYPE_CHECKING:
    from tasks_demo.testing.deliveries import Delivered, Deliveries


class NoBroker(Reconciler):
    """Counts every due row that no process runs as lost, because no broker keeps a copy between two drains."""

    def _lost(self, rows: list[OutboxMessage]) -> list[OutboxMessage]:
        return rows


class InProcessPublisher(Publisher):
    """Delivers each message to its task, synchronously in this process."""

    def __init__(self, deliveries: Deliveries, using: str) -> None:
        super().__init__(using, report=True, connect=None)
        self.delivered: list[Delivered] = []
        self.errors: list[Exception] = []
        self._deliveries = deliveries

    def publish(self, rows: Sequence[OutboxMessage]) -> Answers:
        answers = Answers()
        for row in rows:
            headers = {**row.options.get("headers", {}), HEADER: self._using}
            try:
                message = Message(row.task, *row.call(current_app), row.task_id, headers)
                delivered = self._deliveries._deliver(
                    message.through_its_serializer(), redelivered=row.publications > 0
                )
                answers.confirmed[row.id] = self.place(row)
            except Exception as error:  # noqa: BLE001  (kept, because the test raises it)
                self.errors.append(error)
                answers.refused[row.id] = error
            else:
                self.delivered.append(delivered)
        return answers


class DrainingRelay(Relay):
    """A relay that publishes to the tasks. Not thread-safe."""

    def __init__(self, deliveries: Deliveries, using: str | None) -> None:
        super().__init__(using=using)
        self.tasks = self._publisher = InProcessPublisher(deliveries, self.using)
        self._reconciler = NoBroker(self._table, self._publisher)


def drain(deliveries: Deliveries, using: str | None, future: bool) -> list[Delivered]:
    """Deliver messages until none is due. ``future``: make messages not yet published due first.

    Raises the error that prevented a row from being delivered, else, if ``task_eager_propagates``, the first error of a job.
    """
    relay = DrainingRelay(deliveries, using)
    while not relay.tasks.errors:
        if future:
            waiting = OutboxMessage.objects.using(relay.using).filter(finished_at=None, published_at=None)
            waiting.update(due_at=Now())
        if not relay.run_once().taken:
            break
    failed = [delivered.error for delivered in relay.tasks.delivered if delivered.error is not None]
    for error in [*relay.tasks.errors, *(failed if current_app.conf.task_eager_propagates else [])]:
        raise error
    return relay.tasks.delivered

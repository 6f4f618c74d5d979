"""The shop's own tests: no Redis, no broker, and every message once more."""

from __future__ import annotations

from django.test import TestCase

from orders import tasks
from orders.models import Payment
from tasks_demo.outbox import enqueue
from tasks_demo.testing import DeliveryTestMixin, deliver, drain_outbox, redeliver, skip_time


class OnceTest(DeliveryTestMixin, TestCase):
    """What must happen once does, though the message comes again."""

    def test_jobs_that_recognise_their_operation(self) -> None:
        for task in (tasks.charge, tasks.book, tasks.mail_receipt):
            with self.subTest(task.name):
                task_id = task.delay("17").id
                redeliver(task_id)
                task.delay("17")
                self.assertEqual(Payment.objects.filter(by=task.name).count(), 1)

    def test_a_charge_whose_worker_dies_is_charged_by_the_next(self) -> None:
        killed = deliver(tasks.charge, ("17",), kill="before_body")
        skip_time(60)
        redeliver(killed.task_id)
        self.assertEqual(Payment.objects.count(), 1)

    def test_a_shipment_goes_with_its_order(self) -> None:
        enqueue(tasks.ship, ("17",))
        self.assertEqual([shipped.state for shipped in drain_outbox()], ["SUCCESS"])


class TwiceTest(DeliveryTestMixin, TestCase):
    """A job that may be done twice is: an assertion of one effect fails."""

    def test_the_search_index(self) -> None:
        redeliver(tasks.index.delay("17").id)
        self.assertEqual(Payment.objects.count(), 2)

"""The mixin for Django's TestCase and TransactionTestCase."""

from __future__ import annotations

import unittest

from tasks_demo.testing.deliveries import Deliveries, isolated


class DeliveryTestMixin(unittest.TestCase):
    """Isolates each test: ``class ChargeTest(DeliveryTestMixin, django.test.TestCase)``.

    Does not isolate ``setUpTestData``. Isolation begins in ``setUp``; a class with its own ``setUp`` must call
    ``super().setUp()``.
    """

    #: The address of the lease store: memory, or a Redis to test with.
    delivery_redis_url = "memory://"
    #: The messages delivered in this test.
    deliveries: Deliveries

    def setUp(self) -> None:
        """Start without leases, markers or messages."""
        super().setUp()
        self.deliveries = self.enterContext(isolated(self.delivery_redis_url))

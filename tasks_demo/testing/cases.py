"""The mixin for Django's TestCase and TransactionTestCase."""

from __future__ import annotations

import unittest

from tasks_demo.testing.deliveries import Deliveries, isolated


class DeliveryTestMixin(unittest.TestCase):
    """Isolates each test: ``class ChargeTest(DeliveryTestMixin, django.test.TestCase)``.

    Begins in ``setUp``: a class that has its own must call ``super().setUp()``. What ``setUpTestData`` runs is not isolated.
    """

    #: Where leases live: in memory, or the address of a Redis for those who want to test with it.
    delivery_redis_url = "memory://"
    #: What was delivered in this test.
    deliveries: Deliveries

    def setUp(self) -> None:
        """Begin with no lease, no marker and no message."""
        super().setUp()
        self.deliveries = self.enterContext(isolated(self.delivery_redis_url))

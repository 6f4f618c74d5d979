"""A claim that took longer than the lease lasts."""

from __future__ import annotations

from tests.integration.patterns.failing_worker import Failing, executions
from tests.support import Home


def test_lease_that_is_over_before_the_body_has_the_delivery_requeued(home: Home, redis_url: str) -> None:
    """Its cap too, which fails a job whose body has used it up."""
    over = {"TASKS_DEMO_LEASE_SECONDS": "5", "TASKS_DEMO_LEASE_CAP_SECONDS": "5", "STALL_SECONDS": "6"}
    environment = Failing(home, redis_url, **over)
    with environment.worker:
        folder, sent = environment.job("dedup_lock", "claimed stall")
        assert sent.get(timeout=30, propagate=False) == {"number": 1}
        environment.has(sent.id, "completed", "returned")
        points = environment.points(sent.id)
        assert points.count("claimed") == 2
        assert points.count("started") == executions(folder) == 1
        assert points.index("lease_lost") < points.index("started")

"""When the copy of a delivery cannot be published, the log says so with task ID and operation, a few times a minute."""

from __future__ import annotations

from tests.integration.bookshop import Bookshop
from tests.support import until


def test_requeue_log_is_rate_limited_while_no_copy_can_be_published(bookshop: Bookshop) -> None:
    task_id = bookshop.value("tasks.charge.delay(order_id='7').id")
    settings = {
        "TASKS_DEMO_REDIS_URL": "redis://127.0.0.1:1/0",  # every job is deferred ...
        "CELERY_TASK_ROUTES": ["tests.integration.project_routers.takes_no_copy"],  # ... and no copy can be published
    }
    about = f"orders.charge[{task_id}], operation 'charge:7': Redis did not claim"
    with bookshop.worker(settings=settings) as worker:
        until(lambda: worker.said.count(f"orders.charge[{task_id}] received") >= 16, "sixteen deliveries", 60)
    lines = [line for line in worker.said.splitlines() if about in line]
    assert 0 < len(lines) <= 10, worker.said  # five for each of two processes
    assert all("ERROR/" in line and "no copy could be published" in line for line in lines)
    assert lines[0].endswith("It is rejected, so that the broker delivers it again.")

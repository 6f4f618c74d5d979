"""A project that stores no results: further copies of a job are still suppressed, and are not requeued repeatedly."""

from __future__ import annotations

from typing import Any

import pytest

from tests.integration.bookshop import Bookshop
from tests.support import until

COPIES = """
for task in (tasks.charge, tasks.book, tasks.mail_receipt):
    for number in (1, 1, 2):
        task.apply_async((ORDER,), task_id=f"{task.name}-{ORDER}-{number}")
"""
SUPPRESSED = (
    "__import__('tasks_demo.ledger.models', fromlist=['Event'])."
    "Event.objects.filter(kind='suppressed', task_id__contains='-{order}-').count()"
)


@pytest.mark.parametrize(
    ("order", "settings"),
    [
        ("none", {"CELERY_RESULT_BACKEND": None}),
        ("rpc", {"CELERY_RESULT_BACKEND": "rpc://"}),
        ("memory", {"CELERY_RESULT_BACKEND": "cache+memory://"}),
    ],
)
def test_copies_are_suppressed_without_results(bookshop: Bookshop, order: str, settings: dict[str, Any]) -> None:
    with bookshop.worker(settings=settings) as worker:
        done = bookshop.python(f"ORDER = {order!r}{COPIES}", settings=settings)
        assert done.code == 0, done.err
        until(lambda: bookshop.value(SUPPRESSED.format(order=order)) == 6, "two more copies of each are suppressed", 60)
        assert bookshop.payments(order) == 3
        assert "AttributeError" not in worker.said, worker.said  # as a backend that cannot be read raises

"""The fate of a job that a worker held, from literal events."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from tasks_demo.dashboard.fates import HELD, PUBLISHED_AGAIN, WAITING, Holder, fate
from tasks_demo.dashboard.labels import Badge
from tasks_demo.ledger.models import Event, Tally

START = datetime(2026, 11, 26, tzinfo=UTC)


def published(number: int) -> Event:
    return Event(id=number, kind="published", task_id="t", worker="", at=START + timedelta(seconds=number))


@pytest.mark.parametrize(
    ("alive", "publications", "badge"),
    [
        # The first publication may be committed after the worker's report: it is no second copy.
        (True, 1, HELD),
        (False, 1, WAITING),
        (False, 2, PUBLISHED_AGAIN),
    ],
)
def test_fate_of_a_job_without_a_receipt_on_record(alive: bool, publications: int, badge: Badge) -> None:
    holder = Holder("w", START, None if alive else START + timedelta(hours=1), after=0, alive=alive)
    events = [published(number) for number in range(1, publications + 1)]
    found = fate("t", holder, events, Tally(task_id="t"), listed=True)
    assert found is not None
    assert found.badge is badge

"""For the tests of a project that uses the patterns: no Redis, no broker, nothing left from test to test.

With Django's runner, mix ``DeliveryTestMixin`` into a TestCase; with pytest, write ``pytest_plugins =
["tasks_demo.testing.pytest"]`` into conftest.py. Then, inside a test::

    task_id = place_order(17)              # the code under test, with its delay() and enqueue()
    drain_outbox()                         # what it has left in the outbox
    redeliver(task_id)                     # the same message again: what must happen once has happened once
    assert executions(task_id) == 1

What is **not** shown by such tests: anything about brokers, acknowledgements and processes. A death is played by an exception
that the body cannot catch. Whether the promise survives a real SIGKILL is what ``manage.py experiment`` is for.
"""

from tasks_demo.testing.cases import DeliveryTestMixin
from tasks_demo.testing.deliveries import (
    Delivered,
    Deliveries,
    State,
    WorkerKilled,
    deliver,
    drain_outbox,
    executions,
    isolated,
    redeliver,
    skip_time,
)

__all__ = [
    "Delivered",
    "Deliveries",
    "DeliveryTestMixin",
    "State",
    "WorkerKilled",
    "deliver",
    "drain_outbox",
    "executions",
    "isolated",
    "redeliver",
    "skip_time",
]

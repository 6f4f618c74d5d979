"""Helpers for testing a project that uses the patterns, without Redis or a broker. Tests share no state.

Such tests do **not** exercise brokers, acknowledgements or processes: a worker's death is simulated by a BaseException.
``manage.py experiment`` tests whether a promise survives a real SIGKILL.

With Django's runner, mix ``DeliveryTestMixin`` into a TestCase. With pytest, write ``pytest_plugins =
["tasks_demo.testing.pytest"]`` into conftest.py. Then, in a test::

    task_id = place_order(17)              # the code under test, with its delay() and enqueue()
    drain_outbox()                         # deliver the jobs that it committed to the outbox
    redeliver(task_id)                     # deliver the same message again
    assert executions(task_id) == 1
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

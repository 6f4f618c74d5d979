"""Drains a cell to quiescence: keeps a worker running until nothing is left, then stops it warm (decision 4)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from tasks_demo.lab.engine.publishing import Stop
from tasks_demo.lab.engine.workers import Workers
from tasks_demo.lab.processes.brokers import Holdings, RedisLane

POLL_SECONDS = 0.05


def drain(
    workers: Workers,
    broker: RedisLane,
    *,
    unfinished: Callable[[], int],
    deadline: float,
    stop: threading.Event,
    progress: Callable[[int], None],
) -> str:
    """Return "" when nothing is left and the worker has ended warm, which proves that no body runs; else what was left.

    The worker is stopped only while it holds no message: Celery can forget a job, unacknowledged, that it is fetching or
    starting when SIGTERM arrives, and the lab would have injected a fault of its own.

    :param unfinished: number of messages in the outbox.
    :param deadline: on the monotonic clock.
    :param progress: called with the number of messages left.
    :raises Stop: the run is being interrupted.
    """
    stopping = False
    held, in_outbox = Holdings(0, 0, fetching=True), 0
    while time.monotonic() < deadline:
        if stop.is_set():
            raise Stop
        in_outbox, held = unfinished(), broker.holdings(workers.name)
        left = held.queued + held.unacked + in_outbox
        if workers.exited.is_set():
            if not left:
                return ""
            workers.start()
            stopping = False
        elif not (stopping or left or held.fetching):
            workers.stop_warm()
            stopping = True
        progress(left)
        workers.exited.wait(POLL_SECONDS)
    state = "gone" if workers.exited.is_set() else "busy" if held.fetching else "idle"
    return f"not quiet in time: {held.queued} queued, {held.unacked} unacknowledged, {in_outbox} in the outbox, worker {state}"

"""Drains a cell to quiescence: keeps a worker running until nothing is left, then stops it warm (decision 4)."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable

from tasks_demo.lab.engine.publishing import Stop
from tasks_demo.lab.engine.workers import Workers
from tasks_demo.lab.processes.brokers import Holdings, Lane

POLL_SECONDS = 0.05
#: After its deadline a cell goes on while fewer messages are left than this many seconds ago: a slow machine is not a stuck one.
PATIENCE_SECONDS = 60.0
#: Maximum time for delayed messages of other cells to be gone.
OTHERS_SECONDS = 60.0


def drain(
    workers: Workers,
    broker: Lane,
    *,
    unfinished: Callable[[], int],
    deadline: float,
    stop: threading.Event,
    progress: Callable[[int], None],
    patience: float = PATIENCE_SECONDS,
) -> str:
    """Return "" when nothing is left and the worker has ended warm, which proves that no body runs; else what was left.

    The worker is stopped only while it holds no message: Celery can forget a job, unacknowledged, that it is fetching or
    starting when SIGTERM arrives, and the lab would have injected a fault of its own.

    :param unfinished: number of messages in the outbox.
    :param deadline: on the monotonic clock; later while the number left falls at least every ``patience`` seconds.
    :param progress: called with the number of messages left.
    :raises Stop: the run is being interrupted.
    """
    stopping = False
    held, in_outbox, least = Holdings(0, 0, moving=True), 0, math.inf
    while True:
        if stop.is_set():
            raise Stop
        exited = workers.exited.is_set()
        in_outbox, held = unfinished(), broker.holdings(None if exited else workers.name)
        left = held.queued + held.unacked + in_outbox
        if left < least:
            least, deadline = left, max(deadline, time.monotonic() + patience)
        if exited:
            if not (left or held.moving):
                return ""
            if left:
                workers.start()
                stopping = False
        elif not (stopping or left or held.moving):
            workers.stop_warm()
            stopping = True
        progress(left)
        if time.monotonic() >= deadline:
            break
        workers.exited.wait(POLL_SECONDS)
    state = "gone" if workers.exited.is_set() else "busy" if held.moving else "idle"
    return f"not quiet in time: {held.queued} queued, {held.unacked} unacknowledged, {in_outbox} in the outbox, worker {state}"


def left_over(broker: Lane, stop: threading.Event, seconds: float = OTHERS_SECONDS) -> Holdings:
    """Return what the broker holds when the cell has no worker any more.

    RabbitMQ keeps the delayed messages of all cells in the same queues: those of another are waited for. This cell's own would
    come back to its queue, and stay there.
    """
    deadline = time.monotonic() + seconds
    while (held := broker.holdings()).queued and held.moving and time.monotonic() < deadline:
        if stop.wait(POLL_SECONDS):
            break
    return held

"""Asks broker and workers what they hold now. Never takes longer than DEADLINE, and asks at most once every KEPT_SECONDS.

Does **not** guarantee that every worker answers in time: one on the solo pool does so only between two jobs.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tasks_demo.checks import applications
from tasks_demo.checks.setup import Setup
from tasks_demo.core.lifecycle import described
from tasks_demo.outbox.copy_search import QueueState, oldest_ids, queue_state

#: Maximum time for a page to wait, seconds; for one reply of the broker; and for the workers' answers.
DEADLINE, REPLY, ANSWERS = 0.95, 0.5, 0.4
#: An answer is shown to everybody for this long, seconds.
KEPT_SECONDS = 2.0
#: Maximum number of queues that are asked about, and of running jobs that are shown for a worker.
MOST_QUEUES, MOST_ACTIVE = 50, 50


@dataclass(frozen=True, slots=True)
class Active:
    """A job that a worker says it runs. ``since``: seconds since the epoch, or None."""

    task_id: str
    task: str
    pid: int | None
    since: float | None


@dataclass(slots=True)
class BrokerState:
    """What broker and workers answered. Each ``…_trouble`` is empty, or says why that part is missing."""

    at: float = 0.0
    broker: str = ""
    queues: dict[str, QueueState | None] = field(default_factory=dict)
    oldest: dict[str, list[str] | None] = field(default_factory=dict)
    queues_truncated: bool = False
    broker_trouble: str = ""
    #: Worker → the jobs that it runs.
    active: dict[str, list[Active]] = field(default_factory=dict)
    #: Queue → the workers that consume it.
    consumed: dict[str, list[str]] = field(default_factory=dict)
    consumers_trouble: str = ""
    workers_trouble: str = ""


_asking = threading.Lock()
_last = BrokerState()


def ask() -> BrokerState:
    """Return what broker and workers say. While somebody else asks, returns the previous answer."""
    global _last
    if not _is_fresh() and _asking.acquire(timeout=DEADLINE):
        try:
            if not _is_fresh():  # nobody has asked while this one waited
                _last = _ask()
        finally:
            _asking.release()
    return _last


def _is_fresh() -> bool:
    return 0 <= time.time() - _last.at < KEPT_SECONDS


def _ask() -> BrokerState:
    app = applications.current()
    setup = Setup.of(app)
    state = BrokerState(at=time.time(), broker=setup.transport)
    works: dict[str, Callable[[Give], None]] = {"broker_trouble": lambda give: _queues(app, setup, give)}
    if app.conf.worker_enable_remote_control:
        works["workers_trouble"] = lambda give: _active(app, give)
        works["consumers_trouble"] = lambda give: _consumed(app, give)
    else:
        state.workers_trouble = state.consumers_trouble = "They are not asked: worker_enable_remote_control is off."
    answers = {trouble: _Answer(trouble, work) for trouble, work in works.items()}
    deadline = time.monotonic() + DEADLINE
    for answer in answers.values():
        answer.thread.start()
    for trouble, answer in answers.items():
        # A thread that is late does not change what is shown.
        answer.there.wait(max(0.0, deadline - time.monotonic()))
        late = {trouble: f"No answer within {DEADLINE:g} s."}
        for name, value in (answer.found if answer.there.is_set() else late).items():
            setattr(state, name, value)
    state.at = time.time()
    return state


Give = Callable[[dict[str, Any]], None]


class _Answer:
    """What one thread found. It is there before the connection is closed, which on Redis waits for a pending BRPOP."""

    def __init__(self, trouble: str, work: Callable[[Give], None]) -> None:
        self.there = threading.Event()
        self.found: dict[str, Any] = {}
        self.thread = threading.Thread(target=self._run, args=(trouble, work), name="broker-state", daemon=True)

    def _run(self, trouble: str, work: Callable[[Give], None]) -> None:
        try:
            work(self._give)
        except Exception as error:  # noqa: BLE001  (each transport has its own errors)
            self._give({trouble: f"No answer: {described(error)[:300]}."})

    def _give(self, found: dict[str, Any]) -> None:
        if not self.there.is_set():
            self.found = found
            self.there.set()


@contextmanager
def _connected(app: Any) -> Iterator[Any]:
    setup = Setup(app, ())
    options = dict(setup.options)
    if setup.is_redis:
        options |= {"socket_timeout": REPLY + ANSWERS, "socket_connect_timeout": REPLY}
    elif setup.is_rabbitmq:
        options |= {"read_timeout": REPLY + ANSWERS, "write_timeout": REPLY}
    with app.connection_for_read(connect_timeout=REPLY, transport_options=options, heartbeat=0) as connection:
        connection.ensure_connection(max_retries=1, interval_start=0, interval_step=0, timeout=REPLY)
        yield connection


def _queues(app: Any, setup: Setup, give: Give) -> None:
    names = sorted(str(name) for name in setup.queues)
    with _connected(app) as connection:
        queues = {name: queue_state(connection, name) for name in names[:MOST_QUEUES]}
        oldest = {name: oldest_ids(connection, name) for name in queues}
        give({"queues": queues, "oldest": oldest, "queues_truncated": len(names) > MOST_QUEUES})


def _active(app: Any, give: Give) -> None:
    with _connected(app) as connection:
        answers = _call(app, connection, "active")
        give({"active": {worker: [_job(job) for job in its[:MOST_ACTIVE]] for worker, its in answers}})


def _consumed(app: Any, give: Give) -> None:
    found: dict[str, list[str]] = {}
    with _connected(app) as connection:
        for worker, its in _call(app, connection, "active_queues"):
            for queue in its:
                found.setdefault(str(queue["name"]), []).append(worker)
        give({"consumed": found})


def _call(app: Any, connection: Any, question: str) -> list[tuple[str, list[Any]]]:
    mailbox = app.control.mailbox(connection)
    mailbox._producer_pool = None  # it belongs to the app's own connection, which may have no timeout
    answers = mailbox.multi_call(question, timeout=ANSWERS) or ()
    return [(str(worker), list(its or ())) for answer in answers for worker, its in answer.items()]


def _job(job: dict[str, Any]) -> Active:
    return Active(str(job.get("id")), str(job.get("name")), job.get("worker_pid"), job.get("time_start"))

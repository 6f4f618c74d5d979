"""Measures the server time of the dashboard's pages on a ledger of invented task IDs: lists, filters, searches, screens.

The time of a request is measured in Django's test client, so it includes middleware and templates, but neither a web server nor a
network. It is CPU time of this process and of the PostgreSQL processes of this machine that serve it, so that other load does not
count: without waiting for a disk, and without parallel workers of a query. With a database server elsewhere it is wall time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from django.conf import settings
from django.db import connections
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import NoReverseMatch, reverse

from tasks_demo.benchmark import users
from tasks_demo.benchmark.figures import Budget, Figure, Series
from tasks_demo.core.exceptions import EnvironmentNotReady
from tasks_demo.dashboard import screens
from tasks_demo.dashboard.keyset import Place
from tasks_demo.demo.seeding import loading
from tasks_demo.ledger.database import alias
from tasks_demo.ledger.models import Tally

#: Requests of a page before the measured ones.
WARM_UP = 2
SEED = 1
#: The user who requests the pages.
USER = "benchmark-of-the-dashboard"
#: Filters and searches of the list of task IDs: values that are frequent, rare and absent, alone and combined.
QUERIES = (
    "", "first=problems", "verdict=ok", "verdict=lost", "verdict=unresolved", "verdict=duplicated&pattern=acks_late",
    "outcome=succeeded", "outcome=failed", "outcome=waiting", "promise=broken", "promise=kept", "pattern=acks_late", "pattern=-",
    "task=search.tasks.reindex", "executions=0", "executions=1", "executions=2%2B", "effects=0", "effects=2%2B", "suppressed=1",
    "deferred=1", "since=1h", "since=7d&until=6d&outcome=failed", "verdict=parked&since=24h",
    "executions=2%2B&effects=1&pattern=acks_late", "task=search.tasks.reindex&executions=0",
    "pattern=acks_late&executions=0&effects=1", "task=shop.tasks.charge_order&effects=2%2B&outcome=succeeded",
    "first=problems&pattern=inbox", "first=problems&task=mail.tasks.newsletter&executions=2%2B",
    "worker=celery@worker-03", "worker=celery@worker-03&verdict=lost", "worker=nobody",
    f"run=seed{SEED}:acks_late/kill-main", f"run=seed{SEED}:acks_late/kill-main&effects=2%2B",
    "q=charge_order", "q=shop.", "q=celery@worker-03", "q=nothing-like-it", "q=shop.tasks.charge&executions=2%2B", "q=3",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Measured:
    """One page: the milliseconds of each request, and the number of queries on the ledger's database; or ``why_not``."""

    address: str
    milliseconds: tuple[float, ...]
    queries: int
    why_not: str = ""


def dashboard(task_ids: int, requests: int, say: Callable[[str], None], *, as_it_is: bool = False) -> list[Figure]:
    """Fill the ledger and measure every page ``requests`` times; ``as_it_is``: measure what is in it, and leave it.

    Raises EnvironmentNotReady if the ledger to fill is not empty, or the one to measure as it is has no task ID.
    """
    if as_it_is:
        known = Tally.objects.count()
        if not known:
            raise EnvironmentNotReady(
                "The ledger to measure as it is has no task ID. Fill it with `manage.py seed_ledger`."
            )
        try:
            return [_figure(page, known) for page in pages(requests, say)]
        finally:
            users.remove(USER)
    if not loading.is_empty(alias()):
        raise EnvironmentNotReady("The ledger to measure is not empty. Nothing was written. Name an empty database.")
    try:
        loading.load(
            alias(), tasks=task_ids, events_per_task=5, seed=SEED,
            progress=lambda done: say(f"inventing task IDs: {done:,} of {task_ids:,}"),
        )  # fmt: skip
        return [_figure(page, task_ids) for page in pages(requests, say)]
    finally:
        say("removing the invented task IDs")
        users.remove(USER)
        loading.remove(alias(), SEED)


def pages(requests: int, say: Callable[[str], None]) -> Iterator[Measured]:
    """Measure every page on the current content of the ledger."""
    settings.ALLOWED_HOSTS = ["testserver"]
    client = users.logged_in(USER)
    known = list(addresses())
    clock = _clock()
    for number, address in enumerate(known):
        say(f"page {number + 1} of {len(known)}: {address}")
        with CaptureQueriesContext(connections[alias()]) as captured:
            status = _get(client, address)
        queries = len(captured.captured_queries)  # read now, because the next request empties the log
        if status != 200:
            yield Measured(address, (), 0, f"it answered {status}")
            continue
        for _ in range(WARM_UP - 1):
            _get(client, address)
        took = []
        for _ in range(requests):
            began = clock()
            _get(client, address)
            took.append((clock() - began) * 1000)
        yield Measured(address, tuple(took), queries)


def addresses() -> Iterator[str]:
    """Yield the address of every page: registered screens, and the list of task IDs with its filters, searches and deep pages."""
    for screen in screens.registered():
        if not screen.enabled():
            continue
        try:
            yield reverse(f"admin:tasks_demo_{screen.name}")
        except NoReverseMatch:
            continue  # its address has arguments
    listed = reverse("admin:tasks_demo_tally_changelist")
    latest = Tally.objects.order_by("-first_at", "task_id")
    deep = latest[Tally.objects.count() // 2]
    yield reverse("admin:tasks_demo_tally_change", args=[deep.task_id])
    for query in (*QUERIES, f"q={deep.task_id}", f"q={deep.task_id[:3]}"):
        yield f"{listed}?{query}"
    for number, query in (
        (0, ""),
        (0, "&executions=2%2B"),
        (0, "&task=search.tasks.reindex&executions=0"),
        (7, "&first=problems"),
    ):
        place = quote(str(Place(number, deep.first_at, deep.task_id)))
        yield f"{listed}?after={place}{query}"
        yield f"{listed}?before={place}{query}"


def _clock() -> Callable[[], float]:
    """Return what measures a request: CPU time here and in the database's processes on this machine; else wall time."""
    servers = [connection for connection in connections.all() if connection.vendor != "sqlite"]

    def used() -> float:
        pids = {connection.connection.info.backend_pid for connection in servers if connection.connection is not None}
        return time.process_time() + sum(int(_on_cpu(pid).read_text().split()[0]) for pid in pids) / 1e9

    for connection in servers:
        connection.ensure_connection()
        if connection.vendor != "postgresql" or not _on_cpu(connection.connection.info.backend_pid).exists():
            return time.perf_counter
        if connection.connection.info.host[:1] != "/":  # a server elsewhere, whose pid says nothing here
            return time.perf_counter
    return used


def _on_cpu(pid: int) -> Path:
    return Path(f"/proc/{pid}/schedstat")


def _get(client: Client, address: str) -> int:
    return int(client.get(address).status_code)


def _figure(page: Measured, task_ids: int) -> Figure:
    what = f"{page.address} ({page.queries} queries, {task_ids:,} task IDs)"
    series = Series("page", "ms", page.milliseconds, events=True) if page.milliseconds else None
    most = 100.0 if task_ids <= 1_000_000 else 200.0
    return Figure(
        f"page:{page.address}",
        what,
        series,
        budget=Budget(f"p95 of A ≤ {most:.0f} ms", "p95", most=most),
        why_not=page.why_not,
    )

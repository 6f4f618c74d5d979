"""Measures what open dashboards cost a worker: its throughput with and without twenty overviews that poll a web server.

Web server, dashboards and worker share the machine and the ledger's SQLite file, as with ``make up``. Each dashboard asks for the
overview every two seconds, as the page does by default. Does **not** measure a browser, which draws on another machine.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from http.cookies import SimpleCookie

from django.conf import settings

from tasks_demo.benchmark import measures, users
from tasks_demo.benchmark.figures import Budget, Figure, Series
from tasks_demo.benchmark.jobs import TASKS
from tasks_demo.benchmark.measures import Throughput
from tasks_demo.benchmark.publishing import Arm
from tasks_demo.benchmark.run import Sizes
from tasks_demo.benchmark.workers import PROJECT, WAIT_SECONDS, Bench
from tasks_demo.core.exceptions import EnvironmentNotReady
from tasks_demo.demo.stack.processes import project_environment, spawn

#: How many dashboards are open, and the seconds between two polls of one.
DASHBOARDS, EVERY_SECONDS = 20, 2.0
ADDRESS = "/admin/tasks_demo/tally/overview/"
USER = "benchmark-of-open-dashboards"


class Dashboards:
    """Twenty clients of one web server. ``answers``: status → how many."""

    def __init__(self, port: int, cookie: str) -> None:
        self.answers: dict[int, int] = {}
        self._port, self._cookie, self._lock, self._closed = port, cookie, threading.Lock(), threading.Event()
        self._threads = [threading.Thread(target=self._poll, args=(number,)) for number in range(DASHBOARDS)]

    def __enter__(self) -> Dashboards:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        for thread in self._threads:
            thread.join()

    def _poll(self, number: int) -> None:
        mark = ""
        self._closed.wait(EVERY_SECONDS * number / DASHBOARDS)
        while not self._closed.is_set():
            status, mark = fetch_overview(self._port, self._cookie, mark)
            with self._lock:
                self.answers[status] = self.answers.get(status, 0) + 1
            self._closed.wait(EVERY_SECONDS)


def fetch_overview(port: int, cookie: str, mark: str) -> tuple[int, str]:
    """Poll once. Returns the status (0: no answer) and the mark of what is shown now."""
    server = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_SECONDS)
    try:
        server.request("GET", ADDRESS, headers={"Cookie": cookie, "HX-Request": "true", "Live-Mark": mark})
        answer = server.getresponse()
        answer.read()
        return answer.status, answer.headers.get("Live-Mark", mark)
    except (OSError, http.client.HTTPException):
        return 0, mark
    finally:
        server.close()


@contextlib.contextmanager
def web_server(bench: Bench) -> Iterator[tuple[int, str]]:
    """Run the project's web server; yields its port and the cookie of a logged-in user. Raises EnvironmentNotReady."""
    client = users.logged_in(USER)
    cookies: SimpleCookie = client.cookies
    cookie = f"{settings.SESSION_COOKIE_NAME}={cookies[settings.SESSION_COOKIE_NAME].value}"
    project = os.environ[PROJECT]
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = {**project_environment(), "DJANGO_SETTINGS_MODULE": project, "REDIS_URL": bench.redis.url}
    command = [sys.executable, "-m", "gunicorn", f"{project.rpartition('.')[0]}.wsgi", "--bind", f"127.0.0.1:{port}"]
    process = spawn([*command, "--threads", "4", "--no-control-socket"], log=bench.folder / "web.log", env=environment)
    try:
        pause = threading.Event()
        for _ in range(int(WAIT_SECONDS * 10)):
            if fetch_overview(port, cookie, "")[0] == 200:
                break
            pause.wait(0.1)
        else:
            raise EnvironmentNotReady(
                f"The web server did not answer within {WAIT_SECONDS:g} s: {bench.folder / 'web.log'}."
            )
        yield port, cookie
    finally:
        process.stop()
        users.remove(USER)


def watched(bench: Bench, sizes: Sizes, say: Callable[[str], None]) -> list[Figure]:
    """Return the figures of the part ``watched``: in each round one measurement with the dashboards open and one without."""
    arm = Arm("watched", TASKS["acks_late"], ledger=True)
    found: dict[bool, list[Throughput]] = {True: [], False: []}
    answers: dict[int, int] = {}
    with web_server(bench) as (port, cookie):
        for number in range(sizes.rounds):
            # Alternate the order, so that a machine that becomes slower or faster favours no arm.
            for is_open in (True, False) if number % 2 == 0 else (False, True):
                say(f"dashboards {'open' if is_open else 'closed'}, round {number + 1} of {sizes.rounds}")
                if not is_open:
                    found[False].append(measures.throughput(bench, arm, sizes.tasks))
                    continue
                with Dashboards(port, cookie) as dashboards:
                    found[True].append(measures.throughput(bench, arm, sizes.tasks))
                for status, many in dashboards.answers.items():
                    answers[status] = answers.get(status, 0) + many
    said = ", ".join(f"{many} × {status or 'no answer'}" for status, many in sorted(answers.items()))
    speed = {is_open: tuple(each.per_second for each in its) for is_open, its in found.items()}
    cost = {is_open: tuple(each.cpu_main_ms + each.cpu_pool_ms for each in its) for is_open, its in found.items()}
    return [
        Figure(
            "watched",
            f"Throughput of acks_late with the ledger, {DASHBOARDS} dashboards open / closed (answers: {said or 'none'})",
            Series("open", "tasks/s", speed[True]),
            Series("closed", "tasks/s", speed[False]),
            Budget("A/B ≥ 0.90", "ratio", least=0.90),
        ),
        Figure(
            "watched_cpu",
            f"CPU time of the worker per task, {DASHBOARDS} dashboards open / closed",
            Series("open", "ms", cost[True]),
            Series("closed", "ms", cost[False]),
            Budget("A/B ≤ 1.10", "ratio", most=1.10),
        ),
    ]

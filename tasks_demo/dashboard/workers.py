"""The screen of workers and queues, and the page of one worker: which jobs it held, and what became of each."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.contrib.admin import AdminSite
from django.http import Http404, HttpRequest, HttpResponse
from django.template.response import TemplateResponse

from tasks_demo.core import clock
from tasks_demo.core.wording import counted, listed
from tasks_demo.dashboard import broker_state, live, screens
from tasks_demo.dashboard.broker_state import BrokerState
from tasks_demo.dashboard.held_jobs import held_jobs
from tasks_demo.dashboard.labels import Badge
from tasks_demo.dashboard.processes import ALIVE, MOST_SHOWN, Worker, worker, workers
from tasks_demo.dashboard.refresh import freshness
from tasks_demo.dashboard.swimlanes import duration
from tasks_demo.hooks.presence import BEAT_SECONDS
from tasks_demo.ledger.models import Tally

UNCONSUMED = Badge("broken", "✗", "nobody consumes it", "no worker consumes this queue: its messages stay there")
CONSUMED = Badge("ok", "✓", "consumed", "a worker consumes this queue")
NOT_KNOWN = Badge("unresolved", "?", "not known", "by whom it is consumed is not known")


@dataclass(frozen=True, slots=True)
class QueueRow:
    """One queue. ``age``: of its oldest message, in words."""

    name: str
    waiting: str
    age: str
    consumers: str
    badge: Badge


@dataclass(frozen=True, slots=True)
class Speaker:
    """A worker that answers, and the jobs that it says it runs: task ID, task, pid, for how long."""

    name: str
    jobs: list[tuple[str, str, int | None, str]] = field(default_factory=list)


def view(request: HttpRequest, admin_site: AdminSite, **kwargs: Any) -> HttpResponse:
    """Show the worker processes that the ledger knows. What the broker says is fetched by the page's live part."""
    found, more = workers()
    shown = {
        "title": "Workers and queues",
        "workers": found,
        "more": more,
        "most": MOST_SHOWN,
        "beat": BEAT_SECONDS,
    }
    if live.is_poll(request):
        mark = live.mark([(each.row.pk, each.state, each.holds, each.row.seen_at) for each in found])
        return live.respond(
            request, mark, lambda: TemplateResponse(request, "admin/tasks_demo/workers/list.html", shown)
        )
    return screens.page(request, admin_site, "admin/tasks_demo/workers/page.html", shown)


def broker_view(request: HttpRequest, admin_site: AdminSite, **kwargs: Any) -> HttpResponse:
    """Show what broker and workers say now. Takes up to a second. Without scripts it is a page of its own."""
    state = broker_state.ask()
    shown = {
        "title": "Broker and workers now",
        "state": state,
        "queues": _queues(state, [each for each in workers()[0] if each.state == ALIVE]),
        "speakers": _speakers(state),
        "at": clock.from_epoch(state.at),
    }
    if live.is_poll(request):
        template = "admin/tasks_demo/workers/broker.html"
        mark = live.mark(shown["queues"], shown["speakers"], state.broker_trouble, state.workers_trouble)
        return live.respond(request, mark, lambda: TemplateResponse(request, template, shown))
    return screens.page(request, admin_site, "admin/tasks_demo/workers/broker_page.html", shown)


def worker_view(request: HttpRequest, admin_site: AdminSite, **kwargs: Any) -> HttpResponse:
    """Show one worker process and the fate of each job it held."""
    found = worker(kwargs["pk"])
    if found is None:
        raise Http404("The ledger knows no such worker.")
    shown = {
        "title": f"Worker {found.row.name}",
        "worker": found,
        "jobs": held_jobs(found),
        "ended": _ended(found),
        "freshness": freshness(),
    }
    return screens.page(request, admin_site, "admin/tasks_demo/workers/worker.html", shown)


def _ended(found: Worker) -> datetime | None:
    return None if found.state == ALIVE else found.row.stopped_at or found.row.seen_at


def _queues(state: BrokerState, alive: list[Worker]) -> list[QueueRow]:
    ids = [task_id for its in state.oldest.values() for task_id in its or ()]
    since = dict(Tally.objects.filter(task_id__in=ids).values_list("task_id", "first_at")) if ids else {}
    rows = []
    for name, queue in state.queues.items():
        by = state.consumed.get(name) or [each.row.name for each in alive if name in each.row.queues]
        many = queue.consumers if queue else -1
        oldest = state.oldest.get(name)
        if queue is None:
            waiting, age = "not reported by this broker", ""
        elif not queue.exists:
            waiting, age = "not there yet", ""
        else:
            waiting = str(queue.waiting)
            age = _age(queue.waiting, oldest, since)
        if by or many > 0:
            badge = CONSUMED
        elif state.consumers_trouble and many < 0:
            badge = NOT_KNOWN
        else:
            badge = UNCONSUMED
        who = listed(by, 5)
        rows.append(QueueRow(name, waiting, age, who or (counted(many, "consumer") if many > 0 else "none"), badge))
    return rows


def _age(waiting: int, oldest: list[str] | None, since: dict[str, datetime]) -> str:
    if not waiting:
        return "empty"
    if oldest is None:
        return "not reported by RabbitMQ"
    moments = [clock.aware(since[task_id]) for task_id in oldest if task_id in since]
    if not moments:
        return "the ledger does not know it"
    return duration(max(time.time() - min(moments).timestamp(), 0.0) * 1000)


def _speakers(state: BrokerState) -> list[Speaker]:
    now = time.time()
    return [
        Speaker(
            name,
            [
                (job.task_id, job.task, job.pid, duration(max(now - job.since, 0.0) * 1000) if job.since else "")
                for job in jobs
            ],
        )
        for name, jobs in sorted(state.active.items())
    ]


screens.register(screens.Screen("workers", "Workers", "workers/", view, place=40))
screens.register(screens.Screen("workers_broker", "Broker now", "workers/broker/", broker_view, within="workers"))
screens.register(screens.Screen("worker", "Worker", "workers/<int:pk>/", worker_view, within="workers"))

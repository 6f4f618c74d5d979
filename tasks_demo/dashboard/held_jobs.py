"""Finds the jobs that a worker held when it ended, and what became of each. A fixed number of bounded queries.

Candidates are the task IDs in the worker's last report, and those in its events after that report. Together they are complete,
unless the ledger got more than MOST_EVENTS events in the last seconds of the worker, or it held more jobs than a report lists:
then ``why_incomplete`` says so. Messages that the worker had fetched and not read are with the broker, and in no list.
"""

from __future__ import annotations

import time
from collections import OrderedDict, defaultdict
from dataclasses import dataclass, field
from datetime import timedelta

from tasks_demo.dashboard.fates import ENDS, Fate, Holder, fate
from tasks_demo.dashboard.processes import ALIVE, DEAD, SILENT, Worker, unstopped
from tasks_demo.hooks.presence import BEAT_SECONDS
from tasks_demo.ledger.models import ENDED_UNSEEN, Event, Outcome, Tally

#: Events after a worker's last report that are searched for its own.
MOST_EVENTS = 25_000
#: Jobs of one worker whose fate is looked up, those of them that are listed, and events read for them.
MOST_JOBS, MOST_SHOWN, MOST_READ = 200, 50, 10_000
#: Seconds after which no event of a dead worker is committed any more; workers whose search is remembered, and for how many
#: seconds if they are silent.
SETTLED_SECONDS, MOST_REMEMBERED, SILENT_KEPT_SECONDS = 60.0, 100, 30.0
#: The kinds of events that decide a fate.
TOLD = ("published", "received", "started", "acked", *sorted(ENDS))
#: Dead workers that the overview looks at, latest first, and the seconds between two searches for the jobs of one that ended just
#: now. Whether these have ended since is asked each time.
MOST_WORKERS, RECENT_SECONDS = 3, 5.0


@dataclass(frozen=True, slots=True)
class HeldJobs:
    """The fates of a worker's jobs, unresolved ones first. ``why_incomplete``: why the list may be incomplete, or empty."""

    fates: list[Fate] = field(default_factory=list)
    why_incomplete: str = ""

    @property
    def shown(self) -> list[Fate]:
        """Those on the page."""
        return self.fates[:MOST_SHOWN]

    @property
    def unresolved(self) -> list[Fate]:
        return [fate for fate in self.fates if not fate.resolved]

    @property
    def without_effect(self) -> int:
        """Jobs with books, whose books show no effect."""
        return sum(1 for tally in self._counted if not tally.effects)

    @property
    def once(self) -> int:
        return sum(1 for tally in self._counted if tally.effects == 1)

    @property
    def repeated(self) -> list[Fate]:
        return [each for each in self.fates if each.tally and each.tally.books and each.tally.effects > 1]

    @property
    def uncounted(self) -> int:
        """Jobs whose effects nobody counts."""
        return len(self.fates) - len(self._counted)

    @property
    def _counted(self) -> list[Tally]:
        return [each.tally for each in self.fates if each.tally and each.tally.books]


def held_jobs(worker: Worker) -> HeldJobs:
    """Return the jobs that this worker held when it ended; of a living one, those that it holds now as far as is recorded."""
    listed = list(worker.row.held)
    task_ids, why_incomplete = _candidates(worker)
    if worker.row.held_more:
        why_incomplete = why_incomplete or f"It held {worker.row.held_more} jobs more than its report lists."
    if len(task_ids) > MOST_JOBS:
        why_incomplete = why_incomplete or f"It may have held {len(task_ids)} jobs; {MOST_JOBS} of them were looked at."
    chosen = task_ids[:MOST_JOBS]
    tallies = {tally.task_id: tally for tally in Tally.objects.filter(task_id__in=chosen)}
    events: dict[str, list[Event]] = defaultdict(list)
    rows = Event.objects.filter(task_id__in=chosen, kind__in=TOLD)
    rows = rows.only("id", "at", "kind", "task_id", "worker", "pid", "detail")
    read = list(rows.order_by("task_id", "id")[: MOST_READ + 1])
    if len(read) > MOST_READ:
        why_incomplete = (
            why_incomplete
            or f"Its jobs have more than {MOST_READ} events; the fates of the last ones may be out of date."
        )
    for event in read[:MOST_READ]:
        events[event.task_id].append(event)
    holder = _holder(worker)
    found = [
        fate(task_id, holder, events[task_id], tallies.get(task_id), listed=task_id in listed) for task_id in chosen
    ]
    fates = [each for each in found if each is not None]
    return HeldJobs(sorted(fates, key=lambda each: (each.resolved, not each.begun, each.task_id)), why_incomplete)


def dead_with_unresolved_jobs() -> list[tuple[Worker, int]]:
    """Return the dead or silent workers that held jobs that have not ended, and how many, latest first. For the overview.

    Looks at the latest MOST_WORKERS. The number counts jobs that they held or had received shortly before: an upper bound.
    """
    found = []
    workers = unstopped(MOST_WORKERS)
    candidates = {worker.row.pk: _candidates(worker, RECENT_SECONDS)[0] for worker in workers}
    every = {task_id for its in candidates.values() for task_id in its[:MOST_JOBS]}
    if not every:
        return []
    not_ended = (Outcome.WAITING, Outcome.RUNNING, Outcome.RETRYING)
    rows = Tally.objects.filter(task_id__in=every, outcome__in=not_ended).exclude(ENDED_UNSEEN)
    open_ = set(rows.values_list("task_id", flat=True))
    for worker in workers:
        many = len(open_.intersection(candidates[worker.row.pk]))
        if many:
            found.append((worker, many))
    return found


def _holder(worker: Worker) -> Holder:
    alive = worker.state == ALIVE
    return Holder(worker.row.name, worker.row.started_at, worker.until, worker.row.last_event, alive)


#: When, and what was found of workers that report no more.
_remembered: OrderedDict[tuple[object, ...], tuple[float, list[str], str]] = OrderedDict()


def _candidates(worker: Worker, recent: float = 0.0) -> tuple[list[str], str]:
    """Return the task IDs that it may have held, listed ones first, and why others may be missing.

    ``recent``: for a worker that has ended just now, a result that is at most this many seconds old will do.
    """
    if worker.state not in (DEAD, SILENT):
        return _searched(worker)
    settled = worker.silent_seconds >= SETTLED_SECONDS
    # What a dead worker did does not change any more; a silent one may live, and write without reporting.
    seconds = recent if not settled else SILENT_KEPT_SECONDS if worker.state == SILENT else float("inf")
    key = (Event.objects.db, worker.row.process, worker.row.pk, worker.row.last_event, worker.until, settled)
    at, found, why_incomplete = _remembered.get(key, (0.0, [], ""))
    if not at or time.monotonic() - at > seconds:
        found, why_incomplete = _searched(worker)
        _remembered[key] = (time.monotonic(), found, why_incomplete)
        if len(_remembered) > MOST_REMEMBERED:
            _remembered.popitem(last=False)
    return found, why_incomplete


def _searched(worker: Worker) -> tuple[list[str], str]:
    row = worker.row
    window = Event.objects.filter(id__gt=row.last_event, id__lte=row.last_event + MOST_EVENTS)
    mine = window.filter(
        worker=row.name, kind__in=("received", "started", "acked", *sorted(ENDS)), at__gte=row.started_at
    )
    if worker.until is not None:
        mine = mine.filter(at__lt=worker.until)
    listed = list(map(str, row.held))
    did: dict[str, list[str]] = {}
    # In the order of time: main commits a receipt later than a pool process its start. Times are sorted where they are: to
    # convert thousands of them takes longer than the query.
    read = list(mine.order_by("at", "id").values_list("task_id", "kind")[: MOST_READ + 1])
    for task_id, kind in read[:MOST_READ]:
        did.setdefault(task_id, ["received"] if task_id in row.held else []).append(kind)
    candidates = [task_id for task_id in dict.fromkeys([*listed, *did]) if not _is_over(did.get(task_id, []))]
    why_incomplete = ""
    latest = Event.objects.filter(id__lte=row.last_event + MOST_EVENTS).order_by("-id").values_list("id", "at").first()
    if (
        latest
        and latest[0] >= row.last_event + MOST_EVENTS
        and latest[1] < row.seen_at + timedelta(seconds=BEAT_SECONDS * 2)
    ):
        why_incomplete = (
            f"The ledger got more than {MOST_EVENTS} events in its last seconds; jobs that it received later are "
            "missing."
        )
    if len(read) > MOST_READ:
        why_incomplete = (
            f"It has more than {MOST_READ} events after its last report; jobs that it received later are missing."
        )
    return candidates, why_incomplete


def _is_over(kinds: list[str]) -> bool:
    """Return whether the last delivery that it received has ended and was acknowledged: it does not hold the job."""
    if "received" in kinds:
        kinds = kinds[len(kinds) - kinds[::-1].index("received") :]
    return "acked" in kinds and not ENDS.isdisjoint(kinds)

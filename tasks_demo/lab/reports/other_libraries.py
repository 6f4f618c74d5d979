"""The part of the page of results about libraries that the lab's worker cannot run: why not, and what their own program measured.

Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tasks_demo.core.wording import counted
from tasks_demo.lab.verdict.statistics import rate_interval

#: Library → why the lab's worker cannot run it.
WHY = (
    (
        "relier 0.1.7",
        "A Celery app of its own, made when it is imported, with queues and Redis keys of its own, a scanner in each of its "
        "workers and a process `rl run-resurrector`: the lab's worker runs the project's app, under a key prefix for each "
        "cell. So it is measured by a program of its own, below.",
    ),
    (
        "potatoq 26.1a8",
        "Not a library for Celery but another task queue with Celery's API and none of Celery's code: there is no Celery "
        "worker to kill, and none of the hooks by which the lab knows what a worker has in its hands.",
    ),
    (
        "django-celery-outbox 0.4.3",
        "An app class (`OutboxCelery`) in the place of Celery's, and the lab runs the project's app. Its `send_task` writes "
        "a row, which a relay publishes and then deletes: it ends where the broker begins, so it adds nothing to what the "
        "broker keeps when a worker is killed.",
    ),
)
_PROGRAM = (
    "`docs/results/relier_soak.py`, in an environment with relier 0.1.7: two of its workers with two processes each, "
    "its resurrector, `rl_task(idempotent=True, hard_timeout=30)`, a Redis with an append-only file and without "
    "eviction, as its README recommends; about 500 jobs in the queue; SIGKILL of one worker, main and pool processes, "
    "at random moments, beside the other. *held*: not run when nothing had happened for 90 s, and still among the "
    "messages that kombu holds as unacknowledged. relier writes a job down when its body begins; what it has not "
    "written down comes back after kombu's visibility timeout, which relier leaves at its default of an hour. "
    "*Started*: by Celery's own record. *lost*: not run, and not among those. The result is stored after the body, so "
    "that a job that is killed between its effect and that is run again."
)
_COLUMNS: tuple[tuple[str, str], ...] = (
    ("jobs", "jobs"),
    ("kills", "kills"),
    ("lost", "lost"),
    ("held", "held for an hour"),
    ("held_started", "of these started"),
    ("charged_twice", "charged twice"),
)

Table = Callable[[Sequence[str], Sequence[Sequence[str]]], list[str]]


def outside(measured: Sequence[Mapping[str, Any]], table: Table) -> list[str]:
    """Lines of Markdown. ``measured``: what the program printed for each seed."""
    lines = ["", "## Libraries that the lab's worker cannot run", "", *table(("library", "why not"), WHY)]
    if not measured:
        return lines
    rows = [
        (str(one["seed"]), *(f"{one[key]:,}" if key in one else "–" for key, _ in _COLUMNS), str(one["jobs_per_s"]))
        for one in measured
    ]
    total = {key: sum(one.get(key, 0) for one in measured) for key, _ in _COLUMNS}
    known = {key for key, _ in _COLUMNS if all(key in one for one in measured)}
    rows.append(("all", *(f"{total[key]:,}" if key in known else "–" for key, _ in _COLUMNS), ""))
    rates = []
    for key, name in [column for column in _COLUMNS[2:] if column[0] in known]:
        low, high = rate_interval(total[key], total["kills"])
        rates.append(f"{name} {total[key] / total['kills']:.3g} ({low:.2g} to {high:.2g})")
    versions = ", ".join(f"{name} {version}" for name, version in measured[0]["versions"].items())
    seeds = counted(len(measured), "seed")
    return [
        *lines,
        "",
        "### relier under kills at random moments",
        "",
        _PROGRAM,
        "",
        *table(("seed", *(name for _, name in _COLUMNS), "jobs/s"), rows),
        "",
        f"Per kill, {seeds}, intervals two-sided, 95 % (Garwood): {', '.join(rates)}. {versions}.",
    ]

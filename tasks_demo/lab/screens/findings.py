"""What the page of a run shows of its result: the matrix, the problems, and the jobs whose charge was lost or made twice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from django.db.models import Q

from tasks_demo.core.wording import shown
from tasks_demo.dashboard.advice import why
from tasks_demo.dashboard.labels import BROKEN, Badge, verdict_badge
from tasks_demo.dashboard.swimlanes import Drawing, draw
from tasks_demo.dashboard.task_page import moment
from tasks_demo.lab.reports.text import reading, sentences, several_brokers, table
from tasks_demo.ledger.models import IN_A_RUN, Tally
from tasks_demo.ledger.queries import timeline

#: A result of no more cells has a sentence about each of them; a larger one about those that are not as predicted.
MOST_READ = 8
#: Jobs on the page, those with a broken promise first; and how many of them are drawn.
MOST_JOBS, MOST_DRAWN = 12, 2


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the matrix, as the reports have it, and the name of the cell in the ledger."""

    texts: tuple[str, ...]
    observed: str
    as_predicted: bool
    ledger: str
    why: str


@dataclass(frozen=True, slots=True)
class Job:
    """A job whose charge was lost or made twice. ``drawing``: its life as swimlanes, for the first few, and ``why`` in words."""

    task_id: str
    cell: str
    badge: Badge
    broken: Badge | None
    drawing: Drawing | None
    why: str


@dataclass(frozen=True, slots=True)
class Findings:
    """``readings``: a sentence about each cell, or about those not as predicted; ``truncated``: there are more jobs."""

    head: tuple[str, ...]
    rows: list[Row]
    summary: str
    readings: list[str]
    jobs: list[Job]
    truncated: bool


def findings(result: Mapping[str, Any]) -> Findings:
    """Collect them from the result document, and the jobs from the ledger. The ledger may have pruned them."""
    head, texts = table(result)
    run = result["configuration"]["run"]
    cells = result["cells"]
    rows = [
        Row(text, cell["observed"], cell["as_predicted"], f"{run}:{_name(cell)}", cell["why"])
        for cell, text in zip(cells, texts, strict=True)
    ]
    several = several_brokers(result)
    readings = [reading(cell, several=several) for cell in cells if len(cells) <= MOST_READ or not cell["as_predicted"]]
    jobs = _jobs([row.ledger for row in rows])
    return Findings(head, rows, sentences(result)[-1], readings, jobs[:MOST_JOBS], len(jobs) > MOST_JOBS)


def _jobs(runs: list[str]) -> list[Job]:
    wrong = Q(broken=True) | Q(verdict__in=[Tally.Verdict.LOST.value, Tally.Verdict.DUPLICATED.value])
    found = Tally.objects.filter(IN_A_RUN, wrong, run__in=runs).order_by("-broken", "-first_at")[: MOST_JOBS + 1]
    return [_job(tally, number) for number, tally in enumerate(found)]


def _job(tally: Tally, number: int) -> Job:
    drawing, said = None, ""
    if number < MOST_DRAWN:
        moments = [moment(event) for event in timeline(tally)]
        drawing = draw(moments, f"job-{number}", f"The life of {shown(tally.task_id, 80)}")
        said = why(tally, [each.point for each in moments if each.injected])
    name, broken = tally.run.partition(":")[2], BROKEN if tally.broken else None
    return Job(tally.task_id, name, verdict_badge(tally), broken, drawing, said)


def _name(cell: Mapping[str, Any]) -> str:
    return f"{cell['pattern']}/{cell['fault']}" + (f"@{cell['point']}" if cell["point"] else "")

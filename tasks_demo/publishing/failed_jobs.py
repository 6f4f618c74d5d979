"""Failed and rejected jobs of the ledger: why one cannot be run again, and running it again under a new task ID.

Does **not** undo what the first job has done, and does not guarantee that no other job of its operation is published meanwhile.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from tasks_demo.ledger.models import Outcome, Tally
from tasks_demo.publishing.parsing import Job
from tasks_demo.publishing.rerun import jobs_to_rerun
from tasks_demo.publishing.sending import send

#: The outcomes after which a job can be run again.
OUTCOMES = (Outcome.FAILED.value, Outcome.REJECTED.value)


def why_not_rerunnable(tallies: Sequence[Tally]) -> dict[str, str]:
    """Return why jobs cannot be run again, by task ID. A fixed number of queries for each database."""
    jobs = jobs_to_rerun((tally.task_id, tally.task) for tally in tallies)
    return {**_done_by_another_job(tallies), **{task_id: job for task_id, job in jobs.items() if isinstance(job, str)}}


def run_again(tally: Tally) -> str | None:
    """Publish the job again with its arguments and its operation key.

    Returns the new task ID, or None if the job cannot be run again.

    Raises EnvironmentNotReady and PublicationRefused, as ``sending.send`` does.
    """
    job = jobs_to_rerun([(tally.task_id, tally.task)])[tally.task_id]
    if not isinstance(job, Job) or _done_by_another_job([tally]):
        return None
    return send(job, [str(uuid.uuid4())])[0]


def _done_by_another_job(tallies: Sequence[Tally]) -> dict[str, str]:
    """Return those whose operation another task ID has done or may still do."""
    others = Tally.objects.filter(operation__in={tally.operation for tally in tallies}).exclude(outcome__in=OUTCOMES)
    found = dict(others.values_list("operation", "outcome")[:1000])
    return {
        tally.task_id: f"another job of its operation is on record as {found[tally.operation]}"
        for tally in tallies
        if tally.operation in found
    }

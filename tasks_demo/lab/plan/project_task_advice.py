"""Says which setting of a task, or which property of the broker, broke its promise, and what closes that window. Pure."""

from __future__ import annotations

from tasks_demo.core.semantics import Semantics
from tasks_demo.lab.plan.cells import MIXED, Cell
from tasks_demo.lab.plan.faults import Fault
from tasks_demo.lab.plan.outcomes import DUPLICATED, LOST, Prediction
from tasks_demo.lab.plan.project_task import ProjectTask

_OUTBOX = "An outbox (tasks_demo.outbox) publishes it again"
#: How a message is lost with its broker.
_BY_BROKER = {
    Fault.BROKER_KILL_OFF: f"Redis had no append-only file (appendonly yes), so the queued messages were lost with it. {_OUTBOX}",
    Fault.BROKER_FLUSH: f"FLUSHALL deleted the queued messages. {_OUTBOX}",
}
_POPPED = (
    "Redis had popped the message, and its worker had not recorded it. The reliable transport of this package "
    "(reliable+redis://) does both in one step, and an outbox (tasks_demo.outbox) publishes it again"
)
_KILLS_CHILD = {"kill-child", "poison"}
_RECOGNISES_COPIES = {"claim_first", "dedup_lock", "inbox"}
_WORDS = {
    "at-most-once": "at most once",
    "at-least-once": "at least once",
    "effectively-once": "effectively once",
}


def predict_project_task(project_task: ProjectTask) -> Prediction:
    """A task is predicted to keep what it is held to, and why it is held to that."""
    words = _WORDS[project_task.semantics]
    if project_task.promise_given:
        why = f"--promise holds it to {words}."
    elif project_task.pattern:
        why = f"The pattern {project_task.pattern} promises {words}."
    elif project_task.early:
        why = f"It is acknowledged before its body runs, as Celery ships it: {words}."
    else:
        why = f"acks_late=True: it is acknowledged after its body, so {words}."
    return Prediction("held", why)


def advice(cell: Cell, seen: set[str], failed: str = "") -> list[str]:
    """Sentences about a cell whose promise was broken.

    :param seen: ``lost``, ``duplicated``. ``failed``: how its bodies failed; empty: none did.
    """
    project_task = cell.project_task
    if project_task is None:
        return []
    said = [f"Bodies failed, and a job that fails is not done: {failed}"] if failed and LOST in seen else []
    at_least = project_task.semantics != Semantics.AT_MOST_ONCE
    if LOST in seen and at_least:
        said += _of_loss(cell, project_task)
    if DUPLICATED in seen and project_task.semantics != Semantics.AT_LEAST_ONCE:
        said += _of_duplicates(cell, project_task)
    return said


def _of_loss(cell: Cell, project_task: ProjectTask) -> list[str]:
    said = []
    if _disturbed(cell):
        said.append(
            "The connection ended between Redis popping the message and the worker recording it. The reliable transport of this "
            "package (reliable+redis://) does both in one step, and an outbox (tasks_demo.outbox) publishes it again"
        )
    if cell.fault.of_broker:
        said.append(_BY_BROKER.get(cell.fault, _POPPED))
    fetched = cell.fault.victim in {"main", "group"} and cell.point in {"fetched", MIXED}
    if (
        project_task.early
        and project_task.pattern != "claim_first"
        and cell.fault.victim not in {"", "connection", "clock"}
    ):
        said.append("acks_late is off: the message is acknowledged before the body, so no copy is left when it dies")
    if (
        not project_task.early
        and str(cell.fault) in _KILLS_CHILD
        and not project_task.pattern
        and not _rejects(project_task)
    ):
        said.append(
            "reject_on_worker_lost (task_reject_on_worker_lost) is off: Celery acknowledges the message of a pool process "
            "that was killed. Set it, or use AcksLate, which does"
        )
    if fetched:
        said.append(
            "At fetched, the broker has delivered the message and the worker has not recorded it: with Redis only an outbox "
            "(tasks_demo.outbox) publishes it again"
        )
    return said


def _of_duplicates(cell: Cell, project_task: ProjectTask) -> list[str]:
    if Fault.CLOCK_JUMP in cell.faults:
        return [
            "kombu's Redis transport reads the clock of a worker to say which messages are overdue, and redelivers the messages "
            "of running jobs. The reliable transport of this package (reliable+redis://) does not; ClaimFirst, "
            "DedupLock and Inbox refuse the copy"
        ]
    repeated = cell.fault.disturbed_request == "publish"
    if (repeated or _disturbed(cell) or cell.fault.of_broker) and project_task.pattern not in _RECOGNISES_COPIES:
        keeps = "ClaimFirst refuses it" if project_task.early else "DedupLock or Inbox recognise the operation"
        if repeated:
            what = "A publisher publishes an unconfirmed message again (task_publish_retry): a second message"
            return [f"{what}. {keeps}"]
        return [f"An acknowledgement that was lost with its connection leads to a second delivery. {keeps}"]
    if project_task.early and cell.point in {"acking", "acked", MIXED}:
        return [
            "The acknowledgement is sent after the pool has accepted the job: a worker that dies in between leaves a copy. "
            "ClaimFirst refuses the second delivery"
        ]
    if str(cell.fault) == "stop":
        return [
            "The body outlived the visibility timeout (broker_transport_options), so a second copy was delivered while it ran"
        ]
    if not project_task.early and project_task.pattern not in {"dedup_lock", "inbox"}:
        return [
            "The message is acknowledged after the body (acks_late), so a death in between runs it again. DedupLock or Inbox "
            "recognise the operation"
        ]
    return []


def _disturbed(cell: Cell) -> bool:
    return any(fault.of_connection for fault in cell.faults)


def _rejects(project_task: ProjectTask) -> bool:
    return bool(project_task.settings.get("reject_on_worker_lost"))

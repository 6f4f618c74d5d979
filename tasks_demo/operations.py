"""Shows what the patterns have recorded about an operation, and deletes it on request, so that the operation can run again.

Does **not** undo the effect, and does not guarantee that no worker is running the operation now. A forgotten operation runs again
when a message for it is delivered again, and its effect happens a second time unless the receiver recognises the key. Fences are
never lowered. A ``ForgottenOperation`` (who, what, when, why) is committed before anything is removed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from celery import current_app
from django.db import Error, connections, router, transaction
from django.utils import timezone

from tasks_demo.core.conf import settings
from tasks_demo.core.exceptions import (
    EnvironmentNotReady,
    InvalidSetting,
    LeaseStoreUnavailable,
    OperationHeld,
    UnknownTask,
)
from tasks_demo.core.wording import first_line
from tasks_demo.leases import maintenance
from tasks_demo.leases.keys import validate_operation
from tasks_demo.leases.memory_store import Memory
from tasks_demo.leases.stores import lease_place
from tasks_demo.patterns import ClaimFirst, DedupLock, Inbox
from tasks_demo.patterns.base import PatternTask
from tasks_demo.records.fields import fit_column
from tasks_demo.records.models import Claim, Fence, ForgottenOperation, InboxEntry, Parked


@dataclass(frozen=True)
class Trace:
    """One store's record of an operation. ``held``: who may be running it, or empty. ``removable``: ``forget`` can delete it."""

    kind: str
    place: str
    state: str
    facts: dict[str, Any] = field(default_factory=dict)
    held: str = ""
    removable: bool = True
    #: The lease's record, or the database row.
    source: Any = None

    def as_json(self) -> dict[str, Any]:
        """Return plain values for ``json.dumps``."""
        facts = {
            name: value.isoformat() if isinstance(value, datetime) else value for name, value in self.facts.items()
        }
        shown = {"kind": self.kind, "place": self.place, "state": self.state, "held": self.held}
        return {**shown, "removable": self.removable, **facts}


@dataclass(frozen=True)
class OperationRecords:
    """Everything recorded about an operation, and an error message for each store that did not answer."""

    operation: str
    traces: list[Trace]
    troubles: list[str]

    @property
    def mark(self) -> str:
        """A digest that detects a change between showing and forgetting. Facts that change merely as time passes are left out."""
        shown = [
            (trace.kind, trace.place, trace.state, {k: str(v) for k, v in trace.facts.items() if "seconds" not in k})
            for trace in self.traces
        ]
        return hashlib.sha256(repr(shown).encode("utf-8", "surrogatepass")).hexdigest()


def find_records(operation: str, task: str = "") -> OperationRecords:
    """Return every store's records of the operation; with ``task``, only from the stores of that task's pattern.

    If a store does not answer, its error is in ``troubles`` and nothing is raised. Raises InvalidOperationKey, and UnknownTask if
    no task of that name with a pattern is registered here.
    """
    validate_operation(operation)
    tasks = _tasks(task)
    found: list[Trace] = []
    troubles: list[str] = []
    if not task or isinstance(tasks[0], DedupLock):
        try:
            found += _lock(operation)
        except (LeaseStoreUnavailable, InvalidSetting) as error:
            troubles.append(str(error))
    models: list[Any] = [Claim, InboxEntry, Fence, Parked]
    if task:
        of: dict[Any, list[Any]] = {ClaimFirst: [Claim], Inbox: [InboxEntry], DedupLock: [Fence]}
        models = [model for pattern, its in of.items() if isinstance(tasks[0], pattern) for model in its] + [Parked]
    for model in models:
        for alias in _aliases(model, tasks, alone=bool(task)):
            try:
                found += [_TRACES[model](row, alias) for row in _rows(model, alias, operation)]
            except Error as error:
                connections[alias].close()
                troubles.append(
                    f"The database {alias!r} could not be read for {model._meta.verbose_name_plural}: {error}".strip()
                )
    return OperationRecords(operation, found, troubles)


def forget(shown: OperationRecords, *, by: str, why: str, task: str = "", even_if_held: bool = False) -> list[Trace]:
    """Commit a ``ForgottenOperation`` with who, when, why and what; then delete the removable traces and return those deleted.

    Does not delete a trace that has changed since it was shown. Raises OperationHeld, before anything is removed, while a lease
    is held or the body of a claim may be running, unless ``even_if_held``. Raises EnvironmentNotReady if a store does not answer;
    the message says what was removed before.
    """
    chosen = [trace for trace in shown.traces if trace.removable]
    held = [trace for trace in chosen if trace.held]
    if held and not even_if_held:
        raise OperationHeld(
            f"Operation {shown.operation!r} may be running: {'; '.join(trace.held for trace in held)}. Nothing was removed. Wait "
            "for it to end, or forget it anyway: it can then run twice."
        )
    if not chosen:
        return []
    alias = router.db_for_write(ForgottenOperation)
    entry = ForgottenOperation(
        operation=fit_column(shown.operation),
        task=task,
        by=by[:255],
        why=why,
        at=timezone.now(),
        removed=[trace.as_json() for trace in chosen],
        outcome="begun",
    )
    try:
        entry.save(using=alias)
    except Error as error:
        raise EnvironmentNotReady(
            f"The database {alias!r} did not store who forgets the operation and why ({first_line(error)}), so "
            "nothing was removed. Is it running, writable and migrated (`manage.py migrate`)?"
        ) from error
    removed: list[Trace] = []
    try:
        for trace in chosen:
            if _removed(shown.operation, trace, even_if_held=even_if_held):
                removed.append(trace)
    except (Error, LeaseStoreUnavailable, InvalidSetting) as error:
        _record_outcome(entry, alias, removed, f"stopped: {error}")
        raise EnvironmentNotReady(f"{error} Removed before that: {_names(removed)}.") from error
    left = [trace for trace in chosen if trace not in removed]
    _record_outcome(entry, alias, removed, f"changed meanwhile, so not removed: {_names(left)}" if left else "removed")
    return removed


def _names(traces: list[Trace]) -> str:
    return ", ".join(f"{trace.kind} in {trace.place}" for trace in traces) or "nothing"


def _record_outcome(entry: ForgottenOperation, alias: str, removed: list[Trace], outcome: str) -> None:
    entry.removed, entry.outcome = [trace.as_json() for trace in removed], outcome[:2000]
    entry.save(using=alias, update_fields=["removed", "outcome"])


def _removed(operation: str, trace: Trace, *, even_if_held: bool) -> bool:
    """Delete one store's record. Returns False if it has changed since it was shown."""
    if isinstance(trace.source, maintenance.Record):
        place = lease_place(settings.REDIS_TIMEOUT_SECONDS)
        if isinstance(place, Memory):
            return False
        with place as client:
            reply = maintenance.forget(
                client, settings.KEY_PREFIX, operation, trace.source,
                even_if_held=even_if_held, retention_seconds=settings.RETENTION_SECONDS,
            )  # fmt: skip
        return reply == "forgotten"
    row, moment = trace.source, "claimed_at" if isinstance(trace.source, Claim) else "completed_at"
    rows: Any = type(row)._base_manager.using(row._state.db)
    with transaction.atomic(using=row._state.db):
        # Delete only the row that was shown, not one inserted since.
        return bool(rows.filter(pk=row.pk, task_id=row.task_id, **{moment: getattr(row, moment)}).delete()[0])


# -- what each store has recorded ---------------------------------------------------------------------------------------


def _tasks(name: str) -> list[PatternTask]:
    current_app.loader.import_default_modules()
    found = [task for task in current_app.tasks.values() if isinstance(task, PatternTask) and name in ("", task.name)]
    if name and not found:
        raise UnknownTask(
            f"No task {name!r} with a pattern is registered here. `celery -A … inspect registered` lists them."
        )
    return found


def _aliases(model: Any, tasks: list[PatternTask], *, alone: bool) -> list[str]:
    named = {task.using or router.db_for_write(model) for task in tasks}
    return sorted(named if alone else named | {router.db_for_write(model)})


def _rows(model: Any, alias: str, operation: str) -> Any:
    return model._base_manager.using(alias).filter(operation=fit_column(operation)).order_by("pk")[:20]


def _lock(operation: str) -> Iterator[Trace]:
    if not settings.REDIS_URL:
        return
    place = lease_place(settings.REDIS_TIMEOUT_SECONDS)
    if isinstance(place, Memory):
        return
    with place as client:
        found = maintenance.read(client, settings.KEY_PREFIX, operation)
    if found is None:
        return
    facts: dict[str, Any] = {
        "fence": found.fence,
        "attempts": found.attempt,
        "digest": found.digest,
        "result": "stored" if found.result is not None else "none",
        "kept_seconds": round(found.seconds_kept, 3),
        **found.other_fields,
    }
    held = ""
    if found.state == "claimed":
        facts["lease_seconds_left"] = round(found.seconds_left, 3)
        if found.seconds_left > 0:
            held = f"a worker holds its lease for {found.seconds_left:.1f} s more, unless it is renewed"
    removable = found.state != "forgotten"
    yield Trace("dedup_lock", "Redis", found.state or "without a state", facts, held, removable, found)


def _claim(row: Claim, alias: str) -> Trace:
    facts = {"task_id": row.task_id, "worker": row.worker, "claimed_at": row.claimed_at, "digest": row.digest}
    age = (timezone.now() - row.claimed_at).total_seconds()
    held = ""
    if age < settings.LEASE_CAP_SECONDS:
        held = f"it was claimed {age:.0f} s ago by {row.worker or 'a worker'}, and a claim does not record when its body ends"
    return Trace("claim_first", f"database {alias}", "claimed", facts, held, True, row)


def _entry(row: InboxEntry, alias: str) -> Trace:
    facts = {
        "task_id": row.task_id,
        "completed_at": row.completed_at,
        "digest": row.digest,
        "result": "none" if row.result is None else "stored",
    }
    return Trace("inbox", f"database {alias}", "completed", facts, "", True, row)


def _fence(row: Fence, alias: str) -> Trace:
    return Trace("fence", f"database {alias}", "stays", {"fence": row.token, "at": row.at}, "", False, row)


def _parked(row: Parked, alias: str) -> Trace:
    facts = {"task_id": row.task_id, "task": row.task, "attempts": row.attempts, "parked_at": row.parked_at}
    return Trace("quarantine", f"database {alias}", row.state, facts, "", False, row)


_TRACES: dict[Any, Any] = {Claim: _claim, InboxEntry: _entry, Fence: _fence, Parked: _parked}

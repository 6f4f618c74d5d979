"""What needs a person, as far as the ledger, the records and the settings tell. Counts stop at MOST_COUNTED."""

from __future__ import annotations

from collections.abc import Sequence

from django.apps import apps
from django.contrib.admin import AdminSite
from django.core.checks import run_checks
from django.db import router
from django.db.models import Model
from django.http import HttpRequest
from django.urls import reverse

from tasks_demo.core.wording import counted
from tasks_demo.dashboard.held_jobs import dead_with_unresolved_jobs
from tasks_demo.dashboard.needs import AnswerCache, Need, register
from tasks_demo.dashboard.pages import promise_broken
from tasks_demo.dashboard.refresh import freshness
from tasks_demo.ledger.models import Tally

MOST_COUNTED = 1_000
#: Seconds for which a message of the outbox may be due.
OVERDUE_SECONDS = 30.0


def _list_of(model: type[Model], site: AdminSite, query: str) -> str:
    if not site.is_registered(model):
        return ""
    name = f"{model._meta.app_label}_{model._meta.model_name}_changelist"
    return f"{reverse(f'admin:{name}', current_app=site.name)}?{query}"


def _number(count: int, *names: str) -> str:
    return f"{counted(count, *names)}" if count < MOST_COUNTED else f"{MOST_COUNTED}+ {names[-1]}"


def broken_promises(request: HttpRequest, site: AdminSite) -> Sequence[Need]:
    """Tell how many promises were broken."""
    count = promise_broken(Tally.objects.order_by())[:MOST_COUNTED].count()
    if not count:
        return []
    text = f"{_number(count, 'promise', 'promises')} broken"
    return [Need(text, "Each task ID shows which event broke it.", _list_of(Tally, site, "promise=broken"))]


def books(request: HttpRequest, site: AdminSite) -> Sequence[Need]:
    """Tell which books cannot be read: what they count is missing here."""
    return [
        Need(
            f"The books “{state.name}” {'cannot be read' if state.trouble else 'were never read'}",
            state.trouble or "Run manage.py relay, or manage.py read_books --every 5.",
            bad=bool(state.trouble),
        )
        for state in freshness().trouble
    ]


def parked(request: HttpRequest, site: AdminSite) -> Sequence[Need]:
    """Tell how many parked messages wait for a decision."""
    from tasks_demo.records.models import Parked

    waiting = Parked.objects.using(router.db_for_write(Parked)).filter(state=Parked.State.PARKED)
    count = waiting.order_by()[:MOST_COUNTED].count()
    if not count:
        return []
    address = _list_of(Parked, site, "state__exact=parked")
    return [Need(f"{_number(count, 'parked message', 'parked messages')}", "Requeue or discard.", address)]


def outbox(request: HttpRequest, site: AdminSite) -> Sequence[Need]:
    """Tell since when the outbox has waited for a relay."""
    from tasks_demo.outbox.table import overdue
    from tasks_demo.records.models import OutboxMessage

    waited = overdue()
    if waited <= OVERDUE_SECONDS:
        return []
    # Rounded, so that the page does not change with every second.
    text = f"A message of the outbox has been due for over {int(waited // 30) * 30} s"
    return [Need(text, "Does manage.py relay run?", _list_of(OutboxMessage, site, "state=open"))]


def dead_workers(request: HttpRequest, site: AdminSite) -> Sequence[Need]:
    """Tell which dead or silent workers held jobs of which no end is known since."""
    found = []
    for worker, count in dead_with_unresolved_jobs():
        have = "has" if count == 1 else "have"
        text = f"The {worker.state} worker {worker.row.name} held {counted(count, 'job')} that {have} not ended"
        address = reverse("admin:tasks_demo_worker", args=[worker.row.pk], current_app=site.name)
        found.append(Need(text, "See what became of each.", address))
    return found


#: The result of the system checks, kept for five minutes: settings change with a restart only.
_checked = AnswerCache[Sequence[Need]](300.0)


def checks(request: HttpRequest, site: AdminSite) -> Sequence[Need]:
    """Repeat the warnings of ``manage.py check --tag celery``."""
    return _checked.get(_run_checks)


def _run_checks() -> Sequence[Need]:
    return [
        Need(
            f"{message.id}: {str(message.msg).partition(chr(10))[0][:300]}",
            str(message.hint or "")[:300],
            bad=message.is_serious(),
        )
        for message in run_checks(tags=["celery"])
        if not message.is_silenced()
    ]


register("broken promises", broken_promises)
register("workers", dead_workers)
register("books", books)
if apps.is_installed("tasks_demo.records"):
    register("parked messages", parked, "tasks_demo_records.view_parked")
    register("outbox", outbox, "tasks_demo_records.view_outboxmessage")
register("settings", checks)

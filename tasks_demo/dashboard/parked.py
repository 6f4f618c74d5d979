"""The quarantine in the Django admin: inspect, requeue and discard parked messages. Nothing else can be changed here."""

from __future__ import annotations

from datetime import datetime
from pprint import pformat
from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.utils import quote, unquote
from django.core.exceptions import PermissionDenied
from django.db.models import Case, Q, Value, When
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.safestring import SafeString

from tasks_demo.core.masking import masked, masked_call, masked_text
from tasks_demo.dashboard import screens
from tasks_demo.dashboard.acts import Act, ActingAdmin
from tasks_demo.dashboard.labels import Badge, badge_element
from tasks_demo.patterns.parking import message_of
from tasks_demo.publishing.publishable import registered
from tasks_demo.quarantine.decisions import discard, requeue
from tasks_demo.records.models import Decision, Parked

SIGNS: dict[str, Badge] = {
    Parked.State.PARKED: Badge("lost", "‖", "parked", "waits for a decision"),
    Parked.State.REQUEUED: Badge("recovered", "↻", "requeued", "was published again"),
    Parked.State.DISCARDED: Badge("unresolved", "∅", "discarded", "is not to be run"),
}
#: Maximum number of characters shown of the arguments. A requeue sends all of them.
MOST_SHOWN = 20_000

_DECIDED = {"not parked any more: somebody has decided": ~Q(state=Parked.State.PARKED)}


def _unreadable(rows: list[Parked]) -> dict[int, str]:
    found = {}
    for parked in rows:
        try:
            message_of(parked)
        except Exception as error:  # noqa: BLE001  (deserialization may raise anything)
            found[parked.pk] = f"no message can be made of it ({type(error).__name__})"
    return found


@admin.register(Parked)
class ParkedAdmin(ActingAdmin):
    """The list of parked messages, the page of one message, and the page that asks for confirmation and a reason."""

    list_title = "Parked messages"
    list_display = ("task_id", "sign", "task", "operation_if_other", "attempts", "parked_at")
    list_filter = ("state", ("task", admin.AllValuesFieldListFilter))
    # Messages that wait for a decision come first.
    ordering = (Case(When(state=Parked.State.PARKED, then=Value(0)), default=Value(1)), "-id")
    search_fields = ("task_id__startswith", "operation__startswith")
    search_help_text = "A task ID or an operation, or the beginning of one."
    acts = {
        "requeue": Act(
            "Requeue",
            "requeued",
            "The message is published again under its task ID, and its attempts start at 0.",
            "tasks_demo_records.requeue_parked",
            lambda row, by, why: requeue(row, by=by, why=why),
            _DECIDED,
            _unreadable,
        ),
        "discard": Act(
            "Discard",
            "discarded",
            "The message is not run. Its row stays, and cannot be requeued any more.",
            "tasks_demo_records.discard_parked",
            lambda row, by, why: discard(row, by=by, why=why),
            _DECIDED,
        ),
    }

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        if request.method not in {"GET", "HEAD"} or not self.has_view_permission(request):
            raise PermissionDenied
        parked = self.get_object(request, unquote(object_id))
        if parked is None:
            messages.warning(request, f"There is no parked message number {object_id[:20]}.")
            return HttpResponseRedirect(
                reverse("admin:tasks_demo_records_parked_changelist", current_app=self.admin_site.name)
            )
        tally = reverse("admin:tasks_demo_tally_change", args=[quote(parked.task_id)], current_app=self.admin_site.name)
        context = {
            **self.page_context(request, str(parked)),
            "parked": parked,
            "sign": self.sign(parked),
            "meaning": SIGNS[parked.state].meaning,
            "parts": _parts(parked),
            "history": [(datetime.fromisoformat(one["at"]), one["worker"], one["pid"]) for one in parked.history],
            "decisions": list(Decision.objects.using(parked._state.db).filter(parked=parked)),
            "decisions_offered": self.permitted(request) if parked.state == Parked.State.PARKED else [],
            "ledger": tally if request.user.has_perm("tasks_demo.view_tally") else "",
            **(extra_context or {}),
        }
        return TemplateResponse(request, "admin/tasks_demo_records/parked/page.html", context)

    @admin.display(description="operation", empty_value="")
    def operation_if_other(self, parked: Parked) -> str:
        return "" if parked.operation == parked.task_id else parked.operation

    @admin.display(description="state", ordering="state")
    def sign(self, parked: Parked) -> SafeString:
        return badge_element(SIGNS[parked.state])


def _parts(parked: Parked) -> list[tuple[str, str]]:
    """Return the message in readable form: names and texts of its arguments and options, with unprintable characters escaped."""
    try:
        copy = message_of(parked)
        options = {name: value for name, value in copy.options.items() if value not in (None, "", [], {})}
        args, kwargs = masked_call(registered(parked.task), copy.args, copy.kwargs)
        parts = {"Arguments": args, "Keyword arguments": kwargs, "Sent with": masked(options)}
        shown = {name: pformat(value, width=100, sort_dicts=False) for name, value in parts.items() if value}
    except Exception as error:  # noqa: BLE001  (deserialization may raise anything, and the page must open)
        shown = {f"The message cannot be read ({type(error).__name__}: {error})": ascii(masked_text(parked.message))}
    return [
        (
            name,
            text
            if len(text) <= MOST_SHOWN
            else f"{text[:MOST_SHOWN]}\n… and {len(text) - MOST_SHOWN:,} characters more",
        )
        for name, text in shown.items()
    ]


screens.register_list("Parked", Parked, place=60)

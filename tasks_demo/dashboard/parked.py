"""The quarantine in the Django admin: inspect, requeue and discard parked messages. Nothing else can be changed here."""

from __future__ import annotations

from datetime import datetime
from pprint import pformat
from typing import TYPE_CHECKING, Any

from django.contrib import admin, messages
from django.contrib.admin.utils import quote, unquote
from django.core.exceptions import PermissionDenied
from django.db import router
from django.db.models import Case, Q, QuerySet, Value, When
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from tasks_demo.core.masking import masked, masked_call, masked_text
from tasks_demo.dashboard import screens
from tasks_demo.dashboard.acts import Act, Acting
from tasks_demo.dashboard.search import StorableLookups
from tasks_demo.patterns.parking import message_of
from tasks_demo.publishing.allowed import registered
from tasks_demo.quarantine.decisions import discard, requeue
from tasks_demo.records.models import Decision, Parked

if TYPE_CHECKING:
    _Admin = admin.ModelAdmin[Parked]
else:
    _Admin = admin.ModelAdmin

#: State → tone (see dashboard.css), mark, meaning.
SIGNS: dict[str, tuple[str, str, str]] = {
    Parked.State.PARKED: ("lost", "‖", "waits for a decision"),
    Parked.State.REQUEUED: ("recovered", "↻", "was published again"),
    Parked.State.DISCARDED: ("unresolved", "∅", "is not to be run"),
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
class ParkedAdmin(Acting, StorableLookups, _Admin):
    """The list of parked messages, the page of one message, and the page that asks for confirmation and a reason."""

    list_display = ("task_id", "sign", "task", "operation_if_other", "attempts", "parked_at")
    list_filter = ("state", ("task", admin.AllValuesFieldListFilter))
    # Messages that wait for a decision come first.
    ordering = (Case(When(state=Parked.State.PARKED, then=Value(0)), default=Value(1)), "-id")
    search_fields = ("task_id__startswith", "operation__startswith")
    search_help_text = "A task ID or an operation, or the beginning of one."
    list_per_page = 50
    show_full_result_count = False
    actions = ("requeue_selected", "discard_selected")
    change_list_template = "admin/tasks_demo_records/acting_list.html"
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

    class Media:
        css = {"all": ("tasks_demo/dashboard.css", "tasks_demo/quarantine.css")}

    def get_queryset(self, request: HttpRequest) -> QuerySet[Parked]:
        # Read from the primary: a decision is written to the database that the row was read from.
        return super().get_queryset(request).using(router.db_for_write(Parked))

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Parked | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Parked | None = None) -> bool:
        return False

    def has_requeue_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm(self.acts["requeue"].permission)

    def has_discard_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm(self.acts["discard"].permission)

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        # The columns need the width, as on the ledger's list.
        context = {
            "title": "Parked messages",
            "is_nav_sidebar_enabled": False,
            "acts_offered": self.permitted(request),
            **(extra_context or {}),
        }
        return super().changelist_view(request, context)

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        if request.method not in {"GET", "HEAD"} or not self.has_view_permission(request):
            raise PermissionDenied
        parked = self.get_object(request, unquote(object_id))
        if parked is None:
            messages.warning(request, f"There is no parked message number {object_id[:20]}.")
            return HttpResponseRedirect(reverse("admin:tasks_demo_records_parked_changelist"))
        tally = reverse("admin:tasks_demo_tally_change", args=[quote(parked.task_id)])
        context = {
            **self._context(request, str(parked)),
            "parked": parked,
            "sign": self.sign(parked),
            "meaning": SIGNS[parked.state][2],
            "parts": _parts(parked),
            "history": [(datetime.fromisoformat(one["at"]), one["worker"], one["pid"]) for one in parked.history],
            "decisions": list(Decision.objects.using(parked._state.db).filter(parked=parked)),
            "decisions_offered": self.permitted(request) if parked.state == Parked.State.PARKED else [],
            "ledger": tally if request.user.has_perm("tasks_demo.view_tally") else "",
            **(extra_context or {}),
        }
        return TemplateResponse(request, "admin/tasks_demo_records/parked/page.html", context)

    @admin.action(description="Requeue the selected messages…", permissions=["requeue"])
    def requeue_selected(self, request: HttpRequest, queryset: QuerySet[Parked]) -> HttpResponse:
        return self.ask(request, queryset, "requeue")

    @admin.action(description="Discard the selected messages…", permissions=["discard"])
    def discard_selected(self, request: HttpRequest, queryset: QuerySet[Parked]) -> HttpResponse:
        return self.ask(request, queryset, "discard")

    def _context(self, request: HttpRequest, title: str) -> dict[str, Any]:
        return {
            **self.admin_site.each_context(request),
            "is_nav_sidebar_enabled": False,
            "opts": self.opts,
            "media": self.media,
            "title": title,
        }

    @admin.display(description="operation", empty_value="")
    def operation_if_other(self, parked: Parked) -> str:
        return "" if parked.operation == parked.task_id else parked.operation

    @admin.display(description="state", ordering="state")
    def sign(self, parked: Parked) -> SafeString:
        tone, mark, meaning = SIGNS[parked.state]
        return format_html(
            '<span class="badge badge-{}" title="{}"><span aria-hidden="true">{}</span> {}</span>',
            tone,
            meaning,
            mark,
            parked.state,
        )


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

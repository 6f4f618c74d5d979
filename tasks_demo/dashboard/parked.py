"""The quarantine in the Django admin: inspect, requeue and discard parked messages. Nothing else can be changed here."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pprint import pformat
from typing import TYPE_CHECKING, Any

from django.contrib import admin, messages
from django.contrib.admin.utils import quote, unquote
from django.core.exceptions import PermissionDenied
from django.db import router
from django.db.models import Case, QuerySet, Value, When
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.text import capfirst

from tasks_demo.core.exceptions import EnvironmentNotReady, RequeueFailed
from tasks_demo.core.wording import counted
from tasks_demo.dashboard import screens
from tasks_demo.patterns.parking import message_of
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
#: Maximum number of messages named on the confirmation page. It counts the others.
MOST_NAMED = 20

Decide = Callable[..., bool]
DECISIONS: dict[str, tuple[Decide, str, str]] = {
    "requeue": (requeue, "requeued", "The message is published again under its task ID, and its attempts start at 0."),
    "discard": (discard, "discarded", "The message is not run. Its row stays, and cannot be requeued any more."),
}


screens.register_list("Parked", Parked, place=60)


@admin.register(Parked)
class ParkedAdmin(_Admin):
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

    def has_decide_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("tasks_demo_records.decide_parked")

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        # The columns need the width, as on the ledger's list.
        return super().changelist_view(request, {"is_nav_sidebar_enabled": False, **(extra_context or {})})

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
            "decidable": parked.state == Parked.State.PARKED and self.has_decide_permission(request),
            "ledger": tally if request.user.has_perm("tasks_demo.view_tally") else "",
            **(extra_context or {}),
        }
        return TemplateResponse(request, "admin/tasks_demo_records/parked/page.html", context)

    @admin.action(description="Requeue the selected messages…", permissions=["decide"])
    def requeue_selected(self, request: HttpRequest, queryset: QuerySet[Parked]) -> HttpResponse:
        return self._decide(request, queryset, "requeue")

    @admin.action(description="Discard the selected messages…", permissions=["decide"])
    def discard_selected(self, request: HttpRequest, queryset: QuerySet[Parked]) -> HttpResponse:
        return self._decide(request, queryset, "discard")

    def _decide(self, request: HttpRequest, queryset: QuerySet[Parked], decision: str) -> HttpResponse:
        why = request.POST.get("why", "").strip().replace("\0", "")
        if "confirmed" in request.POST and why:
            chosen = list(queryset)
            self._carry_out(request, chosen, decision, why)
            if len(chosen) == 1:
                return HttpResponseRedirect(reverse("admin:tasks_demo_records_parked_change", args=[chosen[0].pk]))
            return HttpResponseRedirect(request.get_full_path())
        waiting = queryset.filter(state=Parked.State.PARKED)
        count = waiting.count()
        context = {
            **self._context(request, f"{capfirst(decision)} parked messages"),
            "decision": decision,
            "meaning": DECISIONS[decision][2],
            "count": count,
            "button": f"{capfirst(decision)} {counted(count, 'message')}",
            "others": queryset.exclude(state=Parked.State.PARKED).count(),
            "named": waiting[:MOST_NAMED],
            "selected": request.POST.getlist("_selected_action"),
            "across": request.POST.get("select_across", "0"),
            "error": "confirmed" in request.POST,
        }
        return TemplateResponse(request, "admin/tasks_demo_records/parked/decide.html", context)

    def _carry_out(self, request: HttpRequest, chosen: list[Parked], decision: str, why: str) -> None:
        decide, done, _ = DECISIONS[decision]
        acted = late = 0
        for parked in chosen:
            try:
                took = decide(parked, by=request.user.get_username(), why=why)
            except RequeueFailed as error:
                messages.error(request, str(error))
                continue
            except EnvironmentNotReady as error:
                messages.error(request, str(error))
                break  # the next one would fail too
            acted, late = acted + took, late + (not took)
            if took:
                self.log_change(request, parked, f"{capfirst(done)}: {why}")
        if acted:
            messages.success(request, f"{_messages(acted)} {done}.")
        if late:
            messages.warning(request, f"{_messages(late)} not parked any more; nothing was done to them.")

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


def _messages(count: int) -> str:
    return f"{counted(count, 'message')} {'was' if count == 1 else 'were'}"


def _parts(parked: Parked) -> list[tuple[str, str]]:
    """Return the message in readable form: names and texts of its arguments and options, with unprintable characters escaped."""
    try:
        copy = message_of(parked)
        options = {name: value for name, value in copy.options.items() if value not in (None, "", [], {})}
        parts = {"Arguments": copy.args, "Keyword arguments": copy.kwargs, "Sent with": options}
        shown = {name: pformat(value, width=100, sort_dicts=False) for name, value in parts.items()}
    except Exception as error:  # noqa: BLE001  (deserialization may raise anything, and the page must open)
        shown = {f"The message cannot be read ({type(error).__name__}: {error})": ascii(parked.message)}
    return [
        (
            name,
            text
            if len(text) <= MOST_SHOWN
            else f"{text[:MOST_SHOWN]}\n… and {len(text) - MOST_SHOWN:,} characters more",
        )
        for name, text in shown.items()
    ]

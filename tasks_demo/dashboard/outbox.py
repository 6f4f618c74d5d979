"""The outbox in the Django admin: what waits, what the broker refused, and how to publish a message now or cancel it."""

from __future__ import annotations

from pprint import pformat
from typing import Any

from celery import current_app
from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest

from tasks_demo.core.masking import masked, masked_call, masked_text
from tasks_demo.core.wording import shown
from tasks_demo.dashboard import screens
from tasks_demo.dashboard.acts import Act, ActingAdmin
from tasks_demo.dashboard.times import time_column
from tasks_demo.outbox.decisions import BEGUN, ENDED, HANDED_OVER, cancel, due, hasten
from tasks_demo.publishing.publishable import registered
from tasks_demo.records.models import OutboxMessage

#: Maximum number of characters shown of the arguments, and of an error in the list.
MOST_SHOWN, MOST_OF_ERROR = 20_000, 120


class StateFilter(admin.SimpleListFilter):
    """Filters by the state of a message. An index serves each choice."""

    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [
            ("open", "not ended"),
            ("overdue", "overdue: no relay has taken it"),
            ("failing", "could not be published"),
            ("ended", "ended"),
        ]

    def queryset(self, request: HttpRequest, queryset: QuerySet[OutboxMessage]) -> QuerySet[OutboxMessage]:
        match self.value():
            case "open":
                return queryset.filter(finished_at=None)
            case "overdue":
                return queryset.filter(due(), finished_at=None)
            case "failing":
                return queryset.filter(finished_at=None, failures__gt=0)
            case "ended":
                return queryset.filter(finished_at__isnull=False)
        return queryset


@admin.register(OutboxMessage)
class OutboxMessageAdmin(ActingAdmin):
    """The list and the page of messages. No field can be edited."""

    list_title = "Outbox"
    list_display = (
        "task_id",
        "task",
        "state",
        "publications",
        "failures",
        "short_error",
        time_column("created_at"),
        time_column("due_at"),
    )
    list_filter = (StateFilter,)
    search_fields = ("task_id__startswith",)
    search_help_text = "A task ID, or the beginning of one."
    ordering = ("-id",)
    sortable_by = ()
    list_max_show_all = 0
    show_facets = admin.ShowFacets.NEVER
    fields = (
        "task_id", "task", "state", "arguments_shown", "options_shown", "created_at", "due_at", "publications", "failures",
        "error_shown", "queue", "published_at", "started_at", "started_by", "seen_at", "finished_at",
    )  # fmt: skip
    acts = {
        "hasten": Act(
            "Publish now",
            "made due",
            "The message becomes due now, whatever its countdown or the pause after a refusal. A running relay "
            "(`manage.py relay`) publishes it within its interval; without one it waits.",
            "tasks_demo_records.hasten_outboxmessage",
            lambda row, by, why: hasten(row),
            {
                "has ended": ENDED,
                "the broker or a worker has it already, and the relay publishes it again on evidence of loss": HANDED_OVER,
                "is due already: does `manage.py relay` run, and does the broker answer?": due(),
            },
        ),
        "cancel": Act(
            "Cancel",
            "cancelled",
            "The message ends without being run, and cannot be published any more. If the broker has a copy, the worker that "
            "gets it does not run it.",
            "tasks_demo_records.cancel_outboxmessage",
            lambda row, by, why: cancel(row, by=by),
            {"has ended": ENDED, "a worker has begun it, and nothing here stops a worker": BEGUN},
        ),
    }

    @admin.display(description="state")
    def state(self, message: OutboxMessage) -> str:
        if message.finished_at:
            return "ended"
        if message.started_at and (not message.published_at or message.started_at >= message.published_at):
            return "begun"
        return "published" if message.published_at else "waits for the relay"

    @admin.display(description="error", empty_value="")
    def short_error(self, message: OutboxMessage) -> str:
        return shown(masked_text(message.error), MOST_OF_ERROR)

    @admin.display(description="error", empty_value="")
    def error_shown(self, message: OutboxMessage) -> str:
        return shown(masked_text(message.error))

    @admin.display(description="options", empty_value="")
    def options_shown(self, message: OutboxMessage) -> str:
        return shown(pformat(masked(message.options), width=10_000), MOST_SHOWN)

    @admin.display(description="arguments", empty_value="")
    def arguments_shown(self, message: OutboxMessage) -> str:
        try:
            args, kwargs = masked_call(registered(message.task), *message.call(current_app))
        except Exception as error:  # noqa: BLE001  (deserialization may raise anything, and the page must open)
            return shown(f"They cannot be read ({type(error).__name__}).")
        return shown(pformat((args, kwargs), width=10_000), MOST_SHOWN)


screens.register_list("Outbox", OutboxMessage, place=65)

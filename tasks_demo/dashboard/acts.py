"""Acts on one row or on all that match the filter of a list: a page that counts first, then one bounded batch.

The page of confirmation fixes which rows are meant, in a signed field. A row that has changed since is left alone, and one that
came since is not touched. A form that is sent twice acts once.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from django.contrib import messages
from django.core import signing
from django.core.exceptions import PermissionDenied
from django.db.models import Model, Q, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse

from tasks_demo.core.exceptions import DeliveryError, EnvironmentNotReady
from tasks_demo.core.wording import counted, shown
from tasks_demo.dashboard import audit, screens
from tasks_demo.dashboard.tables import RecordsAdmin

#: Rows that one confirmation acts on, and seconds after which it stops. What is left is acted on when it is asked for again.
MOST_AT_ONCE, SECONDS = 200, 20.0
#: Rows that are named on the page of confirmation, errors that are shown after it, and where counting stops.
MOST_NAMED, MOST_ERRORS, MOST_COUNTED = 20, 5, 10_000
#: Seconds for which a page of confirmation can be sent.
VALID_SECONDS = 3600
_SALT = "tasks_demo.dashboard.acts"


@dataclass(frozen=True, slots=True)
class Act:
    """What people can do to rows of a table.

    ``carry_out(row, by, why)`` returns whether it was done; False: the row has changed. It raises EnvironmentNotReady if the next
    row would fail too, and another DeliveryError if this row is refused. ``impossible``: why it cannot be done → which rows. The
    rows that match none are counted as possible; ``judge`` returns those of a batch that are refused nevertheless: primary
    key → reason.
    """

    verb: str
    done: str
    meaning: str
    permission: str
    carry_out: Callable[[Any, str, str], bool]
    impossible: dict[str, Q]
    judge: Callable[[list[Any]], dict[Any, str]] = lambda rows: {}
    noun: str = "message"
    order: tuple[str, ...] = ("pk",)


@dataclass(slots=True)
class Preview:
    """What an act would do: to which rows now, to how many later, and to how many it cannot be done and why."""

    rows: list[Any]
    remaining: int = 0
    more: bool = False
    refused: list[tuple[int, str]] = field(default_factory=list)


def preview(act: Act, rows: QuerySet[Any]) -> Preview:
    """Count, up to MOST_COUNTED, and choose the rows of the first batch. Changes nothing."""
    refused, possible = [], rows
    for why, which in act.impossible.items():
        count = possible.filter(which).order_by()[:MOST_COUNTED].count()
        if count:
            refused.append((count, why))
        possible = possible.exclude(which)
    count = possible.order_by()[: MOST_COUNTED + 1].count()
    chosen, judged = [], dict[str, int]()
    batch = list(possible.order_by(*act.order)[:MOST_AT_ONCE])
    reasons = act.judge(batch)
    for row in batch:
        if reason := reasons.get(row.pk):
            judged[reason] = judged.get(reason, 0) + 1
        else:
            chosen.append(row)
    refused += [(number, why) for why, number in judged.items()]
    return Preview(chosen, min(count, MOST_COUNTED) - len(batch), count > MOST_COUNTED, refused)


@dataclass(slots=True)
class Result:
    """What an act has done."""

    done: int = 0
    changed: int = 0
    remaining: int = 0
    errors: list[str] = field(default_factory=list)
    refused: int = 0
    stopped: str = ""

    def sentence(self, act: Act) -> str:
        """Return it as one sentence with all numbers."""
        parts = [f"{counted(self.done, act.noun)} {act.done}"]
        parts += [f"{self.refused} refused"] if self.refused else []
        parts += [f"{self.changed} left alone, because changed meanwhile"] if self.changed else []
        parts += [f"{self.remaining} left: do it again for these"] if self.remaining else []
        return f"{', '.join(parts)}."


def carry_out(act: Act, rows: Sequence[Any], *, by: str, why: str) -> Result:
    """Act on these rows, one commit each, for SECONDS at most."""
    result, until = Result(), time.monotonic() + SECONDS
    for number, row in enumerate(rows):
        if time.monotonic() > until:
            result.remaining = len(rows) - number
            break
        try:
            if act.carry_out(row, by, why):
                result.done += 1
            else:
                result.changed += 1
        except EnvironmentNotReady as error:
            result.stopped, result.remaining = str(error), len(rows) - number
            break
        except DeliveryError as error:
            result.refused += 1
            result.errors.append(str(error))
    return result


def confirmation(
    request: HttpRequest, act: Act, name: str, found: Preview, address: str, *, no_reason: bool
) -> dict[str, Any]:
    """Return the context of the page that shows what the act would do. Changes nothing."""
    if not request.user.has_perm(act.permission):
        raise PermissionDenied
    selection = {
        "act": name,
        "ids": [row.pk for row in found.rows],
        "left": found.remaining,
        "filter": request.GET.urlencode()[:2000],
        "token": uuid.uuid4().hex,
        "user": str(request.user.pk),
    }
    return {
        "title": f"{act.verb}: {act.noun}s",
        "act": act,
        "dry": found,
        "named": found.rows[:MOST_NAMED],
        "filter": shown(", ".join(f"{key} = {value}" for key, value in request.GET.items()), 500),
        "button": f"{act.verb}: {counted(len(found.rows), act.noun)}",
        "sure": signing.dumps(selection, salt=_SALT, compress=True),
        "address": address,
        "error": no_reason,
    }


def opened(request: HttpRequest, acts: dict[str, Act]) -> tuple[Act, dict[str, Any]] | None:
    """Return the act that this form confirms and what it fixed; None, with a message, if the form is too old or was changed."""
    try:
        selection = signing.loads(request.POST.get("sure", ""), salt=_SALT, max_age=VALID_SECONDS)
        act = acts[selection["act"]]
    except (signing.BadSignature, KeyError):
        messages.error(request, "This form is too old or was changed. Nothing was done. Choose again.")
        return None
    if not request.user.has_perm(act.permission) or selection["user"] != str(request.user.pk):
        raise PermissionDenied
    return act, selection


def typed_reason(request: HttpRequest) -> str:
    """Return the reason that was typed; empty: none."""
    return request.POST.get("why", "").strip().replace("\0", "")[:2000]


def perform(
    request: HttpRequest,
    act: Act,
    selection: dict[str, Any],
    rows: Sequence[Any],
    about: type[Model],
    more: Callable[[], str] = str,
    *,
    pk: object = None,
) -> None:
    """Act on the rows once, keep it in the log, and tell the user.

    ``about``, ``pk``: the model that the log names, and the row if it is a single one. ``more``: what else the log keeps.
    """
    what = f"{act.verb}: {counted(len(selection['ids']), act.noun)}"
    entry = audit.begin(request, about, what, selection["token"], pk=pk)
    if entry is None:
        messages.warning(request, "This form was sent before. It has acted once; nothing more was done.")
        return
    why = typed_reason(request)
    result = carry_out(act, rows, by=request.user.get_username(), why=why)
    result.changed += len(selection["ids"]) - len(rows)  # gone, or changed, meanwhile
    result.remaining += selection["left"]
    said = result.sentence(act)
    kept = f"{said} Why: {why} Filter: {selection['filter'] or 'none'}. {more()} {result.stopped}".strip()
    audit.finish(entry, kept, selection["token"])
    level = messages.SUCCESS if result.done else messages.WARNING
    messages.add_message(request, level, f"{said[0].upper()}{said[1:]} {shown(more(), 1000)}".strip())
    for error in [*result.errors[:MOST_ERRORS], *filter(None, [result.stopped])]:
        messages.error(request, shown(error, 1000))


class ActingAdmin(RecordsAdmin):
    """A table of the records with ``acts`` on its rows: actions of the list, and the page ``act/`` that carries them out."""

    acts: dict[str, Act] = {}
    change_list_template = "admin/tasks_demo_records/acting_list.html"

    def get_urls(self) -> list[URLPattern]:
        view = screens.outside_transactions(self.admin_site.admin_view(self.act_view))
        return [path("act/", view, name=f"{self.opts.app_label}_{self.opts.model_name}_act"), *super().get_urls()]

    def get_actions(self, request: HttpRequest) -> dict[str, Any]:
        """Return an action ``NAME_selected`` for each act that this user may do; it asks for a confirmation."""
        return {
            f"{name}_selected": (_asking(name), f"{name}_selected", f"{act.verb} the selected {act.noun}s…")
            for name, act in self.permitted(request)
        }

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        return super().changelist_view(request, {"acts_offered": self.permitted(request), **(extra_context or {})})

    def permitted(self, request: HttpRequest) -> list[tuple[str, Act]]:
        """Return the acts that this user may do, with their names."""
        return [(name, act) for name, act in self.acts.items() if request.user.has_perm(act.permission)]

    def ask(self, request: HttpRequest, rows: QuerySet[Any], name: str, *, no_reason: bool = False) -> HttpResponse:
        """Show what the act would do to these rows, and ask for a reason and a confirmation. Changes nothing."""
        act = self.acts[name]
        if not request.user.has_perm(act.permission):
            raise PermissionDenied
        context = {
            **self.page_context(request, ""),
            "back": self._address("changelist"),
            **confirmation(request, act, name, preview(act, rows), self._address("act"), no_reason=no_reason),
        }
        return TemplateResponse(request, "admin/tasks_demo_records/act.html", context)

    def act_view(self, request: HttpRequest) -> HttpResponse:
        """Carry out what the page of confirmation has asked for, then go back to the list."""
        if not self.permitted(request):
            raise PermissionDenied
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        found = opened(request, self.acts)
        if found is None:
            return HttpResponseRedirect(self._address("changelist"))
        act, selection = found
        rows = self.get_queryset(request).filter(pk__in=selection["ids"])
        if not typed_reason(request):
            return self.ask(request, rows, selection["act"], no_reason=True)
        single = selection["ids"][0] if len(selection["ids"]) == 1 else None
        perform(request, act, selection, list(rows.order_by("pk")), rows.model, pk=single)
        if single is not None:
            return HttpResponseRedirect(self._address("change", single))
        back = self._address("changelist")
        return HttpResponseRedirect(f"{back}?{selection['filter']}" if selection["filter"] else back)

    def _address(self, page: str, *args: Any) -> str:
        name = f"admin:{self.opts.app_label}_{self.opts.model_name}_{page}"
        return reverse(name, args=args, current_app=self.admin_site.name)


def _asking(name: str) -> Callable[[ActingAdmin, HttpRequest, QuerySet[Any]], HttpResponse]:
    return lambda table, request, rows: table.ask(request, rows, name)

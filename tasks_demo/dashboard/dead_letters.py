"""The screen of the dead letters: what the reliable transport has set aside, and how to requeue or discard it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from celery import current_app
from django.contrib.admin import AdminSite
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse

from tasks_demo.checks.setup import Setup
from tasks_demo.core import clock
from tasks_demo.core.exceptions import EnvironmentNotReady
from tasks_demo.core.wording import counted, shown
from tasks_demo.dashboard import needs, screens
from tasks_demo.dashboard.acts import MOST_AT_ONCE, Act, Preview, confirmation, opened, perform, typed_reason
from tasks_demo.quarantine.dead_letters import DeadLetters, death_count, parts, shown_id
from tasks_demo.records.models import Parked
from tasks_demo.transport import DeadLetter

#: Maximum number of dead letters on the page, and of characters of one that are shown.
MOST_SHOWN, MOST_TEXT = 50, 20_000
#: Maximum time to wait for one reply of Redis, seconds.
REPLY = 0.5
VIEW = "tasks_demo_records.view_parked"
UNREADABLE = "no worker can read it"


@dataclass(frozen=True, slots=True)
class Row:
    """One dead letter on a page. ``pk``: its token."""

    pk: str
    task_id: str = ""
    task: str = ""
    queue: str = ""
    reason: str = ""
    at: datetime | None = None
    died: int = 0
    is_message: bool = True
    parts: Sequence[tuple[str, str]] = ()

    @classmethod
    def of(cls, letter: DeadLetter) -> Row:
        """Return what is shown of it: untrusted text with unprintable characters escaped."""
        said = [(name, shown(value, MOST_TEXT)) for name, value in parts(letter).items()]
        return cls(
            pk=letter.token,
            task_id=shown(shown_id(letter), 255),
            task=shown(letter.task, 255),
            queue=shown(letter.queue, 255),
            reason=shown(letter.reason),
            at=clock.from_epoch(letter.at),
            died=death_count(letter),
            is_message=letter.is_message,
            parts=said,
        )


def view(request: HttpRequest, admin_site: AdminSite, **kwargs: Any) -> HttpResponse:
    """List the newest, or show what an act would do to some of them. A confirmed POST acts."""
    address = request.get_full_path()
    with DeadLetters(REPLY) as letters:
        try:
            if request.method == "POST":
                return _posted(request, admin_site, letters, address)
            found, count, trouble = letters.page(limit=MOST_SHOWN), letters.count(), ""
        except EnvironmentNotReady as error:
            found, count, trouble = [], 0, str(error)
        acts = [(name, act) for name, act in _acts(letters).items() if request.user.has_perm(act.permission)]
    context = {
        "title": "Dead letters",
        "rows": [Row.of(letter) for letter in found],
        "count": count,
        "truncated": count > len(found),
        "trouble": trouble,
        "acts": acts,
    }
    return screens.page(request, admin_site, "admin/tasks_demo/dead_letters.html", context)


def _posted(request: HttpRequest, admin_site: AdminSite, letters: DeadLetters, address: str) -> HttpResponse:
    acts = _acts(letters)
    if "sure" in request.POST:
        found = opened(request, acts)
        if found is None:
            return HttpResponseRedirect(address)
        act, selection = found
        if typed_reason(request):
            perform(request, act, selection, [Row(token) for token in selection["ids"]], Parked)
            return HttpResponseRedirect(address)
        name, tokens = selection["act"], selection["ids"]
    else:
        name = next((one for one in acts if one in request.POST), "")
        if not name or not request.user.has_perm(acts[name].permission):
            raise PermissionDenied
        tokens = None if "all" in request.POST else request.POST.getlist("token")[:MOST_AT_ONCE]
    context = {
        **confirmation(
            request, acts[name], name, _dry(letters, name, tokens), address, no_reason="sure" in request.POST
        ),
        "opts": Parked._meta,
        "media": "",
        "back": address,
    }
    return screens.page(request, admin_site, "admin/tasks_demo/dead_letters_act.html", context)


def _dry(letters: DeadLetters, name: str, tokens: Sequence[str] | None) -> Preview:
    """Choose the first batch of these, or, with None, of all, the oldest first. Changes nothing."""
    found = list(letters)[::-1] if tokens is None else [one for token in tokens if (one := letters.get(token))]
    possible = [letter for letter in found if letter.is_message or name != "requeue"]
    chosen, refused = possible[:MOST_AT_ONCE], len(found) - len(possible)
    return Preview(
        [Row.of(letter) for letter in chosen],
        len(possible) - len(chosen),
        refused=[(refused, UNREADABLE)] if refused else [],
    )


def _acts(letters: DeadLetters) -> dict[str, Act]:
    def requeue(row: Row, by: str, why: str) -> bool:
        letter = letters.get(row.pk)
        return letter is not None and letters.requeue(letter, by=by, why=why)

    def discard(row: Row, by: str, why: str) -> bool:
        letter = letters.get(row.pk)
        return letter is not None and letters.discard(letter, by=by, why=why)

    return {
        "requeue": Act(
            "Requeue",
            "requeued",
            "The message is put on its queue, last in line, and its deliveries start at 0.",
            "tasks_demo_records.requeue_parked",
            requeue,
            {},
            noun="dead letter",
        ),
        "discard": Act(
            "Discard",
            "discarded",
            "The message is deleted from the broker and is not run. A copy stays among the parked messages.",
            "tasks_demo_records.discard_parked",
            discard,
            {},
            noun="dead letter",
        ),
    }


#: What the overview has seen, repeated for ten seconds.
_looked = needs.AnswerCache[int](10.0)


def waiting(request: HttpRequest, admin_site: AdminSite) -> Sequence[needs.Need]:
    """Return the number of dead letters as an entry. Asks Redis at most every ten seconds.

    Another entry reports a Redis that does not answer.
    """
    if not _is_on_redis():
        return []
    count = _looked.get(_count, place=str(current_app.conf.broker_read_url))
    address = reverse("admin:tasks_demo_dead_letters", current_app=admin_site.name)
    return [needs.Need(counted(count, "dead letter"), "Requeue or discard.", address)] if count else []


def _count() -> int:
    try:
        with DeadLetters(REPLY) as letters:
            return letters.count()
    except EnvironmentNotReady:
        return 0


def _is_on_redis() -> bool:
    return Setup(current_app, ()).is_redis


needs.register("dead letters", waiting, VIEW)
screens.register(
    screens.Screen("dead_letters", "Dead letters", "dead-letters/", view, VIEW, place=61, enabled=_is_on_redis)
)

"""Keeps who did what in Django's ``LogEntry``, and refuses a form that was sent before.

An entry is committed before anything is done, so that a process that dies in between leaves a trace. What is **not** guaranteed:
that an entry without a result means that nothing was done.
"""

from __future__ import annotations

from typing import Any

from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.auth import get_user_model
from django.contrib.contenttypes.models import ContentType
from django.db import router, transaction
from django.db.models import Model
from django.http import HttpRequest
from django.utils import timezone

from tasks_demo.core.wording import shown

#: Maximum length of an entry, characters.
LONGEST = 20_000


def begin(request: HttpRequest, about: type[Model], what: str, token: str, *, pk: object = None) -> LogEntry | None:
    """Commit an entry "WHAT: begun". Returns None if this user has sent the form with this token before.

    ``pk``: the row, if it is a single one. Two requests with one token at the same time: at most one gets an entry.
    """
    alias = router.db_for_write(LogEntry)
    entries = LogEntry.objects.using(alias)
    with transaction.atomic(using=alias):
        entry = entries.create(
            user_id=_who(request),
            content_type_id=ContentType.objects.db_manager(alias).get_for_model(about).pk,
            object_id=None if pk is None else str(pk),
            object_repr=shown(what, 180)[:200],
            action_flag=CHANGE,
            action_time=timezone.now(),
            change_message=f"begun {_mark(token)}",
        )
        # SQLite: the entry holds the write lock. PostgreSQL: the second of two requests waits here, then sees the first's entry.
        users: Any = get_user_model()._default_manager.using(alias)
        users.select_for_update(no_key=True).filter(pk=request.user.pk).first()
        if _with(request, token).exclude(pk=entry.pk).exists():
            transaction.set_rollback(True, using=alias)
            return None
    return entry


def finish(entry: LogEntry, result: str, token: str) -> None:
    """Write the result into the entry."""
    entry.change_message = f"{shown(result, LONGEST)} {_mark(token)}"
    entry.save(update_fields=["change_message"])


def sent(request: HttpRequest, token: str) -> LogEntry | None:
    """Return the entry of this user's form with this token."""
    entry: LogEntry | None = _with(request, token).first()
    return entry


def result_of(entry: LogEntry) -> str:
    """Return what was written with ``finish``; "begun" if nothing was."""
    return str(entry.change_message).rpartition(" (form ")[0]


def _with(request: HttpRequest, token: str) -> Any:
    alias = router.db_for_write(LogEntry)
    return LogEntry.objects.using(alias).filter(user_id=_who(request), change_message__endswith=_mark(token))


def _who(request: HttpRequest) -> Any:
    return request.user.pk  # of the type of the project's own user model


def _mark(token: str) -> str:
    return f"(form {token})"

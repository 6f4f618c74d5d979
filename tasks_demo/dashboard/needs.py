"""What needs a person now, and panels of other apps on the overview. Each is found by a function that is registered here.

A function that fails is shown as such: one database that does not answer must not hide the other needs.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

from django.contrib.admin import AdminSite
from django.http import HttpRequest

T = TypeVar("T")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Need:
    """One line: what is the matter, what to do, and where. ``address`` may be empty. ``bad``: a promise or a job is at stake."""

    text: str
    what_to_do: str = ""
    address: str = ""
    bad: bool = True


#: Finds needs on this site. Takes few milliseconds, because it runs within a request. The answer must not depend on who asks:
#: other users with the same permissions get it too.
Find = Callable[[HttpRequest, AdminSite], Sequence[Need]]


@dataclass(frozen=True, slots=True)
class Panel:
    """A section of the overview: a template, and a function that returns its context, or None to leave the section out.

    Users with the same permissions share it: the context may depend on who asks by permissions only, of those with which a
    screen, a need or a panel is registered. The template gets no request, so no user and no token for a form.
    """

    template: str
    context: Callable[[HttpRequest, AdminSite], Mapping[str, Any] | None]


class AnswerCache(Generic[T]):
    """Repeats answers for some seconds, to each question its own. Threads that ask at the same time wait for one answer."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._lock, self._storing = threading.Lock(), threading.Lock()
        self._known: dict[Hashable, tuple[float, T]] = {}

    def get(self, ask: Callable[[], T], place: Hashable = "", *, refresh: bool = False) -> T:
        """Return the answer for this ``place``. ``refresh``: ask in any case, and keep the answer for the others."""
        if refresh:
            return self._asked(ask, place)
        with self._lock:
            at, answer = self._known.get(place, (None, None))
            if at is None or time.monotonic() - at > self._seconds:
                return self._asked(ask, place)
            return cast(T, answer)

    def _asked(self, ask: Callable[[], T], place: Hashable) -> T:
        began = time.monotonic()
        answer = ask()
        with self._storing:
            recent = {each: kept for each, kept in self._known.items() if began - kept[0] <= self._seconds}
            # Somebody may have asked later and been answered sooner.
            if place not in recent or recent[place][0] <= began:
                recent[place] = (began, answer)
            self._known = recent
        return answer


_finders: dict[str, tuple[Find, str]] = {}
_panels: dict[str, tuple[Panel, str]] = {}


def register(name: str, find: Find, permission: str = "tasks_demo.view_tally") -> None:
    """Add a function that finds needs, for users with the permission. Replaces the one of the same name."""
    _finders[name] = (find, permission)


def register_panel(name: str, panel: Panel, permission: str = "tasks_demo.view_tally") -> None:
    """Add a section to the overview, for users with the permission. Replaces the one of the same name."""
    _panels[name] = (panel, permission)


def permissions() -> set[str]:
    """Return the permissions with which needs and panels are registered."""
    return {permission for _, permission in (*_finders.values(), *_panels.values())}


def needs(request: HttpRequest, admin_site: AdminSite) -> list[Need]:
    """Ask every function that concerns this user, bad needs first."""
    found: list[Need] = []
    for name, (find, permission) in _finders.items():
        if not request.user.has_perm(permission):
            continue
        try:
            found += find(request, admin_site)
        except Exception as error:
            logger.warning("what needs a person: %s cannot be read", name, exc_info=True)
            found.append(
                Need(f"{name.capitalize()}: cannot be read ({type(error).__name__})", "See the web server's log.")
            )
    return sorted(found, key=lambda need: not need.bad)


def checked_names(request: HttpRequest) -> list[str]:
    """Return the names of all that ``needs`` asks for this user."""
    return [name for name, (_, permission) in _finders.items() if request.user.has_perm(permission)]


def panels(request: HttpRequest, admin_site: AdminSite) -> list[tuple[str, Mapping[str, Any]]]:
    """Return template and context of every section that concerns this user."""
    shown = []
    for name, (panel, permission) in _panels.items():
        if not request.user.has_perm(permission):
            continue
        try:
            context = panel.context(request, admin_site)
        except Exception:
            logger.warning("overview: %s cannot be shown", name, exc_info=True)
            continue
        if context is not None:
            shown.append((panel.template, context))
    return shown

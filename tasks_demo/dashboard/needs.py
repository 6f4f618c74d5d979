"""What needs a person now, and panels of other apps on the overview. Each is found by a function that is registered here.

A function that fails is shown as such: one database that does not answer must not hide the other needs.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar
from weakref import WeakKeyDictionary

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


#: Seconds for which what one poll has found serves all users who may see it: twenty open dashboards ask no more often than one.
SHARED_SECONDS = 1.0

#: Finds needs on this site. Takes few milliseconds, because it runs within a request. The answer must not depend on who asks:
#: other users with the permission get it too.
Find = Callable[[HttpRequest, AdminSite], Sequence[Need]]


@dataclass(frozen=True, slots=True)
class Panel:
    """A section of the overview: a template, and a function that returns its context, or None to leave the section out."""

    template: str
    context: Callable[[HttpRequest, AdminSite], Mapping[str, Any] | None]


class Kept(Generic[T]):
    """Repeats an answer for some seconds, as long as the question is about the same ``place``."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._known: tuple[float, str, T] | None = None

    def get(self, ask: Callable[[], T], place: str = "") -> T:
        now = time.monotonic()
        if self._known is None or self._known[1] != place or now - self._known[0] > self._seconds:
            self._known = (now, place, ask())
        return self._known[2]


_finders: dict[str, tuple[Find, str]] = {}
#: What polls have found, per site.
_shared: WeakKeyDictionary[AdminSite, dict[str, Kept[Sequence[Need]]]] = WeakKeyDictionary()
_panels: dict[str, tuple[Panel, str]] = {}


def register(name: str, find: Find, permission: str = "tasks_demo.view_tally") -> None:
    """Add a function that finds needs, for users with the permission. Replaces the one of the same name."""
    _finders[name] = (find, permission)


def register_panel(name: str, panel: Panel, permission: str = "tasks_demo.view_tally") -> None:
    """Add a section to the overview, for users with the permission. Replaces the one of the same name."""
    _panels[name] = (panel, permission)


def needs(request: HttpRequest, admin_site: AdminSite, *, shared: bool = False) -> list[Need]:
    """Ask every function that concerns this user, bad needs first. ``shared``: an answer SHARED_SECONDS old will do."""
    found: list[Need] = []
    kept = _shared.setdefault(admin_site, {})
    for name, (find, permission) in _finders.items():
        if not request.user.has_perm(permission):
            continue
        try:
            if shared:
                ask = partial(find, request, admin_site)
                found += kept.setdefault(name, Kept(SHARED_SECONDS)).get(ask)
            else:
                found += find(request, admin_site)
        except Exception as error:
            logger.warning("what needs a person: %s cannot be read", name, exc_info=True)
            found.append(
                Need(f"{name.capitalize()}: cannot be read ({type(error).__name__})", "See the web server's log.")
            )
    return sorted(found, key=lambda need: not need.bad)


def looked_at(request: HttpRequest) -> list[str]:
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

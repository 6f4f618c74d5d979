"""The screens of the control room: which there are, where they are mounted, who may see them, and the bar that links them.

A screen is a view of ours below ``tasks_demo/tally/`` in the URLs of each admin site that has the model ``Tally``. An app
registers its screens in ``AppConfig.ready``, because the URLs are built once, when the first request comes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from django.contrib.admin import AdminSite
from django.contrib.admin.sites import all_sites
from django.core.exceptions import PermissionDenied
from django.db import connections
from django.db.models import Model
from django.http import Http404, HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse

from tasks_demo.ledger.models import Tally


class View(Protocol):
    """Answers a request. ``kwargs``: what the screen's path names."""

    def __call__(self, request: HttpRequest, admin_site: AdminSite, **kwargs: Any) -> HttpResponse: ...


@dataclass(frozen=True, slots=True)
class Screen:
    """One screen. Its URL is named ``admin:tasks_demo_NAME``.

    ``path`` is relative, ends with ``/`` and may have converters (``workers/<path:name>/``). ``place`` orders the bar, and 0
    keeps the screen out of it. ``within`` names the screen of the bar that a page without a place belongs to.
    Where ``enabled`` returns false, the screen has no link and answers 404.
    """

    name: str
    title: str
    path: str
    view: View
    permission: str = "tasks_demo.view_tally"
    place: int = 0
    within: str = ""
    enabled: Callable[[], bool] = lambda: True

    def seen_by(self, request: HttpRequest) -> bool:
        """Whether the screen is enabled and the user has its permission."""
        return self.enabled() and request.user.has_perm(self.permission)


@dataclass(frozen=True, slots=True)
class Link:
    """One entry of the bar."""

    title: str
    address: str
    current: bool


_screens: dict[str, Screen] = {}
_lists: dict[str, tuple[str, type[Model], int]] = {}


def register(screen: Screen) -> None:
    """Add a screen, or replace the one of the same name."""
    _screens[screen.name] = screen


def registered() -> list[Screen]:
    """Return all screens."""
    return list(_screens.values())


def register_list(title: str, model: type[Model], place: int) -> None:
    """Add the change list of a model to the bar.

    Admin sites that do not register the model, and users who may not view it, have no link.
    """
    _lists[model._meta.label_lower] = (title, model, place)


def urls(admin_site: AdminSite) -> list[URLPattern]:
    """Return the URLs of all screens, for a ``ModelAdmin.get_urls``."""
    return [
        path(
            screen.path,
            outside_transactions(admin_site.admin_view(_guarded(screen.name, admin_site))),
            name=f"tasks_demo_{screen.name}",
        )
        for screen in _screens.values()
    ]


def _guarded(name: str, admin_site: AdminSite) -> Callable[..., HttpResponse]:
    def guarded(request: HttpRequest, **kwargs: Any) -> HttpResponse:
        screen = _screens[name]
        if not screen.enabled():
            raise Http404(f"{screen.title} is switched off.")
        if not screen.seen_by(request):
            raise PermissionDenied
        return screen.view(request, admin_site, **kwargs)

    guarded.admin_site = admin_site  # type: ignore[attr-defined]  # as Django's own wrapper has it
    return guarded


def outside_transactions(view: Callable[..., HttpResponse]) -> Callable[..., HttpResponse]:
    """Keep ATOMIC_REQUESTS from this view: what it publishes and writes down must be committed step by step."""
    view._non_atomic_requests = set(connections)  # type: ignore[attr-defined]  # as transaction.non_atomic_requests does
    return view


def page(
    request: HttpRequest, admin_site: AdminSite, template: str, context: dict[str, Any], **kwargs: Any
) -> TemplateResponse:
    """Answer with a page in the frame of the admin. ``context`` has at least ``title``; the template extends
    ``admin/tasks_demo/screen.html``."""
    shared = {**admin_site.each_context(request), "is_nav_sidebar_enabled": False, "opts": Tally._meta}
    return TemplateResponse(request, template, {**shared, **context}, **kwargs)


def links(request: HttpRequest) -> list[Link]:
    """Return the entries of the bar for this user, in order."""
    site = site_of(request)
    if site is None:
        return []
    match = request.resolver_match
    here = (match.url_name or "") if match else ""
    shown = _screens.get(here.removeprefix("tasks_demo_"))
    ours = (shown.within or shown.name) if shown else "overview" if here == "app_list" else ""
    found = [
        (screen.place, Link(screen.title, _address(f"tasks_demo_{screen.name}", site), screen.name == ours))
        for screen in _screens.values()
        if screen.place and screen.seen_by(request)
    ]
    for title, model, place in _lists.values():
        if site.is_registered(model) and site.get_model_admin(model).has_view_permission(request):
            table = f"{model._meta.app_label}_{model._meta.model_name}"
            current = not ours and here.startswith(f"{table}_")
            found.append((place, Link(title, _address(f"{table}_changelist", site), current)))
    return [link for _, link in sorted(found, key=lambda each: each[0])]


def site_of(request: HttpRequest) -> AdminSite | None:
    """Return the admin site that answers this request, if it has our screens.

    The name alone is not enough: a project's own site is often called "admin", as Django's is.
    """
    match = request.resolver_match
    if match is None or not match.namespaces:
        return None
    site = _owner(match.func)
    if site is not None:
        return site if site.is_registered(Tally) else None
    return next((each for each in all_sites if each.name == match.namespaces[-1] and each.is_registered(Tally)), None)


def _owner(view: Any) -> AdminSite | None:
    """Return the site of a view that the admin has wrapped: a method of the site or of a ModelAdmin, or a screen."""
    while view is not None:
        owner = getattr(view, "__self__", view)
        if isinstance(owner, AdminSite):
            return owner
        if isinstance(site := getattr(owner, "admin_site", None), AdminSite):
            return site
        view = getattr(view, "__wrapped__", None)
    return None


def _address(name: str, site: AdminSite) -> str:
    return reverse(f"admin:{name}", current_app=site.name)

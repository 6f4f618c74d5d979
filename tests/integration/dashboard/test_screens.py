"""The frame of the control room: which screens there are for whom, in whose admin, under which policy."""

from __future__ import annotations

import re
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from django.contrib import admin
from django.contrib.admin import AdminSite
from django.contrib.auth.models import User
from django.http import HttpRequest, HttpResponse
from django.test import Client
from django.urls import clear_url_caches, path
from pytest_django import Settings

from tasks_demo.dashboard import live, screens
from tasks_demo.dashboard.task_ids import TallyAdmin
from tasks_demo.ledger.models import Tally
from tasks_demo.operations import find_records
from tests.integration.dashboard.pages import somebody
from tests.integration.ledger.ledger_rows import append, lost, ok

pytestmark = [pytest.mark.django_db(transaction=True, databases="__all__"), pytest.mark.usefixtures("ledger")]


def bar(text: str) -> list[tuple[str, str, bool]]:
    """The entries of the bar: address, title, whether it is the current one."""
    found = re.search(r'<nav class="control-room".*?</nav>', text, re.DOTALL)
    entries = re.findall(r'<a href="([^"]*)"( aria-current="page")?>([^<]*)</a>', found.group() if found else "")
    return [(address, title, bool(current)) for address, current, title in entries]


def current(text: str) -> list[str]:
    return [title for _, title, here in bar(text) if here]


@pytest.fixture
def extra(settings: Settings) -> Iterator[Any]:
    """A screen with a permission of its own, and its switch."""
    switch = SimpleNamespace(on=True)

    def view(request: HttpRequest, admin_site: AdminSite, **kwargs: Any) -> HttpResponse:
        return screens.page(request, admin_site, "admin/tasks_demo/screen.html", {"title": f"Extra {kwargs['number']}"})

    screens.register(
        screens.Screen(
            "extra", "Extra", "extra/<int:number>/", view, "tasks_demo.view_event",
            within="overview", enabled=lambda: switch.on,
        )
    )  # fmt: skip
    site = AdminSite(name="ops")
    site.register(Tally, TallyAdmin)
    urls = ModuleType("urls_of_somebody_else")
    urls.urlpatterns = [path("somewhere/else/", site.urls)]  # type: ignore[attr-defined]
    settings.ROOT_URLCONF = urls  # type: ignore[assignment]
    clear_url_caches()
    switch.site = site
    yield switch
    screens._screens.pop("extra")
    clear_url_caches()


PAGES = {
    "/admin/tasks_demo/": "Overview",
    "/admin/tasks_demo/tally/overview/": "Overview",
    "/admin/tasks_demo/tally/": "Task IDs",
    "/admin/tasks_demo/tally/servers/": "Servers",
    "/admin/tasks_demo/tally/fine/change/": "Task IDs",
    "/admin/tasks_demo_records/parked/": "Parked",
    "/admin/tasks_demo_records/outboxmessage/": "Outbox",
    "/admin/tasks_demo_records/forgottenoperation/": "Operations",
    "/admin/tasks_demo_records/forgottenoperation/look/": "Operations",
}


@pytest.mark.parametrize(("address", "title"), PAGES.items())
def test_screens_have_one_bar_and_no_inline_script_or_style(admin_client: Client, address: str, title: str) -> None:
    append(ok("fine"))
    response = admin_client.get(address)
    text = response.content.decode()
    assert response.status_code == 200
    assert current(text) == [title]
    assert "<title>Select" not in text
    assert [entry for _, entry, _ in bar(text)][:2] == ["Overview", "Task IDs"]
    for linked, _, _ in bar(text):
        assert admin_client.get(linked).status_code == 200, linked
    assert re.findall(r"<style|\sstyle=|<script(?![^>]*\ssrc=)|\son[a-z]+=", text) == []


@pytest.mark.usefixtures("redis_url")
def test_redirects_stay_in_the_admin_site_that_was_asked(admin_client: Client, settings: Settings) -> None:
    site = AdminSite(name="ops")
    for model, registered in admin.site._registry.items():
        site.register(model, type(registered))
    urls = ModuleType("urls_of_two_sites")
    urls.urlpatterns = [path("ops/", site.urls), path("admin/", admin.site.urls)]  # type: ignore[attr-defined]
    settings.ROOT_URLCONF = urls  # type: ignore[assignment]
    clear_url_caches()
    try:
        look = "/ops/tasks_demo_records/forgottenoperation/look/"
        answers = [
            admin_client.get("/ops/tasks_demo_records/parked/4711/change/"),
            admin_client.get("/ops/tasks_demo/tally/unknown/change/"),
            admin_client.post("/ops/tasks_demo/tally/books/"),
            admin_client.post(
                look, {"key": "nobody:knows", "why": "a test", "mark": find_records("nobody:knows", "").mark}
            ),
        ]
        assert [answer.headers["Location"][:5] for answer in answers] == ["/ops/"] * 4
    finally:
        clear_url_caches()


@pytest.mark.parametrize("address", ["/admin/login/", "/admin/", "/admin/tasks_demo/", "/no/such/page/"])
def test_screens_and_every_other_page_of_the_project_forbid_inline_code(admin_client: Client, address: str) -> None:
    policy = admin_client.get(address)["Content-Security-Policy"]
    assert "script-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert "nonce" not in policy


def test_screens_need_their_permission(client: Client) -> None:
    staff = somebody(client, "somebody", "view_parked")
    assert staff.get("/admin/tasks_demo/tally/overview/").status_code == 403
    assert staff.get("/admin/tasks_demo/").status_code in {403, 404}
    assert [title for _, title, _ in bar(staff.get("/admin/tasks_demo_records/parked/").content.decode())] == [
        "Parked",
        "Dead letters",
    ]


def test_screens_of_a_viewer_link_nothing_that_is_forbidden(client: Client) -> None:
    append(lost("broken"))
    staff = somebody(client, "somebody", "view_tally")
    text = staff.get("/admin/tasks_demo/").content.decode()
    assert {"Overview", "Task IDs", "Servers", "Workers"} <= {title for _, title, _ in bar(text)}
    assert {"Parked", "Outbox", "Operations", "Leases"}.isdisjoint(title for _, title, _ in bar(text))
    for address, title, _ in bar(text):
        assert staff.get(address).status_code == 200, title
    assert "/admin/tasks_demo/tally/?promise=broken" in text


def test_screens_live_in_an_admin_site_of_another_name_and_prefix(client: Client, extra: Any) -> None:
    append(ok("fine"))
    client.force_login(User.objects.create_superuser("root", password="p"))
    for address in (
        "",
        "tally/",
        "tally/overview/",
        "tally/fine/change/",
        "tally/workers/",
        "tally/leases/",
        "tally/extra/7/",
    ):
        response = client.get(f"/somewhere/else/tasks_demo/{address}")
        text = response.content.decode()
        assert response.status_code == 200, address
        addresses = [each[0] for each in bar(text)]
        assert {"/somewhere/else/tasks_demo/tally/overview/", "/somewhere/else/tasks_demo/tally/"} < set(addresses), (
            address
        )
        assert "/admin/" not in re.sub(r"/static/[^\"]*", "", text), address
    assert "<h1>Extra 7</h1>" in text
    assert current(text) == ["Overview"]


def test_screens_know_their_admin_site_from_another_one_of_the_same_name(client: Client, extra: Any) -> None:
    """Many projects have a site of their own named "admin", beside Django's, where every app registers its models."""
    others = [AdminSite(name="ops") for _ in range(5)]  # django.contrib.admin.sites.all_sites has no order
    for other in others:
        for model, registered in admin.site._registry.items():
            other.register(model, type(registered))
    client.force_login(User.objects.create_superuser("root", password="p"))
    for address in "", "tally/", "tally/workers/", "tally/extra/7/":
        text = client.get(f"/somewhere/else/tasks_demo/{address}").content.decode()
        assert [title for _, title, _ in bar(text)][:2] == ["Overview", "Task IDs"], address
        assert "Parked" not in text, address


def test_screens_that_are_switched_off_or_forbidden_do_not_answer(client: Client, extra: Any) -> None:
    staff = somebody(client, "somebody", "view_tally")
    assert staff.get("/somewhere/else/tasks_demo/tally/extra/7/").status_code == 403
    client.force_login(User.objects.create_superuser("root", password="p"))
    extra.on = False
    assert client.get("/somewhere/else/tasks_demo/tally/extra/7/").status_code == 404


def test_live_parts_get_nothing_if_nothing_has_changed(rf: Any) -> None:
    drawn: list[str] = []

    def draw() -> HttpResponse:
        drawn.append("once")
        return HttpResponse("new")

    first = live.respond(rf.get("/"), live.mark("a", 1), draw)
    assert (first.status_code, first.content, first[live.MARK]) == (200, b"new", live.mark("a", 1))
    same = live.respond(rf.get("/", headers={live.MARK: live.mark("a", 1)}), live.mark("a", 1), draw, done=True)
    assert (same.status_code, same.content, same[live.DONE], len(drawn)) == (204, b"", "1", 1)
    other = live.respond(rf.get("/", headers={live.MARK: live.mark("a", 1)}), live.mark("a", 2), draw)
    assert other.status_code == 200
    assert not other.has_header(live.DONE)

"""The benchmark's part `dashboard`: every page of a small ledger. Never how fast anything is."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import User
from pytest_django import Settings

from tasks_demo.benchmark import dashboard
from tasks_demo.core.exceptions import EnvironmentNotReady
from tasks_demo.ledger.models import Event, Tally
from tests.integration.ledger.ledger_rows import append, ok

pytestmark = [pytest.mark.django_db(transaction=True, databases="__all__"), pytest.mark.usefixtures("ledger")]


def test_dashboard_benchmark_measures_every_page_and_leaves_nothing(settings: Settings) -> None:
    settings.ALLOWED_HOSTS = []  # restored after the test; the measurement sets it
    said: list[str] = []
    found = dashboard.dashboard(2_000, 1, said.append)
    assert {figure.id: figure.why_not for figure in found if figure.why_not} == {}
    assert len(found) > len(dashboard.QUERIES)
    queries = {figure.what: int(figure.what.rpartition("(")[2].partition(" ")[0]) for figure in found}
    assert {what: number for what, number in queries.items() if not 0 < number <= 40} == {}
    assert "page:/admin/tasks_demo/tally/?executions=2%2B" in {figure.id for figure in found}
    assert (Tally.objects.count(), Event.objects.count()) == (0, 0)
    assert not User.objects.filter(username=dashboard.USER).exists()


def test_dashboard_benchmark_leaves_a_ledger_alone_that_is_not_empty() -> None:
    append(ok("real"))
    with pytest.raises(EnvironmentNotReady, match="not empty"):
        dashboard.dashboard(100, 1, lambda text: None)
    assert Tally.objects.count() == 1


def test_dashboard_benchmark_measures_a_ledger_as_it_is(settings: Settings) -> None:
    settings.ALLOWED_HOSTS = []
    with pytest.raises(EnvironmentNotReady, match="seed_ledger"):
        dashboard.dashboard(0, 1, lambda text: None, as_it_is=True)
    append(ok("real"))
    found = dashboard.dashboard(0, 1, lambda text: None, as_it_is=True)
    assert {figure.id: figure.why_not for figure in found if figure.why_not} == {}
    assert all(figure.a and figure.a.median > 0 for figure in found)
    assert Tally.objects.count() == 1
    assert not User.objects.filter(username=dashboard.USER).exists()

"""The questions on the form of an experiment: each leads to its plan in one click."""

from __future__ import annotations

import html
import re
from pathlib import Path

import pytest
from django.contrib.auth.models import User
from django.http import QueryDict
from django.test import Client
from pytest_django import Settings

from tasks_demo.lab.screens.choices import Choices
from tasks_demo.lab.screens.presets import PRESETS, Preset
from tests.lab.screens.run_folders import ROOT, use

pytestmark = pytest.mark.django_db(databases="__all__")
EACH = pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: preset.question)


@pytest.fixture
def state(settings: Settings, monkeypatch: pytest.MonkeyPatch, short: Path) -> Path:
    use(settings, monkeypatch, short)
    return short


@EACH
def test_preset_is_a_plan_that_the_page_runs_whole_and_soon(preset: Preset) -> None:
    form = Choices(QueryDict(preset.query))
    assert form.is_valid(), form.errors
    assert form.left_out == []
    assert form.faults >= len(form.cells) >= 1
    assert form.seconds <= 60


def test_preset_leads_to_its_question_and_its_plan_and_starts_nothing(state: Path, client: Client) -> None:
    client.force_login(User.objects.create_superuser("admin", password="p"))
    page = client.get(f"{ROOT}new/").content.decode()
    assert 'id="plan"' not in page
    links = re.findall(r'<a href="([^"]+#plan)"[^>]*>([^<]+)</a>', page)
    assert [html.unescape(question) for _, question in links] == [preset.question for preset in PRESETS]
    for link, question in links:
        shown = client.get(html.unescape(link)).content.decode()
        assert f"<strong>{question}</strong>" in shown.partition('id="plan"')[2]
        assert shown.count('aria-current="true"') == 1
    assert not list(state.glob("runs/*"))

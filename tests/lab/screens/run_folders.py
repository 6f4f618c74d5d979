"""People, folders of runs made by hand, and the environment in which the page starts a real experiment."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client
from pytest_django import Settings

from tests.support import databases_of_tests

ROOT = "/admin/tasks_demo/tally/experiments/"
NAME = "20260102T030405-seed7-0123456789"


def person(*permissions: str) -> Client:
    """A client of a staff user with these permissions only."""
    user = User.objects.create_user(f"staff {permissions}", password="p", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    client = Client()
    client.force_login(user)
    return client


def status(**changes: Any) -> dict[str, Any]:
    cell = {
        "name": "acks_late/kill-child", "pattern": "acks_late", "fault": "kill-child", "point": "", "tasks": 10,
        "victims": 1, "state": "done", "done": 10, "landed": 1, "worker": "w1@x", "pid": 4711, "alive": False,
    }  # fmt: skip
    return {
        "schema": "experiment-status/1", "run": "0123456789", "seed": 7, "phase": "ended", "exit": 0, "message": "",
        "started_at": "2026-01-02T03:04:05+00:00", "ended_at": "2026-01-02T03:04:15+00:00", "cells": [cell],
        "sample_s": 1.0, "samples": [[1.0, 4, 0], [2.0, 10, 1]],
    } | changes  # fmt: skip


def laid(state: Path, name: str = NAME, *, request: dict[str, str] | None = None, **changes: Any) -> Path:
    """The folder of a run, as its process would have left it."""
    folder = state / "runs" / name
    folder.mkdir(parents=True)
    (folder / "status.json").write_text(json.dumps(status(**changes)), encoding="utf-8")
    if request is not None:
        (folder / "request.json").write_text(json.dumps(request), encoding="utf-8")
    return folder


def use(settings: Settings, monkeypatch: pytest.MonkeyPatch, state: Path) -> None:
    """Switch the screens on, with this state folder and the test databases in this process and in those it starts."""
    settings.TASKS_DEMO_LAB_ENABLED = True
    settings.TASKS_DEMO_BANK_URL = ""
    settings.STATE_DIR = state
    monkeypatch.setenv("STATE_DIR", str(state))
    for name, value in databases_of_tests().items():
        monkeypatch.setenv(name, value)

"""Fixtures of the dashboard's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.contrib.sessions.models import Session
from django.test import Client
from pytest_django import Settings

from tasks_demo.records.models import Claim, Decision, ForgottenOperation, InboxEntry, OutboxMessage, Parked
from tests.integration.dashboard.pages import somebody
from tests.integration.quarantine.parked_rows import no_broker, queue

__all__ = ["no_broker", "queue"]


@pytest.fixture(autouse=True)
def _without_bank(settings: Settings) -> None:
    settings.TASKS_DEMO_BANK_URL = ""


@pytest.fixture
def records(ledger: None) -> Iterator[None]:
    """The tables that these tests fill, emptied afterwards; faster than a flush of all databases."""
    yield
    for model in (Decision, Parked, OutboxMessage, Claim, InboxEntry, ForgottenOperation, LogEntry, Session, User):
        model.objects.all().delete()


@pytest.fixture
def staff(client: Client) -> Client:
    """A user who may look at the ledger and at operations, and nothing else."""
    return somebody(client, "staff", "view_tally", "view_forgottenoperation")

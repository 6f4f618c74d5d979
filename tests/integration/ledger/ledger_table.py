"""What the tests of the ledger share: rows, real writers, an impatient connection."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from django.db import connection

from tasks_demo.core.lifecycle import Subject
from tasks_demo.ledger.events import EventData
from tasks_demo.ledger.verify import differences


def row(kind: str, task_id: str = "t", source: str = "", **fields: Any) -> EventData:
    fields.setdefault("operation", task_id)
    return EventData(at=time.time(), kind=kind, source=source or uuid.uuid4().hex, task_id=task_id, **fields)


def subject(task_id: str | None = None) -> Subject:
    name = task_id or uuid.uuid4().hex
    return Subject(name, name, "acks_late", "w@t", "bank")


def consistent() -> None:
    assert list(differences()) == []


def break_table() -> None:
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE tasks_demo_event RENAME TO tasks_demo_event_away")


def mend_table() -> None:
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE tasks_demo_event_away RENAME TO tasks_demo_event")


@pytest.fixture
def without_table(ledger: None) -> Iterator[None]:
    break_table()
    yield
    if "tasks_demo_event_away" in connection.introspection.table_names():
        mend_table()

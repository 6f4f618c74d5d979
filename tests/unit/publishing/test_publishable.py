"""Which tasks a web process knows."""

from __future__ import annotations

from typing import Any
from weakref import WeakSet

import pytest
from celery import current_app

from tasks_demo.publishing import publishable


@pytest.mark.parametrize("fails", [False, True])
def test_registered_imports_the_task_modules_once_unless_they_fail(
    monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    calls: list[int] = []

    def importing(self: Any) -> None:
        calls.append(1)
        if fails:
            raise ImportError("broken")

    monkeypatch.setattr(publishable, "_imported", WeakSet())
    monkeypatch.setattr(type(current_app.loader), "import_default_modules", importing)
    assert [publishable.registered("no.such.task") for _ in range(3)] == [None] * 3
    assert len(calls) == (3 if fails else 1)
    assert publishable.registered("celery.chord") is not None

"""The code that the pages show for each pattern: it runs as it is written."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from celery import _state, current_app

from tasks_demo.core.semantics import PROMISES
from tasks_demo.dashboard.advice import PATTERNS
from tasks_demo.testing import drain_outbox, isolated, redeliver

pytestmark = pytest.mark.django_db(databases="__all__")


@pytest.fixture(autouse=True)
def unregistered() -> Iterator[None]:
    """Take the declared tasks out of the app again."""
    known, finalizers = set(current_app.tasks), set(_state._on_app_finalizers)
    yield
    for name in set(current_app.tasks) - known:
        del current_app.tasks[name]
    _state._on_app_finalizers.intersection_update(finalizers)


def test_advice_has_code_for_every_pattern() -> None:
    assert set(PATTERNS) == set(PROMISES)


@pytest.mark.parametrize(
    ("name", "effects"),
    [("acks_early", 2), ("claim_first", 1), ("acks_late", 2), ("outbox", 1), ("dedup_lock", 1), ("inbox", 1)],
)
def test_advice_code_charges_once_and_when_the_message_is_delivered_again_as_its_pattern_says(
    name: str, effects: int
) -> None:
    charged: list[dict[str, Any]] = []
    reader = {
        "__name__": f"code_of_{name}",
        "bank": SimpleNamespace(debit=lambda *who, **keys: charged.append({"who": who, **keys})),
        "Booking": SimpleNamespace(objects=SimpleNamespace(create=lambda **row: charged.append(row))),
        "order": "17",
        "customer": "ada",
    }
    written = PATTERNS[name].code
    with isolated():
        exec(str(written).removesuffix(written.published), reader)  # noqa: S102  (text of our own)
        sent = eval(written.published, reader)  # noqa: S307
        drain_outbox()
        assert len(charged) == 1
        redeliver(getattr(sent, "id", sent))
    assert len(charged) == effects
    if name == "dedup_lock":
        assert charged[0]["key"] == "charge:17"
        assert charged[0]["fence"]

"""The lab in a project that is not the demo's: its settings, routers and Celery options are its own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration.bookshop import Bookshop, opened

pytestmark = pytest.mark.timeout(240)

#: The line of the docs, after the apps of the bookshop.
LAB = ["tasks_demo.demo", "tasks_demo.demo.shop", "tasks_demo.demo.bank", "tasks_demo.lab"]
BOOKSHOP = [
    *(f"django.contrib.{name}" for name in ("admin", "auth", "contenttypes", "sessions", "messages", "staticfiles")),
    "tasks_demo", "tasks_demo.records", "orders",
]  # fmt: skip
#: What would keep the lab's jobs from its workers, or end them, if the lab relied on it.
HOSTILE: dict[str, Any] = {
    "INSTALLED_APPS": [*BOOKSHOP, *LAB],
    "REDIS_URL": "",  # the embedded one
    "CELERY_TASK_ALWAYS_EAGER": True,
    "CELERY_TASK_ROUTES": {"*": {"queue": "elsewhere"}},
    "CELERY_TASK_TIME_LIMIT": 0.001,
    "CELERY_WORKER_PREFETCH_MULTIPLIER": 50,
    "CELERY_BROKER_READ_URL": "redis://127.0.0.1:1/0",
    "CELERY_BROKER_TRANSPORT_OPTIONS": {
        "visibility_timeout": 900,
        "priority_steps": [0, 5],
        "global_keyprefix": "mine",
    },
    "CELERY_WORKER_STATE_DB": "/nowhere/state",
}


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[Bookshop]:
    with opened(settings=HOSTILE) as project:
        yield project


@pytest.fixture(scope="module")
def result(elsewhere: Bookshop) -> dict[str, Any]:
    """The result of an experiment there, under the variables that Celery, or its command line, prefers to every setting."""
    out = elsewhere.folder / "out.json"
    with pytest.MonkeyPatch.context() as patch:
        for name in ("CELERY_BROKER_URL", "CELERY_RESULT_BACKEND", "BROKER_URL", "RESULT_BACKEND"):
            patch.setenv(name, "redis://127.0.0.1:1/0")
        done = elsewhere.manage(
            "experiment", "--pattern", "acks_early", "inbox", "--fault", "kill-main", "--tasks", "4",
            "--kills", "2", "--seed", "3", "--json", str(out), settings={**HOSTILE, "STATE_DIR": str(elsewhere.folder)},
            timeout=200,
        )  # fmt: skip
    assert done.code == 0, done.err + done.out
    found: dict[str, Any] = json.loads(out.read_text())
    return found


def test_experiment_in_a_project_with_settings_of_its_own_is_as_predicted(result: dict[str, Any]) -> None:
    assert result["as_predicted"]
    assert len(result["cells"]) == 2
    assert all(cell["kills"] == {"planned": 2, "landed": 2} for cell in result["cells"])
    early = next(cell for cell in result["cells"] if cell["pattern"] == "acks_early")
    assert early["lost"] == 1, "the lab is not blind there"


@pytest.mark.usefixtures("result")
def test_experiment_writes_nothing_to_the_projects_own_tables(elsewhere: Bookshop) -> None:
    models = "Booking, Order, InboxEntry, OutboxMessage, Attempt"
    before = (
        "from tasks_demo.records.models import Attempt, InboxEntry, OutboxMessage\n"
        "from tasks_demo.demo.shop.models import Booking, Order\n"
    )
    seen = elsewhere.value(f"[model.objects.count() for model in ({models})]", before=before, settings=HOSTILE)
    assert seen == [0] * 5

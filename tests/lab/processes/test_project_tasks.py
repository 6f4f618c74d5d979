"""Tasks of a Django project in the lab: ``manage.py experiment --task`` in the bookshop, on its own tables."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration.bookshop import Bookshop, opened
from tests.lab.processes.test_assumptions import HOSTILE

pytestmark = pytest.mark.timeout(420)


@pytest.fixture(scope="module")
def project() -> Iterator[Bookshop]:
    with opened(settings=HOSTILE) as project:
        (project.folder / "orders.jsonl").write_text(
            '["17"]\n{"order_id": "18"}\n{"args": ["19"], "kwargs": {"cents": 5}}\n'
        )
        yield project


def experiment(project: Bookshop, *arguments: str, code: int = 0) -> list[dict[str, Any]]:
    """Run an experiment on the file of orders; return its cells."""
    out = project.folder / "out.json"
    done = project.manage(
        "experiment", "--args", str(project.folder / "orders.jsonl"), "--effects", "orders.checks:payments", "--seed", "2",
        "--kills", "2", "--json", str(out), *arguments,
        settings={**HOSTILE, "STATE_DIR": str(project.folder)}, timeout=200,
    )  # fmt: skip
    assert done.code == code, done.err + done.out
    found: list[dict[str, Any]] = json.loads(out.read_text())["cells"]
    return found


RECORDS = (
    "from tasks_demo.records.models import Attempt, Claim, InboxEntry\nfrom tasks_demo.ledger.models import Tally\n"
)


def test_task_with_a_pattern_is_held_to_its_promise_and_leaves_no_records(project: Bookshop) -> None:
    task = ("--task", "orders.book", "--fault", "kill-child", "--point", "started", "completed")
    for _ in range(2):  # the second run finds the payments of the first, and no records
        cells = experiment(project, *task)
        assert [cell["point"] for cell in cells] == ["started", "completed"]
        for cell in cells:
            assert (cell["semantics"], cell["observed"], cell["kills"]["landed"]) == ("effectively-once", "held", 2)
            assert cell["effects"] == {"0": 0, "1": 3, "2+": 0}
        left = project.value(
            "[m.objects.count() for m in (Attempt, Claim, InboxEntry)]", before=RECORDS, settings=HOSTILE
        )
        assert left == [0, 0, 0]
    assert project.payments("17") == 4
    runs = project.value("Tally.objects.exclude(run='').count()", before=RECORDS, settings=HOSTILE)
    assert runs == 12, "the dashboard shows the runs"


def test_operation_that_was_done_before_is_refused(project: Bookshop) -> None:
    again = project.folder / "again.jsonl"
    again.write_text('["21"]\n["22"]\n')
    entry = (
        "from django.utils import timezone\nfrom tasks_demo.records.models import InboxEntry\n"
        "InboxEntry.objects.create(operation='book:22', completed_at=timezone.now())"
    )
    assert project.python(entry, settings=HOSTILE).code == 0
    done = project.manage(
        "experiment", "--task", "orders.book", "--args", str(again), "--fault", "none",
        settings={**HOSTILE, "STATE_DIR": str(project.folder)},
    )  # fmt: skip
    assert done.code == 4, done.out
    assert "The operation 'book:22' of orders.book was done before this run" in done.err
    kept = project.value("InboxEntry.objects.all().delete()[0]", before=RECORDS, settings=HOSTILE)
    assert kept == 1, "it is not the lab's"


def test_task_that_the_project_does_not_have_is_refused_with_names_of_its_own_only(project: Bookshop) -> None:
    done = project.manage("experiment", "--task", "charge_inbox", "--fault", "none", settings=HOSTILE)
    assert (done.code, "has no such task. Did you mean orders." in done.err, "tasks_demo.charge" in done.err) == (
        2,
        True,
        False,
    )

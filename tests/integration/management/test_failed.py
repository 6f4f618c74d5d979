"""``manage.py failed``: what it lists, what it runs again, with which key, and its exit codes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tasks_demo.outbox.enqueue import enqueue
from tasks_demo.records.models import OutboxMessage
from tests.integration.ledger.ledger_rows import append, life, ok
from tests.integration.management.conftest import Run

COMMAND = "failed"
pytestmark = [pytest.mark.django_db(transaction=True, databases="__all__"), pytest.mark.usefixtures("records")]
TASK = "tasks_demo.charge_outbox"


@pytest.fixture
def records(ledger: None) -> Iterator[None]:
    yield
    OutboxMessage.objects.all().delete()


def failed(operation: str, task: str = TASK) -> str:
    kwargs = {"customer": "c", "amount": 7, "operation": operation}
    task_id = enqueue(TASK, kwargs=kwargs, queue="nobody")
    append(life(task_id, "published", "received", "started", "failed", operation=operation, task=task))
    return task_id


def test_failed_command_list_says_which_can_run_again(run: Run) -> None:
    assert run() == (0, "No such job is on record.\n", "")
    one = failed("charge:17")
    append(life("direct", "published", "received", "started", "failed", task=TASK), ok("fine"))
    code, out, _ = run()
    assert code == 0
    (possible,) = [line for line in out.splitlines() if one in line]
    (not_possible,) = [line for line in out.splitlines() if line.startswith("direct")]
    assert possible.endswith("possible")
    assert "its arguments are unknown" in not_possible
    assert "fine" not in out


def test_again_publishes_with_the_same_key_once(run: Run) -> None:
    one, other = failed("charge:17"), failed("charge:18")
    assert run("again", one, "--dry-run") == (0, f"{one} would be run again\n", "")
    assert OutboxMessage.objects.count() == 2
    code, out, _ = run("again", one)
    (new,) = OutboxMessage.objects.exclude(task_id__in=[one, other])
    assert (code, out) == (0, f"{one} runs again as {new.task_id}\n")
    assert new.options["headers"]["tasks_demo_operation"].endswith(":charge:17")
    append(life(new.task_id, "published", operation="charge:17", task=TASK))
    code, out, err = run("again", one, "no-such")
    assert (code, out) == (1, "")
    assert "another job of its operation is on record as waiting" in err
    assert "no-such is not on record as failed or rejected" in err


def test_failed_command_runs_all_again_that_match(run: Run) -> None:
    ours = [failed(f"charge:{number}") for number in range(3)]
    other = failed("elsewhere", task="shop.other")
    code, out, _ = run("again", "--all", "--task", TASK)
    assert code == 0
    assert out.count(" runs again as ") == 3
    assert OutboxMessage.objects.exclude(task_id__in=[*ours, other]).count() == 3
    assert run("again", "--all", "--outcome", "rejected")[0] == 1


@pytest.mark.parametrize(
    "words", [("again",), ("again", "x", "--all"), ("list", "x"), ("list", "--dry-run"), ("again", "\0")]
)
def test_failed_command_wrong_usage(run: Run, words: tuple[str, ...]) -> None:
    assert run(*words)[0] == 2

"""``manage.py seed_ledger``: invented histories that agree with themselves and can be removed."""

from __future__ import annotations

from collections.abc import Iterator
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection

from tasks_demo.demo.seeding import lives, loading
from tasks_demo.ledger.models import Event, Outcome, Tally
from tasks_demo.ledger.verify import differences
from tasks_demo.management.arguments import Exit
from tests.integration.ledger.ledger_rows import append, ok

pytestmark = [pytest.mark.django_db(transaction=True, databases=["default", "bank"]), pytest.mark.usefixtures("ledger")]


@pytest.fixture(autouse=True)
def statistics() -> Iterator[None]:
    """Forget the statistics afterwards: SQLite would plan other tests' queries by them."""
    yield
    if connection.vendor == "sqlite":
        with connection.cursor() as cursor:
            cursor.execute("ANALYZE")  # creates the table, if no test has
            cursor.execute("DELETE FROM sqlite_stat1")
            cursor.execute("ANALYZE sqlite_schema")


def seed(**options: Any) -> str:
    """Run the command; return what it printed."""
    out = StringIO()
    call_command("seed_ledger", stdout=out, stderr=StringIO(), **options)
    return out.getvalue()


def everything() -> list[Any]:
    """The counts of every task ID, without its moments."""
    columns = (
        "task_id",
        "operation",
        "task",
        "pattern",
        "run",
        "verdict",
        "outcome",
        "executions",
        "effects",
        "broken",
    )
    return list(Tally.objects.order_by("task_id").values_list(*columns))


@pytest.mark.parametrize("events_per_task", range(lives.FEWEST, lives.MOST + 1))
def test_tallies_are_the_fold_of_the_events(events_per_task: int) -> None:
    seed(tasks=200, events_per_task=events_per_task)
    assert Tally.objects.count() == 200
    assert list(differences()) == []
    assert abs(Event.objects.count() / 200 - events_per_task) < 1


def test_seed_ledger_makes_every_outcome_and_nearly_every_verdict() -> None:
    seed(tasks=5_000)
    assert list(differences()) == [], "the rare lives too"
    outcomes = set(Tally.objects.values_list("outcome", flat=True))
    assert set(Outcome.values) - outcomes <= {Outcome.RETRYING}
    assert set(Tally.objects.values_list("verdict", flat=True)) == set(Tally.Verdict.values)
    assert Tally.objects.filter(broken=True).exists()
    assert Tally.objects.exclude(run="").exists()
    assert Event.objects.filter(kind="fault", detail__landed=True).exists()


def test_seed_ledger_makes_the_same_rows_from_the_same_seed() -> None:
    seed(tasks=300, seed=7)
    first = everything()
    assert "Removed 300 task IDs" in seed(remove=True, seed=7)
    assert (Tally.objects.count(), Event.objects.count()) == (0, 0)
    seed(tasks=300, seed=7)
    assert everything() == first


def test_ledger_that_holds_something_is_refused_unless_asked_for() -> None:
    append(ok("real"))
    with pytest.raises(CommandError, match=r"not empty.*--add") as refused:
        seed(tasks=10)
    assert refused.value.returncode == Exit.USAGE
    assert Tally.objects.count() == 1
    seed(tasks=10, add=True)
    assert Tally.objects.count() == 11
    with pytest.raises(CommandError, match="another --seed"):
        seed(tasks=10, add=True)
    assert "Removed 10 task IDs" in seed(remove=True)
    assert [tally.task_id for tally in Tally.objects.all()] == ["real"]
    assert Event.objects.count() == 8


def test_seed_removes_only_what_it_invented() -> None:
    seed(tasks=50, seed=1)
    seed(tasks=60, seed=11, add=True)
    seed(remove=True, seed=1)
    assert Tally.objects.count() == 60
    assert list(differences()) == []


def test_seed_ledger_removes_what_an_interrupted_run_has_committed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "TASKS_AT_ONCE", 100)

    def interrupted(done: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        loading.load(connection.alias, tasks=300, events_per_task=5, seed=3, progress=interrupted)
    assert 100 <= Tally.objects.count() < 300
    assert list(differences()) == []
    seed(remove=True, seed=3)
    assert not Tally.objects.exists()


def test_database_without_a_ledger_is_named() -> None:
    with pytest.raises(CommandError, match="--database bank"):
        seed(tasks=10, using="bank")

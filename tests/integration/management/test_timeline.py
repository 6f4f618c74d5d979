"""``manage.py timeline``: the history of one task, for people and for programs."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pytest_django import Settings as DjangoSettings

from tasks_demo.dashboard.task_page import task_page
from tasks_demo.ledger.events import EFFECT, FAULT, EventData
from tasks_demo.ledger.models import Tally
from tasks_demo.ledger.store import store
from tests.integration.management.conftest import Run
from tests.support import Finished, Home

COMMAND = "timeline"
ID = "0a1b2c3d-0000-4000-8000-000000000001"


@pytest.fixture(autouse=True)
def _bank_that_answers(settings: DjangoSettings, bank_url: str) -> None:
    settings.TASKS_DEMO_BANK_URL = bank_url


@pytest.fixture
def killed(ledger: None) -> str:
    """A task whose worker was killed after the charge, and that charged again."""
    now = time.time()
    fault = {"what": "kill-main", "point": "effect_done", "pid": 11, "landed": True, "died": "SIGKILL"}
    missed = {"what": "kill-main", "point": "started", "pid": 12, "landed": False, "why": "it was gone"}
    events: list[tuple[str, dict[str, Any]]] = [
        ("published", {"outcome": "ok"}), ("received", {"redelivered": False}), ("started", {}),
        (EFFECT, {"amount": 5, "account": "c"}),
        (FAULT, fault), ("received", {"redelivered": True}), ("started", {}), (FAULT, missed),
        (EFFECT, {"amount": 5, "account": "c"}), ("returned", {}),
    ]  # fmt: skip
    store.append(
        [
            EventData(
                at=now + number / 10, kind=kind, source=f"x:{number}", task_id=ID, operation="order [bold]17[/]",
                pattern="acks_late", worker="w1@[red]t", pid=10 + number, books="bank", detail=detail,
            )
            for number, (kind, detail) in enumerate(events)
        ]
    )  # fmt: skip
    return ID


def test_table_shows_counts_verdict_and_the_point_of_the_kill(killed: str, run: Run) -> None:
    code, out, err = run(killed)
    assert (code, err) == (0, "")
    assert "2 deliveries · 2 executions · 2 effects" in out
    assert "verdict: duplicated" in out
    assert "the promise was broken" not in out, "at-least-once allows a second charge"
    for text in (
        "kill-main at effect_done: pid 11 died",
        "missed (it was gone)",
        "delivered again",
        "order [bold]17[/]",
    ):
        assert text in " ".join(out.split()), text
    assert "w1@[red]t" in out, "names are shown, not interpreted"


HOSTILE = "\x1b[2J\x1b]0;owned\x07\0\r\u202e" + "x" * 1_000_000


@pytest.mark.parametrize(
    ("kind", "detail"),
    [
        ("rejected", {"why": "no such task", "headers": {"id": ID, HOSTILE: {"deep": [HOSTILE]}}}),
        ("rejected", {"why": HOSTILE, "body": HOSTILE, "headers": {}}),
        ("failed", {"why": HOSTILE}),
        ("expired", {"expires": HOSTILE}),
        (FAULT, {"what": HOSTILE, "point": HOSTILE, "pid": HOSTILE, "landed": True, "died": HOSTILE}),
        (EFFECT, {"source": f"bank:{HOSTILE}", "amount": HOSTILE}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.usefixtures("ledger")
def test_timeline_bounds_hostile_text_and_steers_no_terminal(kind: str, detail: dict[str, Any], run: Run) -> None:
    names = {"worker": "w\x1b[2J@t", "task": "shop.\x1b[31mnope", "operation": "\x1b[2J"}
    begun = EventData(at=1.0, kind="started", source="x:0", task_id=ID, **names)
    store.append([begun, EventData(at=2.0, kind=kind, source="x:1", task_id=ID, detail=detail, **names)])
    code, out, err = run(ID)
    assert (code, err, len(out) < 10_000) == (0, "", True)
    assert all(line.isprintable() for line in out.splitlines()), ascii(out[:3000])
    told = [
        line.what
        for phase in task_page(Tally.objects.get(task_id=ID)).phases
        for line in phase.lines
        if line.kind == kind
    ]
    assert [(what.isprintable(), len(what) < 3000) for what in told] == [(True, True)]
    assert "characters in all)" in told[0]
    _, out, _ = run(ID, "--json")
    assert len(out) > 1_000_000, "the evidence itself is whole"


def test_json_has_every_event_in_order(killed: str, run: Run) -> None:
    code, out, err = run(killed, "--json")
    assert (code, err) == (0, "")
    shown = json.loads(out)
    assert (shown["task_id"], shown["verdict"], shown["promise_broken"]) == (ID, "duplicated", False)
    assert (shown["deliveries"], shown["executions"], shown["effects"], shown["faults"]) == (2, 2, 2, 1)
    kinds = [event["kind"] for event in shown["events"]]
    assert kinds == [
        "published",
        "received",
        "started",
        "effect",
        "fault",
        "received",
        "started",
        "fault",
        "effect",
        "returned",
    ]
    assert [event["pid"] for event in shown["events"]] == list(range(10, 20))
    assert shown["events"] == sorted(shown["events"], key=lambda event: event["at"])


def test_beginning_of_an_id_is_enough(killed: str, run: Run) -> None:
    code, out, _ = run(killed[:6], "--json")
    assert (code, json.loads(out)["task_id"]) == (0, killed)


@pytest.mark.usefixtures("killed")
@pytest.mark.parametrize("text", ["zzz", "", "%", "_", "'; DROP TABLE tasks_demo_event; --", "☃", "x" * 5000])
def test_id_that_nobody_knows_is_code_1_and_a_sentence(text: str, run: Run) -> None:
    code, out, err = run(text)
    assert (code, out) == (1, "")
    assert "The ledger has no task ID" in err


@pytest.mark.usefixtures("ledger")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "required: task_id"),
        (["a", "b"], "unrecognized arguments: b"),
        (["nul\0"], "printable characters only"),
        (["two\nlines"], "printable characters only"),
        (["half \ud800 pair"], "printable characters only"),
    ],
    ids=ascii,
)
def test_timeline_used_wrongly_is_exit_2_and_a_sentence(arguments: list[str], said: str, run: Run) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert said in err


def test_missing_migrations_are_code_4(manage: Callable[..., Finished], short: Path) -> None:
    done = manage("timeline", ID, env={"STATE_DIR": str(short), "DATABASE_URL": f"sqlite:///{short}/empty"})
    assert (done.code, done.out) == (4, "")
    assert "python manage.py migrate" in done.sentence()


def test_database_that_is_not_there_is_code_4(manage: Callable[..., Finished]) -> None:
    done = manage("timeline", ID, env={"DATABASE_URL": "postgres://nobody@127.0.0.1:1/none"})
    assert (done.code, done.out) == (4, "")
    assert "cannot be read" in done.sentence()


def test_bank_that_is_down_is_a_remark_and_no_error(killed: str, settings: DjangoSettings, run: Run) -> None:
    settings.TASKS_DEMO_BANK_URL = "http://127.0.0.1:1"
    code, out, err = run(killed, "--json")
    assert (code, json.loads(out)["effects"]) == (0, 2)
    assert "Effects may be missing" in err


def test_real_command(home: Home, bank_url: str) -> None:
    done = home.manage("timeline", "no-such-task", env={"BANK_URL": bank_url})
    assert (done.code, done.out) == (1, "")
    assert len(done.sentence().strip().splitlines()) == 1

"""Log lines about a job carry its structured fields, in a real worker and in every log call of the package."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.integration.bookshop import Bookshop
from tests.support import PROJECT, until

FIELDS = ("name", "task_name", "operation", "pattern", "fence", "task_id")
#: Modules whose every line is about a job, and the beginnings of the lines that are not.
ABOUT_JOBS = ("patterns", "leases", "hooks", "outbox/claims.py", "outbox/completion.py", "outbox/reporting.py")
NOT_ABOUT_ONE = (
    "%s", "%s is published with expires=%s", "%s: %s %s",
    "The ledger did not store this worker's report", "This worker's report failed",
    "Celery %s wraps the body of %s in a way",
)  # fmt: skip


def test_log_line_of_a_worker_carries_the_fields(bookshop: Bookshop, tmp_path: Path) -> None:
    log = tmp_path / "fields.log"
    formatter = {
        "()": "logging.Formatter",
        "fmt": "|".join(f"%({name})s" for name in FIELDS),
        "defaults": dict.fromkeys(FIELDS[1:], "-"),
    }
    logging = {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"fields": formatter},
        "handlers": {"file": {"class": "logging.FileHandler", "filename": str(log), "formatter": "fields"}},
        "loggers": {"tasks_demo": {"handlers": ["file"], "level": "INFO"}},
    }
    settings = {"LOGGING": logging, "TASKS_DEMO_RESULT_MAX_BYTES": 1}
    with bookshop.worker(settings=settings):
        ids = bookshop.value(
            "[click.id for click in clicks]",
            before="for _ in range(10): Payment.objects.create(order_id='before', cents=1, by='a result of two bytes')\n"
            "clicks = []\n"
            "for _ in range(2):\n    clicks.append(tasks.charge.delay('fields'))\n    clicks[-1].get(timeout=30)",
        )
        until(lambda: len(_about(log, ids)) == 2, "a line about each of the two jobs")
    told = dict(_about(log, ids))
    assert [line[:3] for line in told.values()] == [["orders.charge", "charge:fields", "dedup_lock"]] * 2
    # One job ran under a lease, and its result is too large to keep; the copy was suppressed.
    assert int(told["tasks_demo.patterns.results"][3]) > 0
    assert told["tasks_demo.patterns.requeue"][3] == "-"


def _about(log: Path, task_ids: list[str]) -> list[tuple[str, list[str]]]:
    lines = [line.split("|") for line in log.read_text().splitlines()] if log.exists() else []
    return [(line[0], line[1:-1]) for line in lines if line[-1] in task_ids]


def _calls(path: Path) -> list[tuple[str, str, bool]]:
    """Each log call of a file: its location, its message, and whether it has ``extra``."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and ast.unparse(node.func).startswith(("logger.", "limited_log")):
            texts = [
                each.value for each in ast.walk(node) if isinstance(each, ast.Constant) and isinstance(each.value, str)
            ]
            message = next((text for text in texts if "%s" in text or " " in text), "")
            found.append((f"{path}:{node.lineno}", message, any(word.arg == "extra" for word in node.keywords)))
    return found


@pytest.mark.parametrize("place", ABOUT_JOBS)
def test_log_call_about_a_job_has_its_fields(place: str) -> None:
    where = PROJECT / "tasks_demo" / place
    calls = [call for path in (where.rglob("*.py") if where.is_dir() else [where]) for call in _calls(path)]
    assert calls
    assert [call for call in calls if not call[2] and not call[1].startswith(NOT_ABOUT_ONE)] == []


def test_loggers_have_the_names_of_their_modules() -> None:
    made = [
        (str(path), ast.unparse(node))
        for path in (PROJECT / "tasks_demo").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Assign)
        and isinstance(node.value, ast.Call)
        and "getLogger" in ast.unparse(node.value.func)
    ]
    assert len(made) > 20
    assert [one for one in made if one[1] != "logger = logging.getLogger(__name__)"] == []

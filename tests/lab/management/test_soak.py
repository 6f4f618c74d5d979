"""``manage.py results --part soak``: in parts that can be interrupted, and with nothing left but its result."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tasks_demo.lab.management.commands.results import read, write
from tests.lab.reports.test_results import soaked
from tests.support import PROJECT, Home

pytestmark = pytest.mark.timeout(240)
SOAK = ("reliable", "soak")
#: A soak of 60 jobs for each seed instead of 20,000.
SMALL = f"""
import sys
sys.argv = [{str(PROJECT / "manage.py")!r}]
from pathlib import Path
from django.core.management import call_command
from tasks_demo.lab.management.commands import results
results.EXPERIMENTS["soak"] = "--load 300 --tasks 60 --kills 1 --work 100"
call_command("results", part=["soak"], broker="reliable", seeds=2, docs=Path(DOCS), more=MORE)
"""


def test_soak_goes_on_where_it_was_interrupted_and_leaves_only_its_result(home: Home, tmp_path: Path) -> None:
    measured = home.state / "results"
    measured.mkdir(exist_ok=True)
    (measured / "soak-acks_late-reliable-1.json").write_text(json.dumps(soaked("acks_late")))
    done = home.python(SMALL.replace("DOCS", repr(str(tmp_path))).replace("MORE", "False"), timeout=200)
    assert done.code == 0, done.err
    assert "soak: 1 of 2 seeds, 2 jobs, 0 lost, 1 fault injected" in done.err
    assert "| acks_late | at least once | 62 | 2 | 0 |" in (tmp_path / "results.md").read_text()
    assert [file.name for file in (tmp_path / "results").iterdir()] == ["reliable-soak.json.gz"]
    assert list(measured.iterdir()) == []


def test_soak_adds_seeds_to_those_of_an_earlier_day(home: Home, tmp_path: Path) -> None:
    file = tmp_path / "results" / "reliable-soak.json.gz"
    file.parent.mkdir()
    write(file, [soaked("inbox"), soaked("acks_late") | {"seed": 1}, soaked("acks_late") | {"seed": 9}])
    done = home.python(SMALL.replace("DOCS", repr(str(tmp_path))).replace("MORE", "True"), timeout=200)
    assert done.code == 0, done.err
    kept = [(each["cells"][0]["pattern"], each["seed"], each["cells"][0]["tasks"]) for each in read(file.parent)[SOAK]]
    assert kept == [("inbox", 7, 2), ("acks_late", 1, 2), ("acks_late", 2, 60), ("acks_late", 9, 2)]
    assert "| acks_late | at least once | 64 | 3 | 0 |" in (tmp_path / "results.md").read_text()


def test_soak_refuses_more_seeds_of_a_part_that_has_one(home: Home) -> None:
    done = home.manage("results", "--part", "matrix", "--more")
    assert (done.code, done.out) == (2, "")
    assert "--more is about --part soak and campaign: leave it out." in done.err

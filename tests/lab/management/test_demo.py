"""What ``make demo`` runs: the same kill on two brokers, and which row is which."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from itertools import pairwise

import pytest

from tests.support import PROJECT, Home

pytestmark = pytest.mark.timeout(240)


def experiments() -> list[list[str]]:
    """The options of each experiment of ``make demo``."""
    make = shutil.which("make") or "make"
    listed = subprocess.run([make, "-n", "demo"], cwd=PROJECT, capture_output=True, text=True, check=True).stdout
    lines = listed.replace("\\\n", " ").splitlines()
    return [shlex.split(line.partition(" experiment ")[2]) for line in lines if " experiment " in line]


def test_demo_compares_the_patterns_and_then_the_brokers() -> None:
    patterns, brokers = experiments()
    assert [value for option, value in pairwise(patterns) if option == "--pattern"] == [
        "acks_early", "acks_late", "dedup_lock",
    ]  # fmt: skip
    assert "--broker" not in patterns
    assert brokers[brokers.index("--broker") + 1 :][:2] == ["redis", "reliable"]


def test_demo_loses_each_fetched_job_on_stock_redis_and_none_on_the_transport(home: Home) -> None:
    done = home.manage("experiment", *experiments()[1], timeout=200)
    assert done.code == 0, done.err + done.out
    rows = {
        found[1]: line.split() for line in done.out.splitlines() if (found := re.match(r" ?acks_late on (\w+) ", line))
    }
    assert rows["redis"][-1], done.out
    assert (rows["redis"][-1], rows["reliable"][-1]) == ("broken", "held")
    assert "acks_late on stock Redis lost 5 of 20 charges" in done.out
    assert "acks_late on Redis by the reliable transport charged all 20 exactly once" in done.out
    assert done.out.count("5/5") == 2, "every kill was injected"
    assert "Everything was as predicted in 2 cells." in done.out

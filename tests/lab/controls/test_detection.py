"""The lab sees every control: tasks that are wrong on purpose, on real workers."""

from __future__ import annotations

import json

import pytest

from tasks_demo.lab.controls import CONTROLS
from tests.support import Home

pytestmark = pytest.mark.timeout(240)


def test_lab_sees_every_control_break_its_promise(home: Home) -> None:
    done = home.manage(
        "experiment", "--control", "all", "--tasks", "2", "--kills", "1", "--seed", "3", "--lanes", "9", "--json", "-",
        "--no-progress", timeout=200,
    )  # fmt: skip
    assert done.code == 0, done.err
    cells = {cell["pattern"]: cell for cell in json.loads(done.out)["cells"]}
    assert list(cells) == CONTROLS
    for name, cell in cells.items():
        assert (cell["observed"], cell["kills"]) == ("broken", {"planned": 1, "landed": 1}), name
        assert cell["lost"] + cell["duplicated"] == 1, name

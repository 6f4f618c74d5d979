"""The result of a run in words."""

from __future__ import annotations

import pytest

from tasks_demo.lab.reports.text import reading
from tasks_demo.lab.screens import findings as module
from tasks_demo.lab.screens.findings import findings
from tests.lab.reports.results import good

pytestmark = pytest.mark.django_db


def test_findings_page_describes_all_cells_or_only_the_surprises_of_a_large_result(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    result = good() | {"configuration": {"run": "0123456789", "plan": []}}
    assert findings(result).readings == [reading(cell) for cell in result["cells"]]
    assert any("held, because it allows that" in sentence for sentence in findings(result).readings)
    monkeypatch.setattr(module, "MOST_READ", 1)
    assert findings(result).readings == []
    result["cells"][0]["as_predicted"] = False
    assert findings(result).readings == [reading(result["cells"][0])]

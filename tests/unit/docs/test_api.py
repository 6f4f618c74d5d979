"""docs/reference/api.md lists exactly what the modules export."""

from __future__ import annotations

import importlib
import re

import pytest

from tests.support import PROJECT

PAGE = (PROJECT / "docs/reference/api.md").read_text(encoding="utf-8")
PROMISED = {
    section.partition("`")[0]: re.findall(r"^\| `(\w+)` \| .{10,} \|$", section, re.MULTILINE)
    for section in PAGE.split("\n## `")[1:]
}


def test_api_page_has_a_section_for_each_package_that_exports() -> None:
    packages = {
        "patterns",
        "outbox",
        "quarantine",
        "ledger",
        "hooks.bootsteps",
        "testing",
        "metrics",
        "lab",
        "transport",
        "core.exceptions",
    }
    assert set(PROMISED) == {f"tasks_demo.{package}" for package in packages}


@pytest.mark.parametrize("module", PROMISED)
def test_api_page_shows_each_exported_name_with_a_line(module: str) -> None:
    exporting = importlib.import_module(module)
    own = [name for name, value in vars(exporting).items() if getattr(value, "__module__", "") == module]
    exported = getattr(exporting, "__all__", own)
    assert PROMISED[module] == sorted(exported)
    for name in exported:
        assert getattr(exporting, name).__doc__, f"{module}.{name} says nothing of itself"

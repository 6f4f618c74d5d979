"""Scripts of other people are served as they were published, with their licence."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

import tasks_demo
from tests.support import PROJECT

VENDOR = Path(tasks_demo.__file__).parent / "static/tasks_demo/vendor"
SCRIPTS = {
    "htmx.min.js": "d6fdc75f204e6bdefa99b69bf1e6d4ac69b8a364f77929f45c13476b4000f717",
    "chart.umd.min.js": "c17f2ce49fb9c71ef7fb39c03f868804ac5ab34730149976eebe6b7f807bef0c",
}
#: For tests only.
OF_TESTS = PROJECT / "tests/browser/vendor"
AXE = {"axe.min.js": "29348999450cdf2849a8e70b7912fc2da85a849da39c0d0d5394f51d4a9ed95c"}


@pytest.mark.parametrize(("folder", "scripts"), [(VENDOR, SCRIPTS), (OF_TESTS, AXE)], ids=["served", "of tests"])
def test_vendor_scripts_are_the_published_ones(folder: Path, scripts: dict[str, str]) -> None:
    assert {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.js")} == scripts
    listed = (folder / "README.md").read_text()
    for name in scripts:
        assert f"`{name}`" in listed
        assert (folder / f"{name.partition('.')[0]}.LICENSE.txt").read_text().strip()


def test_vendor_scripts_name_no_source_map() -> None:
    """A manifest of static files refuses a script whose source map is missing."""
    assert [path.name for path in VENDOR.glob("*.js") if "sourceMappingURL" in path.read_text()] == []

"""Tests of the suite itself."""

from __future__ import annotations

from pathlib import Path

from tests.conftest import LONGEST, in_folder


def test_the_files_that_run_first_are_there() -> None:
    """A renamed file would lose its place without an error, and the other processes would wait for it."""
    assert set(LONGEST) <= {in_folder(path) for path in Path(__file__).parents[1].rglob("test_*.py")}

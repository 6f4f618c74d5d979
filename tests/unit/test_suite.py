"""Tests of the suite itself."""

from __future__ import annotations

from tests.conftest import LONGEST, TESTS


def test_files_that_run_first_are_there() -> None:
    """A renamed file would lose its place without an error, and the other processes would wait for it."""
    assert [name for name in LONGEST if not (TESTS / name).exists()] == []

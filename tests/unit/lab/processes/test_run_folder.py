"""The folder of a run: its name, and the lock that ends with its process."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tasks_demo.lab.processes.run_folder import is_alive, is_run_name, lock, run_name


def test_run_folder_names_sort_by_time() -> None:
    early, late = (run_name(datetime(2026, 1, day, tzinfo=UTC), 2**63 - 1, "0123456789") for day in (2, 13))
    assert is_run_name(early)
    assert early < late


@pytest.mark.parametrize(
    "text",
    ["", "..", "latest", "page", "20260102T000000-seed1-0123456789/..", "20260102T000000-seed1-0123456789\n",
     "../20260102T000000-seed1-0123456789", "20260102T000000-seed-1-0123456789", "20260102T000000-seed1-012345678G"],
    ids=ascii,
)  # fmt: skip
def test_run_folder_name_is_told_from_other_text(text: str) -> None:
    assert not is_run_name(text)


def test_run_folder_is_alive_while_one_copy_of_its_lock_is_open(tmp_path: Path) -> None:
    assert not is_alive(tmp_path)
    held = lock(tmp_path)
    assert held is not None
    copy = os.dup(held)  # as a child process inherits it
    assert lock(tmp_path) is None
    os.close(held)
    assert is_alive(tmp_path)
    os.close(copy)
    assert not is_alive(tmp_path)

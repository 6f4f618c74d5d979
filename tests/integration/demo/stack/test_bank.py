"""The bank as a child process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks_demo.core.exceptions import EnvironmentNotReady
from tasks_demo.demo.stack import EmbeddedBank
from tasks_demo.demo.stack.bank import HOST, healthy


@pytest.fixture
def bank(tmp_path: Path) -> Iterator[EmbeddedBank]:
    with EmbeddedBank(tmp_path / "bank.log", env=own(tmp_path)) as running:
        yield running


def own(folder: Path) -> dict[str, str]:
    return {"STATE_DIR": str(folder / "state"), "BANK_DATABASE_URL": f"sqlite:///{folder / 'books.sqlite3'}"}


def port(bank: EmbeddedBank) -> int:
    return int(bank.url.rpartition(":")[2])


def test_embedded_bank_answers_on_a_loopback_port_with_its_own_database(bank: EmbeddedBank, tmp_path: Path) -> None:
    assert bank.url.startswith("http://127.0.0.1:")
    assert healthy(HOST, port(bank))
    assert (tmp_path / "books.sqlite3").exists()
    assert "Bank listening on" in bank.log.read_text()


def test_embedded_bank_ends_with_the_block(tmp_path: Path) -> None:
    with EmbeddedBank(tmp_path / "bank.log", env=own(tmp_path)) as bank:
        process = bank.process
    assert process is not None
    assert process.returncode == 0
    assert not healthy(HOST, port(bank))


def test_embedded_bank_failed_start_shows_the_end_of_the_log(tmp_path: Path) -> None:
    nowhere = {"STATE_DIR": str(tmp_path / "state"), "BANK_DATABASE_URL": f"sqlite:///{tmp_path}/missing/books.sqlite3"}
    with (
        pytest.raises(EnvironmentNotReady, match=r"The bank exited before it answered[^\n]*bank\.log:\n.*\S") as caught,
        EmbeddedBank(tmp_path / "bank.log", env=nowhere),
    ):
        pass
    assert "(empty)" not in str(caught.value)

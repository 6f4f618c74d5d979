"""Reports in a pipe, and on a stream that cannot encode every character."""

from __future__ import annotations

import io

import pytest
from rich.table import Table

from tasks_demo.lab.reports.console import console


def printed(encoding: str = "utf-8", **options: bool) -> str:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding, write_through=True)
    table = Table("one", "two")
    table.add_row("x" * 300, "[red]– → ×[/]")
    console(options, stream).print(table)
    return raw.getvalue().decode(encoding)


@pytest.mark.parametrize("columns", ["", "20", "80"])
def test_console_on_a_pipe_does_not_wrap(columns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert "x" * 300 in printed()


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "iso8859-2", "cp1252"])
def test_console_replaces_a_character_that_the_encoding_lacks(encoding: str) -> None:
    shown = printed(encoding)
    assert "- -> x" in shown or "– -> ×" in shown or "- -> ×" in shown
    assert "?" not in shown


def test_console_colours_only_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b" not in printed()
    assert "\x1b[31m" in printed(force_color=True)
    assert "\x1b[31m" not in printed(force_color=True, no_color=True)
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[31m" not in printed(force_color=True)

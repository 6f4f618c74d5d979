"""Tables of commands: in a pipe, in a terminal, and on a stream that cannot encode every character."""

from __future__ import annotations

import io
import os
import sys

import pytest

from tasks_demo.management.output import carrying_all, table


def test_table_stands_in_columns() -> None:
    lines = list(table([["ms", "what"], ["10.5", "one\n→ two"], ["1", ""]], right={0}, least={0: 6}))
    assert lines == ["    ms  what", "  10.5  one", "        → two", "     1"]


@pytest.mark.parametrize("columns", ["", "20", "80"])
def test_table_in_a_pipe_has_no_width(columns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert list(table([["one", "x " * 300 + "end"]])) == ["one  " + "x " * 300 + "end"]


def test_table_in_a_terminal_wraps_its_last_column(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setattr("shutil.get_terminal_size", lambda: os.terminal_size((30, 20)))
    lines = list(table([["a", "word " * 10], ["b", "short"]]))
    assert [line.split("word")[0] for line in lines] == ["a  ", "   ", "b  short"]
    assert all(len(line) <= 30 for line in lines)


def test_table_spells_out_what_would_steer_a_terminal() -> None:
    assert list(table([["\x1b[2J\n", "x\ry"]])) == ["\\x1b[2J\\n  x\\ry"]


def test_table_paints_what_it_has_padded() -> None:
    painted = list(table([["a", "b"], ["long", "c"]], paint=lambda row, column, text: f"<{row}{column}{text}>"))
    assert painted == ["<00a   >  <01b>", "<10long>  <11c>"]


@pytest.mark.parametrize(("encoding", "shown"), [("ascii", "- -> x ?"), ("cp1252", "– -> × ?"), ("utf-8", "– → × 界")])
def test_stream_that_does_not_know_a_character_gets_another(encoding: str, shown: str) -> None:
    raw = io.BytesIO()
    stream = carrying_all(io.TextIOWrapper(raw, encoding=encoding, write_through=True))
    stream.write("– → × 界")
    assert raw.getvalue().decode(encoding) == shown

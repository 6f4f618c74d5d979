"""Long files say in their first lines why they are not two."""

from __future__ import annotations

import ast
from pathlib import Path

PROJECT = Path(__file__).parents[3]
MOST_LINES = 300


def test_file_of_more_than_300_lines_says_why() -> None:
    silent = []
    for folder in ("tasks_demo", "project", "tests", "examples"):
        for file in (PROJECT / folder).rglob("*.py"):
            text = file.read_text(encoding="utf-8")
            if len(text.splitlines()) > MOST_LINES and "lines:" not in (ast.get_docstring(ast.parse(text)) or ""):
                silent.append(str(file.relative_to(PROJECT)))
    assert silent == [], "write 'Over 300 lines: ...' in the docstring, or make two files of it"

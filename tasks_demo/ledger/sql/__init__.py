"""The ledger's SQL: one commented statement per file. The same text runs on SQLite and PostgreSQL."""

from __future__ import annotations

from functools import cache
from pathlib import Path


@cache
def statement(name: str) -> str:
    """Return the statement in ``name.sql`` without its comments."""
    lines = (Path(__file__).parent / f"{name}.sql").read_text(encoding="utf-8").splitlines()
    return "\n".join(line for line in lines if not line.lstrip().startswith("--"))

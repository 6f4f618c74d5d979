"""The ledger's SQL, one commented statement a file; the same text runs on SQLite and on PostgreSQL."""

from __future__ import annotations

from functools import cache
from pathlib import Path


@cache
def statement(name: str) -> str:
    """The statement in ``name.sql`` without its comments."""
    lines = (Path(__file__).parent / f"{name}.sql").read_text(encoding="utf-8").splitlines()
    return "\n".join(line for line in lines if not line.lstrip().startswith("--"))

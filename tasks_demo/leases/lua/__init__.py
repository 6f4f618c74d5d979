"""The lease store's Lua scripts. The header of each file documents its key, its arguments and every reply."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script and the SHA-1 by which Redis knows it."""

    name: str
    source: str
    sha: str


@cache
def script(name: str) -> Script:
    """Return the script in ``name.lua``."""
    source = (Path(__file__).parent / f"{name}.lua").read_text(encoding="utf-8")
    return Script(name, source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())

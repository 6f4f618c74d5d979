"""The lock's scripts. Each file's header documents its key, its arguments and every reply."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Script:
    """A script and the name that Redis gives it."""

    name: str
    source: str
    sha: str


@cache
def script(name: str) -> Script:
    """The script in ``name.lua``."""
    source = (Path(__file__).parent / f"{name}.lua").read_text(encoding="utf-8")
    return Script(name, source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())

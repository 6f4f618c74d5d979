"""The transport's scripts. Each file's header documents its keys, its arguments and every reply."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import redis

#: A redis-py client. Typed Any, because redis-py leaves half of its commands untyped.
Client = Any
#: What redis-py sends as a key or an argument.
Part = str | bytes | int | float


@dataclass(frozen=True, slots=True)
class Script:
    """A script and the name that Redis gives it."""

    name: str
    source: str
    sha: str

    @classmethod
    def of(cls, name: str, source: str) -> Script:
        """A script with this source."""
        return cls(name, source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())

    def run(self, client: Client, keys: Sequence[Part], args: Sequence[Part] = ()) -> Any:
        """Run it by its name, or send it if Redis does not have it yet."""
        try:
            return client.execute_command("EVALSHA", self.sha, len(keys), *keys, *args)
        except redis.exceptions.NoScriptError:
            return client.execute_command("EVAL", self.source, len(keys), *keys, *args)


@cache
def script(name: str) -> Script:
    """The script in ``name.lua``."""
    return Script.of(name, (Path(__file__).parent / f"{name}.lua").read_text(encoding="utf-8"))

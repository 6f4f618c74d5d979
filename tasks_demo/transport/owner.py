"""The identity of a consuming process: host, boot, pid and a nonce."""

from __future__ import annotations

import os
import re
import secrets
import socket
from dataclasses import dataclass
from functools import cache
from typing import Final

#: Tokens begin with it, which distinguishes them from the delivery tags of stock kombu, which are UUIDs.
MARK: Final = "claim!"
_SEPARATOR: Final = ":"


@dataclass(frozen=True, slots=True)
class Owner:
    """The name of an owner, parsed."""

    name: str
    host: str
    pid: int

    @classmethod
    def parse(cls, name: str) -> Owner:
        """Read a name; an unknown form has no host and pid 0."""
        host, _, rest = name.partition(_SEPARATOR)
        pid = rest.partition(_SEPARATOR)[0]
        known = pid.isdecimal()
        return cls(name, host.rpartition("-")[0] if known else "", int(pid) if known else 0)


def new_owner() -> str:
    """Return a name for this process that no other process has had."""
    return _SEPARATOR.join((_host(), str(os.getpid()), secrets.token_hex(6)))


def token_prefix(owner: str, number: int) -> str:
    """Return the prefix of the tokens of an owner's claim."""
    return f"{MARK}{owner}{_SEPARATOR}{number}{_SEPARATOR}"


def owner_of(token: str) -> str | None:
    """Return the owner that made a token; None for a delivery tag of stock kombu."""
    if not token.startswith(MARK):
        return None
    return token.removeprefix(MARK).rsplit(_SEPARATOR, 2)[0]


@cache
def _host() -> str:
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            boot = file.read()[:8]
    except OSError:
        boot = "0"
    # The name of a Redis connection holds printable characters only.
    return re.sub(r"[^!-9;-~]", "_", socket.gethostname()) + f"-{boot}"

"""Faults of the bank itself, for the lab. Off unless the bank was started with ``--faults``.

=================  =====================================================================================
``lose_response``  the debit is committed, then the connection is reset: the caller never learns of it
``slow``           every new debit waits ``delay_ms`` before it is made, or until this setting is replaced or
                   removed; its key is in flight meanwhile
``refuse``         answered with 503 before anything happens: certainly not charged
=================  =====================================================================================

One setting strikes whoever comes next (``/faults``). Any number of others, each under a name of its own
(``/faults/NAME``), strike the references that they name, each at most so often: several experiments can share a bank.
When both would strike, the named one does.

A replayed answer is never lost or slowed: a caller that repeats its key gets through. All settings live in the
memory of the serving process: a bank that is started again has none, and a report of hits is gone with them.
"""

from __future__ import annotations

import os
import socket
import struct
import threading
from collections.abc import Collection
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

LONGEST_DELAY_MS = 60_000
LARGEST_COUNT = 1_000_000
#: Bytes of a setting: some 25,000 references of the length of a task ID.
LARGEST_SETTING = 1_000_000


class Mode(StrEnum):
    NONE = "none"
    LOSE_RESPONSE = "lose_response"
    SLOW = "slow"
    REFUSE = "refuse"


@dataclass
class Anybody:
    """Strikes whoever comes next, ``left`` times (None: until changed)."""

    mode: Mode = Mode.NONE
    delay_ms: int = 0
    left: int | None = None
    hits: int = 0
    over: threading.Event = field(default_factory=threading.Event)

    def strike(self, mode: Mode, reference: str) -> bool:
        """Whether it strikes this debit; if so, that is counted."""
        if self.mode is not mode or self.left == 0:
            return False
        self.left = None if self.left is None else self.left - 1
        self.hits += 1
        return True

    def report(self) -> dict[str, Any]:
        return {"mode": self.mode.value, "delay_ms": self.delay_ms, "count": self.left, "hits": self.hits}


@dataclass
class Named:
    """Strikes the debits of ``references`` only, each at most ``each`` times."""

    mode: Mode
    delay_ms: int
    references: Collection[str]
    each: int
    hits: dict[str, int] = field(init=False)
    over: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.hits = dict.fromkeys(self.references, 0)

    def strike(self, mode: Mode, reference: str) -> bool:
        """Whether it strikes this debit; if so, that is counted."""
        if self.mode is not mode or self.hits.get(reference, self.each) >= self.each:
            return False
        self.hits[reference] += 1
        return True

    def report(self) -> dict[str, Any]:
        return {"mode": self.mode.value, "delay_ms": self.delay_ms, "each": self.each, "hits": dict(self.hits)}


class Faults:
    """All settings of one bank. Every method can be called by any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._anybody = Anybody()
        self._named: dict[str, Named] = {}

    def set(self, setting: Anybody) -> dict[str, Any]:
        """Replace the setting for anybody; its report."""
        with self._lock:
            self._anybody.over.set()
            self._anybody = setting
            return setting.report()

    def report(self) -> dict[str, Any]:
        """What became of the setting for anybody."""
        with self._lock:
            return self._anybody.report()

    def name(self, name: str, setting: Named) -> dict[str, Any]:
        """Add a setting, or replace the one of that name; its report."""
        with self._lock:
            if name in self._named:
                self._named[name].over.set()
            self._named[name] = setting
            return setting.report()

    def report_of(self, name: str, *, remove: bool = False) -> dict[str, Any]:
        """What became of the setting of that name, which ``remove`` ends. Raises KeyError: there is none."""
        with self._lock:
            setting = self._named.pop(name) if remove else self._named[name]
            if remove:
                setting.over.set()
            return setting.report()

    def strike(self, mode: Mode, reference: str) -> Anybody | Named | None:
        """The setting that strikes this debit now, if one does; it has counted that."""
        with self._lock:
            settings: list[Anybody | Named] = [*self._named.values(), self._anybody]
            for setting in settings:
                if setting.strike(mode, reference):
                    return setting
            return None


_faults: Faults | None = None


def enable() -> None:
    """Allow faults in this process and in its later forks."""
    global _faults
    _faults = Faults()


def disable() -> None:
    """Forbid them again."""
    global _faults
    _faults = None


def enabled() -> Faults | None:
    """The settings, or None if faults are off."""
    return _faults


def strikes(mode: Mode, reference: str) -> bool:
    """Whether to commit this fault on this debit now. Always False when faults are off."""
    return _faults is not None and _faults.strike(mode, reference) is not None


def dawdle(reference: str) -> None:
    """Be slow if that is the fault."""
    if _faults is not None and (setting := _faults.strike(Mode.SLOW, reference)):
        setting.over.wait(setting.delay_ms / 1000)


def reset(connection: socket.socket) -> None:
    """Send the caller a RST instead of a response. The server's later write fails as if the caller had hung up."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    # Replaced, not closed: the server still holds this descriptor and counts its connections by closing them.
    with socket.socket(connection.family, socket.SOCK_STREAM) as spare:
        os.dup2(spare.fileno(), connection.fileno(), inheritable=False)

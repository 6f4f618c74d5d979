"""Faults of the bank, for the lab. Off unless the bank was started with ``--faults``.

=================  =====================================================================================
``lose_response``  the debit is committed, then the connection is reset: the caller gets no response
``slow``           a debit waits ``delay_ms`` before it is made, or until the fault is replaced or removed;
                   its key is in flight meanwhile
``refuse``         the response is 503 and nothing is charged
=================  =====================================================================================

A fault has a name and applies to the debits of its references, a limited number of times to each, so that several experiments
can share a bank. A replayed response is never lost or slowed. Faults are in the memory of the bank's process: after a restart
there are none, and their counts are lost.
"""

from __future__ import annotations

import os
import socket
import struct
import threading
from enum import StrEnum
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from tasks_demo.demo.bank.incoming import Text


class Mode(StrEnum):
    LOSE_RESPONSE = "lose_response"
    SLOW = "slow"
    REFUSE = "refuse"


class Fault(msgspec.Struct, forbid_unknown_fields=True, dict=True):
    """One named fault, as ``PUT /faults/NAME`` describes it. ``hits`` counts, per reference, how often it was injected."""

    mode: Mode
    references: Annotated[list[Text], Meta(min_length=1)]
    each: Annotated[int, Meta(ge=1, le=1_000_000)] = 1
    delay_ms: Annotated[int, Meta(ge=0, le=60_000)] = 0

    def __post_init__(self) -> None:
        if (self.mode is Mode.SLOW) != (self.delay_ms > 0):
            raise ValueError("delay_ms belongs to the mode slow, and only to it")
        self.hits = dict.fromkeys(self.references, 0)
        self.ended = threading.Event()

    def as_json(self) -> dict[str, Any]:
        return {"mode": self.mode, "delay_ms": self.delay_ms, "each": self.each, "hits": dict(self.hits)}


#: Faults by name; None: fault injection is off.
faults: dict[str, Fault] | None = None
_lock = threading.Lock()


def replace(name: str, fault: Fault | None) -> Fault | None:
    """Set the fault of that name, or remove it (None), and release the debits that the old one is slowing down.

    Returns the old fault.
    """
    assert faults is not None  # noqa: S101
    with _lock:
        old = faults.pop(name, None)
        if fault is not None:
            faults[name] = fault
    if old is not None:
        old.ended.set()
    return old


def injected(mode: Mode, reference: str) -> Fault | None:
    """Return the fault to inject into this debit now, and count it; None if there is none."""
    with _lock:
        for fault in (faults or {}).values():
            if fault.mode is mode and fault.hits.get(reference, fault.each) < fault.each:
                fault.hits[reference] += 1
                return fault
    return None


def slow_down(reference: str) -> None:
    """Wait, if a ``slow`` fault applies to this debit."""
    if fault := injected(Mode.SLOW, reference):
        fault.ended.wait(fault.delay_ms / 1000)


def reset(connection: socket.socket) -> None:
    """Send the caller a RST instead of a response. The server's later write fails as if the caller had disconnected."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    # Replaced instead of closed, because the server closes this descriptor itself after the failed write.
    with socket.socket(connection.family, socket.SOCK_STREAM) as spare:
        os.dup2(spare.fileno(), connection.fileno(), inheritable=False)

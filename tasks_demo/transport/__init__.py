"""A kombu transport for Redis that loses nothing when a worker is killed. Importing this module registers it.

    import tasks_demo.transport                     # once, before the first connection; Django projects do it by their app
    app.conf.broker_url = "reliable+redis://localhost:6379/0"

It needs neither Django nor the rest of this package. The protocol, and what it does **not** guarantee:
docs/reference/transport.md. Beside the transport there are functions for operators, which take any redis-py client (with
``decode_responses=False``) and the broker's ``global_keyprefix``.
"""

from __future__ import annotations

from typing import Final

from kombu.transport import TRANSPORT_ALIASES

from tasks_demo.transport.address import ALIAS
from tasks_demo.transport.dead_letters import (
    DeadLetter,
    count_dead_letters,
    discard_dead_letter,
    get_dead_letter,
    list_dead_letters,
    requeue_dead_letter,
)
from tasks_demo.transport.owners import HeldMessage, OwnerState, list_held, list_owners

__all__ = [
    "ALIAS",
    "DeadLetter",
    "HeldMessage",
    "OwnerState",
    "count_dead_letters",
    "discard_dead_letter",
    "get_dead_letter",
    "list_dead_letters",
    "list_held",
    "list_owners",
    "requeue_dead_letter",
]

_TRANSPORT: Final = "tasks_demo.transport.transport:Transport"
TRANSPORT_ALIASES.setdefault(ALIAS, _TRANSPORT)

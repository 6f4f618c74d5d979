"""The keys of the transport. Messages and records of unacknowledged messages have stock kombu's keys; the rest is ours."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Sequence
from typing import Any, Final

#: kombu's own names (transport options ``unacked_key`` and ``unacked_index_key``).
UNACKED: Final = "unacked"
UNACKED_INDEX: Final = "unacked_index"


class Keys:
    """Every key of one broker, with its prefix (transport option ``global_keyprefix``)."""

    def __init__(self, prefix: str = "", unacked: str = UNACKED, unacked_index: str = UNACKED_INDEX) -> None:
        # Consumers with different records must not requeue for each other: they would not find the messages.
        own = "" if unacked == UNACKED else f"{unacked}."
        self.prefix = prefix
        self._claims = f"{prefix}_kombu.claims.{own}"
        #: Stock kombu's: token -> [message, exchange, routing key], and token -> Unix time.
        self.unacked = prefix + unacked
        self.unacked_index = prefix + unacked_index
        #: Hash: living owner -> how it is watched (``lua/register.lua``).
        self.owners = f"{self._claims}owners"
        #: Hash: owner -> counter.
        self.beats = f"{self._claims}beats"
        #: Set: owners that were declared dead and may still hold messages.
        self.dead = f"{self._claims}dead"
        #: Text with an expiry: the owner that watches all others.
        self.watcher = f"{self._claims}watcher"
        #: Hash: token -> JSON text (``dead_letters.py``), and a sorted set: token -> Unix time.
        self.dead_letters = f"{self._claims}dead_letters"
        self.dead_letters_index = f"{self._claims}dead_letters_index"

    def held(self, owner: str) -> str:
        """Sorted set: the tokens of the messages that an owner holds -> number of the claim."""
        return f"{self._claims}held.{owner}"

    def wake(self, queue: str) -> str:
        """List of 0 or 1 elements, that idle consumers of a queue block on."""
        # Not by ``unacked``: publishers do not know it.
        return f"{self.prefix}_kombu.claims.wake.{queue}"


class Lists:
    """The lists of a queue, one for each step of priority (transport options ``sep`` and ``priority_steps``), without prefix."""

    def __init__(self, separator: str, steps: Sequence[int]) -> None:
        self._separator = separator
        self.steps = steps

    def at(self, queue: str, step: int) -> str:
        """The list of one step. 0 is the most urgent one and has the queue's own name."""
        return f"{queue}{self._separator}{step}" if step else queue

    def of(self, queue: str, payload: dict[str, Any]) -> str:
        """The list for a message, by the priority in its properties: 0 to 9, and 0 if there is none."""
        try:
            priority = max(0, min(int(payload["properties"]["priority"]), 9))
        except (KeyError, TypeError, ValueError):
            priority = 0
        return self.at(queue, self.steps[bisect(self.steps, priority) - 1])

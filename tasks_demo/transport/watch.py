"""Decide which owners are dead, from what the server reports. No I/O.

Does **not** distinguish a stopped owner from one that is cut off: both are declared dead after their heartbeat timeout.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Watched:
    """How an owner is watched: the text in the hash of owners."""

    #: ID of its heartbeat's connection; "0" if the server does not list connections.
    connection: str
    #: Run ID of the server that gave the ID.
    run: str
    #: Its own heartbeat timeout, seconds.
    timeout: float

    def __str__(self) -> str:
        return f"{self.connection} {self.run} {self.timeout:g}"

    @classmethod
    def parse(cls, text: str) -> Watched:
        """Read the text. Raises ValueError."""
        connection, run, timeout = text.split(" ")
        return cls(connection, run, float(timeout))


@dataclass(frozen=True, slots=True)
class DeadOwner:
    """An owner to declare dead: what was seen of it, and why."""

    owner: str
    watched: str
    beat: str
    why: str


@dataclass(frozen=True, slots=True)
class _Observation:
    watched: str
    beat: str
    still: float
    gone: float | None


class Watch:
    """What one watcher has seen so far. ``grace``: how long a connection may be gone, seconds."""

    def __init__(self, grace: float) -> None:
        self._grace = grace
        self._seen: dict[str, _Observation] = {}
        #: Somebody's connection is gone: look again soon.
        self.suspicious = False

    def connections(self, owners: Mapping[str, str], run: str) -> dict[str, str]:
        """The owners whose connections this server can list, with the IDs."""
        known = {owner: Watched.parse(text) for owner, text in owners.items()}
        return {owner: it.connection for owner, it in known.items() if it.connection != "0" and it.run == run}

    def look(
        self,
        owners: Mapping[str, str],
        beats: Mapping[str, str],
        here: Collection[str],
        listed: Collection[str],
        seconds: float,
    ) -> list[DeadOwner]:
        """Judge the owners. ``here``: those whose connections can be listed; ``listed``: those whose connections are there.

        ``seconds`` since the last look, as far as the watcher itself was awake: its own sleep proves nothing about others.
        """
        seen: dict[str, _Observation] = {}
        dead = []
        self.suspicious = False
        for owner, watched in owners.items():
            beat = beats.get(owner, "")
            before = self._seen.get(owner)
            same = before is not None and before.watched == watched
            still = before.still + seconds if before and same and before.beat == beat else 0.0
            gone = None
            if owner in here and owner not in listed:
                self.suspicious = True
                gone = before.gone + seconds if before and same and before.gone is not None else 0.0
            seen[owner] = _Observation(watched, beat, still, gone)
            if gone is not None and gone >= self._grace:
                dead.append(DeadOwner(owner, watched, beat, f"its connection is gone for {gone:.1f} s"))
            elif still >= Watched.parse(watched).timeout:
                dead.append(DeadOwner(owner, watched, beat, f"no heartbeat for {still:.1f} s"))
        self._seen = seen
        return dead

    def forget(self) -> None:
        """Forget what was seen, after this watcher's own connection was lost."""
        self._seen.clear()

"""For operators: who consumes, and what each holds. Reads only."""

from __future__ import annotations

from dataclasses import dataclass

from kombu.utils.encoding import bytes_to_str

from tasks_demo.transport.keys import Keys
from tasks_demo.transport.lua import Client
from tasks_demo.transport.messages import DELIVERY_COUNT, NotAMessage, deliveries, read, read_record, task_of
from tasks_demo.transport.owner import Owner

__all__ = ["DELIVERY_COUNT", "HeldMessage", "OwnerState", "list_held", "list_owners"]


@dataclass(frozen=True, slots=True)
class OwnerState:
    """One consuming process. ``dead``: declared dead, and what it held is being requeued."""

    name: str
    host: str
    pid: int
    held: int
    dead: bool
    #: Whether it watches the others.
    watcher: bool


@dataclass(frozen=True, slots=True)
class HeldMessage:
    """A message that an owner holds: prefetched, running or waiting for its ETA. ``since``: Unix time, renewed while it is held
    long (``lua/renew.lua``); ``died``: how often an owner died with it."""

    token: str
    queue: str
    task: str
    task_id: str
    since: float
    died: int


def list_owners(client: Client, prefix: str = "") -> list[OwnerState]:
    """Every owner, living ones first. ``prefix``: the transport option ``global_keyprefix``."""
    keys = Keys(prefix)
    living = sorted(bytes_to_str(name) for name in client.hkeys(keys.owners))
    dead = sorted(bytes_to_str(name) for name in client.smembers(keys.dead))
    watcher = bytes_to_str(client.get(keys.watcher) or b"")
    with client.pipeline(transaction=False) as pipe:
        for name in [*living, *dead]:
            pipe.zcard(keys.held(name))
        counts = pipe.execute()
    found = []
    for place, (name, count) in enumerate(zip([*living, *dead], counts, strict=True)):
        known = Owner.parse(name)
        found.append(OwnerState(name, known.host, known.pid, int(count), place >= len(living), name == watcher))
    return found


def list_held(client: Client, owner: str, prefix: str = "", limit: int = 1000) -> list[HeldMessage]:
    """What an owner holds, the oldest claim first."""
    keys = Keys(prefix)
    tokens = [bytes_to_str(token) for token in client.zrange(keys.held(owner), 0, limit - 1)]
    if not tokens:
        return []
    with client.pipeline(transaction=False) as pipe:
        pipe.hmget(keys.unacked, tokens)
        for token in tokens:
            pipe.zscore(keys.unacked_index, token)
        records, *scores = pipe.execute()
    found = []
    for token, record, score in zip(tokens, records, scores, strict=True):
        if record is None:
            continue  # acknowledged between the two looks
        item = read_record(token, record)
        task, task_id = task_of(item.raw)
        try:
            died = deliveries(read(item.raw))
        except NotAMessage:
            died = 0
        found.append(HeldMessage(token, item.queue, task, task_id, float(score or 0), died))
    return found

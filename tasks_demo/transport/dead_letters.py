"""Dead letters: messages that no worker can run. They are kept until a person requeues or discards them.

A message comes here if its text cannot be decoded, or if its owner died ``delivery_limit`` times with it.
"""

from __future__ import annotations

import base64
import json
import time
from dataclasses import dataclass

from kombu.utils.encoding import bytes_to_str

from tasks_demo.transport.keys import Keys
from tasks_demo.transport.lua import Client, script
from tasks_demo.transport.messages import Item, NotAMessage, read, task_of, with_count_reset


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One dead letter; ``token`` names it, ``raw`` is the text as it was on the queue, ``at`` Unix time in seconds."""

    token: str
    queue: str
    list_key: str
    reason: str
    at: float
    raw: bytes
    #: Whether a worker could decode it. If not, requeueing brings it back here.
    is_message: bool

    @property
    def task(self) -> str:
        """The name of the task; empty if it is not a Celery message."""
        return task_of(self.raw)[0]

    @property
    def task_id(self) -> str:
        """The task ID; empty if it is not a Celery message."""
        return task_of(self.raw)[1]


def count_dead_letters(client: Client, prefix: str = "") -> int:
    """The number of dead letters. ``prefix``: the transport option ``global_keyprefix``, here and below."""
    return int(client.hlen(Keys(prefix).dead_letters))


def list_dead_letters(client: Client, prefix: str = "", offset: int = 0, limit: int = 100) -> list[DeadLetter]:
    """Dead letters, the newest first."""
    keys = Keys(prefix)
    tokens = client.zrevrange(keys.dead_letters_index, offset, offset + limit - 1)
    if not tokens:
        return []
    texts = client.hmget(keys.dead_letters, tokens)
    return [_parsed(bytes_to_str(token), text) for token, text in zip(tokens, texts, strict=True) if text is not None]


def get_dead_letter(client: Client, token: str, prefix: str = "") -> DeadLetter | None:
    """One dead letter, or None if somebody has decided about it."""
    text = client.hget(Keys(prefix).dead_letters, token)
    return None if text is None else _parsed(token, text)


def requeue_dead_letter(client: Client, token: str, prefix: str = "") -> bool:
    """Put it on its queue, last in line, with its deliveries counted from 0. False: it is not there any more."""
    found = get_dead_letter(client, token, prefix)
    if found is None:
        return False
    try:
        text = with_count_reset(read(found.raw))
    except NotAMessage:
        text = found.raw
    keys = Keys(prefix)
    every = [keys.dead_letters, keys.dead_letters_index, found.list_key, keys.wake(found.queue)]
    return bool(script("revive").run(client, every, [token, text]))


def discard_dead_letter(client: Client, token: str, prefix: str = "") -> bool:
    """Delete it. False: it is not there any more."""
    keys = Keys(prefix)
    return bool(script("revive").run(client, [keys.dead_letters, keys.dead_letters_index], [token]))


def letter(item: Item, list_key: str, reason: str, is_message: bool) -> str:
    """A dead letter as the text that is stored."""
    raw = base64.b64encode(item.raw).decode()
    said = {
        "queue": item.queue,
        "list": list_key,
        "reason": reason,
        "at": time.time(),
        "raw": raw,
        "is_message": is_message,
    }
    return json.dumps(said)


def _parsed(token: str, text: bytes) -> DeadLetter:
    said = json.loads(text)
    raw = base64.b64decode(said["raw"])
    return DeadLetter(token, said["queue"], said["list"], said["reason"], said["at"], raw, said["is_message"])

"""Requeue claimed messages, or dead-letter them: on behalf of dead owners, of the audit, and of living owners.

Every move asks for the owner's token, so two who move the same message move it once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, TypeVar

from kombu.log import get_logger
from kombu.utils.encoding import bytes_to_str

from tasks_demo.transport.dead_letters import letter
from tasks_demo.transport.keys import Keys, Lists
from tasks_demo.transport.lua import Client, script
from tasks_demo.transport.messages import Item, NotAMessage, deliveries, read, read_record, redelivered

logger = get_logger(__name__)
T = TypeVar("T")
#: Messages per script: Redis does nothing else while a script runs.
BATCH: Final = 50


class Redelivery:
    """Requeues and dead-letters messages by the settings of one owner.

    ``limit``: after this many deaths of its owner a message becomes a dead letter; 0: never.
    """

    def __init__(self, keys: Keys, lists: Lists, limit: int) -> None:
        self._keys = keys
        self._lists = lists
        self._limit = limit

    def requeue(
        self,
        client: Client,
        owner: str,
        items: Sequence[Item],
        *,
        first: bool = True,
        mark: bool = True,
        died: bool = False,
    ) -> int:
        """Requeue what ``owner`` holds; return how many messages were moved.

        ``first``: in front of the queue, and then ``items`` must have the newest first. ``mark``: set the flag redelivered.
        ``died``: the owner died; the delivery counts. Invalid messages, and those without deliveries left, are dead-lettered.
        """
        moved = 0
        for part in batches(items):
            keys, args = self._records(owner), ["RPUSH" if first else "LPUSH"]
            for item in part:
                try:
                    payload = read(item.raw)
                except NotAMessage as error:
                    moved += self.dead_letter(client, owner, item, f"not a message: {error}", is_message=False)
                    continue
                if died and 0 < self._limit <= deliveries(payload) + 1:
                    why = f"its worker died {deliveries(payload) + 1} times, and delivery_limit is {self._limit}"
                    moved += self.dead_letter(client, owner, item, why)
                    continue
                text = redelivered(payload, count=died) if mark else item.raw
                keys += [self._keys.prefix + self._lists.of(item.queue, payload), self._keys.wake(item.queue)]
                args += [item.token, text]  # type: ignore[list-item]
            if len(args) > 1:
                moved += int(script("requeue").run(client, keys, args))
        return moved

    def dead_letter(self, client: Client, owner: str, item: Item, reason: str, is_message: bool = True) -> int:
        """Move one message to the dead letters; 1, or 0 if ``owner`` does not hold it any more."""
        try:
            list_name = self._lists.of(item.queue, read(item.raw))
        except NotAMessage:
            list_name = item.queue
        keys = [*self._records(owner), self._keys.dead_letters, self._keys.dead_letters_index]
        args = [item.token, letter(item, self._keys.prefix + list_name, reason, is_message)]
        moved = int(script("dead_letter").run(client, keys, args))
        if moved:
            logger.error(
                "A message of the queue %r was moved to the dead letters: %s. It is kept; requeue or discard it there. "
                "Token: %s",
                item.queue, reason, item.token,
            )  # fmt: skip
        return moved

    def recover(self, client: Client, owner: str) -> int:
        """Requeue everything that a dead owner held, at the front of its queues; return how many messages there were."""
        held, total = self._keys.held(owner), 0
        while tokens := [bytes_to_str(token) for token in client.zrevrange(held, 0, BATCH - 1)]:
            items, missing = self.items(client, tokens)
            total += self.requeue(client, owner, items, died=True)
            if missing:  # a stock worker has restored them after the visibility timeout, or they were deleted by hand
                client.zrem(held, *missing)
        client.srem(self._keys.dead, owner)
        if total:
            logger.warning("%d messages of the dead owner %s were requeued", total, owner)
        return total

    def items(self, client: Client, tokens: Sequence[str]) -> tuple[list[Item], list[str]]:
        """Return the messages of these tokens, and the tokens whose message is gone."""
        if not tokens:
            return [], []
        records = client.hmget(self._keys.unacked, list(tokens))
        found = [
            read_record(token, record) for token, record in zip(tokens, records, strict=True) if record is not None
        ]
        return found, [token for token, record in zip(tokens, records, strict=True) if record is None]

    def _records(self, owner: str) -> list[str]:
        return [self._keys.held(owner), self._keys.unacked, self._keys.unacked_index]


def batches(things: Sequence[T]) -> Iterator[Sequence[T]]:
    """Split into parts of at most BATCH."""
    return (things[start : start + BATCH] for start in range(0, len(things), BATCH))

"""What this process holds: tokens that it may acknowledge, requeue, or return to the queue undelivered.

Threads: the consuming thread claims; any thread acknowledges; the heartbeat's thread audits. Single operations on dicts and
sets are atomic.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from typing import Any

from kombu.log import get_logger
from kombu.utils.encoding import bytes_to_str

from tasks_demo.transport.keys import Keys, Lists
from tasks_demo.transport.lua import Client, Part, script
from tasks_demo.transport.messages import Item
from tasks_demo.transport.owner import token_prefix
from tasks_demo.transport.redelivery import Redelivery, batches

logger = get_logger(__name__)


class Claims:
    """The messages that an owner holds, as its process knows them.

    ``client`` does not retry: whether a lost reply was executed is found out by the heartbeat. ``lost``: errors that mean that
    Redis did not answer.
    """

    def __init__(
        self, owner: str, keys: Keys, client: Client, redelivery: Redelivery, lost: tuple[type[BaseException], ...]
    ) -> None:
        self.owner = owner
        self.keys = keys
        self._client = client
        self._redelivery = redelivery
        self._lost = lost
        self._records = [keys.held(owner), keys.unacked, keys.unacked_index]
        self.numbers: Iterator[int] = itertools.count(1)
        #: Token -> message, of everything that has reached this process and was not settled.
        self.held: dict[str, Item] = {}
        #: Numbers of claims whose reply has not been read.
        self.flights: set[int] = set()
        #: Tokens whose acknowledgement could not be sent.
        self.unsent: list[str] = []
        #: Something may be held that this process does not know of.
        self.audit_due = False
        #: The owner was declared dead, and its heartbeat has ended.
        self.fenced = False

    def acknowledge(self, token: str) -> None:
        """Acknowledge. If Redis does not answer, the heartbeat sends it again: nobody else gets the message meanwhile."""
        try:
            still_ours = int(script("acknowledge").run(self._client, self._records, [token]))
        except self._lost as error:
            logger.warning("The acknowledgement of %s is sent again, because Redis did not answer: %r", token, error)
            self.unsent.append(token)
            if self.fenced:  # no heartbeat sends it any more
                self.send_refused(self._client)
            return
        if not still_ours:
            self._refused(token)
        self.held.pop(token, None)

    def send_refused(self, client: Client) -> None:
        """The owner was declared dead: send its late acknowledgements, so that their refusals are logged."""
        try:
            self.send_unsent(client)
        except self._lost:
            tokens, self.unsent = self.unsent, []
            for token in tokens:
                self._refused(token)
                self.held.pop(token, None)

    def send_unsent(self, client: Client) -> None:
        """Send the acknowledgements that could not be sent."""
        tokens, self.unsent = self.unsent, []
        for place, token in enumerate(tokens):
            try:
                still_ours = int(script("acknowledge").run(client, self._records, [token]))
            except BaseException:
                self.unsent += tokens[place:]
                raise
            if self.fenced and not still_ours:  # a living owner's may have been executed the first time
                self._refused(token)
            self.held.pop(token, None)

    def requeue(self, items: Sequence[Item], *, first: bool = True, mark: bool = True) -> None:
        """Requeue; if Redis does not answer, the audit does it later."""
        for part in batches(items):
            try:
                self._redelivery.requeue(self._client, self.owner, part, first=first, mark=mark)
            except self._lost as error:
                logger.warning("%d messages are requeued later, because Redis did not answer: %r", len(part), error)
                self.audit_due = True
            for item in part:
                self.held.pop(item.token, None)

    def dead_letter(self, item: Item, reason: str) -> None:
        """Dead-letter an item that is not a message. If Redis does not answer, the audit requeues it, and it is claimed again."""
        try:
            self._redelivery.dead_letter(self._client, self.owner, item, reason, is_message=False)
        except self._lost as error:
            logger.warning("A dead letter is requeued later, because Redis did not answer: %r", error)
            self.audit_due = True
        self.held.pop(item.token, None)

    def audit(self, client: Client) -> int:
        """Requeue what this owner holds by the server's record and has never received; return how many messages.

        A claim is executed without its reply arriving when a connection breaks.
        """
        flights = set(self.flights)
        held = self.keys.held(self.owner)
        if not self.audit_due and int(client.zcard(held)) <= len(self.held):
            return 0
        self.audit_due = False
        rows = client.zrange(held, 0, -1, withscores=True)
        flights |= self.flights
        unknown = [bytes_to_str(token) for token, number in rows if int(number) not in flights]
        # Looked up after the flights: a reply that was read meanwhile is here by now.
        unknown = [token for token in unknown if token not in self.held][::-1]
        moved = 0
        try:
            for part in batches(unknown):
                items, _ = self._redelivery.items(client, part)
                moved += self._redelivery.requeue(client, self.owner, items, mark=False)
        except BaseException:
            self.audit_due = True
            raise
        if moved:
            logger.warning("%d messages were requeued that were taken for this worker and never reached it", moved)
        return moved

    def _refused(self, token: str) -> None:
        item = self.held.get(token)
        logger.error(
            "An acknowledgement was refused, because this worker was declared dead and its message requeued: the job may run "
            "twice. Token: %s, queue: %s",
            token, item.queue if item else "unknown",
        )  # fmt: skip


#: A queue, and whether its messages need no acknowledgement.
QueueToClaim = tuple[str, bool]


def claim_command(
    keys: Keys, lists: Lists, owner: str, number: int, want: int, queues: Sequence[QueueToClaim]
) -> tuple[list[str], list[Part]]:
    """Keys and arguments of ``lua/claim.lua``."""
    every = [keys.owners, keys.held(owner), keys.unacked, keys.unacked_index]
    every += [keys.wake(queue) for queue, _ in queues]
    every += [keys.prefix + lists.at(queue, step) for step in lists.steps for queue, _ in queues]
    args: list[Part] = [owner, token_prefix(owner, number), number, want, len(queues)]
    for queue, no_ack in queues:
        args += [json.dumps(queue), "1" if no_ack else "0"]
    return every, args


def claimed(owner: str, number: int, queues: Sequence[QueueToClaim], reply: Sequence[Any]) -> list[tuple[Item, bool]]:
    """The messages in the reply of ``lua/claim.lua``, and whether each is recorded as held."""
    prefix = token_prefix(owner, number)
    return [
        (
            Item(f"{prefix}{place // 2 + 1}", queues[int(reply[place])][0], reply[place + 1]),
            not queues[int(reply[place])][1],
        )
        for place in range(1, len(reply), 2)
    ]

"""Searches the broker and the workers for copies that were published and have not begun.

- Redis shows everything: the queue's lists, the hash of messages delivered and not acknowledged, and the dead letters. A message
  held by an owner of the reliable transport is requeued when that owner dies. Whether one delivered by stock kombu will be is not
  known.
- RabbitMQ tells an AMQP client how many ready messages and consumers a queue has. It tells neither which messages these are nor
  how many are unacknowledged. A queue without messages and consumers holds nothing.
- Other brokers tell nothing.
- Workers that answer remote control know what they hold, what waits for its ETA or its rate limit included. The solo pool answers
  only between two jobs; with ``worker_enable_remote_control = False`` no worker answers.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import redis
from celery import current_app
from kombu.utils.encoding import bytes_to_str

from tasks_demo.outbox.evidence import Location
from tasks_demo.transport import list_dead_letters
from tasks_demo.transport.owner import owner_of

#: Maximum time for workers to answer, seconds.
WORKERS_SECONDS = 1.0
#: The remote control command that workers answer with those of the given task IDs that they hold (tasks_demo/hooks/holding.py).
QUERY = "tasks_demo_holds"
#: For how long a worker that does not know it is not asked again, seconds; and until when, by the worker's name (monotonic).
FOREIGN_SECONDS = 600.0
_unasked_until: dict[str, float] = {}
#: A longer queue is searched only for copies that were overtaken, begun, or are old; and the number of entries read at a time.
LONG_QUEUE, AT_ONCE = 1000, 500


@dataclass(frozen=True, slots=True)
class QueueState:
    """The state of one queue. ``consumers``: -1 if unknown. ``can_tell_all``: its messages can be read."""

    waiting: int
    consumers: int = -1
    exists: bool = True
    can_tell_all: bool = False

    @property
    def long(self) -> bool:
        return self.waiting > LONG_QUEUE


def queue_state(connection: Any, name: str) -> QueueState | None:
    """Ask the broker for the state of the queue. Returns None if the broker cannot tell. Raises the transport's errors."""
    channel = connection.default_channel
    match connection.transport.driver_type:
        case "redis":
            with _client(channel) as client:
                return QueueState(sum(int(client.llen(key)) for key in _lists(channel, name)), can_tell_all=True)
        case "amqp":
            # Use a separate channel: asking for a queue that does not exist closes it.
            try:
                with connection.channel() as own:
                    _, messages, consumers = own.queue_declare(name, passive=True)
            except connection.channel_errors as error:
                if getattr(error, "code", None) == 404:
                    return QueueState(0, 0, exists=False)
                raise
            return QueueState(int(messages), int(consumers))
    return None


def oldest_ids(connection: Any, name: str) -> list[str] | None:
    """Return the task ID of the oldest message of each priority of the queue; None if the broker cannot tell."""
    if connection.transport.driver_type != "redis":
        return None
    channel, found = connection.default_channel, []
    with _client(channel) as client:
        for key in _lists(channel, name):
            for raw in client.lrange(key, -1, -1):  # kombu pops from the right
                with suppress(ValueError, TypeError, LookupError):
                    found.append(str(json.loads(raw)["headers"]["id"]))
    return found


def search_broker(
    connection: Any, name: str, queue: QueueState | None, task_ids: Collection[str]
) -> dict[str, Location]:
    """Return where the broker has each of these messages. Raises the transport's errors."""
    if queue is None or not queue.can_tell_all:
        gone = queue is not None and (not queue.exists or queue.waiting == 0 == queue.consumers)
        return dict.fromkeys(task_ids, Location.ABSENT if gone else Location.UNKNOWN)
    channel = connection.default_channel
    wanted = {f'"{task_id}"'.encode(): task_id for task_id in task_ids}
    found: dict[str, Location] = {}
    with _client(channel) as client:
        # Read from the head, where messages arrive: deliveries from the tail then shift no entry past the cursor. Read the
        # hash last, because messages move there when they are delivered.
        for key in _lists(channel, name):
            start = 0
            while len(found) < len(wanted) and (entries := client.lrange(key, start, start + AT_ONCE - 1)):
                found |= dict.fromkeys(_in(entries, wanted), Location.QUEUED)
                start += AT_ONCE
        cursor, first = 0, True
        while (first or cursor) and len(found) < len(wanted):
            first = False
            cursor, values = client.hscan(_prefix(channel) + channel.unacked_key, cursor, count=AT_ONCE)
            for tag, value in values.items():
                kept = owner_of(bytes_to_str(tag)) is not None
                found |= dict.fromkeys(_in([value], wanted), Location.KEPT if kept else Location.UNACKED)
        # A person decides about these. Read last, because messages move there from the hash.
        offset = 0
        while len(found) < len(wanted) and (letters := list_dead_letters(client, _prefix(channel), offset, AT_ONCE)):
            found |= dict.fromkeys({letter.task_id for letter in letters} & set(wanted.values()), Location.KEPT)
            offset += AT_ONCE
    return {task_id: found.get(task_id, Location.ABSENT) for task_id in task_ids}


def ask_workers(connection: Any, queue: QueueState | None, task_ids: Collection[str]) -> set[str] | None:
    """Return the task IDs that workers hold: reserved, running, waiting for their ETA or their rate limit.

    None if not all workers answered. Takes WORKERS_SECONDS, twice that if workers do not answer.
    """
    control: Any = current_app.control  # the stubs lack its mailbox
    mailbox = control.mailbox(connection)
    mailbox._producer_pool = None  # it belongs to the app's connection, but a relay may publish to another broker
    answers = _replies(mailbox.multi_call("query_task", {"ids": list(task_ids)}, timeout=WORKERS_SECONDS))
    if not answers or (queue is not None and len(answers) < queue.consumers):
        return None
    found = {task_id for tasks in answers.values() for task_id in tasks}
    # Celery's command does not know what waits. Workers without tasks_demo log ours as an error, so they are asked rarely.
    ours = [name for name in answers if _unasked_until.get(name, 0.0) <= time.monotonic()]
    if ours and (rest := sorted(set(task_ids) - found)):
        waiting = _replies(mailbox.call(ours, QUERY, {"ids": rest}, timeout=WORKERS_SECONDS))
        if len(waiting) < len(ours):
            return None
        for name, reply in waiting.items():
            if isinstance(reply, list):
                found |= set(reply)
            else:
                _unasked_until[name] = time.monotonic() + FOREIGN_SECONDS
    return found


def _replies(answers: list[dict[str, Any]] | None) -> dict[str, Any]:
    """The reply of each worker, by its name."""
    return {name: reply for answer in answers or () for name, reply in answer.items()}


def _in(messages: Any, wanted: dict[bytes, str]) -> set[str]:
    # The ID appears verbatim, in quotes, in the message's headers (see ``is_searchable``).
    return {task_id for message in messages for needle, task_id in wanted.items() if needle in message}


def is_searchable(task_id: str) -> bool:
    """Return whether the ID can be searched for in a message. JSON escapes other characters."""
    return task_id.isascii() and not set(task_id) & set('"\\')


def _lists(channel: Any, name: str) -> list[str]:
    return [_prefix(channel) + channel._q_for_pri(name, priority) for priority in channel.priority_steps]


def _prefix(channel: Any) -> str:
    return str(getattr(channel, "global_keyprefix", ""))


def _client(channel: Any) -> redis.Redis:
    """Return a client that adds no key prefix. Closing it returns its connection to kombu's pool."""
    return redis.Redis(connection_pool=channel.pool)

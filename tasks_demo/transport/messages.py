"""Decode and rewrite the text of a message: whether it is valid, its task and task ID, and how often an owner died with it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

from kombu.utils.json import dumps, loads

#: How often the owner of a message died with it. RabbitMQ's quorum queues write the same header.
DELIVERY_COUNT: Final = "x-delivery-count"


class NotAMessage(Exception):
    """What was on the queue is not a kombu message. The text says why."""


@dataclass(frozen=True, slots=True)
class Item:
    """One claimed message on its way back to a queue."""

    token: str
    queue: str
    raw: bytes


def read(raw: bytes) -> dict[str, Any]:
    """Decode a message. Raises NotAMessage."""
    try:
        payload = loads(raw)
    except Exception as error:
        raise NotAMessage(f"{type(error).__name__}: {error}") from error
    if not isinstance(payload, dict):
        raise NotAMessage(f"it is JSON, but a {type(payload).__name__}, and not an object")
    if not isinstance(payload.get("properties"), dict):
        raise NotAMessage("it has no properties")
    if not isinstance(payload["properties"].get("delivery_info"), dict):
        raise NotAMessage("it has no delivery_info")
    if not isinstance(payload.get("headers", {}), dict | None):
        raise NotAMessage("its headers are not an object")
    return payload


def read_record(token: str, record: bytes) -> Item:
    """Split the record of an unacknowledged message (``lua/claim.lua``), whatever the message is."""
    raw, _, queue = record.rpartition(b',"",')
    return Item(token, str(json.loads(queue[:-1])), raw[1:])


def redelivered(payload: dict[str, Any], count: bool) -> bytes:
    """The message with its flag ``redelivered`` set; ``count``: its owner died, so the delivery counts."""
    headers = payload["headers"] = payload.get("headers") or {}
    headers["redelivered"] = True
    payload["properties"]["delivery_info"]["redelivered"] = True
    if count:
        headers[DELIVERY_COUNT] = deliveries(payload) + 1
    text: str = dumps(payload)
    return text.encode()


def with_count_reset(payload: dict[str, Any]) -> bytes:
    """The message with its delivery count removed: a person has decided to run it again."""
    (payload.get("headers") or {}).pop(DELIVERY_COUNT, None)
    text: str = dumps(payload)
    return text.encode()


def deliveries(payload: dict[str, Any]) -> int:
    """How often an owner died with this message."""
    try:
        return int((payload.get("headers") or {}).get(DELIVERY_COUNT) or 0)
    except (TypeError, ValueError):
        return 0


def task_of(raw: bytes) -> tuple[str, str]:
    """Task name and task ID that Celery wrote into the headers; two empty texts for anything else."""
    try:
        headers = read(raw).get("headers") or {}
    except NotAMessage:
        return "", ""
    return str(headers.get("task") or ""), str(headers.get("id") or "")

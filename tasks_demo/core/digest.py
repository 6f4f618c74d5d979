"""Canonical text and digest of a call's arguments: the same in the publisher and in the worker."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from kombu.utils.json import JSONEncoder

from tasks_demo.core.exceptions import ArgumentsNotJson


class _Encoder(JSONEncoder):
    """Encodes what kombu's JSON carries as kombu does, and anything else by the parts that pickle takes from it."""

    def default(self, value: Any) -> Any:
        try:
            return super().default(value)
        except Exception:  # noqa: BLE001  (a user's __json__; another serializer may still carry it)
            return _parts(value)


_AS_GIVEN = _Encoder()
_SORTED = json.JSONEncoder(sort_keys=True, separators=(",", ":"))


def canonical(value: Any) -> str:
    """The value as JSON text, independent of key order and of tuple or list. 1, 1.0, "1" and true differ.

    Every value that a serializer of kombu carries has one, the same on arrival. Keys are compared as their JSON text. Raises
    ArgumentsNotJson for what no serializer can carry.
    """
    try:
        try:
            text = _AS_GIVEN.encode(value)
        except TypeError:
            text = _AS_GIVEN.encode(_plain(value))  # a key that JSON has no text for, such as a tuple
        # Decoded once: keys that are not text sort differently before JSON has made text of them.
        return _SORTED.encode(json.loads(text))
    except Exception as error:
        raise ArgumentsNotJson(
            f"The arguments cannot be compared with those of another call, because no serializer can carry them: {error}. "
            "Nothing was published or run. Pass text, numbers, dates, lists and dictionaries, an id instead of the object."
        ) from error


def digest(task: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of the task's name and arguments.

    The name is part of it: an operation belongs to one task, so another task with the same key must not match. Does **not** make
    a positional and a keyword spelling of one call equal: ``patterns.arguments`` does. Raises ArgumentsNotJson.
    """
    return hashlib.sha256(canonical([task, list(args), dict(kwargs)]).encode("ascii")).hexdigest()


def _parts(value: Any) -> Any:
    if isinstance(value, (set, frozenset)):
        return {"set": sorted(canonical(item) for item in value)}
    if isinstance(value, type) or (callable(value) and hasattr(value, "__qualname__")):
        if "<" in value.__qualname__:
            raise TypeError(f"{value!r} cannot be found by name")
        return f"{value.__module__}.{value.__qualname__}"
    reduced = value.__reduce_ex__(4)
    if isinstance(reduced, str):
        return reduced
    make, given, *more = reduced
    return [f"{make.__module__}.{make.__qualname__}", given, *(part and _listed(part) for part in more)]


def _listed(part: Any) -> Any:
    return list(part) if hasattr(part, "__next__") else part


def _plain(value: Any) -> Any:
    """The value with mappings as sorted pairs, for keys that JSON has no text for."""
    if isinstance(value, Mapping):
        pairs = [[canonical(key), _plain(item)] for key, item in value.items()]
        return {"mapping": sorted(pairs, key=lambda pair: str(pair[0]))}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value

"""One text, and one digest, for the arguments of a call: the same before they are published and after they have arrived."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from kombu.utils.json import JSONEncoder

from tasks_demo.core.exceptions import ArgumentsNotJson


class _Encoder(JSONEncoder):
    """What kombu's JSON carries, spelled as kombu spells it; anything else by the parts that pickle makes of it."""

    def default(self, value: Any) -> Any:
        try:
            return super().default(value)
        except Exception:  # noqa: BLE001  (a __json__ of anybody's; another serializer may carry it all the same)
            return _parts(value)


_AS_GIVEN = _Encoder()
_SORTED = json.JSONEncoder(sort_keys=True, separators=(",", ":"))


def canonical(value: Any) -> str:
    """The value as JSON text: the same for a tuple and a list, and for any order of keys. 1, 1.0, "1" and true differ.

    Whatever the serializers of kombu can carry has one, and has the same one when it arrives. Keys count as the text that JSON
    makes of them. Raises ArgumentsNotJson for what none of them can carry.
    """
    try:
        try:
            text = _AS_GIVEN.encode(value)
        except TypeError:
            text = _AS_GIVEN.encode(_plain(value))  # a key that JSON does not know, a tuple for one
        # There and back: keys that are not text sort differently before JSON has made text of them.
        return _SORTED.encode(json.loads(text))
    except Exception as error:
        raise ArgumentsNotJson(
            f"The arguments cannot be compared with those of another call, because no serializer can carry them: {error}. "
            "Nothing was published or run. Pass text, numbers, dates, lists and dictionaries, an id instead of the object."
        ) from error


def digest(task: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of the task's name and arguments.

    The name belongs to it: an operation is one task's work, and another task under the same key must not take it for its own.
    Not guaranteed: that a positional and a keyword spelling of one call are the same. See ``delivery.arguments``. Raises
    ArgumentsNotJson.
    """
    return hashlib.sha256(canonical([task, list(args), dict(kwargs)]).encode("ascii")).hexdigest()


def _parts(value: Any) -> Any:
    if isinstance(value, (set, frozenset)):
        return {"set": sorted(canonical(item) for item in value)}
    if isinstance(value, type) or (callable(value) and hasattr(value, "__qualname__")):
        if "<" in value.__qualname__:
            raise TypeError(f"{value!r} can be found by no name")
        return f"{value.__module__}.{value.__qualname__}"
    reduced = value.__reduce_ex__(4)
    if isinstance(reduced, str):
        return reduced
    make, given, *more = reduced
    return [f"{make.__module__}.{make.__qualname__}", given, *(part and _listed(part) for part in more)]


def _listed(part: Any) -> Any:
    return list(part) if hasattr(part, "__next__") else part


def _plain(value: Any) -> Any:
    """The value with mappings whose keys are no text as sorted pairs."""
    if isinstance(value, Mapping):
        pairs = [[canonical(key), _plain(item)] for key, item in value.items()]
        return {"mapping": sorted(pairs, key=lambda pair: str(pair[0]))}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value

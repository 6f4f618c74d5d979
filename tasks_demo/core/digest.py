"""Canonical text and digest of a call's arguments: the same in the publisher and in the worker."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from kombu.utils.json import JSONEncoder

from tasks_demo.core.exceptions import ArgumentsNotJson


class _Encoder(JSONEncoder):
    """Encodes values as kombu's JSON does, and any other value by its pickled parts."""

    def default(self, value: Any) -> Any:
        if hasattr(type(value), "__pydantic_validator__") and hasattr(type(value), "model_fields"):
            return fields(value)
        if isinstance(value, (bytearray, memoryview)):
            value = bytes(value)  # as msgpack delivers them
        try:
            return super().default(value)
        except Exception:  # noqa: BLE001  (a user's __json__ may fail; another serializer may still support the value)
            return _parts(value)


_AS_GIVEN = _Encoder()
_SORTED = json.JSONEncoder(sort_keys=True, separators=(",", ":"))


def canonical(value: Any) -> str:
    """Return the value as canonical JSON text, the same for any key order and for tuples and lists. 1, 1.0, "1" and true differ.

    Every value that one of kombu's serializers supports has a canonical text, the same before publishing and on arrival. Keys
    are compared as JSON text. Raises ArgumentsNotJson for a value that no serializer supports.
    """
    try:
        try:
            text = _AS_GIVEN.encode(value)
        except TypeError:
            text = _AS_GIVEN.encode(_plain(value))  # a key that JSON cannot represent, such as a tuple
        # Decode first: keys that are not text sort differently before JSON turns them into text.
        return _SORTED.encode(json.loads(text))
    except Exception as error:
        raise ArgumentsNotJson(
            f"The arguments cannot be compared with those of another call, because no serializer supports them: {error}. "
            "Nothing was published or run. Pass text, numbers, dates, lists and dictionaries, and an id instead of an object."
        ) from error


def digest(task: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """Return the SHA-256 (hex) of the task's name and arguments.

    The name is included because an operation belongs to one task: another task with the same key must not match. Does **not**
    make the positional and the keyword form of one call equal: ``patterns.arguments`` does. Raises ArgumentsNotJson.
    """
    return hashlib.sha256(canonical([task, list(args), dict(kwargs)]).encode("ascii")).hexdigest()


def fields(model: Any) -> dict[str, Any]:
    """Return a Pydantic model's fields by name, without those that equal their default.

    A model, the dictionary that Celery sends for it, and one that leaves defaults out are then the same. The value of a factory
    that may return another one each time, such as uuid4, is left out where the caller did not give it.
    """
    known = type(model).model_fields
    # Only fields: cached properties are in __dict__, too.
    found = {name: value for name, value in model.__dict__.items() if name in known}
    for name, field in known.items():
        if name not in found:
            continue
        factory = field.default_factory
        if factory is None or _is_constant(factory):
            if (factory or not field.is_required()) and _same(found[name], factory() if factory else field.default):
                del found[name]
        elif name not in model.model_fields_set:
            del found[name]
    return {**found, **(getattr(model, "__pydantic_extra__", None) or {})}


def _is_constant(factory: Any) -> bool:
    """Whether each call without arguments returns an equal value: ``list``, ``lambda: ["a"]``, a model's class."""
    if isinstance(factory, type):
        return factory.__module__ == "builtins" or hasattr(factory, "__pydantic_validator__")
    code = getattr(factory, "__code__", None)
    return code is not None and not (code.co_names or code.co_freevars or code.co_argcount)


def _same(one: Any, other: Any) -> bool:
    if one is other:
        return True
    try:
        return canonical(one) == canonical(other)
    except ArgumentsNotJson:
        return False


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
    """Return the value with mappings as sorted pairs, for keys that JSON cannot represent."""
    if isinstance(value, Mapping):
        pairs = [[canonical(key), _plain(item)] for key, item in value.items()]
        return {"mapping": sorted(pairs, key=lambda pair: str(pair[0]))}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value

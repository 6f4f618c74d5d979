"""Hide the values of sensitive arguments on pages and in commands: those whose name matches ``TASKS_DEMO_MASKED``.

Does **not** hide a secret under another name, or one that a task writes into an error without its name. Does not change what is
stored or published.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from inspect import Parameter
from typing import Any

from tasks_demo.core.conf import settings
from tasks_demo.core.exceptions import InvalidSetting

#: Shown in place of a value.
MASK = "(masked)"
#: Values nested more deeply than this are hidden.
DEEPEST = 30


def is_masked(name: object) -> bool:
    """Return whether the value of an argument, option or key of this name is hidden. With an invalid setting every value is."""
    try:
        declared = settings.MASKED
    except InvalidSetting:
        return True
    lowered = str(name).lower()
    return any(part.lower() in lowered for part in declared)


def masked(value: Any, depth: int = 0) -> Any:
    """Return a copy of the value in which the values of sensitive names are hidden, at any depth and inside text."""
    if depth > DEEPEST:
        return MASK
    match value:
        case str():
            return masked_text(value)
        case Mapping():
            return {key: MASK if is_masked(key) else masked(inner, depth + 1) for key, inner in value.items()}
        case list() | tuple():
            return [masked(inner, depth + 1) for inner in value]
    return value


def masked_call(task: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """Return the arguments of a call with the sensitive ones hidden.

    ``task``: the registered task, whose signature names the positional arguments. None (not registered here): all positional
    arguments are hidden.
    """
    names = _positional(task)
    if names is None:
        shown = [MASK for _ in args]
    else:
        named = [*names, *[names[-1] if names else ""] * len(args)]
        shown = [MASK if is_masked(name) else masked(value) for name, value in zip(named, args, strict=False)]
    return shown, masked(dict(kwargs))


def masked_text(text: str) -> str:
    """Return the text with the values after sensitive names hidden, as in ``password=x`` and ``{"password": "x"}``."""
    try:
        pattern = _pattern(tuple(settings.MASKED))
    except InvalidSetting:
        return MASK
    return pattern.sub(rf"\1{MASK}", text) if pattern else text


def masked_body(text: str) -> str:
    """Return the body of a message with sensitive values hidden. A body that is not JSON is hidden as a whole."""
    try:
        content = json.loads(text)
        if isinstance(content, list) and len(content) >= 2 and isinstance(content[1], dict):
            args, kwargs = masked_call(None, content[0], content[1])
            return json.dumps([args, kwargs])
        return json.dumps(masked(content))
    except (ValueError, TypeError, RecursionError):
        return f"{MASK}: {len(text):,} characters that are not JSON"


def _positional(task: Any) -> list[str] | None:
    """Return the names of the positional parameters, that of ``*rest`` last; None if they are unknown."""
    if task is None:
        return None
    try:
        parameters = inspect.signature(task.run).parameters.values()
    except (TypeError, ValueError):
        return None
    return [each.name for each in parameters if each.kind not in (Parameter.KEYWORD_ONLY, Parameter.VAR_KEYWORD)]


@lru_cache(maxsize=8)
def _pattern(names: tuple[str, ...]) -> re.Pattern[str] | None:
    if not names:
        return None
    # Every repetition before the value is bounded: hostile texts must not take quadratic time.
    name = "|".join(re.escape(each) for each in names)
    value = r"""\\?"(?:[^"\\]|\\.)*"?|'(?:[^'\\]|\\.)*'?|(?:bearer\s|basic\s)?[^\s,;&)}\]]+"""
    return re.compile(
        rf"""((?:{name})[\w-]{{0,60}}\\?["']?\s{{0,4}}[=:]\s{{0,4}})(?:{value})""", re.IGNORECASE | re.DOTALL
    )

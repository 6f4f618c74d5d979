"""Parse a job from text input: arguments as JSON, and an operation key. Each error message says what to write instead."""

from __future__ import annotations

import inspect
import json
import math
import types
import typing
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from tasks_demo.core.exceptions import ArgumentsNotJson, InvalidOperationKey, PublicationRefused
from tasks_demo.core.lifecycle import described
from tasks_demo.leases.keys import validate_operation
from tasks_demo.patterns.base import PatternTask
from tasks_demo.patterns.operation_header import DIGITS, HEADER
from tasks_demo.patterns.publishing import arguments
from tasks_demo.publishing.publishable import publishable, registered

#: Maximum size of the arguments, bytes.
MOST_BYTES = 65_536
#: Annotated types that are checked, and their names in JSON terms.
WORDS: dict[Any, str] = {
    str: "text", int: "a whole number", float: "a number", bool: "true or false", list: "a list", dict: "an object",
    types.NoneType: "null",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Job:
    """A job that can be published. ``operation``: its operation key; empty: the task ID."""

    task: Any
    args: list[Any]
    kwargs: dict[str, Any]
    operation: str = ""
    options: dict[str, Any] = field(default_factory=dict)


def job_of(name: str, text: str, operation: str = "", *, twice: bool = False) -> Job:
    """Return the job. ``text``: a JSON object of arguments by name, or a JSON list of arguments by position.

    With ``twice`` and without a key a key is generated, so that both publications are one operation. Raises PublicationRefused.
    """
    task = registered(name) if name in publishable() else None
    if task is None:
        _refuse("this task may not be published here. The setting TASKS_DEMO_PUBLISHABLE lists the allowed tasks")
    content = _parsed(text)
    args, kwargs = (content, {}) if isinstance(content, list) else ([], content)
    try:
        arguments(task, args, kwargs, {})
    except TypeError as error:
        _refuse(f"the arguments do not fit the task: {error}. Its arguments are {signature_of(task)}")
    _check_types(task, args, kwargs)
    operation = operation.strip()
    try:
        return _with_key(task, args, kwargs, operation, twice=twice)
    except (InvalidOperationKey, ArgumentsNotJson) as error:
        _refuse(str(error).rstrip("."))


def signature_of(task: Any) -> str:
    """Return the parameters of the body as Python writes them, in at most 500 characters."""
    for eval_str in (True, False):  # an annotation may refer to a name that is imported for type checkers only
        try:
            return str(inspect.signature(task.run, eval_str=eval_str))[:500]
        except Exception:  # noqa: BLE001, S112  (annotations are code)
            continue
    return "not known"


def example(task: Any) -> str:
    """Return a JSON template with the required arguments. Texts are the argument's name and a number: many bodies refuse ""."""
    values: dict[Any, Any] = {int: 1, float: 1.0, bool: False, list: [], dict: {}}
    hints = _hints(task)
    try:
        parameters = inspect.signature(task.run).parameters.values()
    except (TypeError, ValueError):
        return "{}"
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    required = [each.name for each in parameters if each.kind in named and each.default is each.empty]
    filled = {name: f"{name}-1" if hints.get(name) is str else values.get(hints.get(name), "") for name in required}
    return json.dumps(filled, indent=2)


def with_key(task: Any, args: list[Any], kwargs: dict[str, Any], key: str) -> dict[str, Any]:
    """Return the header that gives a job with these arguments this operation key."""
    return {HEADER: f"{task.digest(args, kwargs)[:DIGITS]}:{key}"}


def _with_key(task: Any, args: list[Any], kwargs: dict[str, Any], operation: str, *, twice: bool) -> Job:
    if not isinstance(task, PatternTask) or task.operation is None:
        if operation:
            _refuse("the task declares no `operation`, so a key would have no effect. Leave it empty, or declare one")
        return Job(task, args, kwargs)
    key = validate_operation(operation) if operation else task.operation_key(args, kwargs, "")
    if twice and not key:
        key = f"by-hand:{uuid.uuid4()}"
    return Job(task, args, kwargs, key, {"headers": with_key(task, args, kwargs, key)} if key else {})


def _parsed(text: str) -> Any:
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > MOST_BYTES:
        _refuse(f"the arguments have {size:,} bytes, and at most {MOST_BYTES:,} can be sent here")
    try:
        content = json.loads(text or "{}", parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        _refuse(f"the arguments are not JSON: {error.msg} at line {error.lineno}, column {error.colno}")
    except (ValueError, RecursionError) as error:
        _refuse(f"the arguments are not valid JSON: {described(error)}")
    if not isinstance(content, (list, dict)):
        _refuse('the arguments must be a JSON object of names and values, like {"order": 17}, or a JSON list')
    _check_values(content)
    return content


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"JSON has no {name}")


def _check_values(value: Any) -> None:
    match value:
        case str():
            if "\0" in value or any("\ud800" <= letter <= "\udfff" for letter in value):
                _refuse("a text contains NUL or a lone surrogate, which not every database and serializer accepts")
        case float() if not math.isfinite(value):
            _refuse("a number is too large")
        case list():
            for inner in value:
                _check_values(inner)
        case dict():
            for name, inner in value.items():
                _check_values(name)
                _check_values(inner)


def _hints(task: Any) -> Mapping[str, Any]:
    try:
        return typing.get_type_hints(task.run)
    except Exception:  # noqa: BLE001  (an annotation may refer to a name that is imported for type checkers only)
        return {}


def _check_types(task: Any, args: list[Any], kwargs: dict[str, Any]) -> None:
    hints = _hints(task)
    try:
        bound = inspect.signature(task.run).bind(*args, **kwargs).arguments
    except (TypeError, ValueError):  # ``arguments`` has accepted them, by the parameters of a decorator
        return
    for name, value in bound.items():
        allowed = _allowed(hints.get(name))
        if allowed and not any(_fits(value, kind) for kind in allowed):
            words = " or ".join(WORDS[kind] for kind in allowed)
            _refuse(f"{name} must be {words}, not {WORDS[type(value)]}")


def _allowed(hint: Any) -> list[Any]:
    """Return the types that an annotation allows; empty if the annotation is not checked."""
    kinds = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    found = [typing.get_origin(kind) or kind for kind in kinds]
    return found if all(kind in WORDS for kind in found) else []


def _fits(value: Any, kind: Any) -> bool:
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, (int, float) if kind is float else kind)


def _refuse(why: str) -> NoReturn:
    raise PublicationRefused(f"Nothing was published: {why}.")

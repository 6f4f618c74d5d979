"""Parse requests strictly. Anything invalid raises a Problem that says what is expected."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Set as AbstractSet
from typing import Any
from urllib.parse import unquote

from django.http import HttpRequest, UnreadablePostError

from tasks_demo.demo.bank.models import LARGEST_INTEGER, LONGEST_TEXT
from tasks_demo.demo.bank.problems import Problem

#: An RFC 8941 string, as draft-ietf-httpapi-idempotency-key-header requires.
_KEY = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\])+)"')


def json_object(request: HttpRequest, required: AbstractSet[str], optional: AbstractSet[str] = frozenset()) -> Any:
    """Return the body: one JSON object in UTF-8 with these members and no others."""
    try:
        found = json.loads(request.body.decode())
    except (ValueError, RecursionError, UnreadablePostError) as error:
        raise Problem(f"The body is not JSON in UTF-8 ({type(error).__name__}).") from error
    if not isinstance(found, dict) or not required <= found.keys() <= required | optional:
        members = ", ".join(sorted(required)) + "".join(f"[, {name}]" for name in sorted(optional))
        raise Problem(f"The body must be one JSON object with these members: {members}.")
    return found


def text(value: object, name: str, least: int = 1) -> str:
    """Return ``value`` as text that every database can store: no control characters, no lone surrogates, not too long."""
    if not isinstance(value, str) or not least <= len(value) <= LONGEST_TEXT:
        raise Problem(f"{name} must be a string of {least} to {LONGEST_TEXT} characters.")
    if any(unicodedata.category(character) in {"Cc", "Cs"} for character in value):
        raise Problem(f"{name} contains a control character or a lone surrogate.")
    return value


def integer(value: object, name: str, least: int, most: int) -> int:
    """Return ``value`` if it is an integer within bounds. True and 1.0 are not integers."""
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise Problem(f"{name} must be a whole number, {least} to {most}.")
    return value


def digits(value: str, name: str, least: int, most: int) -> int:
    """Parse the integer in a header or the query string."""
    return integer(int(value) if re.fullmatch("[0-9]{1,19}", value) else None, name, least, most)


def query(request: HttpRequest, *allowed: str) -> dict[str, str]:
    """Return the query string. An unknown name is refused: a mistyped filter must not mean "all"."""
    if not request.GET.keys() <= set(allowed) or any(len(values) != 1 for _, values in request.GET.lists()):
        raise Problem(f"The query may contain {', '.join(allowed)}, each once, and nothing else.")
    return {name: str(value) for name, value in request.GET.items()}


def idempotency_key(request: HttpRequest) -> str | None:
    """Return the ``Idempotency-Key``, or None without the header."""
    value = request.headers.get("Idempotency-Key")
    if value is None:
        return None
    quoted = _KEY.fullmatch(value.strip())
    if quoted is None:
        raise Problem('Idempotency-Key must be one quoted string of printable ASCII, like "order-17".')
    return text(re.sub(r"\\(.)", r"\1", quoted[1]), "Idempotency-Key")


def fencing_token(request: HttpRequest) -> int | None:
    """Return the ``Fencing-Token``, above zero, or None without the header."""
    value = request.headers.get("Fencing-Token")
    return None if value is None else digits(value.strip(), "Fencing-Token", 1, LARGEST_INTEGER)


def task_id(request: HttpRequest) -> str:
    """Return the caller's ``Task-Id``, sent as percent-encoded UTF-8; empty without the header."""
    try:
        return text(unquote(request.headers.get("Task-Id", ""), errors="strict"), "Task-Id", least=0)
    except UnicodeDecodeError as error:
        raise Problem("Task-Id must be percent-encoded UTF-8.") from error

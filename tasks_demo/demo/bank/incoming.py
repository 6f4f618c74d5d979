"""Reading what callers send. Everything that is not exactly right is a Problem with a sentence, never a guess."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Collection
from typing import Any, NoReturn
from urllib.parse import unquote

from django.http import HttpRequest, UnreadablePostError

from tasks_demo.demo.bank.models import LARGEST_INTEGER, LONGEST_TEXT
from tasks_demo.demo.bank.problems import Problem

#: A debit needs less than 2 kB. Bytes.
LARGEST_BODY = 16_384

# A string of RFC 8941, as the draft asks; and the bare form that most clients send.
_QUOTED_KEY = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\])*)"')
_BARE_KEY = re.compile(r"[!#-+\--~]+")
_NUMBER = re.compile(r"[0-9]{1,19}")
_JSON_TYPE = re.compile(r'application/json\s*(;\s*charset="?utf-8"?\s*)?', re.IGNORECASE)


def json_object(
    request: HttpRequest, *, required: Collection[str], optional: Collection[str] = (), largest: int = LARGEST_BODY
) -> dict[str, Any]:
    """The request's body: one JSON object in UTF-8, of at most ``largest`` bytes, with these members and no others."""
    if not _JSON_TYPE.fullmatch(request.headers.get("Content-Type", "").strip()):
        raise Problem(415, "Send the body as Content-Type: application/json, in UTF-8.")
    try:
        found = json.loads(_body(request, largest).decode(), object_pairs_hook=_members, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise Problem(400, f"The body is not JSON in UTF-8: {_first_line(error)}.") from error
    if not isinstance(found, dict):
        raise Problem(400, "The body must be one JSON object.")
    if missing := sorted(set(required) - found.keys()):
        raise Problem(400, f"The body lacks {', '.join(missing)}.")
    if unknown := found.keys() - {*required, *optional}:
        allowed = ", ".join(sorted({*required, *optional}))
        raise Problem(400, f"The body has {len(unknown)} unknown members; known are {allowed}.")
    return found


def _body(request: HttpRequest, largest: int) -> bytes:
    length = request.META.get("CONTENT_LENGTH") or ""
    if not _NUMBER.fullmatch(length):
        raise Problem(411, "Send the body in one piece, with a Content-Length.")
    if int(length) > largest:
        raise Problem(413, f"The body has {length} bytes; at most {largest} are taken.")
    try:
        body = request.body
    except UnreadablePostError as error:
        raise Problem(400, "The body ended early.") from error
    if len(body) != int(length):
        raise Problem(400, "The body ended early.")
    return body


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a member is given twice")
    return members


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0].rstrip(".")[:120] or type(error).__name__


def text(value: object, name: str, *, least: int = 1) -> str:
    """``value`` as text that every database can store: UTF-8, no control characters, not too long."""
    if not isinstance(value, str):
        raise Problem(400, f"{name} must be a string.")
    if not least <= len(value) <= LONGEST_TEXT:
        raise Problem(400, f"{name} has {len(value)} characters; it must have {least} to {LONGEST_TEXT}.")
    if any(unicodedata.category(character) in {"Cc", "Cs"} for character in value):
        raise Problem(400, f"{name} contains a control character or half of a surrogate pair.")
    return value


def integer(value: object, name: str, least: int, most: int) -> int:
    """``value`` as a whole number between two bounds; True is not 1, and 1.0 is not either."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise Problem(400, f"{name} must be a whole number.")
    if not least <= value <= most:
        raise Problem(400, f"{name} must be {least} to {most}.")
    return value


def query(request: HttpRequest, *allowed: str) -> dict[str, str]:
    """The query string. An unknown name is refused: a mistyped filter must not mean "all"."""
    if unknown := request.GET.keys() - set(allowed):
        raise Problem(400, f"The query has {len(unknown)} unknown parameters; known are {', '.join(allowed)}.")
    found = {}
    for name, values in request.GET.lists():
        if len(values) != 1:
            raise Problem(400, f"The query gives {name} {len(values)} times.")
        found[name] = values[0]
    return found


def number(value: str, name: str, least: int, most: int) -> int:
    """A number of the query string."""
    if not _NUMBER.fullmatch(value):
        raise Problem(400, f"{name} must be a whole number, {least} to {most}.")
    return integer(int(value), name, least, most)


def idempotency_key(request: HttpRequest) -> str | None:
    """The ``Idempotency-Key``, quoted or bare (``"a"`` and ``a`` are the same key); None without the header."""
    value = request.headers.get("Idempotency-Key")
    if value is None:
        return None
    if quoted := _QUOTED_KEY.fullmatch(value.strip()):
        key = re.sub(r"\\(.)", r"\1", quoted[1])
    elif _BARE_KEY.fullmatch(value.strip()):
        key = value.strip()
    else:
        raise Problem(400, 'Idempotency-Key must be one string of printable ASCII, like "order-17".')
    return text(key, "Idempotency-Key")


def fencing_token(request: HttpRequest) -> int | None:
    """The ``Fencing-Token``, a whole number above zero; None without the header."""
    value = request.headers.get("Fencing-Token")
    return None if value is None else number(value.strip(), "Fencing-Token", 1, LARGEST_INTEGER)


def task_id(request: HttpRequest) -> str:
    """The caller's ``Task-Id``, percent-encoded UTF-8; empty without the header."""
    try:
        return text(unquote(request.headers.get("Task-Id", ""), errors="strict"), "Task-Id", least=0)
    except UnicodeDecodeError as error:
        raise Problem(400, "Task-Id must be percent-encoded UTF-8.") from error

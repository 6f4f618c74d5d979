"""What requests contain, and how it is parsed: strictly. Anything invalid raises a Problem that says what is expected."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, TypeVar
from urllib.parse import unquote

import msgspec
from django.http import HttpRequest, UnreadablePostError
from msgspec import Meta

from tasks_demo.demo.bank.models import LARGEST_AMOUNT, LARGEST_INTEGER, LONGEST_TEXT
from tasks_demo.demo.bank.problems import Problem

T = TypeVar("T")

LARGEST_PAGE = 1000
#: An RFC 8941 string, as draft-ietf-httpapi-idempotency-key-header requires.
_KEY = re.compile(r'"(?:[ !#-\[\]-~]|\\["\\])+"')
#: Without control characters, so that every database can store it.
Printable = Annotated[str, Meta(max_length=LONGEST_TEXT, pattern=r"\A[^\x00-\x1f\x7f-\x9f]*\Z")]
Text = Annotated[Printable, Meta(min_length=1)]


class DebitRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of ``POST /debits``: a debit to make. ``amount`` is in cents."""

    account: Text
    amount: Annotated[int, Meta(ge=1, le=LARGEST_AMOUNT)]
    reference: Text


class Headers(msgspec.Struct, frozen=True):
    """The headers of ``POST /debits``, each optional. ``source`` is the caller's task ID."""

    key: Text | None = msgspec.field(default=None, name="Idempotency-Key")
    fence: Annotated[int, Meta(ge=1, le=LARGEST_INTEGER)] | None = msgspec.field(default=None, name="Fencing-Token")
    source: Printable = msgspec.field(default="", name="Task-Id")


class Page(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The query of ``GET /debits``. An unknown name is refused: a mistyped filter must not mean "all"."""

    reference: Text | None = None
    after: Annotated[int, Meta(ge=0, le=LARGEST_INTEGER)] = 0
    limit: Annotated[int, Meta(ge=1, le=LARGEST_PAGE)] = LARGEST_PAGE


def body(request: HttpRequest, kind: type[T]) -> T:
    with _parsing("body"):
        return msgspec.json.decode(request.body, type=kind)


def query(request: HttpRequest) -> Page:
    with _parsing("query"):
        # A name that is given twice becomes a list, which no field accepts.
        given = {name: values[0] if len(values) == 1 else values for name, values in request.GET.lists()}
        return msgspec.convert(given, Page, strict=False)


def headers(request: HttpRequest) -> Headers:
    """Return the headers. ``Task-Id`` is sent as percent-encoded UTF-8."""
    given = dict(request.headers)
    key = given.get("Idempotency-Key")
    if key is not None:
        if not _KEY.fullmatch(key):
            raise Problem('Idempotency-Key must be one quoted string of printable ASCII, like "order-17".')
        given["Idempotency-Key"] = re.sub(r"\\(.)", r"\1", key[1:-1])
    with _parsing("header"):
        given["Task-Id"] = unquote(given.get("Task-Id", ""), errors="strict")
        return msgspec.convert(given, Headers, strict=False)


@contextmanager
def _parsing(part: str) -> Iterator[None]:
    try:
        yield
    except (ValueError, UnreadablePostError) as error:
        raise Problem(f"The {part} of the request is not valid: {error}.") from error

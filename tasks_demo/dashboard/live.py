"""Answers the polling of live parts: nothing if nothing has changed.

A live part is an element with ``data-live``, ``data-live-mark``, ``hx-get`` and ``hx-trigger="live"`` (see ``live.html`` and
``live.js``). The script sends the mark of what it shows; the view computes the present mark cheaply and draws if they differ.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from django.http import HttpRequest, HttpResponse

#: Request and response header with the mark of what is shown.
MARK = "Live-Mark"
#: Response header that ends the polling.
DONE = "Live-Done"


def mark(*parts: object) -> str:
    """Digest what a live part depends on, in 16 hexadecimal digits."""
    return hashlib.sha256("\x1f".join(map(repr, parts)).encode("utf-8", "backslashreplace")).hexdigest()[:16]


def is_poll(request: HttpRequest) -> bool:
    """Whether the request comes from a live part, which wants a part and not a page."""
    return request.headers.get("HX-Request") == "true"


def respond(request: HttpRequest, now: str, draw: Callable[[], HttpResponse], *, done: bool = False) -> HttpResponse:
    """Answer a poll: 204 if the browser shows ``now`` already, else what ``draw`` returns. ``done``: nothing changes any more."""
    response = HttpResponse(status=204) if request.headers.get(MARK) == now else draw()
    response[MARK] = now
    response["Cache-Control"] = "no-store"
    if done:
        response[DONE] = "1"
    return response

"""Errors of the service as callers see them: ``application/problem+json`` (RFC 9457)."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from django.http import JsonResponse


class Problem(Exception):
    """A request that is answered with an error. ``detail`` is a sentence for a human being.

    ``charged`` is part of the answer: False when it is certain that this request charged nothing, None when it is not
    known. ``kind`` names the problem for programs (``type`` in the RFC) where the status alone does not.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        charged: bool | None = False,
        headers: dict[str, str] | None = None,
        kind: str = "about:blank",
    ) -> None:
        super().__init__(detail)
        self.kind = kind
        self.status = status
        self.detail = detail
        self.charged = charged
        self.headers = headers or {}

    def response(self) -> JsonResponse:
        members: dict[str, Any] = {
            "type": self.kind,
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
            "charged": self.charged,
        }
        return JsonResponse(members, status=self.status, headers=self.headers, content_type="application/problem+json")


class Unavailable(Problem):
    """The database did not take the transaction: it was rolled back, nothing was charged."""

    def __init__(self, why: str) -> None:
        super().__init__(
            503,
            f"The bank's database cannot be used ({why}): nothing was charged. Try again later.",
            headers={"Retry-After": "1"},
        )


class Unconfirmed(Problem):
    """The connection to the database server broke during COMMIT."""

    def __init__(self, why: str) -> None:
        super().__init__(
            504,
            f"The database did not confirm the transaction ({why}): the debit may have been made. "
            "Ask GET /debits?reference= or repeat the request with the same Idempotency-Key.",
            charged=None,
        )


class InFlight(Problem):
    """Draft-ietf-httpapi-idempotency-key-header, section 2.7: the first request is still being processed."""

    def __init__(self) -> None:
        super().__init__(
            409,
            "A request with this Idempotency-Key is still being processed. Repeat this one later to get its answer.",
            charged=None,
            headers={"Retry-After": "1"},
        )


class KeyReused(Problem):
    """The same draft: the key belongs to another payload."""

    def __init__(self) -> None:
        super().__init__(
            422,
            "This Idempotency-Key was used with another request body. Nothing was charged now. "
            "Use a new key for a new debit.",
        )


class StaleFence(Problem):
    """A holder that has been replaced still writes: it was paused or cut off, and does not know it yet."""

    def __init__(self, given: int, highest: int) -> None:
        super().__init__(
            412,
            f"The Fencing-Token {given} is stale: this reference has been served under {highest}. Nothing was charged "
            "now. Another worker has taken the operation over; leave it to that one.",
            kind="tag:bank.example,2026:stale-fencing-token",
        )

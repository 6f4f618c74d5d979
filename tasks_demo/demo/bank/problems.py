"""The bank's error responses: ``application/problem+json`` (RFC 9457)."""

from __future__ import annotations

from http import HTTPStatus

from django.http import JsonResponse


class Problem(Exception):
    """The request was refused. Subclasses define the status, and the ``sentence`` that is formatted with the arguments.

    ``charged`` is a member of the response: False when this request certainly charged nothing, None when that is unknown.
    """

    status = 400
    sentence = "{}"
    charged: bool | None = False
    #: ``type`` of the RFC, where the status alone does not name the problem.
    kind = "about:blank"
    retry_after: int | None = None

    def __init__(self, *given: object) -> None:
        super().__init__(self.sentence.format(*given))

    def response(self) -> JsonResponse:
        members = {
            "type": self.kind,
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": str(self),
            "charged": self.charged,
        }
        headers = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        return JsonResponse(members, status=self.status, headers=headers, content_type="application/problem+json")


class NotFound(Problem):
    status = 404


class InFlight(Problem):
    status, charged, retry_after = 409, None, 1
    sentence = (
        "A request with this Idempotency-Key is still being processed. Repeat this one later to get its response."
    )


class StaleFence(Problem):
    status, kind = 412, "tag:bank.example,2026:stale-fencing-token"
    sentence = (
        "The Fencing-Token {} is stale: this reference was charged under {}. Nothing was charged now. Another worker has "
        "taken over the operation; do not repeat the request."
    )


class KeyReused(Problem):
    status = 422
    sentence = "This Idempotency-Key was used with another request body. Nothing was charged now. Use a new key for a new debit."


class Refused(Problem):
    """The fault ``refuse``."""

    status = 503
    sentence = "The bank is refusing debits: nothing was charged. Try again later."


class Unavailable(Problem):
    """The transaction was rolled back."""

    status, retry_after = 503, 1
    sentence = "The bank's database cannot be used ({}): nothing was charged. Try again later."


class Unconfirmed(Problem):
    """The connection to the database broke during COMMIT."""

    status, charged = 504, None
    sentence = (
        "The database did not confirm the transaction ({}): the debit may have been made. "
        "Ask GET /debits?reference= or repeat the request with the same Idempotency-Key."
    )

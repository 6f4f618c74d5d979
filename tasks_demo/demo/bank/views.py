"""The bank's HTTP interface. Errors are problems (``bank.problems``); amounts are integer cents.

=========================================  =============================================================
``POST /debits``                           ``{account, amount, reference}`` → 201 and the debit; with an
                                           ``Idempotency-Key`` as the IETF draft says; ``Fencing-Token`` as
                                           ``bank.charging`` says (412); ``Task-Id`` is stored
``GET /debits?reference=&after=&limit=``   ``{debits, next}``, by number; ``next`` is the ``after`` of the
                                           following page, or null
``GET /health``                            200 when the database answers, and the identity of the database
``GET``, ``PUT``, ``DELETE /faults/NAME``  ``{mode, references, each, delay_ms}`` → ``hits`` per reference: see
                                           ``bank.fault_injection``; 404 unless started with ``--faults``
=========================================  =============================================================
"""

from __future__ import annotations

import hashlib
from typing import Any

from django.http import HttpRequest, HttpResponseBase, JsonResponse
from django.urls import path
from django.views import View

from tasks_demo.demo.bank import charging, fault_injection, incoming
from tasks_demo.demo.bank.fault_injection import Fault, Mode
from tasks_demo.demo.bank.models import LARGEST_AMOUNT, LARGEST_INTEGER, Debit
from tasks_demo.demo.bank.problems import NotFound, Problem, Refused

LARGEST_PAGE = 1000


class BankView(View):
    """Turns a raised Problem into the response."""

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        try:
            response = super().dispatch(request, *args, **kwargs)
        except Problem as problem:
            response = problem.response()
        # Required to keep the connection alive.
        response.headers.setdefault("Content-Length", str(len(response.content)))  # type: ignore[attr-defined]
        return response


class Debits(BankView):
    def post(self, request: HttpRequest) -> JsonResponse:
        given = incoming.json_object(request, {"account", "amount", "reference"})
        asked = charging.DebitRequest(
            account=incoming.text(given["account"], "account"),
            amount=incoming.integer(given["amount"], "amount", 1, LARGEST_AMOUNT),
            reference=incoming.text(given["reference"], "reference"),
            source=incoming.task_id(request),
            fence=incoming.fencing_token(request),
        )
        key = incoming.idempotency_key(request)
        if fault_injection.injected(Mode.REFUSE, asked.reference):
            raise Refused
        debit, replayed = charging.charge(asked, key, hashlib.sha256(request.body).hexdigest())
        # Sorted, so that a replay equals the first response byte by byte: PostgreSQL does not keep the order of keys.
        response = JsonResponse(debit, status=201, json_dumps_params={"sort_keys": True})
        if replayed:
            response["Idempotent-Replayed"] = "true"
        elif fault_injection.injected(Mode.LOSE_RESPONSE, asked.reference):
            fault_injection.reset(request.META["bank.connection"])
        return response

    def get(self, request: HttpRequest) -> JsonResponse:
        asked = incoming.query(request, "reference", "after", "limit")
        after = incoming.digits(asked.get("after", "0"), "after", 0, LARGEST_INTEGER)
        limit = incoming.digits(asked.get("limit", str(LARGEST_PAGE)), "limit", 1, LARGEST_PAGE)
        debits = Debit.objects.filter(id__gt=after)
        if "reference" in asked:
            debits = debits.filter(reference=incoming.text(asked["reference"], "reference"))
        with charging.reading():
            found = list(debits[: limit + 1])
        following = found[limit - 1].pk if len(found) > limit else None
        return JsonResponse({"debits": [debit.as_json() for debit in found[:limit]], "next": following})


class Health(BankView):
    def get(self, request: HttpRequest) -> JsonResponse:
        return JsonResponse({"status": "ok", "identity": charging.identity()})


class NamedFault(BankView):
    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        if fault_injection.faults is None:
            return NotFound("Fault injection is off; start the bank with --faults.").response()
        return super().dispatch(request, *args, **kwargs)

    def get(self, request: HttpRequest, name: str) -> JsonResponse:
        return self._shown((fault_injection.faults or {}).get(name))

    def delete(self, request: HttpRequest, name: str) -> JsonResponse:
        return self._shown(fault_injection.replace(name, None))

    def put(self, request: HttpRequest, name: str) -> JsonResponse:
        given = incoming.json_object(request, {"mode", "references"}, {"each", "delay_ms"})
        mode, references = given["mode"], given["references"]
        if mode not in list(Mode):
            raise Problem(f"mode must be one of {', '.join(Mode)}.")
        if not isinstance(references, list) or not references:
            raise Problem("references must be an array of at least one string.")
        slow = mode == Mode.SLOW
        fault = Fault(
            Mode(mode),
            [incoming.text(reference, "A reference") for reference in references],
            incoming.integer(given.get("each", 1), "each", 1, fault_injection.LARGEST_COUNT),
            incoming.integer(given.get("delay_ms", 0), "delay_ms", int(slow), slow * fault_injection.LONGEST_DELAY_MS),
        )
        fault_injection.replace(name, fault)
        return self._shown(fault)

    def _shown(self, fault: Fault | None) -> JsonResponse:
        if fault is None:
            raise NotFound("There is no fault of that name: it was removed, or the bank was restarted.")
        return JsonResponse(fault.as_json())


#: Everything that the bank's process serves; see ``bank.server``.
urlpatterns = [
    path("debits", Debits.as_view()),
    path("health", Health.as_view()),
    path("faults/<str:name>", NamedFault.as_view()),
]

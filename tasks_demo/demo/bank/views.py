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

from typing import Any

from django.http import HttpRequest, HttpResponseBase, JsonResponse
from django.urls import path
from django.views import View

from tasks_demo.demo.bank import charging, fault_injection, incoming
from tasks_demo.demo.bank.fault_injection import Fault, Mode
from tasks_demo.demo.bank.incoming import DebitRequest
from tasks_demo.demo.bank.models import Debit
from tasks_demo.demo.bank.problems import NotFound, Problem, Refused


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
        debit_request, headers = incoming.body(request, DebitRequest), incoming.headers(request)
        if fault_injection.injected(Mode.REFUSE, debit_request.reference):
            raise Refused
        debit, replayed = charging.charge(debit_request, headers)
        response = JsonResponse(debit.as_json(), status=201)
        if replayed:
            response["Idempotent-Replayed"] = "true"
        elif fault_injection.injected(Mode.LOSE_RESPONSE, debit_request.reference):
            fault_injection.reset(request.META["bank.connection"])
        return response

    def get(self, request: HttpRequest) -> JsonResponse:
        page = incoming.query(request)
        debits = Debit.objects.filter(id__gt=page.after)
        if page.reference is not None:
            debits = debits.filter(reference=page.reference)
        with charging.reading():
            found = list(debits[: page.limit + 1])
        following = found[page.limit - 1].pk if len(found) > page.limit else None
        return JsonResponse({"debits": [debit.as_json() for debit in found[: page.limit]], "next": following})


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
        fault = incoming.body(request, Fault)
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

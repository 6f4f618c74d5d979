"""The bank's HTTP interface. Errors are problems (``bank.problems``); amounts are integer cents.

=========================================  =============================================================
``POST /debits``                           ``{account, amount, reference}`` → 201 and the debit; with an
                                           ``Idempotency-Key`` as the IETF draft says; ``Fencing-Token`` as
                                           ``bank.charging`` says (412); ``Task-Id`` is noted
``GET /debits?reference=&after=&limit=``   ``{debits, next}``, by number; ``next`` is the ``after`` of the
                                           following page, or null
``GET /accounts/NAME``                     number and sum of its debits
``GET /health``                            200 when the database answers, and the identity of the books
``GET``, ``PUT /faults``                   ``{mode, delay_ms, count}``: see ``bank.fault_injection``; 404 unless the
                                           bank was started with ``--faults``
``GET``, ``PUT``, ``DELETE /faults/NAME``  ``{mode, delay_ms, references, each}`` → hits per reference
=========================================  =============================================================
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

from django.db.models import Count, Sum
from django.http import HttpRequest, HttpResponse, JsonResponse

from tasks_demo.demo.bank import charging, fault_injection, incoming
from tasks_demo.demo.bank.models import LARGEST_AMOUNT, LARGEST_INTEGER, Account, Debit
from tasks_demo.demo.bank.problems import Problem

LARGEST_PAGE = 1000

View = Callable[..., HttpResponse]


def by_method(**views: View) -> View:
    """One view out of one per method; a Problem raised by any becomes its response."""
    if "GET" in views:
        views["HEAD"] = views["GET"]

    def view(request: HttpRequest, **arguments: str) -> HttpResponse:
        try:
            chosen = views.get(request.method or "")
            if chosen is None:
                allowed = ", ".join(sorted(views))
                raise Problem(405, f"Only {allowed} are possible here.", headers={"Allow": allowed})
            return chosen(request, **arguments)
        except Problem as problem:
            return problem.response()

    return view


def make_debit(request: HttpRequest) -> HttpResponse:
    given = incoming.json_object(request, required=("account", "amount", "reference"))
    order = charging.Order(
        account=incoming.text(given["account"], "account"),
        amount=incoming.integer(given["amount"], "amount", 1, LARGEST_AMOUNT),
        reference=incoming.text(given["reference"], "reference"),
        source=incoming.task_id(request),
        fence=incoming.fencing_token(request),
    )
    key = incoming.idempotency_key(request)
    if fault_injection.strikes(fault_injection.Mode.REFUSE, order.reference):
        raise Problem(503, "The bank refuses debits at the moment: nothing was charged. Try again later.")
    answer = charging.charge(order, key, _fingerprint(request))
    # Sorted: PostgreSQL does not keep the order of a stored answer, and a replay is the first response byte by byte.
    response = JsonResponse(answer.debit, status=201, json_dumps_params={"sort_keys": True})
    if answer.replayed:
        response["Idempotent-Replayed"] = "true"
        return response
    if "gunicorn.socket" in request.META and fault_injection.strikes(
        fault_injection.Mode.LOSE_RESPONSE, order.reference
    ):
        fault_injection.reset(request.META["gunicorn.socket"])
    return response


def _fingerprint(request: HttpRequest) -> str:
    return hashlib.sha256(f"{request.method} {request.path}\n".encode() + request.body).hexdigest()


def list_debits(request: HttpRequest) -> HttpResponse:
    asked = incoming.query(request, "reference", "after", "limit")
    after = incoming.number(asked.get("after", "0"), "after", 0, LARGEST_INTEGER)
    limit = incoming.number(asked.get("limit", str(LARGEST_PAGE)), "limit", 1, LARGEST_PAGE)
    debits = Debit.objects.filter(id__gt=after).select_related("account").order_by("id")
    if "reference" in asked:
        debits = debits.filter(reference=incoming.text(asked["reference"], "reference"))
    with charging.reading():
        found = list(debits[: limit + 1])
    page = found[:limit]
    return JsonResponse(
        {"debits": [debit.as_json() for debit in page], "next": page[-1].pk if len(found) > limit else None}
    )


def show_account(request: HttpRequest, name: str) -> HttpResponse:
    incoming.query(request)
    wanted = incoming.text(name, "The account's name")
    with charging.reading():
        account = (
            Account.objects.filter(name=wanted).annotate(number=Count("debits"), total=Sum("debits__amount")).first()
        )
    if account is None:
        raise Problem(404, "There is no such account: it was never charged.")
    # PostgreSQL sums whole numbers up to a decimal.
    return JsonResponse({"name": account.name, "debits": account.number, "amount": int(account.total or 0)})


def health(request: HttpRequest) -> HttpResponse:
    return JsonResponse({"status": "ok", "books": charging.identity(), "faults": fault_injection.enabled() is not None})


def show_faults(request: HttpRequest) -> HttpResponse:
    return JsonResponse(_allowed_faults().report())


def set_faults(request: HttpRequest) -> HttpResponse:
    current = _allowed_faults()
    given = incoming.json_object(request, required=("mode",), optional=("delay_ms", "count"))
    mode, delay_ms = _mode(given)
    count = given.get("count")
    if count is not None:
        count = incoming.integer(count, "count", 1, fault_injection.LARGEST_COUNT)
    return JsonResponse(current.set(fault_injection.Anybody(mode, delay_ms, count)))


def show_fault(request: HttpRequest, name: str) -> HttpResponse:
    return _report_of(name)


def remove_fault(request: HttpRequest, name: str) -> HttpResponse:
    return _report_of(name, remove=True)


def name_fault(request: HttpRequest, name: str) -> HttpResponse:
    current = _allowed_faults()
    given = incoming.json_object(
        request, required=("mode", "references"), optional=("delay_ms", "each"), largest=fault_injection.LARGEST_SETTING
    )
    mode, delay_ms = _mode(given)
    if not isinstance(given["references"], list) or not given["references"]:
        raise Problem(400, "references must be an array of at least one string.")
    references = [incoming.text(reference, "A reference") for reference in given["references"]]
    each = incoming.integer(given.get("each", 1), "each", 1, fault_injection.LARGEST_COUNT)
    setting = fault_injection.Named(mode, delay_ms, references, each)
    return JsonResponse(current.name(incoming.text(name, "The fault's name"), setting))


def _mode(given: dict[str, Any]) -> tuple[fault_injection.Mode, int]:
    """The mode, and the delay that belongs to it."""
    try:
        mode = fault_injection.Mode(given["mode"])
    except ValueError as error:
        raise Problem(400, f"mode must be one of {', '.join(fault_injection.Mode)}.") from error
    if mode is fault_injection.Mode.SLOW:
        return mode, incoming.integer(given.get("delay_ms"), "delay_ms", 1, fault_injection.LONGEST_DELAY_MS)
    if given.get("delay_ms"):
        raise Problem(400, "delay_ms belongs to mode slow.")
    return mode, 0


def _report_of(name: str, *, remove: bool = False) -> HttpResponse:
    try:
        return JsonResponse(_allowed_faults().report_of(name, remove=remove))
    except KeyError as error:
        raise Problem(404, "There is no fault of that name: it was removed, or the bank was started again.") from error


def _allowed_faults() -> fault_injection.Faults:
    current = fault_injection.enabled()
    if current is None:
        raise Problem(404, "This bank commits no faults; start it with --faults.")
    return current


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    return Problem(400, "The request is malformed.").response()


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    return Problem(404, "There is nothing here; see /debits, /accounts/NAME and /health.").response()


def server_error(request: HttpRequest) -> HttpResponse:
    return Problem(
        500, "The bank failed; its log says why. It is unknown whether a debit was made.", charged=None
    ).response()

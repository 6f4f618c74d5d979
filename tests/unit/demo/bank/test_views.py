"""The bank's HTTP interface, through Django's own handler and a real database.

Over 300 lines: one HTTP interface, with the same client.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.test import Client

from tasks_demo.demo.bank import fault_injection
from tasks_demo.demo.bank.models import LARGEST_AMOUNT, LARGEST_INTEGER, Debit, FencingToken

pytestmark = [pytest.mark.django_db(databases=["default", "bank"]), pytest.mark.urls("tasks_demo.demo.bank.views")]

GOOD: dict[str, Any] = {"account": "alice", "amount": 250, "reference": "order-17"}


@pytest.fixture(autouse=True)
def _as_served(settings: Any) -> None:
    settings.MIDDLEWARE = []


@pytest.fixture
def _with_faults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fault_injection, "faults", {})


def post(client: Client, body: object = GOOD, **headers: str) -> Any:
    data = body if isinstance(body, str | bytes) else json.dumps(body)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return client.post("/debits", data, content_type="application/json", headers=named)


def put_fault(client: Client, name: str, **setting: object) -> Any:
    return client.put(f"/faults/{name}", json.dumps(setting), content_type="application/json")


def hits(client: Client, name: str) -> dict[str, int]:
    found: dict[str, int] = json.loads(client.get(f"/faults/{name}").content)["hits"]
    return found


def assert_problem(response: Any, status: int) -> dict[str, Any]:
    problem: dict[str, Any] = json.loads(response.content)
    assert response.status_code == problem["status"] == status, problem
    assert response["Content-Type"] == "application/problem+json"
    assert problem["detail"].endswith(".")
    return problem


# -- POST /debits ----------------------------------------------------------------------------------------------------


def test_debit_is_stored_and_returned(client: Client) -> None:
    response = post(client, Task_Id="task%20%C3%A9")
    assert response.status_code == 201
    debit = Debit.objects.get()
    assert json.loads(response.content) == debit.as_json()
    assert (debit.account, debit.amount, debit.reference, debit.source) == ("alice", 250, "order-17", "task é")


def test_bank_charges_every_request_without_a_key(client: Client) -> None:
    assert [post(client).status_code for _ in range(3)] == [201] * 3
    assert Debit.objects.count() == 3


def test_bank_replays_the_first_response_to_the_same_key_and_body(client: Client) -> None:
    first = post(client, Idempotency_Key='"k-1"', Task_Id="one")
    again = post(client, Idempotency_Key='"k-1"', Task_Id="two")
    assert "Idempotent-Replayed" not in first
    assert (again.status_code, again["Idempotent-Replayed"]) == (201, "true")
    assert again.content == first.content
    assert Debit.objects.count() == 1


@pytest.mark.parametrize("other", [{**GOOD, "amount": 251}, {**GOOD, "reference": "order-18"}])
def test_bank_answers_422_to_a_key_with_another_body(client: Client, other: dict[str, Any]) -> None:
    post(client, Idempotency_Key='"k-1"')
    assert assert_problem(post(client, other, Idempotency_Key='"k-1"'), 422)["charged"] is False
    assert Debit.objects.count() == 1


def test_different_keys_are_different_debits(client: Client) -> None:
    keys = ['"k-1"', '"k-2"', r'"a\\b"', r'"a\"b"', f'"{"k" * 255}"']
    assert len({post(client, Idempotency_Key=key).content for key in keys}) == len(keys)


BODIES: dict[str, object] = {
    "blank": " ",
    "not JSON": "{",
    "not UTF-8": b'{"account": "\xff", "amount": 1, "reference": "r"}',
    "array": [GOOD],
    "nested": "[" * 8000 + "]" * 8000,
    "too many digits": f'{{"account": "a", "amount": {"9" * 5000}, "reference": "r"}}',
    "member missing": {"account": "a", "amount": 1},
    "member unknown": {**GOOD, "currency": "EUR"},
    **{
        f"amount {amount}": {**GOOD, "amount": amount}
        for amount in (True, 1.0, "1", None, 0, -1, LARGEST_AMOUNT + 1, 2**70, float("nan"), float("inf"))
    },
    **{
        f"reference {reference!a:.12}": {**GOOD, "reference": reference}
        for reference in (17, {}, "", "a\0b", "a\nb", "a\ud800", "r" * 256)
    },
    "account NUL": {**GOOD, "account": "\0"},
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_bank_hostile_body_is_400_charges_nothing_and_does_not_use_the_key_up(client: Client, body: object) -> None:
    assert assert_problem(post(client, body, Idempotency_Key='"k-1"'), 400)["charged"] is False
    assert not Debit.objects.exists()
    assert "Idempotent-Replayed" not in post(client, Idempotency_Key='"k-1"')


def test_body_at_the_limits_is_charged(client: Client) -> None:
    body = {"account": "ä" * 255, "amount": LARGEST_AMOUNT, "reference": "💶" * 255}
    assert post(client, body).status_code == 201
    assert Debit.objects.get().reference == "💶" * 255


@pytest.mark.parametrize(
    ("header", "value"),
    [
        *(("Idempotency_Key", key) for key in ("", '""', '"', "bare", '"a"b"', '"a", "b"', '"é"', '"a";p=1')),
        ("Idempotency_Key", f'"{"k" * 256}"'),
        *(("Fencing_Token", token) for token in ("", "0", "-1", "+1", "1.5", "x", "٣", "1,2", "1 2", "9" * 30)),
        ("Fencing_Token", str(LARGEST_INTEGER + 1)),
        *(("Task_Id", source) for source in ("%FF", "%00", "%0A", "s" * 256)),
    ],
)
def test_malformed_header_is_400_and_charges_nothing(client: Client, header: str, value: str) -> None:
    assert_problem(post(client, **{header: value}), 400)
    assert not Debit.objects.exists()


def test_stale_fence_is_412_and_charges_nothing(client: Client) -> None:
    assert post(client, Fencing_Token="7", Idempotency_Key='"k-1"').status_code == 201
    problem = assert_problem(post(client, Fencing_Token="6", Idempotency_Key='"k-2"'), 412)
    assert (problem["charged"], problem["type"]) == (False, "tag:bank.example,2026:stale-fencing-token")
    assert Debit.objects.count() == 1
    assert post(client, Fencing_Token="7", Idempotency_Key='"k-1"')["Idempotent-Replayed"] == "true"


def test_largest_fence_is_stored(client: Client) -> None:
    assert post(client, Fencing_Token=str(LARGEST_INTEGER)).status_code == 201
    assert FencingToken.objects.get().highest == LARGEST_INTEGER


# -- the rest --------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("_with_faults")
@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("delete", "/debits", 405),
        ("post", "/health", 405),
        ("post", "/faults/mine", 405),
        *(("get", path, 404) for path in ("/", "/admin/", "/debits/", "/debits/1", "/nothing", "/faults/nobody")),
        ("delete", "/faults/nobody", 404),
    ],
)
def test_bank_other_methods_and_paths_are_refused(client: Client, method: str, path: str, status: int) -> None:
    assert getattr(client, method)(path).status_code == status


def test_debits_come_in_pages_by_number(client: Client) -> None:
    for index in range(4):
        post(client, {**GOOD, "reference": f"order-{index}"})
    seen, after = [], 0
    for _ in range(2):
        page = json.loads(client.get("/debits", {"after": after, "limit": 2}).content)
        seen += [debit["reference"] for debit in page["debits"]]
        after = page["next"]
    assert seen == [f"order-{index}" for index in range(4)]
    assert after is None, "a full last page is the last"


def test_debits_of_one_reference(client: Client) -> None:
    post(client)
    post(client, {**GOOD, "reference": "order-18"})
    page = json.loads(client.get("/debits", {"reference": "order-18"}).content)
    assert [debit["reference"] for debit in page["debits"]] == ["order-18"]
    assert json.loads(client.get("/debits", {"reference": "order-1"}).content) == {"debits": [], "next": None}


@pytest.mark.parametrize(
    "query",
    [
        *(f"after={value}" for value in ("", "-1", "x", "1.5", "٣", "%2B1", "9" * 19, "9" * 30, "%00")),
        *(f"limit={value}" for value in ("0", "1001", "-1", "x", "")),
        *(f"reference={value}" for value in ("", "%00", "r" * 256)),
        "refrence=order-17",
        "after=1&after=2",
    ],
)
def test_bank_hostile_query_is_400(client: Client, query: str) -> None:
    assert_problem(client.get(f"/debits?{query}"), 400)


def test_health_gives_the_identity_of_the_database(client: Client) -> None:
    first, second = (json.loads(client.get("/health").content) for _ in range(2))
    assert first == second
    assert (first["status"], len(first["identity"])) == ("ok", 36)


# -- faults ----------------------------------------------------------------------------------------------------------


def test_faults_are_off_unless_switched_on(client: Client) -> None:
    assert_problem(put_fault(client, "mine", mode="refuse", references=["order-17"]), 404)
    assert_problem(client.get("/faults/mine"), 404)
    assert_problem(client.delete("/faults/mine"), 404)
    assert post(client).status_code == 201


@pytest.mark.usefixtures("_with_faults")
def test_fault_is_replaced_under_its_name_and_slows_no_replay(client: Client) -> None:
    put_fault(client, "mine", mode="refuse", references=["order-17"])
    post(client)
    put_fault(client, "mine", mode="slow", delay_ms=1, each=2, references=["order-17"])
    assert json.loads(client.get("/faults/mine").content) == {
        "mode": "slow",
        "delay_ms": 1,
        "each": 2,
        "hits": {"order-17": 0},
    }
    for _ in range(2):
        post(client, Idempotency_Key='"k-1"')
    assert hits(client, "mine") == {"order-17": 1}


@pytest.mark.usefixtures("_with_faults")
def test_fault_can_have_thousands_of_references(client: Client) -> None:
    references = [f"{index:036}" for index in range(20_000)]
    assert put_fault(client, "cell 1 ä", mode="refuse", references=references).status_code == 200
    assert len(hits(client, "cell 1 ä")) == 20_000


@pytest.mark.usefixtures("_with_faults")
@pytest.mark.parametrize(
    "setting",
    [
        {"mode": "refuse"},
        {"references": ["a"]},
        {"mode": "explode", "references": ["a"]},
        {"mode": ["slow"], "references": ["a"]},
        *({"mode": "refuse", "references": references} for references in ([], "abc", {"a": 1}, ["a", 1], ["a\0"])),
        *({"mode": "refuse", "references": ["a"], "each": each} for each in (0, None, True, 10**9)),
        {"mode": "refuse", "references": ["a"], "probability": 0.5},
        {"mode": "refuse", "references": ["a"], "delay_ms": 5},
        {"mode": "slow", "references": ["a"]},
        *({"mode": "slow", "references": ["a"], "delay_ms": delay_ms} for delay_ms in (0, -1, 60_001, 1.5)),
    ],
    ids=str,
)
def test_bank_hostile_fault_is_400_and_changes_nothing(client: Client, setting: dict[str, object]) -> None:
    put_fault(client, "mine", mode="refuse", references=["kept"])
    assert_problem(put_fault(client, "mine", **setting), 400)
    assert hits(client, "mine") == {"kept": 0}

"""The bank's HTTP interface, through Django's own handler and a real database."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from django.test import Client

from tasks_demo.demo.bank import fault_injection
from tasks_demo.demo.bank.models import LARGEST_AMOUNT, LARGEST_INTEGER, Account, Debit, Fence, IdempotencyKey
from tests.support import until

pytestmark = [pytest.mark.django_db(databases=["default", "bank"]), pytest.mark.urls("tasks_demo.demo.bank.urls")]

GOOD: dict[str, Any] = {"account": "alice", "amount": 250, "reference": "order-17"}


@pytest.fixture(autouse=True)
def _as_served(settings: Any) -> None:
    settings.MIDDLEWARE = []


@pytest.fixture
def allowed_faults() -> Iterator[None]:
    fault_injection.enable()
    yield
    fault_injection.disable()


def post(client: Client, body: object = GOOD, **headers: str) -> Any:
    data = body if isinstance(body, str | bytes) else json.dumps(body)
    return client.post(
        "/debits",
        data,
        content_type=headers.pop("content_type", "application/json"),
        headers={name.replace("_", "-"): value for name, value in headers.items()},
    )


def assert_problem(response: Any, status: int) -> dict[str, Any]:
    problem: dict[str, Any] = json.loads(response.content)
    assert response.status_code == status, problem
    assert response["Content-Type"] == "application/problem+json"
    assert problem["status"] == status
    assert problem["detail"].endswith(".")
    return problem


def test_debit_is_booked(client: Client) -> None:
    response = post(client, Task_Id="task%20%C3%A9")
    assert response.status_code == 201
    debit = Debit.objects.get()
    assert json.loads(response.content) == debit.as_json()
    assert (debit.account.name, debit.amount, debit.reference, debit.source) == ("alice", 250, "order-17", "task é")


def test_without_key_every_request_charges(client: Client) -> None:
    assert [post(client).status_code for _ in range(3)] == [201] * 3
    assert Debit.objects.count() == 3


def test_same_key_and_body_gets_the_first_response_again(client: Client) -> None:
    first = post(client, Idempotency_Key='"k-1"', Task_Id="one")
    again = post(client, Idempotency_Key='"k-1"', Task_Id="two")
    assert "Idempotent-Replayed" not in first
    assert (again.status_code, again["Idempotent-Replayed"]) == (201, "true")
    assert again.content == first.content
    assert Debit.objects.count() == 1


def test_quoted_and_bare_key_are_the_same(client: Client) -> None:
    post(client, Idempotency_Key='"k-1"')
    assert post(client, Idempotency_Key="k-1")["Idempotent-Replayed"] == "true"


@pytest.mark.parametrize("other", [{**GOOD, "amount": 251}, {**GOOD, "reference": "order-18"}])
def test_same_key_with_other_body_is_422(client: Client, other: dict[str, Any]) -> None:
    post(client, Idempotency_Key="k-1")
    assert assert_problem(post(client, other, Idempotency_Key="k-1"), 422)["charged"] is False
    assert Debit.objects.count() == 1


def test_two_keys_are_two_debits(client: Client) -> None:
    assert post(client, Idempotency_Key="k-1").content != post(client, Idempotency_Key="k-2").content
    assert Debit.objects.count() == 2


HUGE = "9" * 5000
BODIES: dict[str, object] = {
    "blank": " ",
    "not JSON": "{",
    "not UTF-8": b'{"account": "\xff", "amount": 1, "reference": "r"}',
    "UTF-16": '{"account": "a", "amount": 1, "reference": "r"}'.encode("utf-16"),
    "array": [GOOD],
    "null": "null",
    "nested": "[" * 8000 + "]" * 8000,
    "NaN": '{"account": "a", "amount": NaN, "reference": "r"}',
    "Infinity": '{"account": "a", "amount": 1e999, "reference": "r"}',
    "digits": f'{{"account": "a", "amount": {HUGE}, "reference": "r"}}',
    "member twice": '{"account": "a", "amount": 1, "amount": 2, "reference": "r"}',
    "member missing": {"account": "a", "amount": 1},
    "member unknown": {**GOOD, "currency": "EUR"},
    "member unknown with a surrogate": {**GOOD, "\ud800": 1},
    "amount bool": {**GOOD, "amount": True},
    "amount float": {**GOOD, "amount": 1.0},
    "amount text": {**GOOD, "amount": "1"},
    "amount null": {**GOOD, "amount": None},
    "amount zero": {**GOOD, "amount": 0},
    "amount negative": {**GOOD, "amount": -1},
    "amount too large": {**GOOD, "amount": LARGEST_AMOUNT + 1},
    "amount beyond 64 bits": {**GOOD, "amount": 2**70},
    "reference number": {**GOOD, "reference": 17},
    "reference object": {**GOOD, "reference": {}},
    "reference empty": {**GOOD, "reference": ""},
    "reference NUL": {**GOOD, "reference": "a\0b"},
    "reference newline": {**GOOD, "reference": "a\nb"},
    "reference lone surrogate": {**GOOD, "reference": "a\ud800"},
    "reference 256": {**GOOD, "reference": "r" * 256},
    "reference 10 kB": {**GOOD, "reference": "r" * 10_000},
    "account NUL": {**GOOD, "account": "\0"},
    "account lone surrogate": {**GOOD, "account": "\udfff"},
    "account list": {**GOOD, "account": ["a"]},
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
@pytest.mark.parametrize("key", [None, "k-1"])
def test_hostile_body_is_400_and_charges_nothing(client: Client, body: object, key: str | None) -> None:
    response = post(client, body, **({"Idempotency_Key": key} if key else {}))
    assert assert_problem(response, 400)["charged"] is False
    assert not Debit.objects.exists()
    # A refused request does not use its key up.
    assert not IdempotencyKey.objects.exists()


def test_bodies_at_the_limits_are_booked(client: Client) -> None:
    body = {"account": "ä" * 255, "amount": LARGEST_AMOUNT, "reference": "💶" * 255}
    assert post(client, body).status_code == 201
    assert Debit.objects.get().reference == "💶" * 255


def test_oversized_body_is_413(client: Client) -> None:
    assert_problem(post(client, {**GOOD, "reference": "r" * 20_000}), 413)


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "application/json; charset=utf-16"]
)
def test_other_content_types_are_415(client: Client, kind: str) -> None:
    assert_problem(post(client, content_type=kind), 415)


def test_charset_utf8_is_taken(client: Client) -> None:
    assert post(client, content_type="application/json; charset=UTF-8").status_code == 201


@pytest.mark.parametrize("key", ["", '""', '"', '"a', 'a"b', "a b", "a,b", '"a", "b"', '"é"', "k" * 256, '"a";p=1'])
def test_malformed_key_is_400(client: Client, key: str) -> None:
    assert_problem(post(client, Idempotency_Key=key), 400)
    assert not Debit.objects.exists()


def test_a_stale_fence_is_412_and_charges_nothing(client: Client) -> None:
    assert post(client, Fencing_Token="7", Idempotency_Key="k-1").status_code == 201
    problem = assert_problem(post(client, Fencing_Token="6", Idempotency_Key="k-2"), 412)
    assert problem["charged"] is False
    assert problem["type"] == "tag:bank.example,2026:stale-fencing-token"
    assert Debit.objects.count() == IdempotencyKey.objects.count() == 1
    assert post(client, Fencing_Token="7", Idempotency_Key="k-1")["Idempotent-Replayed"] == "true"


def test_the_largest_fence_is_kept(client: Client) -> None:
    assert post(client, Fencing_Token=str(LARGEST_INTEGER)).status_code == 201
    assert Fence.objects.get().token == LARGEST_INTEGER


@pytest.mark.parametrize(
    "fence", ["", "0", "-1", "+1", "1.0", "x", "٣", "1,2", "1 2", str(LARGEST_INTEGER + 1), "9" * 30]
)
def test_malformed_fence_is_400(client: Client, fence: str) -> None:
    assert_problem(post(client, Fencing_Token=fence, Idempotency_Key="k-1"), 400)
    assert not Debit.objects.exists()
    assert not IdempotencyKey.objects.exists()


@pytest.mark.parametrize("source", ["%FF", "%00", "%0A", "s" * 256])
def test_malformed_task_id_is_400(client: Client, source: str) -> None:
    assert_problem(post(client, Task_Id=source), 400)


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("delete", "/debits", "GET, HEAD, POST"),
        ("put", "/debits", "GET, HEAD, POST"),
        ("post", "/accounts/alice", "GET, HEAD"),
        ("post", "/health", "GET, HEAD"),
        ("post", "/faults", "GET, HEAD, PUT"),
        ("post", "/faults/lane-1", "DELETE, GET, HEAD, PUT"),
    ],
)
def test_other_methods_are_405(client: Client, method: str, path: str, allowed: str) -> None:
    response = getattr(client, method)(path)
    assert_problem(response, 405)
    assert response["Allow"] == allowed


@pytest.mark.parametrize("path", ["/", "/admin/", "/debits/", "/debits/1", "/nothing"])
def test_other_paths_are_404(client: Client, path: str) -> None:
    assert_problem(client.get(path), 404)


def test_debits_come_in_pages_by_number(client: Client) -> None:
    for index in range(5):
        post(client, {**GOOD, "reference": f"order-{index}"})
    seen, after = [], 0
    for _ in range(3):
        page = json.loads(client.get("/debits", {"after": after, "limit": 2}).content)
        seen += [debit["reference"] for debit in page["debits"]]
        after = page["next"]
    assert seen == [f"order-{index}" for index in range(5)]
    assert after is None


def test_a_full_last_page_is_the_last(client: Client) -> None:
    post(client)
    post(client)
    page = json.loads(client.get("/debits?limit=2").content)
    assert (len(page["debits"]), page["next"]) == (2, None)


def test_debits_of_one_reference(client: Client) -> None:
    post(client)
    post(client, {**GOOD, "reference": "order-18"})
    page = json.loads(client.get("/debits", {"reference": "order-18"}).content)
    assert [debit["reference"] for debit in page["debits"]] == ["order-18"]
    assert json.loads(client.get("/debits", {"reference": "order-1"}).content) == {"debits": [], "next": None}


@pytest.mark.parametrize(
    "query",
    [
        *(f"after={value}" for value in ("", "-1", "x", "1.0", "٣", "%2B1", "9" * 19, "9" * 30, "%00")),
        *(f"limit={value}" for value in ("0", "1001", "-1", "x", "")),
        *(f"reference={value}" for value in ("", "%00", "r" * 256, "%ED%A0%80" * 90)),
        "refrence=order-17",
        "after=1&after=2",
        "&".join(f"x{index}=1" for index in range(1500)),
    ],
)
def test_hostile_query_is_400(client: Client, query: str) -> None:
    assert_problem(client.get(f"/debits?{query}"), 400)


def test_account_shows_number_and_sum(client: Client) -> None:
    post(client)
    post(client, {**GOOD, "amount": 50})
    post(client, {**GOOD, "account": "bob/ä"})
    assert json.loads(client.get("/accounts/alice").content) == {"name": "alice", "debits": 2, "amount": 300}
    assert json.loads(client.get("/accounts/bob/%C3%A4").content) == {"name": "bob/ä", "debits": 1, "amount": 250}
    assert Account.objects.count() == 2


@pytest.mark.parametrize(("path", "status"), [("nobody", 404), ("%00", 400), ("a" * 300, 400), ("%FF", 404)])
def test_unknown_or_hostile_account(client: Client, path: str, status: int) -> None:
    assert_problem(client.get(f"/accounts/{path}"), status)


def test_health_names_the_books(client: Client) -> None:
    first, second = (json.loads(client.get("/health").content) for _ in range(2))
    assert first == second
    assert first["status"] == "ok"
    assert len(first["books"]) == 36


def test_faults_are_off_unless_switched_on(client: Client) -> None:
    assert_problem(client.get("/faults"), 404)
    assert_problem(client.put("/faults", '{"mode": "refuse"}', content_type="application/json"), 404)
    assert post(client).status_code == 201


def put_fault(client: Client, **setting: object) -> Any:
    return client.put("/faults", json.dumps(setting), content_type="application/json")


@pytest.mark.usefixtures("allowed_faults")
def test_refuse_is_503_as_often_as_told(client: Client) -> None:
    assert put_fault(client, mode="refuse", count=2).status_code == 200
    for _ in range(2):
        assert assert_problem(post(client, Idempotency_Key="k-1"), 503)["charged"] is False
    assert not Debit.objects.exists()
    assert post(client, Idempotency_Key="k-1").status_code == 201
    assert json.loads(client.get("/faults").content) == {"mode": "refuse", "delay_ms": 0, "count": 0, "hits": 2}


@pytest.mark.usefixtures("allowed_faults")
def test_slow_delays_new_debits_only(client: Client) -> None:
    put_fault(client, mode="slow", delay_ms=1, count=None)
    post(client, Idempotency_Key="k-1")
    post(client, Idempotency_Key="k-1")
    assert json.loads(client.get("/faults").content)["hits"] == 1


@pytest.mark.usefixtures("allowed_faults")
@pytest.mark.parametrize(
    "setting",
    [
        {},
        {"mode": "explode"},
        {"mode": ["slow"]},
        {"mode": None},
        {"mode": "slow"},
        {"mode": "slow", "delay_ms": 0},
        {"mode": "slow", "delay_ms": -1},
        {"mode": "slow", "delay_ms": 60_001},
        {"mode": "slow", "delay_ms": 1.5},
        {"mode": "refuse", "delay_ms": 5},
        {"mode": "refuse", "delay_ms": "x"},
        {"mode": "refuse", "count": 0},
        {"mode": "refuse", "count": True},
        {"mode": "refuse", "count": 10**9},
        {"mode": "refuse", "probability": 0.5},
    ],
)
def test_hostile_fault_is_400_and_changes_nothing(client: Client, setting: dict[str, object]) -> None:
    put_fault(client, mode="refuse", count=7)
    assert_problem(put_fault(client, **setting), 400)
    assert json.loads(client.get("/faults").content)["count"] == 7


def named(client: Client, name: str, **setting: object) -> Any:
    return client.put(f"/faults/{name}", json.dumps(setting), content_type="application/json")


def hits(client: Client, name: str) -> dict[str, int]:
    found: dict[str, int] = json.loads(client.get(f"/faults/{name}").content)["hits"]
    return found


def test_named_faults_are_off_unless_switched_on(client: Client) -> None:
    assert_problem(named(client, "lane-1", mode="refuse", references=["a"]), 404)
    assert_problem(client.get("/faults/lane-1"), 404)
    assert_problem(client.delete("/faults/lane-1"), 404)


@pytest.mark.usefixtures("allowed_faults")
def test_a_named_fault_strikes_its_references_only_and_each_as_often_as_told(client: Client) -> None:
    assert named(client, "lane-1", mode="refuse", references=["a", "b"], each=2).status_code == 200
    answers = [post(client, {**GOOD, "reference": reference}).status_code for reference in ("a", "c", "a", "a")]
    assert answers == [503, 201, 503, 201]
    assert hits(client, "lane-1") == {"a": 2, "b": 0}


@pytest.mark.usefixtures("allowed_faults")
def test_named_faults_and_the_one_for_anybody_leave_each_other_alone(client: Client) -> None:
    named(client, "lane-1", mode="refuse", references=["a"])
    named(client, "lane-2", mode="refuse", references=["a", "b"])
    put_fault(client, mode="refuse", count=1)
    assert json.loads(client.delete("/faults/lane-1").content)["hits"] == {"a": 0}
    assert_problem(client.delete("/faults/lane-1"), 404)
    assert hits(client, "lane-2") == {"a": 0, "b": 0}
    # The named one first; then the one for anybody, whose turn it still is.
    assert [post(client, {**GOOD, "reference": "a"}).status_code for _ in range(3)] == [503, 503, 201]
    assert hits(client, "lane-2") == {"a": 1, "b": 0}
    assert json.loads(client.get("/faults").content)["hits"] == 1
    put_fault(client, mode="none")
    assert post(client, {**GOOD, "reference": "b"}).status_code == 503


@pytest.mark.usefixtures("allowed_faults")
def test_a_named_fault_is_replaced_under_its_name(client: Client) -> None:
    named(client, "lane-1", mode="refuse", references=["a"])
    post(client, {**GOOD, "reference": "a"})
    named(client, "lane-1", mode="slow", delay_ms=1, references=["b"])
    assert json.loads(client.get("/faults/lane-1").content) == {
        "mode": "slow",
        "delay_ms": 1,
        "each": 1,
        "hits": {"b": 0},
    }
    for _ in range(2):
        post(client, {**GOOD, "reference": "b"}, Idempotency_Key="k-1")
    assert hits(client, "lane-1") == {"b": 1}


@pytest.mark.usefixtures("allowed_faults")
@pytest.mark.parametrize(
    "end", ["the setting is removed", "the setting is replaced", "the one for anybody is replaced"]
)
def test_a_slow_debit_goes_on_when_its_setting_ends(client: Client, end: str) -> None:
    slow: dict[str, Any] = {"mode": "slow", "delay_ms": 60_000}
    put_fault(client, **slow, count=1)
    if end != "the one for anybody is replaced":
        named(client, "mine", references=["order-17"], **slow)
    debit = threading.Thread(target=fault_injection.dawdle, args=["order-17"])
    debit.start()
    allowed = fault_injection.enabled()
    assert allowed is not None
    struck = allowed._named.get("mine", allowed._anybody)
    until(lambda: struck.hits in (1, {"order-17": 1}), "the fault")
    if end == "the setting is removed":
        client.delete("/faults/mine")
    elif end == "the setting is replaced":
        named(client, "mine", mode="refuse", references=["order-17"])
    else:
        put_fault(client, mode="none")
    debit.join(10)
    assert not debit.is_alive()


@pytest.mark.usefixtures("allowed_faults")
def test_a_named_fault_can_have_thousands_of_references(client: Client) -> None:
    references = [f"{index:036}" for index in range(20_000)]
    assert named(client, "lane/1 ä", mode="refuse", references=references).status_code == 404, "one segment"
    assert named(client, "lane 1 ä", mode="refuse", references=references).status_code == 200
    assert len(hits(client, "lane 1 ä")) == 20_000


@pytest.mark.usefixtures("allowed_faults")
@pytest.mark.parametrize(
    "setting",
    [
        {"mode": "refuse"},
        {"references": ["a"]},
        {"mode": "refuse", "references": []},
        {"mode": "refuse", "references": "abc"},
        {"mode": "refuse", "references": {"a": 1}},
        {"mode": "refuse", "references": ["a", 1]},
        {"mode": "refuse", "references": ["a\0"]},
        {"mode": "refuse", "references": ["a"], "each": 0},
        {"mode": "refuse", "references": ["a"], "each": None},
        {"mode": "refuse", "references": ["a"], "count": 1},
        {"mode": "slow", "references": ["a"]},
        {"mode": "explode", "references": ["a"]},
    ],
)
def test_hostile_named_fault_is_400_and_changes_nothing(client: Client, setting: dict[str, object]) -> None:
    named(client, "lane-1", mode="refuse", references=["kept"])
    assert_problem(named(client, "lane-1", **setting), 400)
    assert hits(client, "lane-1") == {"kept": 0}

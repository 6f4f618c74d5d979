"""The bank's client against sockets that misbehave: what it claims about the debit."""

from __future__ import annotations

import json
import pickle
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest
from celery import current_app

from tasks_demo.demo.bank.client import (
    BankClient,
    BankConflict,
    BankError,
    BankFenced,
    BankMismatch,
    BankRefused,
    BankUnavailable,
    _as_header,
)

ROW = (
    '{"id": 7, "account": "a", "amount": 1, "reference": "r", "source": "", "created_at": "2026-01-02T00:00:00+00:00"}'
)


@contextmanager
def answering(*answers: bytes) -> Iterator[tuple[str, list[bytes]]]:
    """A server that takes one request per connection and sends the next answer; yields its URL and the requests."""
    requests: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            for answer in answers:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    requests.append(_request(connection))
                    connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}", requests
        finally:
            # Wakes an accept() to which nobody will connect any more.
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(5)


def _request(connection: socket.socket) -> bytes:
    received = b""
    while b"\r\n\r\n" not in received:
        received += connection.recv(65536)
    head, _, body = received.partition(b"\r\n\r\n")
    for line in head.split(b"\r\n"):
        if line.lower().startswith(b"content-length:"):
            while len(body) < int(line.split(b":")[1]):
                body += connection.recv(65536)
    return head + b"\r\n\r\n" + body


def http(status: int, body: str, kind: str = "application/json", *more: str) -> bytes:
    lines = [f"HTTP/1.1 {status} X", f"Content-Type: {kind}", f"Content-Length: {len(body.encode())}", *more]
    return ("\r\n".join([*lines, "Connection: close", "", ""]) + body).encode()


def problem(status: int, charged: bool | None) -> bytes:
    body = json.dumps({"detail": "A sentence.", "charged": charged})
    return http(status, body, "application/problem+json", "Retry-After: 1")


def debit_error(*answers: bytes) -> tuple[BankError, int]:
    """The error of one debit, and how many requests it sent."""
    with answering(*answers) as (url, requests), closing(BankClient(url, 2.0)) as client:
        with pytest.raises(BankError) as caught:
            client.debit("a", 1, "r", idempotency_key="k")
        return caught.value, len(requests)


def test_client_sends_key_fence_and_source_and_returns_a_receipt() -> None:
    answer = http(201, ROW, "application/json", "Idempotent-Replayed: true")
    with answering(answer) as (url, requests), closing(BankClient(url)) as client:
        receipt = client.debit("a", 1, "r", idempotency_key='a "b" é', fence=7, source="t é")
    assert (receipt.id, receipt.replayed, receipt.created_at) == (7, True, 1767312000.0)
    head, _, body = requests[0].partition(b"\r\n\r\n")
    assert body == b'{"account":"a","amount":1,"reference":"r"}'
    assert b'Idempotency-Key: "a%20\\"b\\"%20%C3%A9"' in head
    assert b"Task-Id: t%20%C3%A9" in head
    assert b"\r\nFencing-Token: 7\r\n" in head + b"\r\n"


def test_client_sends_no_header_for_no_key_and_no_fence() -> None:
    with answering(http(201, ROW)) as (url, requests), closing(BankClient(url)) as client:
        client.debit("a", 1, "r")
    assert b"Fencing-Token" not in requests[0]
    assert b"Idempotency-Key" not in requests[0]


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (problem(400, False), BankRefused),
        (problem(404, False), BankRefused),
        (http(404, "<h1>not the bank</h1>", "text/html"), BankRefused),
        (problem(409, None), BankConflict),
        (problem(412, False), BankFenced),
        (problem(422, False), BankMismatch),
    ],
)
def test_client_raises_what_the_status_means(answer: bytes, kind: type[BankError]) -> None:
    assert type(debit_error(answer)[0]) is kind


@pytest.mark.parametrize(
    ("answer", "certain"),
    [
        (problem(503, False), True),
        (problem(503, None), False),
        (problem(504, None), False),
        (problem(500, None), False),
        (http(503, "busy", "text/plain"), False),
        (http(503, "[]", "application/problem+json"), False),
        (http(503, "{", "application/problem+json"), False),
        (http(307, "", "text/plain", "Location: /debits"), False),
        (http(201, "hello", "text/plain"), False),
        (http(201, "{}"), False),
        (http(201, "[]"), False),
        (http(201, ROW.replace("2026-01-02T", "yesterday")), False),
        (b"", False),
        (b"HTTP/1.1 201 Created\r\nContent-Length: 500\r\n\r\n{", False),
        (b"not HTTP\r\n\r\n", False),
    ],
)
def test_client_unavailable_claims_only_what_is_certain_and_does_not_retry(answer: bytes, certain: bool) -> None:
    error, requests = debit_error(answer, http(201, ROW))
    assert isinstance(error, BankUnavailable)
    assert error.certain_not_charged is certain
    assert requests == 1


def test_client_is_certain_when_the_connection_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with (
        closing(BankClient(f"http://127.0.0.1:{port}")) as client,
        pytest.raises(BankUnavailable, match="nothing was charged") as caught,
    ):
        client.debit("a", 1, "r")
    assert caught.value.certain_not_charged


def test_client_is_not_certain_after_a_timeout() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        closing(BankClient(f"http://127.0.0.1:{listener.getsockname()[1]}", 0.1)) as client,
        pytest.raises(BankUnavailable, match="unknown") as caught,
    ):
        client.debit("a", 1, "r")
    assert not caught.value.certain_not_charged


def test_client_repeats_a_read_once() -> None:
    with answering(b"", http(200, '{"identity": "x"}')) as (url, requests), closing(BankClient(url)) as client:
        assert client.identity() == "x"
    assert len(requests) == 2


@pytest.mark.parametrize("certain", [True, False])
def test_client_certainty_survives_pickle_and_celerys_json(certain: bool) -> None:
    raised = BankUnavailable("no", certain_not_charged=certain)
    stored = json.loads(
        json.dumps(
            {"exc_type": "BankUnavailable", "exc_message": raised.args, "exc_module": BankUnavailable.__module__}
        )
    )
    for error in (pickle.loads(pickle.dumps(raised)), current_app.backend.exception_to_python(stored)):  # noqa: S301
        assert isinstance(error, BankUnavailable)
        assert (str(error), error.certain_not_charged) == ("no", certain)
    assert str(BankConflict()).startswith("A request with this idempotency key")


def test_client_refuses_lone_surrogates_before_anything_is_sent() -> None:
    with closing(BankClient("http://127.0.0.1:1")) as client:
        for arguments in ({"idempotency_key": "\ud800"}, {"source": "\ud800"}):
            with pytest.raises(BankRefused, match="nothing was charged"):
                client.debit("a", 1, "r", **arguments)
        with pytest.raises(BankRefused):
            list(client.debits("\ud800"))


def test_client_headers_of_different_keys_differ() -> None:
    keys = ["a", "a b", "a%20b", "é", "%C3%A9", 'a"b', "a\\b", "k" * 255, "k" * 256, "é" * 200, "é" * 201]
    headers = {_as_header(key) for key in keys}
    assert len(headers) == len(keys)
    assert all(header.isascii() for header in headers)


@pytest.mark.parametrize("url", ["", "127.0.0.1:8001", "ftp://127.0.0.1", "http://", "unix:///tmp/x", "http://[::1"])
def test_client_refuses_addresses_that_cannot_work(url: str) -> None:
    with pytest.raises(ValueError, match="address"):
        BankClient(url)

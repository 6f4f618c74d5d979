"""The bank as a real process: its promises under concurrency, faults, SIGKILL and a restart, and its command line.

Over 300 lines: every test uses the same server and the books that it leaves.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tasks_demo.demo.bank.client import (
    BankClient,
    BankConflict,
    BankFenced,
    BankMismatch,
    BankRefused,
    BankUnavailable,
    DebitReceipt,
)
from tasks_demo.demo.bank.models import Debit
from tasks_demo.demo.stack import EmbeddedBank
from tests.support import (
    PROJECT,
    TOKEN,
    Home,
    database_url_of_tests,
    finish,
    first_line,
    free_port,
    scratch_database,
    until,
)

pytestmark = pytest.mark.django_db(databases=["default", "bank"], transaction=True)

BOUND_SECONDS = 15.0
FAULT = "mine"


def embedded(folder: Path, database: str = "") -> EmbeddedBank:
    """A bank on the test's own database, which the test can then read, or on another one."""
    env = {"STATE_DIR": str(folder), "BANK_DATABASE_URL": database or database_url_of_tests("bank")}
    return EmbeddedBank(folder / "bank.log", env=env, arguments=["--faults"])


@pytest.fixture(scope="module")
def standing_bank(django_db_setup: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedBank]:
    """One bank for all tests that do not stop it: a start takes most of a second."""
    with embedded(tmp_path_factory.mktemp("bank")) as bank:
        yield bank


@pytest.fixture
def client(standing_bank: EmbeddedBank) -> Iterator[BankClient]:
    with closing(BankClient(standing_bank.url)) as client:
        client.set_fault(FAULT, "refuse", ["nobody's"])
        yield client
        client.remove_fault(FAULT)


@pytest.fixture
def bank(tmp_path: Path) -> Iterator[EmbeddedBank]:
    with embedded(tmp_path) as bank:
        yield bank


@pytest.fixture
def own_client(bank: EmbeddedBank) -> Iterator[BankClient]:
    with closing(BankClient(bank.url)) as client:
        yield client


@contextmanager
def slow_debit(client: BankClient, **options: Any) -> Iterator[Future[DebitReceipt]]:
    """A debit for "r" that waits inside the bank until the fault is replaced or removed."""
    client.set_fault(FAULT, "slow", ["r"], delay_ms=60_000)
    with ThreadPoolExecutor(1) as pool:
        debit = pool.submit(client.debit, "alice", 1, "r", **options)
        until(lambda: client.fault_hits(FAULT)["r"], "the debit waits inside the bank")
        yield debit


def end_the_slow(client: BankClient) -> None:
    client.set_fault(FAULT, "refuse", ["nobody's"])


# -- debits ----------------------------------------------------------------------------------------------------------


def test_debit_is_replayed_under_its_key_and_listed(client: BankClient) -> None:
    client.identity()
    first = client.debit("alice", 250, "order-17", idempotency_key="clé 17", source="task-1")
    again = client.debit("alice", 250, "order-17", idempotency_key="clé 17", source="task-2")
    assert (first.replayed, again.replayed) == (False, True)
    assert first.id == again.id
    with pytest.raises(BankMismatch):
        client.debit("alice", 251, "order-17", idempotency_key="clé 17")
    client.debit("alice", 1, "order-18")
    assert [(debit.reference, debit.source) for debit in client.debits()] == [("order-17", "task-1"), ("order-18", "")]
    assert [debit.id for debit in client.debits("order-17")] == [first.id]
    assert abs(first.created_at - time.time()) < 60


def test_client_turns_pages(client: BankClient) -> None:
    Debit.objects.bulk_create(Debit(account="alice", amount=1, reference=f"r{index}") for index in range(2001))
    numbers = [debit.id for debit in client.debits()]
    assert len(numbers) == 2001
    assert numbers == sorted(numbers)
    assert [debit.id for debit in client.debits(after=numbers[-2])] == numbers[-1:]


def test_twenty_threads_with_one_key_make_one_debit(client: BankClient) -> None:
    together = threading.Barrier(20)

    def debit(_: int) -> DebitReceipt | BankConflict:
        together.wait()
        try:
            return client.debit("alice", 1, "r", idempotency_key="k")
        except BankConflict as conflict:
            return conflict

    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(debit, range(20)))
    receipts = [answer for answer in answers if isinstance(answer, DebitReceipt)]
    assert len({receipt.id for receipt in receipts}) == 1
    assert [receipt.replayed for receipt in receipts].count(False) == 1
    assert Debit.objects.count() == 1


def test_threads_without_a_key_are_all_charged(client: BankClient) -> None:
    with ThreadPoolExecutor(8) as pool:
        receipts = list(pool.map(lambda index: client.debit(f"a{index % 3}", 1, f"r{index}"), range(80)))
    assert {receipt.id for receipt in receipts} == set(Debit.objects.values_list("id", flat=True))
    assert len(receipts) == 80


def test_key_in_flight_is_409_and_then_answered(client: BankClient) -> None:
    with slow_debit(client, idempotency_key="k") as first:
        with pytest.raises(BankConflict):
            client.debit("alice", 1, "r", idempotency_key="k")
        with pytest.raises(BankMismatch):
            client.debit("alice", 2, "r", idempotency_key="k")
        end_the_slow(client)
        assert not first.result(BOUND_SECONDS).replayed
    assert client.debit("alice", 1, "r", idempotency_key="k").replayed


def test_stale_holder_is_fenced_off_and_its_key_is_not_used_up(client: BankClient) -> None:
    client.debit("alice", 1, "r", idempotency_key="k", fence=2)
    for key in ("k", "other", None):
        with pytest.raises(BankFenced):
            client.debit("alice", 1, "r", idempotency_key=key, fence=1)
    assert client.debit("alice", 1, "r", idempotency_key="k", fence=3).replayed
    assert not client.debit("alice", 1, "r", idempotency_key="other", fence=3).replayed
    assert Debit.objects.count() == 2


@pytest.mark.parametrize("key", [None, "k1"])
def test_holder_that_is_overtaken_inside_the_bank_is_fenced_off(client: BankClient, key: str | None) -> None:
    with slow_debit(client, idempotency_key=key, fence=1) as late:
        client.debit("alice", 1, "r", idempotency_key="k2", fence=2)
        end_the_slow(client)
        assert isinstance(late.exception(BOUND_SECONDS), BankFenced)
    assert Debit.objects.get().key == "k2"


def charge_under_ten_tokens(client: BankClient, reference: str) -> None:
    """Debit from twenty threads at once with ten tokens; the tokens must not decrease in the order of the debits."""
    together = threading.Barrier(20)

    def debit(index: int) -> tuple[int, int] | BankFenced:
        together.wait()
        fence = index // 2 + 1
        try:
            return client.debit("alice", 1, reference, idempotency_key=f"{reference}-{index}", fence=fence).id, fence
        except BankFenced as fenced:
            return fenced

    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(debit, range(20)))
    charged = sorted(answer for answer in answers if isinstance(answer, tuple))
    assert [number for number, _ in charged] == [debit.id for debit in client.debits(reference)]
    fences = [fence for _, fence in charged]
    assert fences == sorted(fences)
    assert fences[-2:] == [10, 10], "the highest token is never refused"


def test_tokens_at_once_are_never_charged_in_the_wrong_order(client: BankClient) -> None:
    for turn in range(5):
        charge_under_ten_tokens(client, f"r{turn}")


def test_tokens_at_once_on_postgresql(tmp_path: Path) -> None:
    with scratch_database(f"tasks_demo_fence_{TOKEN[:12]}") as url:
        if not url:
            pytest.skip("DATABASE_URL names no PostgreSQL server")
        with embedded(tmp_path, url) as bank, closing(BankClient(bank.url)) as client:
            for turn in range(5):
                charge_under_ten_tokens(client, f"r{turn}")


# -- killed and restarted ----------------------------------------------------------------------------------------------


def test_key_in_flight_when_the_bank_is_killed_is_not_used_up(bank: EmbeddedBank, own_client: BankClient) -> None:
    with slow_debit(own_client, idempotency_key="k") as lost:
        bank.kill()
        error = lost.exception(BOUND_SECONDS)
    assert isinstance(error, BankUnavailable)
    assert not error.certain_not_charged
    with pytest.raises(BankUnavailable) as refused:
        own_client.debit("alice", 1, "r", idempotency_key="k")
    assert refused.value.certain_not_charged

    bank.start()
    assert not own_client.debit("alice", 1, "r", idempotency_key="k").replayed
    assert own_client.debit("alice", 1, "r", idempotency_key="k").replayed
    assert Debit.objects.count() == 1


@pytest.mark.parametrize("end", [EmbeddedBank.kill, EmbeddedBank.stop])
def test_confirmed_debits_survive_the_end_of_the_bank(
    bank: EmbeddedBank, own_client: BankClient, end: Callable[[EmbeddedBank], None]
) -> None:
    confirmed: list[int] = []

    def work() -> None:
        for index in range(10_000):
            try:
                confirmed.append(own_client.debit("alice", 1, f"r{index}", idempotency_key=f"k{index}").id)
            except BankUnavailable:
                return

    worker = threading.Thread(target=work)
    worker.start()
    until(lambda: len(confirmed) >= 30, "30 debits are confirmed")
    end(bank)
    worker.join(BOUND_SECONDS)
    bank.start()
    found = {debit.id for debit in own_client.debits()}
    assert set(confirmed) <= found
    assert len(found) - len(confirmed) in {0, 1}


def test_banks_on_one_database_make_one_debit(client: BankClient, own_client: BankClient) -> None:
    """By mistake or during a restart. Neither knows what the other has in flight; the database decides."""
    with slow_debit(client, idempotency_key="k") as first:
        assert not own_client.debit("alice", 1, "r", idempotency_key="k").replayed
        end_the_slow(client)
        assert isinstance(first.exception(BOUND_SECONDS), BankConflict)
    assert client.debit("alice", 1, "r", idempotency_key="k").replayed
    assert Debit.objects.count() == 1


# -- faults ----------------------------------------------------------------------------------------------------------


def test_lost_response_was_charged_and_the_key_finds_it(client: BankClient) -> None:
    client.set_fault(FAULT, "lose_response", ["order k", "order None"], each=2)
    for key in ("k", None):
        with pytest.raises(BankUnavailable, match=r"reset|Reset") as caught:
            client.debit("alice", 1, f"order {key}", idempotency_key=key)
        assert not caught.value.certain_not_charged
        assert Debit.objects.filter(reference=f"order {key}").count() == 1
    assert client.debit("alice", 1, "order k", idempotency_key="k").replayed, "a replay is never lost"
    with pytest.raises(BankUnavailable):
        client.debit("alice", 1, "order None")
    assert client.remove_fault(FAULT) == {"order k": 1, "order None": 2}
    assert Debit.objects.filter(reference="order None").count() == 2
    client.set_fault(FAULT, "refuse", ["nobody's"])


def test_faults_of_several_experiments_share_a_bank(bank: EmbeddedBank, own_client: BankClient) -> None:
    own_client.set_fault("lane 1", "lose_response", ["a", "b"])
    own_client.set_fault("lane 2", "lose_response", ["c"], each=2)
    own_client.set_fault("lane 3", "refuse", ["c"])
    own_client.debit("alice", 1, "nobody's")
    for reference, times in (("a", 1), ("c", 3)):
        for _ in range(times):
            with pytest.raises(BankUnavailable) as caught:
                own_client.debit("alice", 1, reference)
            if "refuses" in str(caught.value):
                assert caught.value.certain_not_charged
        own_client.debit("alice", 1, reference)
    assert own_client.remove_fault("lane 1") == {"a": 1, "b": 0}
    with pytest.raises(BankRefused, match="no fault of that name"):
        own_client.fault_hits("lane 1")
    assert (own_client.fault_hits("lane 2"), own_client.fault_hits("lane 3")) == ({"c": 2}, {"c": 1})
    own_client.debit("alice", 1, "b")
    assert [Debit.objects.filter(reference=reference).count() for reference in "abc"] == [2, 1, 3]
    own_client.set_fault("many", "lose_response", ["many"], each=40)
    for _ in range(40):
        with pytest.raises(BankUnavailable):
            own_client.debit("alice", 1, "many")
    logged = [line for line in bank.log.read_text().splitlines() if "Service Unavailable" not in line]
    assert logged == [f"Bank listening on {bank.url}"], "a lost response is no error of the bank"


# -- hostile callers -------------------------------------------------------------------------------------------------

HEAD = b"POST /debits HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
BODY = b'{"account": "a", "amount": 1, "reference": "r"}'
HOSTILE: dict[str, tuple[bytes, int]] = {
    "no length": (HEAD + b"\r\n", 400),
    "chunked": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n2f\r\n" + BODY + b"\r\n0\r\n\r\n", 400),
    "empty": (HEAD + b"Content-Length: 0\r\n\r\n", 400),
    "negative length": (HEAD + b"Content-Length: -1\r\n\r\n" + BODY, 400),
    "body ends early": (HEAD + b"Content-Length: 100\r\n\r\n" + BODY[:-1], 400),
    "too large and not sent": (HEAD + b"Content-Length: 99999999999\r\n\r\n", 400),
    "two keys": (HEAD + b'Idempotency-Key: "a"\r\nIdempotency-Key: "b"\r\nContent-Length: 47\r\n\r\n' + BODY, 400),
    "binary key": (HEAD + b'Idempotency-Key: "\xff\xfe"\r\nContent-Length: 47\r\n\r\n' + BODY, 400),
    "surrogate in path": (b"GET /faults/%ED%A0%80 HTTP/1.1\r\nHost: x\r\n\r\n", 404),
    "admin": (b"GET /admin/ HTTP/1.1\r\nHost: x\r\n\r\n", 404),
}


def test_bank_refuses_hostile_requests_and_goes_on(standing_bank: EmbeddedBank, client: BankClient) -> None:
    port = int(standing_bank.url.rpartition(":")[2])
    seen = {}
    with ExitStack() as silent:
        for _ in range(40):
            connection = silent.enter_context(socket.create_connection(("127.0.0.1", port)))
            connection.sendall(HEAD + b"Content-Length: 100\r\n\r\n{")
        for name, (request, _) in HOSTILE.items():
            with socket.create_connection(("127.0.0.1", port), timeout=BOUND_SECONDS) as connection:
                connection.sendall(request)
                connection.shutdown(socket.SHUT_WR)
                seen[name] = int(connection.makefile("rb").readline().split(b" ")[1])
        assert seen == {name: status for name, (_, status) in HOSTILE.items()}
        client.debit("alice", 1, "r")
    assert Debit.objects.count() == 1


def test_client_works_on_both_sides_of_a_fork(standing_bank: EmbeddedBank, client: BankClient) -> None:
    script = """
import os, sys
from tasks_demo.demo.bank.client import BankClient
client = BankClient(sys.argv[1])
client.identity()
children = []
for child in range(3):
    pid = os.fork()
    if not pid:
        for index in range(20):
            client.debit("alice", 1, f"{child}-{index}")
        os._exit(0)
    children.append(pid)
for index in range(20):
    client.debit("alice", 1, f"parent-{index}")
assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children] == [0, 0, 0]
"""
    subprocess.run([sys.executable, "-c", script, standing_bank.url], cwd=PROJECT, check=True, timeout=60)
    assert Debit.objects.values("reference").distinct().count() == Debit.objects.count() == 80


# -- manage.py bank --------------------------------------------------------------------------------------------------


def start(home: Home, folder: Path, *arguments: str, **env: str) -> subprocess.Popen[str]:
    database = f"sqlite:///{folder / 'new.sqlite3'}"
    return home.start("bank", *arguments, env={"BANK_DATABASE_URL": database, **env}, own_group=True)


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_command_takes_its_address_from_bank_url_and_ends_by_signal(
    home: Home, tmp_path: Path, sent: signal.Signals, code: int
) -> None:
    address = f"http://127.0.0.1:{free_port()}"
    bank = start(home, tmp_path, BANK_URL=address)
    assert first_line(bank) == f"Bank listening on {address}\n"
    with closing(BankClient(address)) as client:
        client.debit("alice", 1, "r")
        bank.send_signal(sent)
        done = finish(bank)
    assert (done.code, done.out, done.err) == (code, "", "")


def test_command_on_a_taken_port_is_exit_4(home: Home, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        done = finish(start(home, tmp_path, "--port", str(port), BANK_URL="http://127.0.0.1:1"))
    assert (done.code, done.out) == (4, "")
    assert f"cannot listen on 127.0.0.1 port {port}" in done.sentence()


@pytest.mark.parametrize(
    "url", ["sqlite:////proc/nowhere/bank.sqlite3", "postgres://nobody@127.0.0.1:1/nothing?connect_timeout=2"]
)
def test_command_on_a_database_that_cannot_be_written_is_exit_4(home: Home, tmp_path: Path, url: str) -> None:
    done = finish(start(home, tmp_path, "--port", "0", BANK_DATABASE_URL=url))
    assert (done.code, done.out) == (4, "")
    assert "cannot be written" in done.sentence()


@pytest.mark.parametrize(
    ("arguments", "url"),
    [
        (["--port", "99999"], ""),
        (["--port", "x"], ""),
        (["--fd", "99"], ""),
        (["--fd", "-1"], ""),
        (["--fd", "0"], ""),
        (["--fd", "3", "--port", "1"], ""),
        ([], "http://bank.example:80"),
        ([], "https://127.0.0.1:80"),
        ([], "http://127.0.0.1:99999"),
    ],
)
def test_command_used_wrongly_is_exit_2(home: Home, tmp_path: Path, arguments: Sequence[str], url: str) -> None:
    done = finish(start(home, tmp_path, *arguments, BANK_URL=url))
    assert (done.code, done.out) == (2, "")
    done.sentence()

"""The bank as the lab runs it: a real process on an inherited socket, killed and started again."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil
import pytest
from django.db import connections

from tasks_demo.demo.bank.client import (
    BankClient,
    BankConflict,
    BankFenced,
    BankMismatch,
    BankRefused,
    BankUnavailable,
    DebitReceipt,
)
from tasks_demo.demo.bank.models import Account, Debit, IdempotencyKey
from tasks_demo.demo.bank.server import THREADS
from tests.support import TOKEN, scratch_database

pytestmark = pytest.mark.django_db(databases=["default", "bank"], transaction=True)

PROJECT = Path(__file__).resolve().parents[3]
BOUND_SECONDS = 15.0


def until(true: Callable[[], object], what: str) -> None:
    """Wait for evidence, not for time to pass."""
    deadline = time.monotonic() + BOUND_SECONDS
    while not true():
        assert time.monotonic() < deadline, f"not within {BOUND_SECONDS:g} s: {what}"
        time.sleep(0.01)


class Bank:
    """One bank process on the test's own database, in a process group of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = 0
        self.popen: subprocess.Popen[str] | None = None
        self.clients: list[BankClient] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def running(self) -> subprocess.Popen[str]:
        assert self.popen is not None
        return self.popen

    def start(self, *arguments: str, database: str = "") -> None:
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", self.port))
            listener.listen(128)
            self.port = listener.getsockname()[1]
            self.popen = launch(
                self.folder,
                *("--fd", str(listener.fileno()), *arguments),
                fds=[listener.fileno()],
                environment={"BANK_DATABASE_URL": database} if database else None,
            )
        assert self.running.stdout is not None
        assert self.running.stdout.readline() == f"Bank listening on {self.url}\n"

    def client(self, timeout: float = 10.0) -> BankClient:
        client = BankClient(self.url, timeout)
        self.clients.append(client)
        return client

    def kill(self) -> None:
        if self.popen is not None:
            finish(self.popen)

    def faults(self, **setting: object) -> dict[str, Any]:
        status, found = self.ask("PUT" if setting else "GET", "/faults", json.dumps(setting) if setting else None)
        assert status == 200, found
        return found

    def ask(self, method: str, path: str, body: str | None = None) -> tuple[int, dict[str, Any]]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=BOUND_SECONDS)
        try:
            connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()


def launch(
    folder: Path, *arguments: str, fds: list[int] | None = None, environment: dict[str, str] | None = None
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(PROJECT / "manage.py"), "bank", *arguments],
        env={**os.environ, "STATE_DIR": str(folder), "BANK_DATABASE_URL": database_url(), **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        pass_fds=fds or [],
        start_new_session=True,
    )


def dead(process: psutil.Process) -> bool:
    """Not running; an orphan may stay a zombie for as long as init likes."""
    try:
        return process.status() in {psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD}
    except psutil.NoSuchProcess:
        return True


def finish(popen: subprocess.Popen[str]) -> None:
    """SIGKILL for the whole group; returns when it is gone."""
    workers: list[psutil.Process] = []
    if popen.poll() is None:
        workers = psutil.Process(popen.pid).children()
        os.killpg(popen.pid, signal.SIGKILL)
    popen.communicate(timeout=BOUND_SECONDS)
    until(lambda: all(map(dead, workers)), "the workers are gone")


def database_url() -> str:
    """The test database of this session, so that the tests can look into the books themselves."""
    found = connections["bank"].settings_dict
    if connections["bank"].vendor == "sqlite":
        return f"sqlite:///{found['NAME']}"
    password = f":{quote(str(found['PASSWORD']), safe='')}" if found["PASSWORD"] else ""
    user = quote(str(found["USER"]), safe="") + password
    return f"postgres://{user}@{found['HOST']}:{found['PORT'] or 5432}/{found['NAME']}"


@pytest.fixture(scope="module")
def _standing(django_db_setup: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bank]:
    bank = Bank(tmp_path_factory.mktemp("open"))
    try:
        bank.start("--faults")
        yield bank
    finally:
        bank.kill()


@pytest.fixture
def open_bank(_standing: Bank) -> Iterator[Bank]:
    """One bank for all tests that do not end it; a start takes most of a second."""
    yield _standing
    _standing.faults(mode="none")
    while _standing.clients:
        _standing.clients.pop().close()


@pytest.fixture
def bank(tmp_path: Path) -> Iterator[Bank]:
    bank = Bank(tmp_path)
    try:
        yield bank
    finally:
        for client in bank.clients:
            client.close()
        bank.kill()


def refused(client: BankClient) -> bool:
    try:
        client.health()
    except BankUnavailable as error:
        return "cannot be reached" in str(error)
    return False


def in_flight(key: str) -> Callable[[], bool]:
    return lambda: IdempotencyKey.objects.filter(key=key, status="in_flight").exists()


def test_debits_and_books(open_bank: Bank) -> None:
    client = open_bank.client()
    client.health()
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
    assert open_bank.ask("GET", "/accounts/alice")[1] == {"name": "alice", "debits": 2, "amount": 251}


def test_the_client_turns_pages(open_bank: Bank) -> None:
    account = Account.objects.create(name="alice")
    Debit.objects.bulk_create(Debit(account=account, amount=1, reference=f"r{index}") for index in range(2001))
    numbers = [debit.id for debit in open_bank.client().debits()]
    assert len(numbers) == 2001
    assert numbers == sorted(numbers)
    assert [debit.id for debit in open_bank.client().debits(after=numbers[-2])] == numbers[-1:]


def test_twenty_threads_with_one_key_make_one_debit(open_bank: Bank) -> None:
    client = open_bank.client()
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


def test_many_threads_without_a_key_are_all_booked(open_bank: Bank) -> None:
    client = open_bank.client()
    with ThreadPoolExecutor(8) as pool:
        receipts = list(pool.map(lambda index: client.debit(f"a{index % 3}", 1, f"r{index}"), range(80)))
    assert {receipt.id for receipt in receipts} == set(Debit.objects.values_list("id", flat=True))
    assert len(receipts) == 80


def test_a_key_in_flight_is_409_and_then_answered(open_bank: Bank) -> None:
    open_bank.faults(mode="slow", delay_ms=60_000, count=1)
    client = open_bank.client()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(client.debit, "alice", 1, "r", idempotency_key="k")
        until(in_flight("k"), "the key is in flight")
        with pytest.raises(BankConflict):
            client.debit("alice", 1, "r", idempotency_key="k")
        with pytest.raises(BankMismatch):
            client.debit("alice", 2, "r", idempotency_key="k")
        open_bank.faults(mode="none")
        assert not first.result(BOUND_SECONDS).replayed
    assert client.debit("alice", 1, "r", idempotency_key="k").replayed


def test_a_key_in_flight_when_the_bank_is_killed_is_taken_over(bank: Bank) -> None:
    bank.start("--faults")
    bank.faults(mode="slow", delay_ms=60_000)
    with ThreadPoolExecutor(1) as pool:
        lost = pool.submit(bank.client(30.0).debit, "alice", 1, "r", idempotency_key="k")
        until(in_flight("k"), "the key is in flight")
        bank.kill()
        error = lost.exception(BOUND_SECONDS)
    assert isinstance(error, BankUnavailable)
    assert not error.certain_not_charged
    with pytest.raises(BankUnavailable) as refused:
        bank.client().debit("alice", 1, "r", idempotency_key="k")
    assert refused.value.certain_not_charged

    bank.start()
    assert in_flight("k")()
    assert not bank.client().debit("alice", 1, "r", idempotency_key="k").replayed
    assert bank.client().debit("alice", 1, "r", idempotency_key="k").replayed
    assert Debit.objects.count() == 1


def test_what_was_confirmed_survives_a_kill(bank: Bank) -> None:
    bank.start()
    client = bank.client()
    confirmed: list[int] = []

    def work() -> None:
        for index in range(10_000):
            try:
                confirmed.append(client.debit("alice", 1, f"r{index}", idempotency_key=f"k{index}").id)
            except BankUnavailable:
                return

    worker = threading.Thread(target=work)
    worker.start()
    until(lambda: len(confirmed) >= 30, "30 debits are confirmed")
    bank.kill()
    worker.join(BOUND_SECONDS)
    bank.start()
    booked = {debit.id for debit in bank.client().debits()}
    assert set(confirmed) <= booked
    assert len(booked) - len(confirmed) in {0, 1}


@pytest.mark.parametrize("first_to_finish", ["the second bank", "the first bank"])
def test_two_banks_on_one_database_still_make_one_debit(bank: Bank, tmp_path: Path, first_to_finish: str) -> None:
    """By mistake or during a restart: the second one takes the key of the first for a dead one's, and keeps it."""
    bank.start("--faults")
    other = Bank(tmp_path)
    try:
        other.start("--faults")
        bank.faults(mode="slow", delay_ms=60_000)
        if first_to_finish == "the first bank":
            other.faults(mode="slow", delay_ms=60_000)
        with ThreadPoolExecutor(2) as pool:
            first = pool.submit(bank.client(30.0).debit, "alice", 1, "r", idempotency_key="k")
            until(in_flight("k"), "the key is in flight")
            owner = IdempotencyKey.objects.get().owner
            second = pool.submit(other.client(30.0).debit, "alice", 1, "r", idempotency_key="k")
            until(lambda: IdempotencyKey.objects.get().owner != owner, "the key was taken over")
            if first_to_finish == "the second bank":
                assert not second.result(BOUND_SECONDS).replayed
            bank.faults(mode="none")
            assert isinstance(first.exception(BOUND_SECONDS), BankConflict)
            other.faults(mode="none")
            assert not second.result(BOUND_SECONDS).replayed
    finally:
        for client in other.clients:
            client.close()
        other.kill()
    assert Debit.objects.count() == 1


def test_a_lost_response_was_charged_and_the_key_finds_it(open_bank: Bank) -> None:
    open_bank.faults(mode="lose_response", count=2)
    client = open_bank.client()
    for key in ("k", None):
        with pytest.raises(BankUnavailable, match=r"reset|Reset") as caught:
            client.debit("alice", 1, f"order {key}", idempotency_key=key)
        assert not caught.value.certain_not_charged
        assert Debit.objects.filter(reference=f"order {key}").count() == 1
    assert open_bank.faults()["hits"] == 2
    assert client.debit("alice", 1, "order k", idempotency_key="k").replayed
    assert not client.debit("alice", 1, "order None").replayed
    assert Debit.objects.filter(reference="order None").count() == 2


def test_a_replay_is_never_lost(open_bank: Bank) -> None:
    client = open_bank.client()
    open_bank.faults(mode="lose_response")
    with pytest.raises(BankUnavailable):
        client.debit("alice", 1, "r", idempotency_key="k")
    assert client.debit("alice", 1, "r", idempotency_key="k").replayed


def test_losing_many_responses_wears_nothing_out(bank: Bank) -> None:
    bank.start("--faults")
    bank.faults(mode="lose_response", count=40)
    client = bank.client()
    for index in range(40):
        with pytest.raises(BankUnavailable):
            client.debit("alice", 1, f"r{index}")
    client.debit("alice", 1, "r40")
    assert Debit.objects.count() == 41
    bank.running.terminate()
    _, errors = bank.running.communicate(timeout=BOUND_SECONDS)
    assert (bank.running.returncode, errors) == (0, "")


def test_a_stale_holder_is_fenced_off_and_its_key_is_not_used_up(open_bank: Bank) -> None:
    client = open_bank.client()
    client.debit("alice", 1, "r", idempotency_key="k", fence=2)
    for key in ("k", "other", None):
        with pytest.raises(BankFenced):
            client.debit("alice", 1, "r", idempotency_key=key, fence=1)
    assert client.debit("alice", 1, "r", idempotency_key="k", fence=3).replayed
    assert not client.debit("alice", 1, "r", idempotency_key="other", fence=3).replayed
    assert Debit.objects.count() == 2


def tokens_at_once(bank: Bank, reference: str) -> None:
    """Twenty threads debit at once under ten tokens; then, in the order of the books, the tokens must not fall."""
    client = bank.client()
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
    assert [number for number, _ in charged] == [booked.id for booked in client.debits(reference)]
    fences = [fence for _, fence in charged]
    assert fences == sorted(fences)
    assert fences[-2:] == [10, 10], "the highest token is never refused"


def test_tokens_at_once_are_never_charged_in_the_wrong_order(open_bank: Bank) -> None:
    for turn in range(5):
        tokens_at_once(open_bank, f"r{turn}")


def test_tokens_at_once_on_postgresql(bank: Bank) -> None:
    with scratch_database(f"tasks_demo_fence_{TOKEN[:12]}") as url:
        if not url:
            pytest.skip("DATABASE_URL names no PostgreSQL server")
        bank.start(database=url)
        for turn in range(5):
            tokens_at_once(bank, f"r{turn}")
        bank.kill()


@pytest.mark.parametrize("key", [None, "k1"])
def test_a_holder_that_is_overtaken_inside_the_bank_is_fenced_off(open_bank: Bank, key: str | None) -> None:
    client = open_bank.client()
    client.set_fault("zombie", "slow", ["r"], delay_ms=60_000)
    with ThreadPoolExecutor(1) as pool:
        late = pool.submit(client.debit, "alice", 1, "r", idempotency_key=key, fence=1)
        until(lambda: client.fault_hits("zombie")["r"], "the first debit waits inside the bank")
        client.debit("alice", 1, "r", idempotency_key="k2", fence=2)
        client.remove_fault("zombie")
        assert isinstance(late.exception(BOUND_SECONDS), BankFenced)
    assert Debit.objects.get().idempotency.key == "k2"
    assert [found.key for found in IdempotencyKey.objects.all()] == ["k2"]


def test_faults_of_several_experiments_share_a_bank(open_bank: Bank) -> None:
    client = open_bank.client()
    client.set_fault("lane 1", "lose_response", ["a", "b"])
    client.set_fault("lane 2", "lose_response", ["c"], each=2)
    client.set_fault("lane 3", "refuse", ["c"])
    client.debit("alice", 1, "nobody's")
    for reference, times in (("a", 1), ("c", 3)):
        for _ in range(times):
            with pytest.raises(BankUnavailable):
                client.debit("alice", 1, reference)
        client.debit("alice", 1, reference)
    assert client.remove_fault("lane 1") == {"a": 1, "b": 0}
    with pytest.raises(BankRefused, match="no fault of that name"):
        client.fault_hits("lane 1")
    assert (client.fault_hits("lane 2"), client.fault_hits("lane 3")) == ({"c": 2}, {"c": 1})
    client.debit("alice", 1, "b")
    assert [Debit.objects.filter(reference=reference).count() for reference in "abc"] == [2, 1, 3]


def test_refuse_charges_nothing(open_bank: Bank) -> None:
    open_bank.faults(mode="refuse", count=1)
    with pytest.raises(BankUnavailable) as caught:
        open_bank.client().debit("alice", 1, "r")
    assert caught.value.certain_not_charged
    assert not Debit.objects.exists()
    open_bank.client().debit("alice", 1, "r")


HEAD = b"POST /debits HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
HOSTILE: dict[str, tuple[bytes, int]] = {
    "no length": (HEAD + b"\r\n", 411),
    "chunked": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", 411),
    "empty": (HEAD + b"Content-Length: 0\r\n\r\n", 400),
    "negative length": (HEAD + b"Content-Length: -1\r\n\r\n", 400),
    "two lengths": (HEAD + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}", 400),
    "body ends early": (HEAD + b"Content-Length: 100\r\n\r\n{}", 400),
    "too large": (HEAD + b"Content-Length: 50000\r\n\r\n" + b" " * 50_000, 413),
    "much too large and not sent": (HEAD + b"Content-Length: 99999999999\r\n\r\n", 413),
    "two keys": (HEAD + b"Idempotency-Key: a\r\nIdempotency-Key: b\r\nContent-Length: 2\r\n\r\n{}", 400),
    "binary key": (HEAD + b"Idempotency-Key: \xff\xfe\r\nContent-Length: 2\r\n\r\n{}", 400),
    "not HTTP": (b"\x16\x03\x01\x02\x00\r\n\r\n", 400),
    "surrogate in path": (b"GET /accounts/%ED%A0%80 HTTP/1.1\r\nHost: x\r\n\r\n", 404),
    "NUL in path": (b"GET /accounts/%00 HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "admin": (b"GET /admin/ HTTP/1.1\r\nHost: x\r\n\r\n", 404),
}


def test_hostile_requests_are_refused_and_the_bank_stays(open_bank: Bank) -> None:
    seen = {}
    for name, (request, _) in HOSTILE.items():
        with socket.create_connection(("127.0.0.1", open_bank.port), timeout=BOUND_SECONDS) as connection:
            connection.sendall(request)
            connection.shutdown(socket.SHUT_WR)
            seen[name] = int(connection.makefile("rb").readline().split(b" ")[1])
    assert seen == {name: status for name, (_, status) in HOSTILE.items()}
    open_bank.client().debit("alice", 1, "r")
    assert Debit.objects.count() == 1


def test_callers_that_fall_silent_do_not_keep_the_threads(open_bank: Bank) -> None:
    with ExitStack() as stack:
        for started in (HEAD[:20], HEAD + b"Content-Length: 100\r\n\r\n{") * (THREADS // 2):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", open_bank.port)))
            connection.sendall(started)
        open_bank.client(30.0).debit("alice", 1, "r")
    assert Debit.objects.count() == 1


def test_a_client_works_on_both_sides_of_a_fork(open_bank: Bank) -> None:
    script = """
import os, sys
from tasks_demo.demo.bank.client import BankClient
client = BankClient(sys.argv[1])
client.health()
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
    subprocess.run([sys.executable, "-c", script, open_bank.url], cwd=PROJECT, check=True, timeout=60)
    assert Debit.objects.values("reference").distinct().count() == Debit.objects.count() == 80


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_exit_codes_of_signals(bank: Bank, number: signal.Signals, code: int) -> None:
    bank.start()
    bank.client().debit("alice", 1, "r")
    main = psutil.Process(bank.running.pid)
    until(main.children, "the worker is there")
    (worker,) = main.children()
    bank.running.send_signal(number)
    _, errors = bank.running.communicate(timeout=BOUND_SECONDS)
    assert (bank.running.returncode, errors) == (code, "")
    assert dead(worker)


def test_killing_the_main_process_ends_the_worker(bank: Bank) -> None:
    if not sys.platform.startswith("linux"):
        pytest.skip("only Linux has a death signal; elsewhere the worker looks once a second")
    bank.start()
    bank.ask("GET", "/health")
    (worker,) = psutil.Process(bank.running.pid).children()
    worker.suspend()  # it cannot look for its parent any more: what ends it is the death signal
    os.kill(bank.running.pid, signal.SIGKILL)
    bank.running.wait(BOUND_SECONDS)
    until(lambda: dead(worker), "the worker is gone")
    # Its other threads may hold the socket a moment longer.
    until(lambda: refused(bank.client()), "connections are refused")


def test_several_banks_started_on_new_books_at_once_are_all_ready(tmp_path: Path) -> None:
    books = {"BANK_DATABASE_URL": f"sqlite:///{tmp_path / 'new.sqlite3'}"}
    banks = [launch(tmp_path, "--port", "0", environment=books) for _ in range(4)]
    try:
        for popen in banks:
            assert popen.stdout is not None
            assert "Bank listening" in popen.stdout.readline(), popen.communicate(timeout=BOUND_SECONDS)[1]
    finally:
        for popen in banks:
            finish(popen)


def test_a_killed_worker_is_replaced(bank: Bank) -> None:
    bank.start()
    main = psutil.Process(bank.running.pid)
    until(main.children, "the worker is there")
    killed = main.children()[0]
    killed.kill()
    until(lambda: {child.pid for child in main.children()} - {killed.pid}, "another worker is there")
    bank.client().debit("alice", 1, "r")


def failed(popen: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit code and stderr of a bank that should not have come up."""
    try:
        out, errors = popen.communicate(timeout=BOUND_SECONDS)
    finally:
        finish(popen)
    assert out == ""
    assert "Traceback" not in errors
    return popen.returncode, errors


def test_a_taken_port_is_exit_4(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        code, errors = failed(launch(tmp_path, "--port", str(port), environment={"BANK_URL": "http://127.0.0.1:1"}))
    assert code == 4
    assert f"cannot listen on 127.0.0.1 port {port}" in errors
    assert len(errors.strip().splitlines()) == 1


@pytest.mark.parametrize(
    "url", ["sqlite:////proc/nowhere/bank.sqlite3", "postgres://nobody@127.0.0.1:1/nothing?connect_timeout=2"]
)
def test_a_database_that_cannot_be_written_is_exit_4(tmp_path: Path, url: str) -> None:
    code, errors = failed(launch(tmp_path, "--port", "0", environment={"BANK_DATABASE_URL": url}))
    assert code == 4
    assert "cannot be written" in errors
    assert len(errors.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "environment"),
    [
        (["--port", "99999"], {}),
        (["--port", "x"], {}),
        (["--fd", "99"], {}),
        (["--fd", "-1"], {}),
        (["--fd", "0"], {}),
        (["--fd", "3", "--port", "1"], {}),
        (["--nonsense"], {}),
        ([], {"BANK_URL": "http://bank.example:80"}),
        ([], {"BANK_URL": "https://127.0.0.1:80"}),
        ([], {"BANK_URL": "http://127.0.0.1:99999"}),
    ],
)
def test_usage_errors_are_exit_2(tmp_path: Path, arguments: list[str], environment: dict[str, str]) -> None:
    code, errors = failed(launch(tmp_path, *arguments, environment=environment))
    assert code == 2
    assert errors


def test_the_address_comes_from_bank_url(bank: Bank, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    bank.popen = launch(tmp_path, environment={"BANK_URL": address})
    assert bank.popen.stdout is not None
    assert bank.popen.stdout.readline() == f"Bank listening on {address}\n"

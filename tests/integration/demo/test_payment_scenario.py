"""The payment scenario of docs/how-to/payments.md: real worker, real Redis, real bank, and every failure of the bank.

The table and the function come from that page: a wrong cell there fails a test here.

Over 300 lines: the scenario of one page, with the bank that it needs.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from typing import Any

import pytest
from celery.result import AsyncResult

from tasks_demo.demo.bank.client import BankClient, BankFenced, BankMismatch, BankUnavailable, Debit, DebitReceipt
from tasks_demo.demo.stack import EmbeddedBank
from tasks_demo.demo.tasks import CHARGES
from tasks_demo.leases.protocol import Claimed
from tasks_demo.leases.redis_client import connect
from tasks_demo.leases.redis_store import RedisLeaseStore
from tasks_demo.ledger.models import Event
from tests.support import PROJECT, STATE, Home, Worker, database_url_of_tests, until

pytestmark = pytest.mark.usefixtures("ledger")

PAGE = (PROJECT / "docs" / "how-to" / "payments.md").read_text()
LATE = ("acks_late", "dedup_lock")
AMOUNT = 250
#: The worker's timeout for the bank, in seconds: long enough for a bank that restarts on a busy machine.
PATIENCE = 10
#: The bound where a request must time out first.
BOUND = 3.0 * PATIENCE
FAULT = "scenario"


# -- the page --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """One cell: debits in the books, what the customer sees, whether the job failed."""

    charged: int
    shown: str
    job_failed: bool


def _table() -> dict[str, dict[str, Outcome]]:
    lines = [line for line in PAGE.partition("\n## ")[0].splitlines() if line.startswith("|")]
    heading, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    patterns = [name.strip("`") for name in heading[1:]]
    return {row[0]: dict(zip(patterns, map(_outcome, row[1:]), strict=True)) for row in rows}


def _outcome(cell: str) -> Outcome:
    charged, shown, *failed = cell.replace("*", "").split(", ")
    assert failed in ([], ["job failed"]), cell
    return Outcome(int(charged), shown, bool(failed))


def _what_to_show() -> Callable[[str, str, BankClient], str]:
    (block,) = (code for code in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if "def what_to_show" in code)
    defined: dict[str, Any] = {}
    exec(block, defined)  # noqa: S102  # our own page: what it shows must be what works
    function: Callable[[str, str, BankClient], str] = defined["what_to_show"]
    return function


OUTCOMES = _table()
PATTERNS = list(OUTCOMES["answers"])
what_to_show = _what_to_show()


# -- the services ------------------------------------------------------------------------------------------------------


class Shop:
    """One worker and a bank that can be made to fail. ``orders``: the operation of each pattern in the current test."""

    def __init__(self, stack: ExitStack, home: Home, redis_url: str) -> None:
        folder = STATE / "payments"
        folder.mkdir()
        books = {"BANK_DATABASE_URL": f"sqlite:///{folder / 'books.sqlite3'}"}
        self.bank = stack.enter_context(EmbeddedBank(folder / "bank.log", env=books, arguments=["--faults"]))
        env = {
            "DATABASE_URL": database_url_of_tests(),
            "REDIS_URL": redis_url,
            "BANK_URL": self.bank.url,
            "TASKS_DEMO_BANK_TIMEOUT_SECONDS": str(PATIENCE),
        }
        stack.enter_context(Worker(home, folder / "worker.log", env, concurrency=3))
        self.client = stack.enter_context(closing(BankClient(self.bank.url, 30.0)))
        self._elsewhere = stack.enter_context(ThreadPoolExecutor(len(PATTERNS)))
        self.orders: dict[str, str] = {}

    def send(self, pattern: str, **options: Any) -> AsyncResult[Any]:
        kwargs = {"customer": "c", "amount": AMOUNT, "operation": self.orders[pattern]}
        sent: AsyncResult[Any] = CHARGES[pattern].apply_async(kwargs=kwargs, **options)
        return sent

    def elsewhere(self, order: str, amount: int = AMOUNT) -> Future[DebitReceipt]:
        """Another part of the shop charges the same order with the right key."""
        return self._elsewhere.submit(self.client.debit, "c", amount, order, idempotency_key=order)

    def debits(self, pattern: str) -> list[Debit]:
        return list(self.client.debits(self.orders[pattern]))

    def inject(self, mode: str, delay_ms: int | None = None) -> None:
        self.client.set_fault(FAULT, mode, self.orders.values(), delay_ms=delay_ms)

    def injected(self) -> None:
        """Wait until the fault was injected once into every order's debit."""
        until(lambda: set(self.client.fault_hits(FAULT).values()) == {1}, "the fault in every order")

    def saw(self, pattern: str, kind: str, why: str = "") -> list[str]:
        """The reasons that the ledger keeps for points of this kind."""
        events = Event.objects.filter(operation=self.orders[pattern], kind=kind).order_by("id")
        return [reason for event in events if why in (reason := str(event.detail.get("why", "")))]


@pytest.fixture(scope="module")
def shop(home: Home, redis_url: str, django_db_setup: None) -> Iterator[Shop]:
    with ExitStack() as stack:
        yield Shop(stack, home, redis_url)


@pytest.fixture(autouse=True)
def _new_orders(shop: Shop) -> Iterator[None]:
    shop.orders = {pattern: f"order-{uuid.uuid4()}" for pattern in PATTERNS}
    yield
    shop.bank.start()


# -- the ways to fail ------------------------------------------------------------------------------------------------


def nothing(shop: Shop) -> None:
    """No failure."""


def lose_responses(shop: Shop) -> None:
    shop.inject("lose_response")


def hang(shop: Shop) -> None:
    shop.inject("slow", 60_000)


def refuse(shop: Shop) -> None:
    shop.inject("refuse")


def go_down(shop: Shop) -> None:
    shop.bank.kill()


def wait_for_the_fault(shop: Shop) -> None:
    shop.injected()


def answer_too_late(shop: Shop) -> None:
    keep_them_waiting(shop)
    shop.client.remove_fault(FAULT)


def keep_them_waiting(shop: Shop) -> None:
    """Until every request has timed out and the late patterns have retried."""
    shop.injected()
    until(lambda: shop.saw("acks_early", "failed"), "acks_early gave up", BOUND)
    until(lambda: shop.saw("dedup_lock", "retried", "BankConflict"), "dedup_lock met its own first request", BOUND)
    # Its debit is in the books before the bank answers.
    until(lambda: shop.saw("acks_late", "returned"), "acks_late charged with its second request", BOUND)


def die_while_it_works(shop: Shop) -> None:
    keep_them_waiting(shop)
    shop.bank.kill()
    shop.bank.start()


def come_back(shop: Shop) -> None:
    until(lambda: shop.saw("acks_early", "failed"), "acks_early gave up")
    for pattern in LATE:
        until(lambda: shop.saw(pattern, "retried"), f"{pattern} tries again")  # noqa: B023
    shop.bank.start()


def be_busy_with_it(shop: Shop) -> None:
    hang(shop)
    for order in shop.orders.values():
        shop.elsewhere(order)
    shop.injected()


def finish_with_it(shop: Shop) -> None:
    until(lambda: shop.saw("dedup_lock", "retried", "BankConflict"), "dedup_lock met the other's request")
    shop.client.remove_fault(FAULT)


def charge_another_amount(shop: Shop) -> None:
    for order in shop.orders.values():
        shop.elsewhere(order, AMOUNT + 1).result(30)


@dataclass(frozen=True)
class Failure:
    """The actions before the jobs are sent and while they run, and what made the late patterns retry."""

    before: Callable[[Shop], None] = nothing
    meanwhile: Callable[[Shop], None] = nothing
    retries_left: bool = True
    retried: dict[str, list[str]] = field(default_factory=dict)


_LOST = {pattern: ["it is unknown whether the debit was made"] for pattern in LATE}
_UNCHARGED = {pattern: ["nothing was charged"] for pattern in LATE}
_OWN_REQUEST_IN_FLIGHT = {**_LOST, "dedup_lock": [*_LOST["dedup_lock"], "BankConflict"]}

FAILURES = {
    "answers": Failure(),
    "charges, and its answer is lost": Failure(lose_responses, wait_for_the_fault, retried=_LOST),
    "charges, its answer is lost, and no retry is left": Failure(
        lose_responses, wait_for_the_fault, retries_left=False
    ),
    "takes longer than the job waits": Failure(hang, answer_too_late, retried=_OWN_REQUEST_IN_FLIGHT),
    "takes longer than the job waits, and dies before it charges": Failure(
        hang, die_while_it_works, retried=_OWN_REQUEST_IN_FLIGHT
    ),
    "refuses once (503)": Failure(refuse, wait_for_the_fault, retried=_UNCHARGED),
    "is down, and comes back": Failure(go_down, come_back, retried=_UNCHARGED),
    "is down for longer than the job retries": Failure(go_down, retries_left=False),
    "still works on the same order for somebody else": Failure(
        be_busy_with_it, finish_with_it, retried={"dedup_lock": ["BankConflict"]}
    ),
    "has charged another amount under the same key": Failure(charge_another_amount),
}


def test_payments_page_lists_these_failures_and_existing_tasks() -> None:
    assert list(OUTCOMES) == list(FAILURES)
    assert set(PATTERNS) <= set(CHARGES)


@pytest.mark.parametrize("the_bank", FAILURES)
def test_payments_outcome_is_the_one_on_the_page(shop: Shop, the_bank: str) -> None:
    failure = FAILURES[the_bank]
    failure.before(shop)
    jobs = {
        # A job without retries left is sent as one: its next error is final.
        pattern: shop.send(pattern, retries=0 if failure.retries_left else CHARGES[pattern].max_retries)
        for pattern in PATTERNS
    }
    failure.meanwhile(shop)
    for job in jobs.values():
        job.get(timeout=2 * BOUND, propagate=False)

    expected = OUTCOMES[the_bank]
    if shop.bank.alive():
        # A slow bank makes the debit after the job has given up.
        for pattern, outcome in expected.items():
            until(lambda: len(shop.debits(pattern)) >= outcome.charged, f"the debits of {pattern}", BOUND)  # noqa: B023
    seen = {
        pattern: (what_to_show(job.id, shop.orders[pattern], shop.client), job.failed())
        for pattern, job in jobs.items()
    }
    shop.bank.start()
    found = {pattern: Outcome(len(shop.debits(pattern)), *seen[pattern]) for pattern in PATTERNS}
    assert found == expected

    for pattern in PATTERNS:
        wanted = failure.retried.get(pattern, [])
        for why in wanted:  # no job waits for its point in the ledger
            until(lambda: shop.saw(pattern, "retried", why), f"{pattern} retried: {why}")  # noqa: B023
        reasons = shop.saw(pattern, "retried")
        assert bool(reasons) == bool(wanted), reasons


# -- the rest of the page --------------------------------------------------------------------------------------------


def test_payments_not_known_is_settled_by_sending_the_job_again(shop: Shop) -> None:
    shop.inject("lose_response")
    first = shop.send("dedup_lock", retries=CHARGES["dedup_lock"].max_retries)
    error = first.get(timeout=BOUND, propagate=False)
    assert isinstance(error, BankUnavailable)
    assert not error.certain_not_charged
    shop.bank.kill()
    assert what_to_show(first.id, shop.orders["dedup_lock"], shop.client) == "not known"
    again = shop.send("dedup_lock")
    until(lambda: shop.saw("dedup_lock", "retried"), "the bank is missed")
    shop.bank.start()
    receipt = again.get(timeout=BOUND)
    assert [debit.id for debit in shop.debits("dedup_lock")] == [receipt["debit"]]
    assert what_to_show(again.id, shop.orders["dedup_lock"], shop.client) == "paid"


def test_payments_certainty_reaches_the_reader_of_the_result(shop: Shop) -> None:
    shop.bank.kill()
    error = shop.send("acks_early").get(timeout=BOUND, propagate=False)
    assert isinstance(error, BankUnavailable)
    assert error.certain_not_charged


def test_payments_certainty_is_about_the_last_request_only(shop: Shop) -> None:
    """This is why what_to_show reads the books although the last error says that nothing was charged."""
    pattern, last = "acks_late", {"retries": CHARGES["acks_late"].max_retries}
    shop.inject("lose_response")
    shop.send(pattern, **last).get(timeout=BOUND, propagate=False)
    shop.bank.kill()
    second = shop.send(pattern, **last)
    error = second.get(timeout=BOUND, propagate=False)
    assert isinstance(error, BankUnavailable)
    assert error.certain_not_charged
    assert what_to_show(second.id, shop.orders[pattern], shop.client) == "not known"
    shop.bank.start()
    assert what_to_show(second.id, shop.orders[pattern], shop.client) == "paid"


def test_payments_mismatch_is_not_retried_and_says_that_nothing_was_charged_now(shop: Shop) -> None:
    shop.elsewhere(shop.orders["dedup_lock"], AMOUNT + 1).result(30)
    error = shop.send("dedup_lock").get(timeout=BOUND, propagate=False)
    assert isinstance(error, BankMismatch)
    assert "Nothing was charged now" in str(error)
    assert [debit.amount for debit in shop.debits("dedup_lock")] == [AMOUNT + 1]


def test_payments_holder_of_a_lost_lease_is_fenced_off_at_the_bank(shop: Shop, redis_url: str) -> None:
    """The fence alone: each holder has its own key."""
    order = shop.orders["dedup_lock"]
    with closing(connect(redis_url, 5.0)) as redis:
        leases = RedisLeaseStore(redis, prefix=f"{order}:", lease_seconds=0.2, retention_seconds=60.0)
        paused = leases.claim(order, "digest")
        assert isinstance(paused, Claimed)

        def taken_over() -> Claimed | None:
            reply = leases.claim(order, "digest")
            return reply if isinstance(reply, Claimed) else None

        successor = until(taken_over, "the end of the first lease")
    assert successor is not None
    shop.client.debit("c", AMOUNT, order, idempotency_key="successor", fence=successor.fence)
    with pytest.raises(BankFenced, match="Nothing was charged now"):
        shop.client.debit("c", AMOUNT, order, idempotency_key="paused", fence=paused.fence)
    assert len(shop.debits("dedup_lock")) == 1

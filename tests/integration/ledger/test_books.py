"""Books: each is read separately, from a cursor on. Books that do not know a job never make it count as lost.

Over 300 lines: the books that the tests read are classes of this file.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import Any, ClassVar

import pytest
from django.db import connection, transaction
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils.timezone import now
from pytest_django import Settings

from tasks_demo.core.exceptions import InvalidSetting
from tasks_demo.core.lifecycle import Point, Subject, about, reached
from tasks_demo.ledger import books as registry
from tasks_demo.ledger import pruning, reading, record_effect
from tasks_demo.ledger.books import Books, Effect
from tasks_demo.ledger.models import BookCursor, BooksRead, Event, Tally
from tasks_demo.ledger.reading import copy, read_books, states
from tasks_demo.ledger.recorder import recorder
from tasks_demo.ledger.verify import differences
from tests.integration.ledger.ledger_rows import append, life
from tests.support import until

pytestmark = [pytest.mark.django_db(transaction=True, databases="__all__"), pytest.mark.usefixtures("ledger")]
OPEN, ENDED = ("published", "received", "started"), ("published", "received", "started", "returned")
HERE = "tests.integration.ledger.test_books"


class Paper(Books):
    """Books held in a list."""

    entries: ClassVar[list[Effect]] = []
    asked: ClassVar[list[int]] = []

    def effects(self, after: int) -> Iterable[Effect]:
        type(self).asked.append(after)
        return [entry for entry in self.entries if entry.number > after]


class Payments(Paper):
    entries: ClassVar[list[Effect]] = []
    asked: ClassVar[list[int]] = []


class Mail(Paper):
    entries: ClassVar[list[Effect]] = []
    asked: ClassVar[list[int]] = []


class Broken(Books):
    def effects(self, after: int) -> Iterator[Effect]:
        yield Effect(1, "seen", "seen", time.time())
        raise RuntimeError("page 2 is gone")


class Hanging(Books):
    release = threading.Event()

    def effects(self, after: int) -> Iterable[Effect]:
        self.release.wait(20)
        return []


@pytest.fixture(autouse=True)
def _registered(settings: Settings) -> Iterator[None]:
    settings.TASKS_DEMO_BOOKS = {"payments": f"{HERE}.Payments", "mail": f"{HERE}.Mail"}
    for paper in (Payments, Mail):
        paper.entries, paper.asked = [], []
    yield
    reading._hanging.clear()


def entry(number: int, operation: str, **detail: Any) -> Effect:
    return Effect(number, operation, operation, time.time(), detail)


def verdicts() -> dict[str, str]:
    return dict(Tally.objects.values_list("task_id", "verdict"))


def test_books_each_task_is_settled_by_its_own_books_only(settings: Settings) -> None:
    append(life("paid", *ENDED, books="payments"), life("unpaid", *ENDED, books="payments"))
    append(life("mailed", *ENDED, books="mail"), life("nobody's", *ENDED, books=""))
    settings.TASKS_DEMO_BOOKS = {"payments": f"{HERE}.Payments"}
    Payments.entries = [entry(1, "paid", amount=5)]
    assert [state.trouble for state in read_books()] == [""]
    assert verdicts() == {"paid": "ok", "unpaid": "lost", "mailed": "unresolved", "nobody's": "ok"}
    assert list(differences()) == []


def test_books_that_fail_keep_no_others_from_being_read_and_call_nothing_lost(settings: Settings) -> None:
    settings.TASKS_DEMO_BOOKS = {"a_broken": f"{HERE}.Broken", "payments": f"{HERE}.Payments"}
    append(life("theirs", *ENDED, books="a_broken"), life("seen", *ENDED, books="a_broken"))
    append(life("paid", *ENDED, books="payments"))
    Payments.entries = [entry(1, "paid")]
    broken, payments = read_books()
    assert (broken.as_of, broken.trouble) == (None, "RuntimeError: page 2 is gone")
    assert (payments.trouble, payments.as_of is not None) == ("", True)
    since = broken.since
    assert since is not None
    assert read_books()[0].since == since, "since the first failure"
    assert verdicts() == {"theirs": "unresolved", "seen": "unresolved", "paid": "ok"}


def test_books_that_hang_are_given_up_and_asked_again_when_they_have_answered(settings: Settings) -> None:
    settings.TASKS_DEMO_BOOKS = {"hanging": f"{HERE}.Hanging", "payments": f"{HERE}.Payments"}
    settings.TASKS_DEMO_BOOKS_TIMEOUT_SECONDS = 1.0
    Hanging.release.clear()
    append(life("paid", *ENDED, books="payments"))
    Payments.entries = [entry(1, "paid")]
    began = time.monotonic()
    assert [state.trouble for state in read_books()] == ["no answer within 1 s", ""]
    assert [state.trouble for state in read_books()] == ["no answer within 1 s", ""]
    assert time.monotonic() - began < 15, "twenty for one that waits for its answer"
    assert sum(thread.name == "books hanging" for thread in threading.enumerate()) == 1
    Hanging.release.set()
    reading._hanging["hanging"].join(20)
    assert [state.trouble for state in read_books()] == ["", ""]


def test_invalid_books_are_reported_in_a_sentence_and_do_not_stop_others(settings: Settings) -> None:
    settings.TASKS_DEMO_BOOKS = {"wrong": "tasks_demo.core.conf.Settings", "payments": f"{HERE}.Payments"}
    payments, wrong = read_books()
    assert payments.trouble == ""
    assert "not a subclass of" in wrong.trouble
    settings.TASKS_DEMO_BOOKS = ["payments"]
    with pytest.raises(InvalidSetting, match="TASKS_DEMO_BOOKS"):
        registry.names()


def test_book_is_read_from_its_cursor_on_and_one_without_entries_reads_no_events() -> None:
    Payments.entries = [entry(number, f"o{number}") for number in range(1, 1001)]
    assert copy("payments", Payments()) == 1000
    assert copy("payments", Payments()) == 0
    assert Payments.asked == [0, 1000 - registry.OVERLAP]
    append([*life("x", *OPEN)])
    copy("mail", Mail())
    with CaptureQueriesContext(connection) as captured:
        assert copy("mail", Mail()) == 0
    assert [query["sql"] for query in captured if "tasks_demo_event" in query["sql"]] == []
    assert Mail.asked == [0, 0]


class ReadAgain(Payments):
    """Reads the first row again, as ModelBooks do on PostgreSQL after an update."""

    def resume(self, number: int, snapshot: str) -> int:
        return 0


@pytest.mark.parametrize("days_ago", [None, 40], ids=["at no known time", "40 days ago"])
def test_pruned_entry_is_not_copied_again_and_a_late_one_is(
    days_ago: int | None,
) -> None:
    at = 0.0 if days_ago is None else time.time() - days_ago * 86400
    entries = [Effect(number, f"o{number}", at=at) for number in range(1, 301)]
    late = entries.pop(249)
    Payments.entries = entries
    assert copy("payments", ReadAgain()) == 299
    pruning.prune(now() + timedelta(hours=1))
    assert Event.objects.count() == 199
    assert copy("payments", ReadAgain()) == 0
    Payments.entries = [*entries[:249], late, *entries[249:]]
    assert copy("payments", ReadAgain()) == 1
    assert Event.objects.latest("id").operation == "o250"


def test_lost_cursor_is_found_again() -> None:
    Payments.entries = [entry(number, f"o{number}") for number in range(1, 301)]
    copy("payments", Payments())
    pruning.prune(now() + timedelta(hours=1))
    BookCursor.objects.all().delete()
    Payments.asked.clear()
    assert copy("payments", Payments()) == 0
    assert Payments.asked == [300 - registry.OVERLAP]
    assert copy("payments", ReadAgain()) == 0
    Payments.entries = [*Payments.entries, entry(301, "new")]
    assert copy("payments", Payments()) == 1


def test_books_of_another_identity_are_read_from_their_beginning() -> None:
    class Anew(Payments):
        def identity(self) -> str:
            return "second"

    Payments.entries = [entry(1, "a"), entry(2, "b")]
    assert copy("payments", Payments()) == 2
    assert copy("payments", Anew()) == 2
    assert sorted(BookCursor.objects.values_list("source", "number")) == [("payments::", 2), ("payments:second:", 2)]


def test_books_that_nobody_registered_count_nothing_and_the_task_is_judged_by_its_executions() -> None:
    with about(Subject("t", "t", "acks_late", "w", "nope", "shop.t")):
        reached(Point.STARTED)
        reached(Point.RETURNED)
    recorder.flush()
    read_books()
    tally = Tally.objects.get()
    assert (tally.books, tally.verdict, tally.broken) == ("", "ok", False)


def test_books_page_writes_nothing_and_its_button_reads_the_books(admin_client: Client) -> None:
    append(life("t", *ENDED, books="payments"))
    Payments.entries = [entry(1, "t", amount=5)]
    for page in ("/admin/tasks_demo/tally/", "/admin/tasks_demo/tally/t/change/"):
        with CaptureQueriesContext(connection) as captured:
            response = admin_client.get(page)
        assert "were never read" in response.content.decode()
        written = [
            query["sql"]
            for query in captured
            if not query["sql"].lstrip().startswith(("SELECT", "WITH", "DECLARE", "--"))
        ]
        assert [sql for sql in written if "tasks_demo_" in sql] == []
    assert (Payments.asked, BooksRead.objects.count(), Tally.objects.get().effects) == ([], 0, 0)
    assert admin_client.get("/admin/tasks_demo/tally/books/").status_code == 403
    response = admin_client.post(
        "/admin/tasks_demo/tally/books/", {"next": "/admin/tasks_demo/tally/t/change/"}, follow=True
    )
    text = response.content.decode()
    assert response.redirect_chain == [("/admin/tasks_demo/tally/t/change/", 302)]
    assert "The books were read." in text
    assert "number 1: amount 5" in text
    assert Tally.objects.get().verdict == "ok"
    response = admin_client.post("/admin/tasks_demo/tally/books/", {"next": "https://elsewhere.example/"})
    assert response["Location"] == "/admin/tasks_demo/tally/"


def test_books_page_says_which_books_cannot_be_read_and_since_when(admin_client: Client, settings: Settings) -> None:
    settings.TASKS_DEMO_BOOKS = {"broken": f"{HERE}.Broken", "payments": f"{HERE}.Payments"}
    read_books()
    text = " ".join(admin_client.get("/admin/tasks_demo/tally/").content.decode().split())
    assert "The books “broken” cannot be read since <time" in text
    assert "RuntimeError: page 2 is gone" in text
    assert "“payments”" not in text


# -- record_effect ------------------------------------------------------------------------------------------------------


def body(*calls: dict[str, Any], books: str = "", end: Point | None = Point.RETURNED) -> list[bool]:
    with about(Subject("t", "order:1", "acks_late", "w", books, "shop.t")):
        reached(Point.PUBLISHED)
        reached(Point.RECEIVED)
        reached(Point.STARTED)
        answers = [record_effect(**call) for call in calls]
        if end is Point.FAILED:
            reached(Point.FAILED, abandoned=True)
        elif end:
            reached(end)
    recorder.flush()
    return answers


@pytest.mark.parametrize(
    ("calls", "end", "effects_", "verdict", "broken"),
    [
        ([{}], Point.RETURNED, 1, "ok", False),
        ([{"key": "receipt-1"}, {"key": "receipt-1"}], Point.RETURNED, 1, "ok", False),
        ([{"key": "receipt-1"}, {"key": "receipt-2"}], Point.RETURNED, 2, "duplicated", False),
        ([{}, {}], Point.RETURNED, 2, "duplicated", False),
        ([], Point.RETURNED, 0, "ok", False),
        ([{}], Point.FAILED, 1, "ok", False),
        ([{}], None, 1, "unresolved", False),
    ],
)
def test_effect_that_the_task_records_itself(
    calls: list[dict[str, Any]], end: Point | None, effects_: int, verdict: str, broken: bool
) -> None:
    assert body(*calls, end=end) == [True] * len(calls)
    read_books()
    tally = Tally.objects.get()
    assert (tally.effects, tally.verdict, tally.broken) == (effects_, verdict, broken)
    assert list(differences()) == []


def test_task_whose_books_count_cannot_record_effects_too() -> None:
    Payments.entries = [entry(1, "order:1")]
    assert body({}, books="payments") == [False]
    read_books()
    assert Tally.objects.get().effects == 1


def test_recording_fails_no_body(settings: Settings) -> None:
    assert record_effect() is False, "outside a delivery"
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE tasks_demo_event RENAME TO tasks_demo_event_away")
    try:
        assert record_effect("order:1") is False
    finally:
        with connection.cursor() as cursor:
            cursor.execute("ALTER TABLE tasks_demo_event_away RENAME TO tasks_demo_event")
    until(lambda: Event.objects.filter(kind="gap").exists(), "the ledger's return")
    assert record_effect("order:1", amount=5) is True
    settings.TASKS_DEMO_LEDGER = False
    assert record_effect("order:1") is False
    assert Event.objects.filter(kind="effect").count() == 2


@pytest.mark.parametrize("wrong", [{"key": 17}, {"operation": 17}, {"operation": "o", "source": object()}])
def test_record_effect_of_a_value_that_is_not_text_does_not_fail_the_body(wrong: dict[str, Any]) -> None:
    assert record_effect(**{"operation": "order:1", **wrong}) is True


def test_record_effect_with_one_key_from_two_processes_keeps_nothing_else_out(ledger: None) -> None:
    """A row of this test stands for the other process: it is there when ours is committed."""
    assert record_effect("order:1", key="a") is True
    source = Event.objects.get(kind="effect").source
    recorder.note("worker", at=time.time())
    recorder.note("effect", at=time.time(), source=source, operation="order:1")
    recorder.note("effect", at=time.time(), source="recorded:b", operation="order:2")
    recorder.note("effect", at=time.time(), source="recorded:b", operation="order:2")
    recorder.flush()
    assert sorted(Event.objects.values_list("kind", "operation")) == [
        ("effect", "order:1"), ("effect", "order:2"), ("worker", ""),
    ]  # fmt: skip


def test_record_effect_in_a_transaction_that_is_rolled_back_counts_nothing() -> None:
    with transaction.atomic():
        assert record_effect("order:1", key="a") is False
        transaction.set_rollback(True)
    recorder.flush()
    assert not Event.objects.filter(kind="effect").exists()


def test_inside_a_transaction_it_neither_waits_for_itself_nor_is_lost() -> None:
    began = time.monotonic()
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("DELETE FROM tasks_demo_event WHERE task_id = 'nobody'")
        record_effect("order:1", key="a")
    until(lambda: Event.objects.filter(kind="effect").count() == 1, "the effect")
    assert time.monotonic() - began < 15, "twenty for one that waits for itself"


def test_states_of_books_that_were_never_read() -> None:
    assert [(state.name, state.as_of, state.trouble) for state in states()] == [
        ("mail", None, ""),
        ("payments", None, ""),
    ]

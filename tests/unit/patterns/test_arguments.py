"""Every spelling of a call has the same operation key and digest; a call that cannot run is rejected in the caller."""

from __future__ import annotations

import datetime
import decimal
import functools
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from celery import Celery
from kombu.exceptions import EncodeError

from tasks_demo.core import lifecycle
from tasks_demo.core.exceptions import ArgumentsNotJson, InvalidOperationKey
from tasks_demo.outbox import Outbox
from tasks_demo.patterns import AcksEarly, AcksLate, ClaimFirst, DedupLock, Inbox
from tasks_demo.patterns.operation_header import DIGITS, HEADER, sent_operation

PATTERNS = [AcksEarly, AcksLate, ClaimFirst, DedupLock, Inbox, Outbox]
MISSING = object()


def declared(body: Callable[..., Any], base: Any = DedupLock, **options: Any) -> Any:
    app = Celery("calls", set_as_current=False, broker="memory://")
    task = app.task(base=base, name="calls.task", shared=False, **options)(body)
    app.finalize()
    return task


def plain(order_id: Any, amount: Any = 5, *, currency: Any = "EUR") -> None: ...


def bound(self: Any, order_id: Any, amount: Any = 5, *, currency: Any = "EUR") -> None: ...


def otherwise(task: Any, order_id: Any, amount: Any = 5, *, currency: Any = "EUR") -> None: ...


@functools.wraps(plain)
def decorated(*args: Any, **kwargs: Any) -> None: ...


def injected(order_id: Any, amount: Any = 5, **more: Any) -> None: ...


class Charge(DedupLock):
    name = "calls.charge"

    def run(self, order_id: Any, amount: Any = 5, *, currency: Any = "EUR") -> None: ...


SPELLINGS: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
    ((1,), {}), ((1, 5), {}), ((), {"order_id": 1}), ((), {"amount": 5, "order_id": 1}), ((1,), {"amount": 5}),
    ((1, 5), {"currency": "EUR"}), ((), {"currency": "EUR", "amount": 5, "order_id": 1}),
]  # fmt: skip


@pytest.mark.parametrize("base", PATTERNS, ids=lambda base: base.pattern)
@pytest.mark.parametrize(
    ("body", "bind"), [(plain, False), (bound, True), (otherwise, True), (decorated, False)],
    ids=["plain", "bound", "self named otherwise", "decorated"],
)  # fmt: skip
def test_arguments_spelt_in_any_way_are_one_call(base: Any, body: Any, bind: bool) -> None:
    seen: list[Any] = []

    def operation(order_id: int, **others: Any) -> str:
        seen.append(others)
        return f"charge:{order_id}"

    task = declared(body, base, bind=bind, operation=operation)
    assert {task.digest(args, kwargs) for args, kwargs in SPELLINGS} == {task.digest((1,), {})}
    assert {task.operation_key(args, kwargs, "id") for args, kwargs in SPELLINGS} == {"charge:1"}
    assert seen == [{"amount": 5, "currency": "EUR"}] * len(SPELLINGS)
    assert task.digest((1, 6), {}) != task.digest((1,), {}) != task.digest((2,), {})
    assert task.digest((1, True), {}) != task.digest((1, 1), {}) != task.digest((1, 1.0), {})


def test_task_class_has_the_parameters_of_its_run() -> None:
    task = Celery("calls", set_as_current=False).register_task(Charge())
    assert {task.digest(args, kwargs) for args, kwargs in SPELLINGS} == {task.digest((1,), {})}


def test_positional_only_variadic_and_extra_arguments_are_digested_by_value() -> None:
    def body(a: Any, /, b: Any = 2, *rest: Any, c: Any = 3, **extra: Any) -> None: ...

    task = declared(body)
    assert task.digest((1,), {}) == task.digest((1, 2), {"c": 3}) == task.digest((1,), {"b": 2})
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
        ((1,), {}), ((1, 2, 3), {}), ((1, 2, 4), {}), ((1,), {"c": 4}), ((1,), {"d": 1}), ((1,), {"a": 1}), ((2,), {"a": 1}),
    ]  # fmt: skip
    assert len({task.digest(args, kwargs) for args, kwargs in calls}) == len(calls)


def test_parameter_that_is_added_with_a_default_changes_no_digest() -> None:
    def later(
        order_id: Any, amount: Any = 5, *, currency: Any = "EUR", at: Any = MISSING, tags: Any = ("a",)
    ) -> None: ...

    assert declared(later).digest((1,), {}) == declared(plain).digest((1,), {})
    assert declared(later).digest((1,), {"tags": ["a"]}) == declared(plain).digest((1,), {})


@pytest.mark.parametrize(
    ("operation", "key"),
    [
        (lambda order_id, **_: order_id, "o"),
        (lambda order_id: order_id, "o"),
        (lambda order_id, amount: f"{order_id}{amount}", "o5"),
        (lambda amount, order_id: f"{order_id}{amount}", "o5"),
        (lambda *, order_id, **_: order_id, "o"),
        (lambda order_id, /, *_, **more: f"{order_id}{more['amount']}", "o5"),
        (lambda order_id, shop="x": f"{order_id}{shop}", "ox"),
        (lambda **all_: f"{sorted(all_)}", "['amount', 'currency', 'order_id']"),
        (getattr, None),  # has no signature
    ],
)
def test_operation_is_given_what_it_asks_for_by_name(operation: Any, key: str | None) -> None:
    task = declared(plain, operation=operation)
    if key is None:
        with pytest.raises(InvalidOperationKey):
            task.operation_key(("o",), {}, "id")
        return
    assert task.operation_key(("o",), {}, "id") == task.operation_key((), {"order_id": "o"}, "id") == key


def test_rest_of_the_arguments_is_a_tuple_under_its_name() -> None:
    def body(shop: str, *orders: int, **extra: Any) -> None: ...

    task = declared(body, operation=lambda shop, orders, **more: f"{shop}{orders}{more}")
    assert task.operation_key(("s", 1, 2), {"x": 3}, "id") == "s(1, 2){'x': 3}"


def test_body_that_names_nothing_gives_its_arguments_by_position() -> None:
    def body(*args: Any, **kwargs: Any) -> None: ...

    task = declared(body, operation=lambda order_id, **_: f"charge:{order_id}")
    assert task.operation_key((1,), {}, "id") == task.operation_key((), {"order_id": 1}, "id") == "charge:1"


def _raises(order_id: Any, **_: Any) -> str:
    return {}[order_id]  # type: ignore[no-any-return]


@pytest.mark.parametrize("base", PATTERNS, ids=lambda base: base.pattern)
@pytest.mark.parametrize(
    "operation", [_raises, lambda **_: 17, lambda **_: "", lambda **_: "x" * 201, lambda **_: b"key", lambda **_: "a\nb"],
    ids=["raises", "number", "empty", "too long", "bytes", "two lines"],
)  # fmt: skip
def test_operation_that_gives_no_key_is_refused_in_the_caller(base: Any, operation: Any) -> None:
    task = declared(plain, base, operation=operation)
    for publish in (
        lambda: task.delay(1), lambda: task.apply_async((1,)), lambda: task.s(1).delay(), lambda: task.s(1).apply_async()
    ):  # fmt: skip
        with pytest.raises(InvalidOperationKey):
            publish()


class Speechless(Exception):
    """A third-party error that cannot be shown as text."""

    def __str__(self) -> str:
        raise RuntimeError


def test_operation_whose_error_cannot_be_shown_is_refused_with_a_sentence() -> None:
    def operation(**_: Any) -> str:
        raise Speechless

    task = declared(plain, operation=operation)
    with pytest.raises(InvalidOperationKey, match=r"failed for these arguments .Speechless: .*Nothing was published"):
        task.delay(1)


@pytest.mark.parametrize("base", PATTERNS, ids=lambda base: base.pattern)
@pytest.mark.parametrize(
    "value", [object(), datetime.timedelta(1), {1, 2}, 1j, {(1, 2): 3}], ids=lambda value: type(value).__name__
)
@pytest.mark.parametrize("options", [{}, {"operation": lambda **_: "key"}], ids=["plain", "operation"])
def test_arguments_that_the_serializer_cannot_carry_are_refused_in_the_caller(
    base: Any, value: Any, options: Any
) -> None:
    task = declared(plain, base, **options)
    with pytest.raises(ArgumentsNotJson, match="Nothing was published") as caught:
        task.delay(value)
    assert isinstance(caught.value, EncodeError)


def test_arguments_are_published_with_the_key_and_the_digest_of_what_arrives(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lifecycle, "_observers", ())
    task = declared(plain, operation=lambda order_id, amount, **_: f"charge:{order_id}:{amount}")
    task.app.conf.task_default_queue = f"calls-{uuid.uuid4()}"
    order = uuid.UUID(int=7)
    task.delay(order, decimal.Decimal("1.50"))
    with task.app.connection() as connection:
        message = connection.SimpleQueue(task.app.conf.task_default_queue).get(timeout=5)
    args, kwargs, _ = message.decode()
    assert args[0] == order
    assert sent_operation(message.headers) == f"charge:{order}:1.50"
    assert message.headers[HEADER][:DIGITS] == task.digest(args, kwargs)[:DIGITS]


@pytest.mark.parametrize("typing", [True, False])
def test_arguments_that_do_not_fit_are_a_type_error_in_the_caller(typing: bool) -> None:
    task = declared(plain, operation=lambda order_id, **_: "key", typing=typing)
    for args, kwargs in [((), {}), ((1, 2, 3), {}), ((1,), {"order_id": 1}), ((1,), {"nonsense": 1})]:
        with pytest.raises(TypeError):
            task.apply_async(args, kwargs)


def test_key_that_was_sent_along_is_kept_for_these_arguments_only() -> None:
    keys = iter(["first", "second", "third"])
    task = declared(plain, operation=lambda **_: next(keys))
    from tasks_demo.patterns.operation_header import header

    first = header(task, (1,), {}, {})
    assert sent_operation(first) == "first"
    assert header(task, (), {"order_id": 1, "amount": 5}, first) == first
    assert sent_operation(header(task, (2,), {}, first)) == "second"


@pytest.mark.parametrize(
    "forged", [None, 17, "", "abc", "a" * 16, "a" * 16 + ":" + "x" * 300, "a" * 16 + ":a\nb", ["x"]]
)
def test_forged_header_is_none(forged: Any) -> None:
    assert sent_operation({HEADER: forged}) is None

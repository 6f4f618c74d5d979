"""A task with ``pydantic=True``: a model, what Celery sends for it and an equal dictionary are one call."""
# mypy: ignore-errors

from __future__ import annotations

import datetime
import uuid
from types import FunctionType
from typing import Any, Optional

import pydantic
import pytest
from celery import VERSION, Celery
from kombu.utils.json import dumps, loads

from tasks_demo.patterns import DedupLock
from tasks_demo.patterns.models import models_of
from tasks_demo.patterns.publishing import arguments

#: Earlier ones neither send a model, nor, before 5.6, resolve the annotations of a module like this one.
SENDS_MODELS = VERSION >= (5, 7)
pytestmark = pytest.mark.skipif(
    VERSION < (5, 6), reason="this Celery validates no argument whose annotation is a string"
)


class Address(pydantic.BaseModel):
    city: str = "Ulm"
    zip_code: str = pydantic.Field(default="89073", alias="zip")

    model_config = pydantic.ConfigDict(populate_by_name=True)


class Order(pydantic.BaseModel):
    order_id: int
    amount: int = 5
    due: datetime.datetime | None = None
    address: Address = pydantic.Field(default_factory=Address)
    stops: list[Address] = []
    tags: list[str] = pydantic.Field(default_factory=lambda: ["new"])

    @pydantic.field_validator("tags", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        return value.split(",") if isinstance(value, str) else value


FIRST = Order(order_id=1)


class Marked(pydantic.BaseModel):
    order_id: int
    token: uuid.UUID = pydantic.Field(default_factory=uuid.uuid4)


class Scaled(pydantic.BaseModel):
    amount: int

    @pydantic.field_validator("amount")
    @classmethod
    def _scale(cls, value: int, info: Any) -> int:
        return max(value, info.context["least"])


def charge(order: Order, note: str = "") -> None: ...


def bound_charge(self: Any, order: Order, note: str = "") -> None: ...


def optional(order: Optional[Order] = None, note: str = "") -> None: ...  # noqa: UP045  (what is tested)


def with_default(order: Order = FIRST) -> None: ...


def marked(order: Marked) -> None: ...


def scaled(order: Scaled) -> None: ...


def listed(orders: list[Order]) -> None: ...


def declared(body: Any, **options: Any) -> Any:
    app = Celery("calls", set_as_current=False, broker="memory://")
    task = app.task(base=DedupLock, name="calls.task", shared=False, pydantic=True, **options)(body)
    app.finalize()
    return task


def _dumped(value: Any) -> Any:
    return value.model_dump(mode="json", by_alias=True) if isinstance(value, pydantic.BaseModel) else value


def on_arrival(task: Any, *args: Any, **kwargs: Any) -> str:
    """Return the digest of what Celery sends for the call; it must be the one that the publisher computes."""
    if not SENDS_MODELS:  # a project does that itself
        args = tuple(_dumped(value) for value in args)
        kwargs = {name: _dumped(value) for name, value in kwargs.items()}
    args, kwargs = arguments(task, args, kwargs, {})
    sent = task.digest(args, kwargs)
    args, kwargs = loads(dumps([args, kwargs]))
    assert task.digest(args, kwargs) == sent
    return str(sent)


SPELLINGS: list[Any] = [
    Order(order_id=1), Order(order_id=1, amount=5), Order(order_id="1"), Order(order_id=1, address=Address()),
    {"order_id": 1}, {"order_id": "1"}, {"amount": 5, "order_id": 1}, {"order_id": 1.0, "amount": "5"},
    {"order_id": 1, "due": None}, {"order_id": 1, "address": {}}, {"order_id": 1, "address": {"zip": "89073"}},
    {"order_id": 1, "address": {"zip_code": "89073", "city": "Ulm"}}, {"order_id": 1, "stops": ()},
    {"order_id": 1, "tags": "new"}, {"order_id": 1, "unknown": 3},
]  # fmt: skip


@pytest.mark.parametrize(
    ("body", "bind"), [(charge, False), (bound_charge, True), (optional, False)], ids=["plain", "bound", "optional"]
)
def test_model_and_every_dictionary_that_is_validated_to_an_equal_model_are_one_call(body: Any, bind: bool) -> None:
    task = declared(body, bind=bind)
    calls = [on_arrival(task, each) for each in SPELLINGS] + [
        on_arrival(task, order=each, note="") for each in SPELLINGS
    ]
    assert len(set(calls)) == 1


def test_model_that_differs_is_another_call() -> None:
    task = declared(charge)
    others: list[Any] = [
        {"order_id": 1}, {"order_id": 2}, {"order_id": 1, "amount": 6}, {"order_id": 1, "address": {"city": "Bonn"}},
        {"order_id": 1, "stops": [{}]}, {"order_id": 1, "tags": []}, {"order_id": 1, "due": "2026-11-28T00:00:00Z"},
    ]  # fmt: skip
    assert len({on_arrival(task, each) for each in others}) == len(others)
    assert len({on_arrival(task, Order(**each)) for each in others}) == len(others)


def test_nested_models_in_a_list_leave_their_defaults_out() -> None:
    task = declared(charge)
    model = Order(order_id=1, stops=[Address(), Address(city="Bonn")])
    assert on_arrival(task, model) == on_arrival(task, {"order_id": 1, "stops": [{}, {"city": "Bonn"}]})


def test_model_that_is_the_default_may_be_left_out() -> None:
    task = declared(with_default)
    assert on_arrival(task) == on_arrival(task, Order(order_id=1)) == on_arrival(task, {"order_id": 1, "amount": 5})


def test_field_whose_factory_gives_another_value_each_time_has_one_digest_per_call() -> None:
    task = declared(marked)
    assert on_arrival(task, {"order_id": 1}) == on_arrival(task, {"order_id": 1})
    model = Marked(order_id=1)
    assert on_arrival(task, model) == on_arrival(task, {"order_id": 1, "token": str(model.token)})
    assert on_arrival(task, model) != on_arrival(task, Marked(order_id=1))


def test_validators_get_celerys_context() -> None:
    task = declared(scaled, pydantic_context={"least": 5})
    assert on_arrival(task, {"amount": 1}) == on_arrival(task, {"amount": 5})


@pytest.mark.parametrize("dump", [{"exclude_defaults": True}, {"by_alias": True}], ids=["without defaults", "by alias"])
def test_model_is_one_call_whatever_celery_is_to_dump_of_it(dump: dict[str, Any]) -> None:
    task = declared(charge, pydantic_dump_kwargs=dump)
    assert on_arrival(task, Order(order_id=1)) == on_arrival(task, {"order_id": 1})


def test_strict_task_takes_what_is_not_of_the_type_for_another_call() -> None:
    task = declared(charge, pydantic_strict=True)
    assert on_arrival(task, Order(order_id=1)) == on_arrival(task, {"order_id": 1})
    assert on_arrival(task, {"order_id": "1"}) != on_arrival(task, {"order_id": 1})


@pytest.mark.parametrize("value", [{}, {"order_id": "x"}, 7, "text", [], None])
def test_dictionary_that_is_not_valid_has_a_digest_and_fails_in_the_body(value: Any) -> None:
    task = declared(charge)
    assert on_arrival(task, value)
    with pytest.raises(pydantic.ValidationError):
        task(value)


def test_models_in_a_pickled_list_are_compared_by_their_fields() -> None:
    task = declared(listed, serializer="pickle")
    assert task.digest(([Order(order_id=1)],), {}) == task.digest(([Order(order_id=1, amount=5)],), {})
    assert task.digest(([Order(order_id=1)],), {}) != task.digest(([Order(order_id=2)],), {})


def test_task_without_pydantic_has_no_models() -> None:
    app = Celery("calls", set_as_current=False, broker="memory://")
    task: Any = app.task(base=DedupLock, name="calls.task", shared=False)(charge)
    app.finalize()
    assert [each._models for each in task._parameters] == [None]


def test_wrapper_of_celery_that_is_not_known_is_reported(caplog: Any) -> None:
    wrapper = FunctionType((lambda: None).__code__, {"__name__": "celery.app.base"}, "charge")
    assert models_of(wrapper) is None
    assert "in a way that this package does not know" in caplog.text

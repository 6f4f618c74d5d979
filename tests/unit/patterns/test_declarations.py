"""A contradictory declaration fails when it is declared, with a message that says what to write instead."""

from __future__ import annotations

from typing import Any

import pytest
from celery import Celery

from tasks_demo.core.exceptions import ContradictoryDeclaration, DeliveryError, InvalidOperationKey, NoLease
from tasks_demo.core.semantics import PROMISES
from tasks_demo.demo.tasks import CHARGES
from tasks_demo.patterns import AcksEarly, AcksLate, ClaimFirst, DedupLock, Inbox, lease
from tasks_demo.patterns.base import PatternTask

PATTERNS: list[type[PatternTask]] = [AcksEarly, AcksLate, ClaimFirst, DedupLock, Inbox]

LATE = [
    ({"acks_late": False}, "lost with its worker"),
    ({"acks_late": None}, "lost with its worker"),
    ({"reject_on_worker_lost": False}, "acknowledges the job of a killed pool process"),
    ({"retry_on_worker_lost": True}, "gives up after max_retries"),
    ({"expires": 60}, "dropped without having run"),
]
EARLY = [
    ({"acks_late": True}, "acknowledges before the body runs"),
    ({"reject_on_worker_lost": True}, "already acknowledged"),
    ({"retry_on_worker_lost": True}, "second execution"),
    ({"autoretry_for": (OSError,)}, "a retry is a second execution"),
]
CONTRADICTIONS = [
    *((base, options, why) for base in (AcksEarly, ClaimFirst) for options, why in EARLY),
    *((base, options, why) for base in (AcksLate, DedupLock, Inbox) for options, why in LATE),
]


def nothing() -> None:
    """A body."""


def _id(value: object) -> str:
    return value.__name__ if isinstance(value, type) else str(value)


def _check(caught: pytest.ExceptionInfo[ContradictoryDeclaration], base: type[PatternTask], options: Any) -> None:
    text = str(caught.value)
    name, value = next(iter(options.items()))
    assert f"{name}={value!r}" in text
    assert base.pattern in text
    assert f"Leave {name} out, or use another pattern." in text
    assert isinstance(caught.value, DeliveryError)


@pytest.mark.parametrize(("base", "options", "why"), CONTRADICTIONS, ids=_id)
def test_declarations_decorator_refuses_at_import(base: type[PatternTask], options: dict[str, Any], why: str) -> None:
    with pytest.raises(ContradictoryDeclaration, match=why) as caught:
        base.task(name="never.declared", **options)
    _check(caught, base, options)


@pytest.mark.parametrize(("base", "options", "why"), CONTRADICTIONS, ids=_id)
def test_declarations_class_body_is_refused_at_import(
    base: type[PatternTask], options: dict[str, Any], why: str
) -> None:
    with pytest.raises(ContradictoryDeclaration, match=why) as caught:
        type("Mine", (base,), dict(options))
    _check(caught, base, options)


@pytest.mark.parametrize(("base", "options", "why"), CONTRADICTIONS, ids=_id)
def test_declarations_another_decorator_is_refused_when_celery_builds_the_task(
    base: type[PatternTask], options: dict[str, Any], why: str
) -> None:
    # A separate, unshared app: a rejected task must not stay registered in the project's.
    app = Celery("never", set_as_current=False)
    app.task(base=base, name="never.built", shared=False, **options)(nothing)
    with pytest.raises(ContradictoryDeclaration, match=why) as caught:
        app.finalize()
    _check(caught, base, options)


@pytest.mark.parametrize("base", PATTERNS, ids=_id)
@pytest.mark.parametrize("operation", ["charge:{order}", 17, ("a",), ""], ids=repr)
def test_declarations_operation_that_is_not_a_function_is_refused(base: type[PatternTask], operation: object) -> None:
    with pytest.raises(ContradictoryDeclaration, match=r"is not a function\. Write operation=lambda"):
        base.task(operation=operation)
    with pytest.raises(ContradictoryDeclaration, match="operation must be a function of the task's arguments"):
        type("Mine", (base,), {"operation": operation})


@pytest.mark.parametrize("base", PATTERNS, ids=_id)
def test_declarations_accept_options_that_agree(base: type[PatternTask]) -> None:
    app = Celery("fine", set_as_current=False)
    agreeing = {name: () if name == "autoretry_for" else wanted for name, (wanted, _) in base.requires.items()}
    task = app.task(base=base, name="fine.task", shared=False, **agreeing)(nothing)
    app.finalize()
    assert {name: bool(getattr(task, name)) for name in agreeing} == {
        name: bool(wanted) for name, wanted in agreeing.items()
    }


@pytest.mark.parametrize("name", ["acks_early", "claim_first"])
def test_declarations_retry_in_an_early_pattern_is_refused_and_says_what_to_use(name: str) -> None:
    with pytest.raises(ContradictoryDeclaration, match=rf"self\.retry\(\) contradicts the pattern {name}.*AcksLate"):
        CHARGES[name].retry()


@pytest.mark.parametrize("name", list(PROMISES))
def test_declarations_each_pattern_has_its_promise_and_its_demo_job(name: str) -> None:
    task = CHARGES[name]
    assert task.pattern == name
    assert task.promised() == PROMISES[name]
    assert task.books == ("shop" if name == "inbox" else "bank")
    early = name in {"acks_early", "claim_first"}
    assert (task.acks_late, task.reject_on_worker_lost) == (not early, not early)


def test_declarations_operation_key_comes_from_the_arguments_and_otherwise_is_the_task_id() -> None:
    task = CHARGES["acks_late"]
    given = {"customer": "c", "amount": 1}
    assert task.operation_key((), {**given, "operation": "order-17"}, "id-1") == "order-17"
    assert task.operation_key((), given, "id-1") == "id-1"
    with pytest.raises(InvalidOperationKey):
        task.operation_key((), {**given, "operation": "two\nlines"}, "id-1")
    with pytest.raises(TypeError):
        task.operation_key((), {"nonsense": 1}, "id-1")


def test_declarations_lease_exists_only_inside_a_dedup_lock_body() -> None:
    with pytest.raises(NoLease, match="only inside the body of a DedupLock task"):
        lease()

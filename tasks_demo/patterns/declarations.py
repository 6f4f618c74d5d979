"""Refuse invalid declarations: option names and values, bodies, ``__call__``. Runs at the declaration and when Celery has built
the task."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from difflib import get_close_matches
from functools import partial
from typing import Any

from celery.utils.time import rate
from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from kombu import Exchange, Queue
from kombu.exceptions import SerializerNotInstalled
from kombu.serialization import dumps

from tasks_demo.core.exceptions import ContradictoryDeclaration

#: Options of Celery's decorator, and its execution options, that are not attributes of its task class.
CELERY = frozenset({
    "name", "bind", "pydantic", "pydantic_strict", "pydantic_context", "pydantic_dump_kwargs", "shared", "filter",
    "lazy", "autoretry_for", "dont_autoretry_for", "retry_kwargs", "retry_backoff", "retry_backoff_max",
    "retry_jitter", "queue", "exchange", "exchange_type", "routing_key", "priority", "expires", "serializer",
    "delivery_mode", "compression", "time_limit", "soft_time_limit", "immediate", "mandatory", "ignore_result",
})  # fmt: skip
#: Attributes that Celery sets on the class that it builds from a function.
MADE = frozenset({"app", "name", "run", "_decorated", "_dump_pydantic_arguments", "_decorated_fun", "_app"})
#: An unknown name that is at least this similar to a known one counts as a misspelling.
ALIKE = 0.85


def _flag(value: Any) -> bool:
    return value is None or isinstance(value, bool)


def _text(value: Any) -> bool:
    return value is None or (isinstance(value, str) and bool(value))


def _count(value: Any) -> bool:
    return value is None or (type(value) is int and value >= 0)


def _seconds(value: Any) -> bool:
    return value is None or (
        isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < float("inf")
    )


def _errors(value: Any) -> bool:
    return isinstance(value, tuple | list) and all(
        isinstance(each, type) and issubclass(each, BaseException) for each in value
    )


def _rate(value: Any) -> bool:
    try:
        return not isinstance(value, bool) and (value is None or rate(value) >= 0)
    except (TypeError, ValueError, KeyError, AttributeError, ZeroDivisionError):
        return False


def _serializer(value: Any) -> bool:
    try:
        return value is None or (isinstance(value, str) and bool(dumps([], value)))
    except SerializerNotInstalled:
        return False


def _alias(value: Any) -> bool:
    try:
        return value is None or value in connections.settings
    except (ImproperlyConfigured, TypeError):
        return isinstance(value, str)


#: option -> (whether a value is valid, what to write instead).
TYPES: dict[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(
        (
            "acks_late", "reject_on_worker_lost", "retry_on_worker_lost", "acks_on_failure", "acks_on_timeout", "typing",
            "acks_on_failure_or_timeout", "ignore_result", "track_started", "store_errors_even_if_ignored", "send_events",
            "retry_jitter",
        ),
        (_flag, "True or False"),
    ),
    **dict.fromkeys(("default_retry_delay", "retry_backoff_max", "time_limit", "soft_time_limit"), (_seconds, "seconds, from 0")),
    **dict.fromkeys(("autoretry_for", "dont_autoretry_for", "throws"), (_errors, "a tuple of exception classes")),
    **dict.fromkeys(("routing_key", "compression", "exchange_type"), (_text, "text")),
    "max_retries": (_count, "a whole number from 0, or None for unlimited retries"),
    "retry_backoff": (lambda value: isinstance(value, bool) or _seconds(value), "True, False, or seconds"),
    "retry_kwargs": (lambda value: isinstance(value, Mapping), "a dictionary"),
    "rate_limit": (_rate, "a number a second, or text like '100/m'"),
    "serializer": (_serializer, "the name of a serializer that kombu knows, for example 'json'"),
    "queue": (lambda value: _text(value) or isinstance(value, Queue), "the name of a queue"),
    "exchange": (lambda value: _text(value) or isinstance(value, Exchange), "the name of an exchange"),
    "priority": (_count, "a whole number from 0"),
    "expires": (lambda value: _seconds(value) or isinstance(value, datetime), "seconds, or a datetime"),
    "books": (
        lambda value: value == "" or (isinstance(value, str) and value.isidentifier()),
        "the name of books registered in TASKS_DEMO_BOOKS, one word",
    ),
    "using": (_alias, "the alias of a database in DATABASES, or None"),
}  # fmt: skip


def nearest(name: str, known: Iterable[str], alike: float = 0.6) -> str | None:
    """Return the known name that is most similar to this one, if any is similar enough."""
    return next(iter(get_close_matches(name, list(known), 1, alike)), None)


def refuse_unknown(who: str, base: type, names: Iterable[str]) -> None:
    """Raise ContradictoryDeclaration for options that neither Celery nor a base class knows: they would have no effect."""
    for name in names:
        if name in CELERY or name.startswith("__") or hasattr(base, name):
            continue
        close = nearest(name, known_names(base))
        raise ContradictoryDeclaration(
            f"{who}: the option {name!r} is not known, and would have no effect. "
            + (f"Did you mean {close!r}? " if close else "")
            + f"To add an attribute of your own, define it in a base class, class Mine(Pattern): {name} = None, and declare the "
            "task with that class."
        )


def refuse_misspelt(who: str, bases: tuple[type, ...], names: Iterable[str]) -> None:
    """Raise ContradictoryDeclaration for a class attribute that looks like a misspelt option. Other names are allowed."""
    for name in names:
        if name.startswith("_") or name in CELERY or any(hasattr(base, name) for base in bases):
            continue
        close = nearest(name, known_names(*bases), ALIKE)
        if close:
            raise ContradictoryDeclaration(
                f"{who}: the attribute {name!r} is not an option and would have no effect. Did you mean {close!r}? If it is an "
                "attribute of your own, declare it in a mixin, or give it a name that does not resemble an option."
            )


def known_names(*bases: type) -> list[str]:
    """Return the names of the options that a declaration may have."""
    data = (name for base in bases for name in dir(base) if not name.startswith("_"))
    return sorted(
        {*CELERY, "operation", *(name for name in data if not callable(inspect.getattr_static(bases[0], name, None)))}
    )


def check_types(who: str, options: Mapping[str, Any]) -> None:
    """Raise ContradictoryDeclaration for an invalid value of an option."""
    for name, (possible, write) in TYPES.items():
        if name in options and not possible(options[name]):
            value = options[name]
            close = nearest(value, connections.settings) if name == "using" and isinstance(value, str) else None
            raise ContradictoryDeclaration(
                f"{who}: {name}={value!r} is not possible. Write {write}."
                + (f" Did you mean {close!r}?" if close else "")
            )
    soft, hard = options.get("soft_time_limit"), options.get("time_limit")
    if soft and hard and soft >= hard:
        raise ContradictoryDeclaration(
            f"{who}: soft_time_limit={soft!r} is not below time_limit={hard!r}: the process would be killed before the body is "
            "asked to stop. Write a soft limit well below the hard one."
        )


def check_attempts(cls: Any, limit: Any) -> None:
    """Raise ContradictoryDeclaration for a ``max_attempts`` that is not a number of attempts, or of an early pattern."""
    if limit is None:
        return
    if not cls.acks_late:
        raise ContradictoryDeclaration(
            f"{cls.__name__}: max_attempts={limit!r} contradicts the pattern {cls.pattern}: a message that is acknowledged "
            "before its body runs is not redelivered, so there is nothing to count. "
            "Leave max_attempts out, or use another pattern."
        )
    if type(limit) is not int or limit < 1:
        raise ContradictoryDeclaration(
            f"{cls.__name__}: max_attempts={limit!r} is not a number of attempts. Write a whole number from 1, or None "
            "for a message that is redelivered without limit."
        )


def check_ledger(cls: Any, needed: Any, recorded: Any) -> None:
    """Raise ContradictoryDeclaration for a ``ledger`` that is not a share, or that contradicts ``needs_ledger``."""
    if not isinstance(recorded, bool | int | float) or not 0 <= recorded <= 1:
        raise ContradictoryDeclaration(
            f"{cls.__name__}: ledger={recorded!r} is not a share. Write True, False, or a number between 0 and 1."
        )
    if needed and recorded < 1:
        raise ContradictoryDeclaration(
            f"{cls.__name__}: needs_ledger=True contradicts ledger={recorded!r}: the body waits for a record of its start, and "
            "some task IDs would have none. Leave one of them out."
        )


def check_operation(cls: Any) -> None:
    """Raise ContradictoryDeclaration for an ``operation`` function that cannot be called with the body's arguments."""
    if inspect.iscoroutinefunction(cls.operation):
        raise ContradictoryDeclaration(
            f"{cls.__name__}: operation is async def, so it does not return a key. Write def."
        )
    missing = [cls._operation.missing(each) for each in cls._parameters]
    if missing and all(missing):
        names = sorted(cls._parameters[0].names)
        close = nearest(missing[0], names)
        raise ContradictoryDeclaration(
            f"{cls.__name__}: operation needs an argument {missing[0]!r}, which the body does not have. The function is called "
            "with the body's arguments by name. "
            + (f"Did you mean {close!r}?" if close else f"The body has: {', '.join(names) or 'none'}.")
        )


def check_body(who: str, body: Any) -> None:
    """Raise ContradictoryDeclaration for a coroutine or generator body: a worker neither awaits nor iterates its result."""
    while isinstance(body, partial | staticmethod | classmethod):
        body = body.func if isinstance(body, partial) else body.__func__
    call: Any = body if inspect.isroutine(body) else getattr(type(body), "__call__", None)  # noqa: B004
    kinds: dict[str, Callable[[Any], bool]] = {
        "async def": inspect.iscoroutinefunction,
        "an async generator": inspect.isasyncgenfunction,
        "a generator, it has `yield`": inspect.isgeneratorfunction,
    }
    for kind, is_kind in kinds.items():
        if is_kind(body) or is_kind(call):
            raise ContradictoryDeclaration(
                f"{who}: the body is {kind}. Calling it runs none of its code, and a Celery worker does not run what it returns: "
                "the job would count as done. Write def, and call asynchronous code with asgiref.sync.async_to_sync(f)(...) or "
                "asyncio.run(f(...)); return a list instead of yielding."
            )


def publish_as_errback(cls: Any) -> None:
    """Make Celery publish the task when it is an errback (``link_error``), as it does with ``bind=True``.

    Otherwise it calls one of two or more arguments as a function, in the process of the job that failed
    (celery/backends/base.py ``_call_task_errbacks``): nothing would be claimed, counted or recorded.
    """
    header = cls.__dict__.get("__header__")
    if isinstance(header, staticmethod) and not isinstance(header.__func__, partial):
        cls.__header__ = staticmethod(partial(header.__func__))


def check_protocol(cls: type) -> None:
    """Raise ContradictoryDeclaration if a base class, an annotation or the class itself replaces a method that runs the pattern's
    protocol."""
    for name in ("__call__", "run_delivery"):
        methods = {owner: inspect.unwrap(owner.__dict__[name]) for owner in cls.__mro__ if name in owner.__dict__}
        owner, method = next(each for each in methods.items() if not _calls_another(each[1], name))
        if not str(getattr(method, "__module__", "")).startswith("tasks_demo.patterns."):
            raise ContradictoryDeclaration(
                f"{cls.__name__}: {name} of {owner.__module__}.{owner.__qualname__} replaces {name} of the pattern "
                f"{getattr(cls, 'pattern', '')} and does not call it. So nothing would be claimed, counted or recorded, and both "
                "copies of a job would run. Move the code to run_body(self, *args, **kwargs), which the pattern calls, and call "
                "super().run_body(*args, **kwargs) there; or use before_start, on_success, on_failure or after_return. Put a "
                "base class that has its own __call__ after the pattern: class Mine(Pattern, Base)."
            )


def _calls_another(method: Any, name: str) -> bool:
    """Return whether this method's code names another one, as in ``super().__call__(...)``. Does not check that it is called."""
    code = getattr(method, "__code__", None)
    return code is not None and name in code.co_names


def cooperative(cls: type, above: type) -> Callable[..., Any] | None:
    """Return the ``__call__`` of a base class after ``above`` in the MRO, for example of the app's own task class; None if the
    first one is Celery's."""
    mro = cls.__mro__
    for owner in mro[mro.index(above) + 1 :]:
        if "__call__" in owner.__dict__:
            return None if owner.__module__.startswith("celery.") else owner.__dict__["__call__"]
    return None

"""Bind the arguments of a call to names, so that every form of the same call has the same operation key and the same digest.

``charge(17, 5)``, ``charge(order_id=17, amount=5)`` and, where 5 is the default, ``charge(17)`` are the same call. The parameters
of the body are read once, when the task is declared. The digest leaves out arguments that equal their default, so that adding a
parameter with a default changes no stored digest.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from inspect import Parameter
from typing import Any

from tasks_demo.core.digest import canonical, digest
from tasks_demo.core.exceptions import ArgumentsNotJson
from tasks_demo.patterns.models import Models, models_of

#: Compared by type and value; values of other types are compared by their canonical text.
SCALARS = (str, int, float, bool, type(None))
NAMED = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)


@dataclass(frozen=True, slots=True)
class BoundArguments:
    """The arguments of one call by name."""

    by_name: dict[str, Any]
    non_default: dict[str, Any]  # ``by_name`` without those that equal their default
    var_positional: Sequence[Any]  # ``*args``
    var_keyword: dict[str, Any]  # ``**kwargs``
    var_positional_name: str | None = None  # the name of ``*args``, where the body has it
    models: Models | None = None  # of a task with ``pydantic=True``

    def digest(self, task: str) -> str:
        """Return the digest of task name and arguments, see ``tasks_demo.core.digest``. Raises ArgumentsNotJson."""
        given = self.non_default if self.models is None else self.models.validated(self.non_default)
        # A positional-only parameter may share its name with one of ``**kwargs``.
        named = {f"*{name}" if name in self.var_keyword else name: value for name, value in given.items()}
        return digest(task, self.var_positional, {**named, **self.var_keyword})


class Parameters:
    """The parameters of a body."""

    def __init__(self, parameters: Sequence[Parameter], models: Models | None = None) -> None:
        self._models = models
        kinds: dict[Any, list[str]] = {}
        for parameter in parameters:
            kinds.setdefault(parameter.kind, []).append(parameter.name)
        only, either = kinds.get(Parameter.POSITIONAL_ONLY, []), kinds.get(Parameter.POSITIONAL_OR_KEYWORD, [])
        self._positional = (*only, *either)
        self._by_keyword = frozenset((*either, *kinds.get(Parameter.KEYWORD_ONLY, [])))
        self.names = frozenset((*only, *self._by_keyword))
        #: Names of ``*args`` and ``**kwargs`` where the body has them.
        self.var_positional_name = next(iter(kinds.get(Parameter.VAR_POSITIONAL, [])), None)
        self.var_keyword_name = next(iter(kinds.get(Parameter.VAR_KEYWORD, [])), None)
        self._defaults = {each.name: each.default for each in parameters if each.default is not Parameter.empty}
        self._required = [name for name in (*only, *either, *self._by_keyword) if name not in self._defaults]

    @cached_property
    def _texts(self) -> dict[str, str | None]:
        return {name: _text(value) for name, value in self._defaults.items()}

    def bind(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> BoundArguments:
        """Return the arguments by name. Raises TypeError for arguments that the body does not take."""
        given = dict(zip(self._positional, args, strict=False))
        rest = list(args[len(self._positional) :])
        if rest and self.var_positional_name is None:
            raise TypeError(f"takes {len(self._positional)} positional arguments but {len(args)} were given")
        extra: dict[str, Any] = {}
        for name, value in kwargs.items():
            if name in self._by_keyword:
                if name in given:
                    raise TypeError(f"got multiple values for argument {name!r}")
                given[name] = value
            elif self.var_keyword_name is None:
                raise TypeError(f"got an unexpected keyword argument {name!r}")
            else:
                extra[name] = value
        for name in self._required:
            if name not in given:
                raise TypeError(f"missing the required argument {name!r}")
        different = {name: value for name, value in given.items() if not self._is_default(name, value)}
        return BoundArguments(
            {**self._defaults, **given}, different, rest, extra, self.var_positional_name, self._models
        )

    def _is_default(self, name: str, value: Any) -> bool:
        if name not in self._defaults:
            return False
        default = self._defaults[name]
        if value is default:
            return True
        if type(value) in SCALARS and type(default) in SCALARS:
            return type(value) is type(default) and bool(value == default)
        text = self._texts[name]
        return text is not None and text == _text(value)


def bind(bodies: Sequence[Parameters], args: Sequence[Any], kwargs: Mapping[str, Any]) -> BoundArguments:
    """Bind the arguments to the first of these signatures that accepts them. Raises the TypeError of the first if none does."""
    refused: TypeError | None = None
    for parameters in bodies:
        try:
            return parameters.bind(args, kwargs)
        except TypeError as error:
            refused = refused or error
    if refused:
        raise refused
    return BoundArguments({}, {}, args, dict(kwargs))


class Operation:
    """The user's ``operation`` function, called with the arguments of a body."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        try:
            self._parameters: list[Parameter] | None = list(inspect.signature(function).parameters.values())
        except (TypeError, ValueError):  # builtins may have no signature
            self._parameters = None
        kinds = {each.kind for each in self._parameters or ()}
        self._takes_all = self._parameters is None or Parameter.VAR_KEYWORD in kinds
        self._takes_rest = Parameter.VAR_POSITIONAL in kinds
        self._by_position = self._takes_rest or Parameter.POSITIONAL_ONLY in kinds

    def missing(self, body: Parameters) -> str | None:
        """Return the first parameter that the function requires and the body does not have; None if it can be called."""
        known = {*body.names, body.var_positional_name}
        if body.var_keyword_name is not None or body.var_positional_name is not None:
            return None
        for each in self._parameters or ():
            if each.kind in NAMED and each.default is Parameter.empty and each.name not in known:
                return each.name
        return None

    def __call__(self, bound: BoundArguments) -> Any:
        """Call the function with each argument by name, defaults included, and ``*rest`` as a tuple named ``rest``.

        A function without ``**`` gets only the arguments that it names. Parameters that the body does not have take the values of
        ``*rest``, one by one. Raises what the function raises.
        """
        values = {**bound.var_keyword, **bound.by_name}
        if bound.var_positional_name is not None:
            values.setdefault(bound.var_positional_name, tuple(bound.var_positional))
        if self._parameters is None:
            return self.function(**values)
        positional: list[Any] = []
        keywords: dict[str, Any] = {}
        unnamed = iter(bound.var_positional)
        for each in self._parameters:
            if each.kind is Parameter.VAR_POSITIONAL:
                positional += unnamed
                values.pop(bound.var_positional_name or "", None)
            elif each.kind in NAMED:
                by_position = self._by_position and each.kind is not Parameter.KEYWORD_ONLY
                if each.name in values:
                    value = values.pop(each.name)
                else:
                    value = each.default if each.kind is Parameter.KEYWORD_ONLY else next(unnamed, each.default)
                if value is Parameter.empty:
                    continue  # Python's own error names the missing argument
                if by_position:
                    positional.append(value)
                else:
                    keywords[each.name] = value
        return self.function(*positional, **keywords, **(values if self._takes_all else {}))


def parameters_of(owner: type) -> tuple[Parameters, ...]:
    """Return the parameters of this task class's body, without ``self``; empty if they cannot be inspected.

    For a decorated body (functools.wraps) these are first the parameters of the wrapped function, then those of the decorator,
    which apply if the decorator passes an argument of its own; Celery checks arguments in the same way.
    """
    body = inspect.getattr_static(owner, "run")
    bound = inspect.isfunction(body)
    if isinstance(body, (staticmethod, classmethod)):
        bound = isinstance(body, classmethod)
        body = body.__func__
    found: list[Parameters] = []
    models = models_of(body)
    for wrapped in (True, False) if hasattr(body, "__wrapped__") else (True,):
        try:
            parameters = list(inspect.signature(body, follow_wrapped=wrapped).parameters.values())
        except (TypeError, ValueError):
            continue
        own = bound and parameters and parameters[0].kind in NAMED[:2]
        found.append(Parameters(parameters[1:] if own else parameters, models))
    return tuple(found)


def _text(value: Any) -> str | None:
    try:
        return canonical(value)
    except ArgumentsNotJson:
        return None

"""Validate the arguments of a task with ``pydantic=True`` as Celery does before the body, so that a model, the dictionary that
Celery sends for it and an equal dictionary are one call.

Celery keeps what it needs for that (celery/app/base.py, ``pydantic_wrapper``) in the closure of the body; it is read once, when
the task is declared. The validators of the models also run where a job is published and in the worker's main process.
"""

from __future__ import annotations

import inspect
import logging
from dataclasses import dataclass
from types import FunctionType
from typing import Any, get_type_hints

from celery import __version__ as celery_version
from celery.utils.annotations import annotation_issubclass, get_optional_arg

from tasks_demo.core.digest import canonical, fields
from tasks_demo.core.exceptions import ArgumentsNotJson

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Models:
    """The models of a body's parameters, and how Celery validates them."""

    by_name: dict[str, Any]
    strict: bool
    context: dict[str, Any]
    defaults: dict[str, str]  # the canonical text of defaults that are models

    def validated(self, named: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments with each model as its fields. A value that is not valid stays: the body will refuse it."""
        given = dict(named)
        for name, model in self.by_name.items():
            value = given.get(name)
            if value is None:
                continue
            try:
                given[name] = fields(model.model_validate(value, strict=self.strict, context=dict(self.context)))
                if name in self.defaults and canonical(given[name]) == self.defaults[name]:
                    del given[name]
            except Exception:  # noqa: BLE001, S112  (validators are the user's)
                continue
        return given


def models_of(body: Any) -> Models | None:
    """Return the models of this body's parameters; None if Celery does not validate its arguments.

    Logs a warning, and returns None, if Celery wraps the body in a way that is not known here.
    """
    found = _closure(body)
    if not _is_celerys(body):
        return None
    for inner in list(found.values()):  # since Celery 5.7 the validation is a function of its own
        if isinstance(inner, FunctionType) and _is_celerys(inner):
            found = {**_closure(inner), **found}
    if not {"task_fun", "BaseModel"} <= found.keys():
        logger.warning(
            "Celery %s wraps the body of %s in a way that this package does not know: its arguments are compared as they were "
            "given, so a model and the dictionary that is sent for it have different operation keys. Use a version of Celery "
            "that the README names, or compute the key with operation=.",
            celery_version, getattr(body, "__qualname__", body),
        )  # fmt: skip
        return None
    function = found["task_fun"]
    signature = inspect.signature(function)
    try:
        # Before 5.6 Celery validates nothing whose annotation is a string.
        hints = get_type_hints(function) if "type_hints" in found else {}
    except (NameError, AttributeError, TypeError):  # as Celery does
        hints = {}
    by_name: dict[str, Any] = {}
    defaults: dict[str, str] = {}
    for name, parameter in signature.parameters.items():
        annotation = hints.get(name, parameter.annotation)
        model = get_optional_arg(annotation) or annotation
        if not annotation_issubclass(model, found["BaseModel"]):
            continue
        by_name[name] = model
        if isinstance(parameter.default, model):
            try:
                defaults[name] = canonical(fields(parameter.default))
            except ArgumentsNotJson:
                continue
    context = {
        **(found.get("context") or {}),
        "celery_app": found.get("app"),
        "celery_task_name": found.get("task_name"),
    }
    return Models(by_name, bool(found.get("strict")), context, defaults) if by_name else None


def _is_celerys(function: Any) -> bool:
    return getattr(function, "__globals__", {}).get("__name__") == "celery.app.base"


def _closure(function: Any) -> dict[str, Any]:
    names = getattr(getattr(function, "__code__", None), "co_freevars", ())
    found: dict[str, Any] = {}
    for name, cell in zip(names, getattr(function, "__closure__", None) or (), strict=False):
        try:
            found[name] = cell.cell_contents
        except ValueError:  # not yet assigned
            continue
    return found

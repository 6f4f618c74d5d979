"""Defines a rule: a generator that takes a Setup and yields findings. docs/reference/checks.md explains each rule.

To add a rule, write a generator under ``@rule`` with the next number, in the module of its subject. Never reuse a number:
projects silence rules by number. Findings with the same text become one warning that names all their tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from django.core.checks import WARNING

from tasks_demo.checks.setup import Setup


class Finding(NamedTuple):
    """What is unsafe, what to write instead, and the task (empty: it concerns the app). Level ERROR: jobs cannot run at all."""

    what: str
    hint: str
    task: str = ""
    level: int = WARNING


Rule = Callable[[Setup], Iterator[Finding]]
RULES: dict[str, Rule] = {}


def rule(number: str) -> Callable[[Rule], Rule]:
    """Return a decorator that registers a rule under this number."""

    def register(judge: Rule) -> Rule:
        RULES[number] = judge
        return judge

    return register


def seconds(number: float) -> str:
    """Format seconds for a message, without a trailing ``.0``."""
    return f"{number:.10g} s"

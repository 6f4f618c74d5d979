"""What a rule is: it looks at a Setup and yields what is unsafe. docs/reference/checks.md says why, one row per rule.

Adding one: a generator under ``@rule`` with the next number, in the module of its subject. Numbers are never used again,
because projects silence them. Findings with the same words become one warning that names their tasks, so a cause that is
shared is said once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from django.core.checks import WARNING

from tasks_demo.checks.setup import Setup


class Finding(NamedTuple):
    """What is unsafe, what to write instead, and the task; without a task it is the app's. ERROR: it cannot work at all."""

    said: str
    hint: str
    task: str = ""
    level: int = WARNING


Rule = Callable[[Setup], Iterator[Finding]]
RULES: dict[str, Rule] = {}


def rule(number: str) -> Callable[[Rule], Rule]:
    """Register a rule under its number."""

    def register(judge: Rule) -> Rule:
        RULES[number] = judge
        return judge

    return register


def seconds(number: float) -> str:
    """A duration for people: without a trailing ``.0``."""
    return f"{number:.10g} s"

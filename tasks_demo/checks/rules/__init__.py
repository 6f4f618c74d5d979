"""The rules of the system checks, by subject. Importing a module of them registers its rules."""

from __future__ import annotations

from tasks_demo.checks.rules import broker, databases, declarations, patterns, versions, worker
from tasks_demo.checks.rules.base import RULES, Finding

__all__ = ["RULES", "Finding", "broker", "databases", "declarations", "patterns", "versions", "worker"]

"""The rules of the system checks, one module per subject. Importing a module registers its rules."""

from __future__ import annotations

from tasks_demo.checks.rules import broker, databases, declarations, patterns, permissions, versions, worker
from tasks_demo.checks.rules.base import RULES, Finding

__all__ = ["RULES", "Finding", "broker", "databases", "declarations", "patterns", "permissions", "versions", "worker"]

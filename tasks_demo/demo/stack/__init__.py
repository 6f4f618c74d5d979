"""The embedded stack: Redis and the bank as child processes, without root, Docker or a running service."""

from __future__ import annotations

from tasks_demo.demo.stack.bank import EmbeddedBank
from tasks_demo.demo.stack.processes import Process, spawn, stop_all
from tasks_demo.demo.stack.redis import EmbeddedRedis

__all__ = ["EmbeddedBank", "EmbeddedRedis", "Process", "spawn", "stop_all"]

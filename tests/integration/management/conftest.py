"""Runs a command in this process."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from django.core.management import get_commands, load_command_class
from django.db import connections

from tests.integration.quarantine.parked_rows import no_broker, queue

__all__ = ["no_broker", "queue"]
Run = Callable[..., tuple[Any, str, str]]


@pytest.fixture
def run(request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the module's ``COMMAND``; returns its exit code, and what it wrote to standard output and standard error."""
    name = request.module.COMMAND
    close_all, ours = connections.close_all, threading.get_ident()

    def close_those_of_other_threads() -> None:
        if threading.get_ident() != ours:  # the test's own transaction goes on
            close_all()

    monkeypatch.setattr(connections, "close_all", close_those_of_other_threads)

    def command(*arguments: str) -> tuple[Any, str, str]:
        code: Any = 0
        try:
            load_command_class(get_commands()[name], name).run_from_argv(["", name, "--skip-checks", *arguments])
        except SystemExit as left:
            code = left.code
        said = capsys.readouterr()
        return code, said.out, said.err

    return command

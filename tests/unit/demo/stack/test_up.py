"""The Procfile as ``manage.py up`` reads it, and the entries that it skips."""

from __future__ import annotations

from pathlib import Path

import pytest
from django.core.management import CommandError, call_command
from pytest_django import Settings

from tasks_demo.core.exceptions import EnvironmentNotReady
from tasks_demo.demo.management.commands.up import Command
from tasks_demo.demo.stack.up import read_procfile

PROCFILE = Path(__file__).resolve().parents[4] / "Procfile"


def test_procfile_lines_become_argument_lists_without_a_shell(tmp_path: Path) -> None:
    path = tmp_path / "Procfile"
    path.write_text("# comment\none: echo 'two words' $PORT $UNKNOWN ; rm\n\ntwo: sleep 1\n")
    assert read_procfile(path, variables={"PORT": "81"}) == {
        "one": ["echo", "two words", "81", "$UNKNOWN", ";", "rm"],
        "two": ["sleep", "1"],
    }
    assert list(read_procfile(path, without=["one"], variables={})) == ["two"]


def test_procfile_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentNotReady, match="Procfile cannot be read"):
        read_procfile(tmp_path / "Procfile", variables={})


def test_procfile_of_the_project_listens_on_loopback_only() -> None:
    commands = read_procfile(PROCFILE, variables={"PORT": "8000"})
    assert {"redis", "bank", "worker", "web"} <= set(commands)
    assert commands["web"][commands["web"].index("--bind") + 1] == "127.0.0.1:8000"


@pytest.mark.parametrize("redis", [True, False])
@pytest.mark.parametrize("bank", [True, False])
def test_up_does_not_start_what_runs_elsewhere(settings: Settings, redis: bool, bank: bool) -> None:
    settings.REDIS_IS_EMBEDDED, settings.BANK_IS_EMBEDDED = redis, bank
    without, ready = Command()._embedded()
    assert ("redis" in without, "bank" in without) == (not redis, not bank)
    assert ("redis" in ready, "bank" in ready) == (redis, bank)


@pytest.mark.parametrize("port", ["0", "65536", "-1", "http", "", "８０００"])
def test_up_refuses_an_invalid_port(port: str) -> None:
    with pytest.raises(CommandError, match="--port is 1 to 65535"):
        call_command("up", f"--port={port}")


def test_up_reads_the_procfile_before_it_touches_a_database(tmp_path: Path, settings: Settings) -> None:
    settings.BASE_DIR = tmp_path  # and pytest-django refuses access to the database
    with pytest.raises(CommandError, match="Procfile cannot be read"):
        call_command("up")

"""What all commands of the package have in common."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from django.core.management import get_commands, load_command_class

from tasks_demo.management.base import PackageCommand
from tests.support import PROJECT

OURS = sorted(name for name, app in get_commands().items() if str(app).startswith("tasks_demo"))
PROGRAM = """
import sys
from tasks_demo.management.base import PackageCommand
class Command(PackageCommand):
    requires_system_checks = ()
    def handle(self, *args, **options):
        LINES
Command().run_from_argv(["manage.py", "lines"])
"""


def run(lines: str, output: int) -> tuple[int, str]:
    """Run a command. Returns its exit code and what it wrote to standard error."""
    env = {**os.environ, "DJANGO_SETTINGS_MODULE": "project.settings"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.replace("LINES", lines)], cwd=PROJECT, env=env, stdout=output,
        stderr=subprocess.PIPE, text=True, timeout=60, check=False,
    )  # fmt: skip
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    "lines", ["for _ in range(100_000): self.stdout.write('line')", "self.stdout.write('one line')"]
)
def test_command_ends_quietly_when_nobody_reads_its_output(lines: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        assert run(lines, writer) == (141, "")
    finally:
        os.close(writer)


def test_command_does_not_hide_a_broken_pipe_that_is_not_its_output() -> None:
    code, err = run("raise BrokenPipeError('of the broker')", subprocess.DEVNULL)
    assert code == 1
    assert "of the broker" in err


@pytest.mark.parametrize("name", OURS)
def test_every_command_of_the_package_has_this_base(name: str) -> None:
    assert isinstance(load_command_class(get_commands()[name], name), PackageCommand)

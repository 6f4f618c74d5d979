"""What all commands of the package have in common."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

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


def run(lines: str, output: int, *, unbuffered: str = "") -> tuple[int, str]:
    """Run a command. Returns its exit code and what it wrote to standard error."""
    env = {**os.environ, "DJANGO_SETTINGS_MODULE": "project.settings", "PYTHONUNBUFFERED": unbuffered}
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
    code, err = run("raise BrokenPipeError(32, 'of the broker')", subprocess.DEVNULL)
    assert code == 1
    assert "of the broker" in err


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("lines", ["self.stdout.write('one line')", "self.stdout.write('line' * 100_000)"])
def test_command_says_that_its_output_is_incomplete_when_the_disk_is_full(lines: str, unbuffered: str) -> None:
    with open("/dev/full", "w") as full:
        code, err = run(lines, full.fileno(), unbuffered=unbuffered)
    assert (code, err) == (4, "CommandError: The output is incomplete: standard output: No space left on device.\n")


def test_command_does_not_blame_its_output_for_another_full_disk() -> None:
    code, err = run("self.stdout.write('fine'); raise OSError(28, 'of the ledger')", subprocess.DEVNULL)
    assert code == 1
    assert "of the ledger" in err


def test_command_runs_without_standard_streams_and_gives_their_numbers_to_nothing_else(tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    program = PROGRAM.replace(
        "LINES", f"self.stdout.write('line'); open({str(seen)!r}, 'w').write(str(open('/dev/zero').fileno()))"
    )
    command = shlex.join([sys.executable, "-c", program])
    env = {**os.environ, "DJANGO_SETTINGS_MODULE": "project.settings"}
    done = subprocess.run(
        ["/bin/sh", "-c", f"exec {command} <&- >&- 2>&-"], cwd=PROJECT, env=env, timeout=60, check=False
    )
    assert done.returncode == 0
    assert int(seen.read_text()) > 2


@pytest.mark.parametrize("name", OURS)
def test_base_command_is_the_base_of_every_command(name: str) -> None:
    assert isinstance(load_command_class(get_commands()[name], name), PackageCommand)

"""Starts an experiment in a process of its own, which outlives the web server, and stops it. One at a time.

The process inherits two locks: its folder's, which tells that it lives, and the page's, which keeps a second one from being
started. Both are free when it has ended, however it ended.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import uuid
from datetime import UTC, datetime
from pathlib import Path

from tasks_demo.core.exceptions import DeliveryError
from tasks_demo.demo.stack.processes import project_environment
from tasks_demo.lab.processes.run_folder import STATUS, is_alive, is_run_name, lock, run_name, runs_folder
from tasks_demo.lab.screens.choices import Choices
from tasks_demo.leases.process import child_process, parse_process

REQUEST, OUTPUT = "request.json", "output.log"
#: The folder, beside those of the runs, whose lock means that an experiment of the page runs.
PAGE = "page"
#: Runs of the page that are kept. Runs of the command line are never removed.
MOST_KEPT = 50


class RequestRefused(DeliveryError):
    """Nothing was started or stopped; the message says why and what to do."""


def start(choices: Choices, by: str) -> str:
    """Start what was chosen and return the name of the run. Raises RequestRefused."""
    runs = runs_folder()
    try:
        page = runs / PAGE
        page.mkdir(mode=0o700, parents=True, exist_ok=True)
        one = lock(page)
        if one is None:
            raise RequestRefused("An experiment is running already. Wait for its end, or stop it: one runs at a time.")
        try:
            _forget_oldest(runs)
            return _start(runs, choices, by, one)
        finally:
            os.close(one)
    except OSError as error:
        raise RequestRefused(
            f"Nothing was started: {error.filename or runs} cannot be used: {error.strerror}. Make room, or make it writable."
        ) from error


def _start(runs: Path, choices: Choices, by: str, one: int) -> str:
    name = run_name(datetime.now(UTC), choices.cleaned_data["seed"], uuid.uuid4().hex[:10])
    folder = runs / name
    folder.mkdir(mode=0o700)
    own = lock(folder)
    assert own is not None  # noqa: S101  (the folder is new)
    try:
        request = {"by": by, "command": choices.command(), "process": ""}
        _write(folder, request)
        with (folder / OUTPUT).open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "django", *choices.arguments(), "--run", name, "--no-progress"],
                env=project_environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=(one, own),
                start_new_session=True,
            )
        # Reaped when it ends, if we live that long.
        threading.Thread(target=process.wait, name=f"experiment {name}", daemon=True).start()
        try:
            _write(folder, {**request, "process": str(child_process(process.pid, name))})
        except OSError:
            process.kill()
            raise
    except OSError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    finally:
        os.close(own)
    return name


def stop(folder: Path) -> None:
    """Send SIGINT to the process of a run that the page started, once its identity is proven. Raises RequestRefused."""
    try:
        request = json.loads((folder / REQUEST).read_text(encoding="utf-8"))
        process = parse_process(request["process"])
    except (OSError, ValueError, LookupError, TypeError):
        process = None
    if process is None or process.task_id != folder.name:
        raise RequestRefused("This run was not started here: stop it where it was started, with Ctrl-C.")
    if not is_alive(folder):
        raise RequestRefused("It has ended already. Nothing was stopped.")
    if not (folder / STATUS).exists():
        # Until then it may ignore the signal, as a web server started in the background does.
        raise RequestRefused("It is starting. Try again in a moment.")
    try:
        descriptor = os.pidfd_open(process.pid)
    except (AttributeError, OSError):  # not Linux, or gone
        descriptor = -1
    try:
        # The descriptor is open before the identity is checked: a pid that is reused later is never hit.
        if descriptor < 0 or not process.here:
            raise RequestRefused("Its process is not on this machine, or has just ended. Nothing was stopped.")
        signal.pidfd_send_signal(descriptor, signal.SIGINT)
    except ProcessLookupError:
        raise RequestRefused("It has just ended. Nothing was stopped.") from None
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def _write(folder: Path, request: dict[str, str]) -> None:
    new = folder / f"{REQUEST}.new"
    new.write_text(json.dumps(request), encoding="utf-8")
    new.replace(folder / REQUEST)


def _forget_oldest(runs: Path) -> None:
    """Remove the oldest runs of the page, so that with the next one ``MOST_KEPT`` are kept."""
    ours = sorted(path.parent for path in runs.glob(f"*/{REQUEST}") if is_run_name(path.parent.name))
    for folder in ours[: max(0, len(ours) - MOST_KEPT + 1)]:
        if not is_alive(folder):
            with contextlib.suppress(OSError):
                shutil.rmtree(folder)

"""A process that has imported Celery and forks workers: starting one takes a tenth of the time.

Each line of its input is a JSON object with ``log``, ``env`` and ``arguments`` of one worker, and ``host``, its network namespace
or an empty text; it answers with the pid. A worker ends with it.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from typing import NoReturn

import celery.app.trace
import celery.apps.worker
import celery.bin.celery
import celery.bin.worker
import celery.concurrency.asynpool
import celery.concurrency.prefork
import celery.concurrency.solo
import celery.concurrency.thread
import celery.events.state
import celery.fixups.django
import celery.worker.consumer
import celery.worker.pidbox

import tasks_demo.transport.transport  # noqa: F401

PR_SET_PDEATHSIG = 1
CLONE_NEWNET = 0x40000000


def work(log: str, env: dict[str, str], arguments: list[str], host: str) -> NoReturn:
    """Become the worker."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if host:
        with open(f"/run/netns/{host}") as namespace:
            if ctypes.CDLL(None).setns(namespace.fileno(), CLONE_NEWNET):
                sys.exit(f"no network namespace {host}")
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(out, 1)
    os.dup2(out, 2)
    os.environ.clear()
    os.environ.update(env)
    if "gevent" in arguments:  # it has to patch what this process has imported
        os.execv(sys.executable, [sys.executable, "-m", "celery", *arguments])  # noqa: S606  # without a shell
    sys.argv = ["celery", *arguments]
    sys.exit(celery.bin.celery.main())


def serve() -> None:
    """Fork a worker for each line."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them
    for line in sys.stdin:
        asked = json.loads(line)
        pid = os.fork()
        if pid == 0:
            work(**asked)
        sys.stdout.write(f"{pid}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    serve()

"""Run by path, not imported: ``python tests/forked.py DESCRIPTOR``. The interpreter that ``tests.forks`` forks.

Requests and answers are JSON, one a packet: ``{"run": [argument, ...], "cwd": ..., "env": ..., "pass": [number, ...]}`` with
three descriptors, and those to pass on, is answered by ``{"pid": ...}``, and ``{"reap": pid}`` by ``{"status": code or null}``.
It ends when the socket is closed. A fork that runs experiments has such an interpreter of its own, for what it starts:
this ends with it.
"""

from __future__ import annotations

import atexit
import fcntl
import gc
import importlib
import json
import os
import runpy
import signal
import socket
import sys
import threading
import time
import types
from collections.abc import Sequence
from typing import Any

#: What most programs of the suite import, and nothing that needs Django's settings.
PRELOADED = [
    "celery.app.amqp", "celery.app.annotations", "celery.app.control", "celery.app.events", "celery.app.log",
    "celery.apps.worker", "celery.backends.redis", "celery.bin.celery", "celery.concurrency.asynpool",
    "celery.concurrency.prefork", "celery.contrib.django.task", "celery.events.state", "celery.fixups.django",
    "celery.worker.autoscale", "celery.worker.components", "celery.worker.consumer", "celery.worker.consumer.gossip",
    "celery.worker.loops", "celery.worker.pidbox", "celery.worker.strategy", "django.contrib.admin.views.main",
    "django.contrib.auth.hashers", "django.core.checks", "django.contrib.messages.storage.fallback",
    "django.contrib.staticfiles.finders", "django.core.management.commands.check",
    "django.core.management.commands.migrate", "django.core.servers.basehttp", "django.db.backends.sqlite3.base",
    "django.db.migrations.executor", "django.forms", "django.template.backends.django", "django.template.loader_tags",
    "django.views.defaults", "kombu.transport.pyamqp", "kombu.transport.redis", "redis.asyncio", "redis.sentinel",
    "sqlparse", "yaml", "django.db.backends.postgresql.base", "psycopg", "msgspec", "psutil", "rich", "urllib3",
    "csp.middleware", "whitenoise.middleware", "dj_database_url", "zoneinfo", "django.contrib.auth.password_validation",
    "django.contrib.auth.tokens", "django.contrib.auth.validators", "django.contrib.messages.middleware",
    "django.contrib.sessions.backends.base", "django.contrib.sessions.middleware", "django.contrib.sites.shortcuts",
    "django.contrib.staticfiles.checks", "django.contrib.staticfiles.storage", "django.core.cache.backends.locmem",
    "django.core.management.commands.makemigrations", "django.db.migrations.writer", "django.middleware.clickjacking",
    "django.middleware.common", "django.middleware.csrf", "django.middleware.security", "django.templatetags.cache",
    "django.templatetags.l10n", "django.templatetags.tz", "django.utils.translation.reloader", "django.views.csrf",
]  # fmt: skip
_MOST_BYTES = 1 << 17
_MOST_DESCRIPTORS = 16
#: Above the numbers that are in use.
_FREE = 200


def _serve(control: socket.socket) -> dict[str, Any]:
    """Answer requests; leave with one in the fork that is to run it."""
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, _MOST_BYTES, _MOST_DESCRIPTORS)
        if not message:
            os._exit(0)
        asked: dict[str, Any] = json.loads(message)
        if "reap" in asked:
            pid, status = os.waitpid(asked["reap"], os.WNOHANG)
            answer = {"status": os.waitstatus_to_exitcode(status) if pid else None}
        else:
            parent, pid = os.getpid(), os.fork()
            if not pid:
                control.close()
                _become(asked, descriptors, parent)
                return asked
            for descriptor in descriptors:
                os.close(descriptor)
            answer = {"pid": pid}
        control.sendall(json.dumps(answer).encode())


def _become(asked: dict[str, Any], descriptors: Sequence[int], parent: int) -> None:
    """Be as a new interpreter would be before its first line."""
    _die_with(parent)
    os.setsid()
    moved = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, _FREE) for descriptor in descriptors]
    for descriptor in descriptors:
        os.close(descriptor)
    for number, descriptor in zip((0, 1, 2, *asked["pass"]), moved, strict=True):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.chdir(asked["cwd"])
    os.environ.clear()
    os.environ.update(asked["env"])
    time.tzset()
    first, *_ = arguments = asked["run"]
    where = {"-c": "", "-m": asked["cwd"]}.get(first, os.path.dirname(os.path.abspath(first)))
    sys.path[:] = [where, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)), *sys.path[1:]]
    importlib.invalidate_caches()
    sys.argv[:] = arguments if first not in ("-c", "-m") else ["-c", *arguments[2:]] if first == "-c" else arguments[1:]


def _die_with(parent: int) -> None:
    import ctypes

    ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os._exit(1)


def _keep_one() -> dict[str, Any]:
    """Have a fork of this fork, as clean as it is now, start the banks and templates that this one asks for.

    Returns twice: here with an empty request, and with that of each program in the process that is to run it.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    parent, pid = os.getpid(), os.fork()
    if not pid:
        ours.close()
        _die_with(parent)
        return _serve(theirs)
    theirs.close()
    from tests import forks

    forks.adopt(forks.Server(ours, pid, lambda: None))
    return {}


def _preload() -> None:
    for name in PRELOADED:
        try:
            importlib.import_module(name)
        except ImportError:  # an extra that is not installed
            continue
    gc.collect()
    gc.freeze()  # else each fork would look through all of it
    # At the usual 700, an import of the project spends a fifth of its time on looking for garbage.
    gc.set_threshold(20_000)


def _run(first: str, rest: Sequence[str]) -> None:
    if first == "-c":
        sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(rest[0], "<string>", "exec"), sys.modules["__main__"].__dict__)  # noqa: S102
    elif first == "-m":
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(first, run_name="__main__")


def _end(code: int) -> None:
    """End as any program does: its threads, then what it left to atexit, then what it has not written. Nothing is taken apart
    before: that would copy most of the memory that a fork shares."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    _preload()
    _asked = _serve(socket.socket(fileno=int(sys.argv[1])))
    if _asked["run"][1:2] == ["experiment"] or _asked["run"][:2] == ["-m", "tasks_demo.lab"]:
        _asked = _keep_one() or _asked
    _first, *_rest = _asked["run"]
    try:
        _run(_first, _rest)
    except SystemExit as _left:
        _code = _left.code or 0
        if not isinstance(_code, int):
            raise  # it is to be printed
        _end(_code & 0xFF)
    _end(0)

"""The worker of the lab: the production Celery app and command line, run in a process forked from the template."""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

from tasks_demo.core.lifecycle import Point
from tasks_demo.lab.processes.probe import Probe


def preload() -> None:
    """Import everything a worker needs, and open nothing: no connection may be shared by a fork."""
    import kombu.transport.redis  # noqa: F401
    from celery import current_app

    import tasks_demo.demo.tasks  # noqa: F401

    current_app.loader.import_default_modules()
    current_app.finalize()


def run(order: dict[str, Any], parent: int) -> int:
    """Be a worker until told to stop, or the publisher of one job if the order says so; returns the exit code.

    ``order``: name, run, socket (of the lab, for rendezvous), victims (task ID -> point), log, broker_url, transport_options,
    concurrency, lock {url, prefix, lease_seconds}, bank_url, settings (TASKS_DEMO_*); publish (of a publisher: see
    ``publisher.publish_once``); and for the benchmark, whose workers are not watched as closely: imports (modules with tasks),
    conf (of Celery), ledger (False: not armed), write_through. main_waits: main, too, commits each point when it is reached.
    """
    os.setsid()
    _die_with(parent)
    _log_to(order["log"])

    from celery import current_app as app
    from celery import signals
    from django.conf import settings

    from tasks_demo.core import lifecycle
    from tasks_demo.lab.processes.publisher import publish_once
    from tasks_demo.lab.processes.windows import open_windows
    from tasks_demo.ledger.recorder import recorder

    app.conf.update(
        broker_url=order["broker_url"],
        broker_transport_options=order["transport_options"],
        result_backend=order["broker_url"],
        result_backend_transport_options={"global_keyprefix": order["lock"]["prefix"]},
    )
    app.conf.update(order.get("conf", {}))
    for module in order.get("imports", ()):
        import_module(module)
    settings.TASKS_DEMO_REDIS_URL = order["lock"]["url"]
    settings.TASKS_DEMO_KEY_PREFIX = order["lock"]["prefix"]
    settings.TASKS_DEMO_LEASE_SECONDS = order["lock"]["lease_seconds"]
    settings.TASKS_DEMO_BANK_URL = order["bank_url"]

    probe = Probe(order["socket"], order["victims"])
    lifecycle.ignore(recorder)
    if "publish" in order:
        return publish_once(order["publish"], probe)
    for name, value in order.get("settings", {}).items():
        setattr(settings, f"TASKS_DEMO_{name}", value)
    recorder.run = order["run"]
    recorder.required = recorder.patient = True  # its counts are exact
    recorder.write_through = order.get("write_through", True)
    recorder.main_waits = order.get("main_waits", False)
    if order.get("ledger", True):
        lifecycle.observe(recorder)  # the lab needs its history, whatever TASKS_DEMO_LEDGER says
    points = set(order["victims"].values())
    if points & {Point.FETCHED, Point.ACKING}:
        open_windows(order["name"])
    if order["victims"]:
        lifecycle.observe(probe)
    signals.worker_ready.connect(lambda **_: probe.say("ready"), weak=False)

    try:
        app.worker_main(
            [
                "worker",
                "--pool=prefork",
                f"--concurrency={order['concurrency']}",
                f"--hostname={order['name']}",
                "--loglevel=INFO",
                # Workers of a lane have nobody to synchronise with; each costs a second at the start.
                "--without-mingle",
                "--without-gossip",
                "--without-heartbeat",
            ]
        )
    except SystemExit as leaving:
        recorder.close()
        return leaving.code if isinstance(leaving.code, int) else 0
    recorder.close()
    return 0


def _die_with(parent: int) -> None:
    from celery import platforms

    platforms.set_pdeathsig("SIGKILL")  # type: ignore[attr-defined]  # missing in the stubs
    if os.getppid() != parent:
        os._exit(70)  # the template died before the request was made: nobody will send the signal


def _log_to(path: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)

"""A worker of the lab: the production Celery app and command line, in a process forked from the template."""

from __future__ import annotations

import gc
import os
from functools import partial
from importlib import import_module
from multiprocessing.process import current_process
from pathlib import Path

from tasks_demo.core.lifecycle import Point
from tasks_demo.lab import controls
from tasks_demo.lab.processes import wall_clock
from tasks_demo.lab.processes.assumptions import assume
from tasks_demo.lab.processes.failpoints import Failpoints
from tasks_demo.lab.processes.specs import WorkerSpec

#: What ``celery worker`` imports when it is run: three quarters of the CPU time of its start.
IMPORTED_BY_WORKERS = (
    "celery.app.control", "celery.app.events", "celery.app.log", "celery.apps.worker", "celery.backends.redis",
    "celery.bin.celery", "celery.concurrency.prefork", "celery.contrib.django.task", "celery.events", "celery.fixups.django",
    "celery.worker.autoscale", "celery.worker.components", "celery.worker.consumer",
    "celery.worker.consumer.delayed_delivery", "celery.worker.loops", "celery.worker.pidbox", "celery.worker.strategy",
    "kombu.transport.pyamqp", "kombu.transport.redis",
)  # fmt: skip


def preload() -> None:
    """Import everything that a worker needs, and open nothing: a fork must not share a connection."""
    for name in IMPORTED_BY_WORKERS:
        import_module(name)
    from celery import current_app

    import tasks_demo.demo.tasks
    import tasks_demo.transport.transport  # noqa: F401

    current_app.loader.import_default_modules()
    current_app.finalize()
    assume(current_app)
    gc.collect()
    gc.freeze()  # otherwise the first collections of each worker would look through all of this, and copy its pages


def run(spec: WorkerSpec, parent: int) -> int:
    """Be the worker, or the publisher, of ``spec`` until it ends; return the exit code. ``parent``: the template's pid."""
    os.setsid()
    _die_with(parent)
    _log_to(spec.log)
    wall_clock.let_sleep()
    if spec.clock:
        wall_clock.follow(spec.clock)

    from celery import current_app as app
    from celery import signals
    from django.conf import settings

    from tasks_demo.core import lifecycle
    from tasks_demo.lab.processes.brokers import watch
    from tasks_demo.lab.processes.brokers.redis import celery_address
    from tasks_demo.lab.processes.databases import connect_at
    from tasks_demo.lab.processes.main_points import announce_acking, announce_acks_of, announce_fetched
    from tasks_demo.lab.processes.publisher import publish
    from tasks_demo.ledger.recorder import recorder

    app.conf.update(
        broker_url=spec.broker_url,
        broker_transport_options=spec.transport_options,
        result_backend=celery_address(spec.redis_url),
        result_backend_transport_options={"global_keyprefix": spec.key_prefix},
    )
    app.conf.update(spec.conf)
    app.__dict__.pop("amqp", None)  # made of the settings before these
    for module in spec.imports:
        import_module(module)
    settings.TASKS_DEMO_REDIS_URL = spec.leases_url or spec.redis_url
    settings.TASKS_DEMO_KEY_PREFIX = spec.key_prefix
    settings.TASKS_DEMO_LEASE_SECONDS = spec.lease_seconds
    settings.TASKS_DEMO_BANK_URL = spec.bank_url
    for name, value in spec.settings.items():
        setattr(settings, f"TASKS_DEMO_{name}", value)
    if spec.control:
        controls.prepare(spec.control, spec.redis_url)
    if spec.database_port:
        connect_at(spec.database_port)

    failpoints = Failpoints(spec.socket, spec.victims)
    lifecycle.ignore(recorder)
    if spec.publication:
        publish(spec.publication, failpoints)
        return 0
    recorder.run = spec.run
    recorder.required = recorder.patient = True  # its counts are exact
    recorder.write_through = spec.write_through
    recorder.main_waits = spec.main_waits
    if spec.ledger:
        lifecycle.observe(recorder)  # the lab needs its history even if TASKS_DEMO_LEDGER is off
    if spec.task:
        announce_acks_of(app.tasks[spec.task])
    in_main = {Point.FETCHED, Point.ACKING} & set(spec.victims.values())
    watch(spec.broker, spec.held, partial(announce_fetched, spec.name) if in_main else None)
    if in_main:
        announce_acking()
    if spec.victims:
        lifecycle.observe(failpoints)
    signals.worker_ready.connect(lambda **_: failpoints.announce_ready(), weak=False)

    # Otherwise each worker makes a folder in the temporary one, which stays there when the worker is killed.
    current_process()._config["tempdir"] = str(Path(spec.socket).parent)  # type: ignore[attr-defined]
    for name in ("BROKER_URL", "RESULT_BACKEND"):  # Celery's command line prefers them to what was set here
        os.environ.pop(name, None)
    try:
        # The template has run the checks once for all; nobody reads a banner, for which each worker would start a program.
        app.worker_main(["--skip-checks", "--quiet", *command_line(spec.name, spec.concurrency)])
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else 0
    finally:
        recorder.close()
    return 0


def command_line(name: str, concurrency: int) -> list[str]:
    """Return the arguments of ``celery`` for a prefork worker that synchronises with no other: that costs a second each."""
    options = ["--pool=prefork", f"--concurrency={concurrency}", f"--hostname={name}", "--loglevel=INFO"]
    return ["worker", *options, "--without-mingle", "--without-gossip", "--without-heartbeat"]


def _die_with(parent: int) -> None:
    from celery import platforms

    platforms.set_pdeathsig("SIGKILL")  # type: ignore[attr-defined]  # missing in the stubs
    if os.getppid() != parent:
        os._exit(70)  # the template died before the request was made: the signal will not be sent


def _log_to(path: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)

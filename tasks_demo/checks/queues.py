"""Collects the queues of a Celery app: those declared, and those named in its settings, routes, tasks or beat schedule."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

from celery.app.routes import MapRoute
from celery.exceptions import QueueNotFound
from kombu import Queue


def queues_of(app: Any, tasks: Iterable[Any]) -> dict[str, Queue]:
    """Return the queues by name. Does not use the app's own registry, where a lookup creates the queue."""
    conf = app.conf
    # Celery builds its registry the same way (celery/app/amqp.py ``AMQP.Queues``): it adds the default queue if none is declared.
    known = app.amqp.Queues(conf.task_queues)
    names = [conf.task_default_queue, *_named(app), *(_wanted(app, task) for task in tasks)]
    for name in names:
        if isinstance(name, Queue):
            known[name.name] = name
        elif name:
            try:
                known[name]
            except (KeyError, QueueNotFound):  # task_create_missing_queues is off: publishing there fails
                continue
    return dict(known)


def queue_of(app: Any, queues: Mapping[str, Queue], task: Any) -> Queue | None:
    """Return the queue of this task's jobs unless a call names another; None if it cannot be determined."""
    wanted = _wanted(app, task) or app.conf.task_default_queue
    return wanted if isinstance(wanted, Queue) else queues.get(wanted)


def schedule_of(app: Any, tasks: Iterable[Any] = ()) -> Iterator[tuple[str, Callable[[str], Any], Any]]:
    """Yield each entry of the beat schedule: its name, a function that reads a field, and its task if it is one of ``tasks``."""
    known = {task.name: task for task in tasks}
    for name, entry in dict(app.conf.beat_schedule or {}).items():
        field = entry.get if isinstance(entry, Mapping) else partial(_attribute, entry)
        yield str(name), field, known.get(str(field("task")))


def _attribute(entry: Any, name: str) -> Any:
    return getattr(entry, name, None)


def _named(app: Any) -> Iterator[Any]:
    for router in app.amqp.routes or ():
        if isinstance(router, MapRoute):
            known: Any = router
            for route in (*known.map.values(), *known.patterns.values()):
                yield route if isinstance(route, str) else dict(route).get("queue")
    for _, field, _ in schedule_of(app):
        yield (field("options") or {}).get("queue")


def _wanted(app: Any, task: Any) -> Any:
    """Return the queue that the task names, else the one that a route names, else None."""
    if getattr(task, "queue", None):
        return task.queue
    try:
        route = app.amqp.router.lookup_route(task.name, (), {}, {}, task)
    except Exception:  # noqa: BLE001  (a router is the project's code and may need a job's arguments)
        return None
    return route if isinstance(route, str) else (route or {}).get("queue")

"""What a process forked from the template gets: a worker, or the publisher of one job. Travels as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Publication:
    """The order and the job of a publisher process. ``publisher``: ``direct`` or ``outbox``; ``route``: options of the call."""

    pattern: str
    task_id: str
    kwargs: dict[str, Any]
    headers: dict[str, str]
    publisher: str
    route: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSpec:
    """A worker, or with ``publication`` a process that publishes one job and ends.

    :param socket: the nemesis's address; a process that reaches a point planned in ``victims`` (task ID → point) waits there.
    :param run: the name of the cell's events in the ledger.
    :param redis_url: the server of leases and results; ``key_prefix``: of all their keys. ``leases_url``: where it is found for
        leases, if elsewhere.
    :param database_port: of 127.0.0.1, where the database of the jobs' tables is found; 0: where the template has it.
    :param broker: the name of the broker's kind; ``held``: a file, see ``brokers.watch``.
    :param settings: ``TASKS_DEMO_*`` settings without their prefix.
    :param main_waits: the main process, too, commits each point when it is reached.
    :param ledger: whether the worker writes events down; ``write_through``: whether each is committed at once.
    :param clock: the file of its wall clock, see ``wall_clock``; empty: it is right.
    :param control: the control whose jobs it runs; empty: those of the patterns.
    :param task: the task of the project whose jobs it runs; empty: those of the demo.
    :param imports: further modules with tasks; ``conf``: further settings of Celery.
    """

    name: str
    socket: str
    log: str
    broker_url: str
    transport_options: dict[str, Any]
    redis_url: str
    key_prefix: str
    lease_seconds: float
    broker: str = "redis"
    held: str = ""
    leases_url: str = ""
    bank_url: str = ""
    database_port: int = 0
    run: str = ""
    victims: dict[str, str] = field(default_factory=dict)
    concurrency: int = 1
    settings: dict[str, Any] = field(default_factory=dict)
    main_waits: bool = False
    ledger: bool = True
    write_through: bool = True
    clock: str = ""
    control: str = ""
    task: str = ""
    imports: list[str] = field(default_factory=list)
    conf: dict[str, Any] = field(default_factory=dict)
    publication: Publication | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the spec as JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """The inverse of ``as_dict``."""
        publication = data.pop("publication")
        return cls(**data, publication=Publication(**publication) if publication else None)

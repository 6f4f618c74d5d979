"""What the lab needs of a broker. ``docs/how-to/lab-broker.md`` shows how to add one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from kombu import Queue

#: Bound on one question to a broker, seconds.
TIMEOUT = 5.0


@dataclass(frozen=True, slots=True)
class Holdings:
    """What a broker held at one moment.

    ``moving`` False: no message was on its way between the queue and the worker, or from a worker that has ended back to the
    queue. Without that, two zeros prove nothing.
    """

    queued: int
    unacked: int
    moving: bool


class Lane(Protocol):
    """The private space of one cell on a broker: its queue, and whatever else its messages touch."""

    @property
    def broker_url(self) -> str:
        """The address in kombu's form."""

    @property
    def queue(self) -> Queue | None:
        """The queue that jobs are published to; None: the app's default one."""

    def transport_options(self, visibility_timeout: float, worker: str = "") -> dict[str, Any]:
        """kombu's options of a connection to it. ``worker``: the name of the worker that gets the connection."""

    def conf(self, worker: str) -> dict[str, Any]:
        """Further settings of Celery for this worker; ``queue_settings`` at least."""

    def held(self, worker: str) -> str:
        """The file for ``watch`` in this worker; empty if the broker tells everything itself."""

    def holdings(self, worker: str | None = None) -> Holdings:
        """What it holds now. ``worker``: the name of the one that is running; None: none is."""

    def put(self, text: bytes) -> None:
        """Put this into its queue, without anything that kombu or Celery adds to a message."""

    def withdraw(self) -> bool:
        """Delete what was put last if it is still to be delivered, though its worker has ended; return whether it was."""

    def dead_letters(self) -> int:
        """How many messages it keeps for a person because nobody can run them; 0 where it keeps none."""

    def purge(self) -> None:
        """Delete what the cell has left."""

    def close(self) -> None:
        """Close the connections."""


class Broker(Protocol):
    """A server, for one run."""

    @property
    def url(self) -> str:
        """Its address."""

    def prepare(self) -> None:
        """Make the run's private space. Raises EnvironmentNotReady unless the server can be used."""

    def lane(self, name: str, folder: Path, /) -> Lane:
        """The space of the cell ``name``. ``folder``: for files that worker and lab share."""

    def remove(self, run: str) -> None:
        """Delete all that the run ``run`` has left; do nothing if it left nothing. Raises OSError or redis.RedisError."""


#: Called with the headers of a message that its main process has been handed and has not recorded yet.
OnFetched = Callable[[Mapping[str, Any]], None]


def before_recording(qos: Any, fetched: OnFetched) -> None:
    """Call ``fetched`` before a transport's ``qos.append`` records a message that its worker has got."""
    record = qos.append

    def append(self: Any, message: Any, delivery_tag: Any) -> None:
        fetched(message.headers)
        record(self, message, delivery_tag)

    qos.append = append


def queue_settings(name: str = "celery", exchange_type: str = "direct", queue_type: str = "classic") -> dict[str, Any]:
    """Celery's settings for one queue, whatever queues the project declares."""
    return {
        "task_queues": None,
        **dict.fromkeys(("task_default_queue", "task_default_exchange", "task_default_routing_key"), name),
        "task_default_exchange_type": exchange_type,
        "task_default_queue_type": queue_type,
    }


def without_password(url: str) -> str:
    """The address for messages and logs."""
    scheme, separator, rest = url.partition("://")
    return f"{scheme}{separator}***@{rest.rsplit('@', 1)[1]}" if "@" in rest else url

"""The transport options of this transport, beside those of stock kombu; Celery's ``broker_transport_options``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

from tasks_demo.core.exceptions import InvalidSetting

#: The types of the fields, which are texts here.
_NUMBER: Final[Mapping[Any, Callable[[Any], Any]]] = {"int": int, "float": float}


@dataclass(frozen=True, slots=True)
class Options:
    """Checked options. Times in seconds."""

    #: Between two heartbeats.
    heartbeat_interval: float = 0.5
    #: An owner whose heartbeat does not advance for this long is declared dead. It takes no more messages after 0.6 of it.
    #: Longer than anything that can stop all threads of a worker: a gevent worker's longest computation, a suspended machine.
    heartbeat_timeout: float = 15.0
    #: An owner whose connection is gone for this long, and did not register another, is declared dead.
    death_grace: float = 0.5
    #: The most messages that are taken at once.
    claim_batch: int = 16
    #: How long an idle consumer waits for a wake marker before it looks at the queues.
    claim_poll: float = 1.0
    #: The same for some seconds after a message came without a marker, from a stock publisher.
    claim_poll_fast: float = 0.01
    #: After this many deaths of its owner a message becomes a dead letter; 0: never.
    delivery_limit: int = 20

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Options:
        """Read them from transport options. Raises InvalidSetting."""
        try:
            read = cls(
                **{field.name: _NUMBER[field.type](given[field.name]) for field in fields(cls) if field.name in given}
            )
        except (TypeError, ValueError) as error:
            raise InvalidSetting(
                f"A transport option is not a number: {error}. No worker can start with it."
            ) from error
        for name in ("heartbeat_interval", "heartbeat_timeout", "claim_poll", "claim_poll_fast", "claim_batch"):
            if getattr(read, name) <= 0:
                raise InvalidSetting(f"The transport option {name} must be greater than 0.")
        for name in ("death_grace", "delivery_limit"):
            if getattr(read, name) < 0:
                raise InvalidSetting(f"The transport option {name} must not be negative.")
        if read.heartbeat_timeout < 6 * read.heartbeat_interval:
            raise InvalidSetting(
                "The transport option heartbeat_timeout must be 6 times heartbeat_interval or more: owners would be "
                "declared dead, and their jobs would run twice."
            )
        return read

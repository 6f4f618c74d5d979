"""The brokers that a cell can run on, and what each does with the message of a dead worker. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BrokerKind:
    """What the predictions and the plan must know about a broker.

    :param family: the value of ``--broker`` that means it; ``schemes``: of its addresses; ``queue``: the value of ``--queue``.
    :param loses_fetched: a message is lost if its worker dies between fetching and recording it.
    :param times_out: a message that stays unacknowledged for the visibility timeout is delivered again, though its worker lives.
    :param sweep_seconds: seconds between two searches for the messages of dead workers; 0: at once.
    """

    name: str
    family: str
    schemes: tuple[str, ...]
    queue: str = ""
    loses_fetched: bool = False
    times_out: bool = False
    sweep_seconds: float = 0.0

    @property
    def on_redis(self) -> bool:
        """Whether the broker is a Redis server, which then holds the leases too."""
        return self.embedded or self.family == "redis-plus"

    @property
    def embedded(self) -> bool:
        """Whether the lab can start a server of its own for it: a Redis 6.2."""
        return self.family in {"redis", "reliable"}


_REDIS, _AMQP = ("redis", "rediss", "unix"), ("amqp", "amqps")
_RELIABLE = ("reliable+redis", "reliable+rediss", "reliable+socket")
REDIS = BrokerKind("redis", "redis", _REDIS, loses_fetched=True, times_out=True)
#: By the name that stands in plans, results and histories. Of a family with several queue types, the first is the default.
KINDS = {
    kind.name: kind
    for kind in (
        REDIS,
        BrokerKind("rabbitmq-quorum", "rabbitmq", _AMQP, "quorum"),
        BrokerKind("rabbitmq-classic", "rabbitmq", _AMQP, "classic"),
        BrokerKind("reliable", "reliable", _RELIABLE),
        # Its main process moves the timeout of what it holds, so that only a dead worker's messages are delivered again.
        BrokerKind("redis-plus", "redis-plus", ("redis-plus", "redis-plus+socket"), sweep_seconds=60.0),
    )
}
FAMILIES = tuple(dict.fromkeys(kind.family for kind in KINDS.values()))
QUEUES = tuple(sorted({kind.queue for kind in KINDS.values()} - {""}))


def kind_of(broker: str, queue: str = "") -> BrokerKind:
    """Return the kind that ``--broker`` (a family or an address) and ``--queue`` mean. Raises ValueError with a sentence."""
    scheme, separator, _ = broker.partition("://")
    meant = [kind for kind in KINDS.values() if broker == kind.family or (separator and scheme in kind.schemes)]
    if not meant:
        addresses = ", ".join(dict.fromkeys(f"{scheme}://…" for kind in KINDS.values() for scheme in kind.schemes))
        raise ValueError(f"Unknown broker {broker!r}: write {', '.join(FAMILIES)}, or an address ({addresses}).")
    if not queue:
        return meant[0]
    for kind in meant:
        if kind.queue == queue:
            return kind
    raise ValueError(f"--queue {queue} would do nothing here: {meant[0].family} has no types of queues. Leave it out.")

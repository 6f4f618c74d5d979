"""The heartbeat of a consuming process: a thread with a connection of its own, which also watches the other owners.

Redis drops the connection when the process dies, and every other owner can see that in the server's list of connections.
Where the list is forbidden, or the host vanished without closing anything, the heartbeat that stands still is the evidence.
"""

from __future__ import annotations

import contextlib
import select
import threading
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any

import redis
from kombu.log import get_logger
from kombu.utils.encoding import bytes_to_str

from tasks_demo.core.exceptions import InvalidSetting, OwnerFenced
from tasks_demo.transport.claims import Claims
from tasks_demo.transport.forks import not_while_forking
from tasks_demo.transport.lua import Client, script
from tasks_demo.transport.options import Options
from tasks_demo.transport.redelivery import Redelivery
from tasks_demo.transport.watch import DeadOwner, Watch, Watched

logger = get_logger(__name__)
#: Between two looks while somebody's connection is gone, and between two attempts to connect; seconds.
_SOON = 0.1
#: The longest pause between two attempts to connect; seconds.
_SELDOM = 2.0
_AUDIT_SECONDS = 5.0
#: The oldest Redis that can list a connection by its ID.
_OLDEST = (6, 2)
#: The part of the heartbeat timeout after which an owner that cannot renew takes nothing more.
_FENCE = 0.6


class Heartbeat:
    """Registers an owner and keeps it alive; ``connect`` returns a client with one connection and no retries.

    ``visibility_timeout``: of stock workers on the same queues, seconds.
    """

    def __init__(
        self,
        claims: Claims,
        redelivery: Redelivery,
        options: Options,
        connect: Callable[[], Client],
        visibility_timeout: float,
    ) -> None:
        self._claims = claims
        self._keys = claims.keys
        self._owner = claims.owner
        self._redelivery = redelivery
        self._options = options
        self._open = connect
        self._renew_seconds = visibility_timeout / 4
        self._watch = Watch(options.death_grace)
        self._client: Client | None = None
        self._run = ""
        self._can_list = False
        self._stopping = threading.Event()
        #: Declared dead by another owner, or left.
        self.lost = False
        #: When the last heartbeat was sent that was answered, monotonic.
        self.renewed = monotonic()
        self._connect(new=True)
        self._thread = threading.Thread(target=self._beat_on, name="kombu-heartbeat", daemon=True)
        self._thread.start()

    @property
    def fresh(self) -> bool:
        """Whether nobody can have declared this owner dead yet."""
        return not self.lost and monotonic() - self.renewed < _FENCE * self._options.heartbeat_timeout

    def leave(self) -> None:
        """At exit: stop, and requeue what is still held."""
        self._stopping.set()
        self._thread.join(2 * self._options.heartbeat_interval)
        if self.lost:
            return
        client = self._client or self._connect(new=False)
        self._claims.send_unsent(client)
        watched, beat = client.hget(self._keys.owners, self._owner), client.hget(self._keys.beats, self._owner)
        self.lost = True
        if watched is not None and self._declared(client, self._owner, watched, beat or b""):
            self._redelivery.recover(client, self._owner)
        client.close()

    def forget(self) -> None:
        """In the child of a fork: close our copy of the socket, and leave the connection to the parent."""
        self.lost = True
        self._stopping.set()
        drop_socket(getattr(self._client, "connection", None))

    # -- the thread

    def _beat_on(self) -> None:
        last_beat = last_audit = last_renewal = monotonic()
        pause, failures = self._options.heartbeat_interval, 0
        while not self._stopping.is_set() and not self.lost:
            try:
                with not_while_forking():
                    client = self._client or self._connect(new=False)
                    now = monotonic()
                    # The time that this process itself did not run proves nothing about the others.
                    self._beat(client, min(now - last_beat, 2 * self._options.heartbeat_interval))
                    last_beat, failures = now, 0
                    pause = _SOON if self._watch.suspicious else self._options.heartbeat_interval
                    if self._claims.unsent:
                        self._claims.send_unsent(client)
                    if self._claims.audit_due or now - last_audit > _AUDIT_SECONDS:
                        last_audit = now
                        self._claims.audit(client)
                    if now - last_renewal > self._renew_seconds:
                        last_renewal = now
                        renewed = [self._keys.held(self._owner), self._keys.unacked_index]
                        script("renew").run(client, renewed, [self._renew_seconds])
            except OwnerFenced:
                logger.error(
                    "This worker, %s, was declared dead by another one, and its messages were requeued. It starts again under "
                    "a new name; jobs that it is running now may run twice.",
                    self._owner,
                )
                break
            except Exception as error:  # noqa: BLE001  # the thread must not end: the process would be declared dead
                if not failures:
                    logger.warning("The heartbeat got no answer from Redis and connects again: %r", error)
                self._disconnect()
                pause = min(_SOON * 2**failures, _SELDOM)
                failures += 1
            self._sleep(pause)
        if self.lost:
            self._log_refusals()

    def _log_refusals(self) -> None:
        """Send the late acknowledgements of a fenced owner, so that their refusals are logged."""
        self._claims.fenced = True  # set first: from now on, the thread whose acknowledgement fails sends it itself
        with contextlib.suppress(Exception):
            if self._claims.unsent:
                self._claims.send_refused(self._client or self._open())

    def _sleep(self, seconds: float) -> None:
        """Wait, but wake up at once when the server drops the connection."""
        sock = getattr(getattr(self._client, "connection", None), "_sock", None)
        if sock is None:
            self._stopping.wait(seconds)
            return
        try:
            poller = select.poll()
            poller.register(sock, select.POLLIN)
            dropped = bool(poller.poll(seconds * 1000))
        except (OSError, ValueError):
            dropped = True
        if dropped and not self._stopping.is_set():
            self._disconnect()

    def _beat(self, client: Client, seconds: float) -> None:
        sent = monotonic()
        keys = [self._keys.owners, self._keys.beats, self._keys.watcher, self._keys.dead]
        lease = int(max(3 * self._options.heartbeat_interval, 1.0) * 1000)
        reply = script("beat").run(client, keys, [self._owner, lease])
        if bytes_to_str(reply[0]) == "fenced":
            self.lost = True
            raise OwnerFenced
        self.renewed = sent
        owners, beats = _pairs(reply[1]), _pairs(reply[2])
        owners.pop(self._owner, None)
        for owner in reply[3]:
            self._redelivery.recover(client, bytes_to_str(owner))
        here = self._watch.connections(owners, self._run) if self._can_list else {}
        listed = self._listed(client, here)
        for dead in self._watch.look(owners, beats, here, listed, seconds):
            self._bury(client, dead)

    def _bury(self, client: Client, dead: DeadOwner) -> None:
        if self._declared(client, dead.owner, dead.watched, dead.beat):
            logger.warning("The owner %s is dead: %s. What it held is requeued.", dead.owner, dead.why)
            self._redelivery.recover(client, dead.owner)

    def _declared(self, client: Client, owner: str, watched: str | bytes, beat: str | bytes) -> bool:
        keys = [self._keys.owners, self._keys.beats, self._keys.watcher, self._keys.dead]
        return bool(script("declare_dead").run(client, keys, [owner, watched, beat]))

    # -- its connection

    def _connect(self, new: bool) -> Client:
        client = self._open()
        try:
            server = client.info("server")
            _check(server)
            self._run = str(server.get("run_id") or "-")
            number = self._connection_number(client)
            self._can_list = number != "0"
            sent = monotonic()
            keys = [self._keys.owners, self._keys.beats, self._keys.dead]
            watched = Watched(number, self._run, self._options.heartbeat_timeout)
            known = script("register").run(client, keys, [self._owner, str(watched), "1" if new else "0"])
        except BaseException:
            client.close()
            raise
        if not known:
            client.close()
            self.lost = True
            raise OwnerFenced
        self.renewed = sent
        self._claims.audit_due = not new
        self._watch.forget()
        self._client = client
        return client

    def _connection_number(self, client: Client) -> str:
        """The ID of this connection, or "0" if the server does not list connections to us."""
        try:
            number = str(client.client_id())
            return number if self._owner in self._listed(client, {self._owner: number}) else "0"
        except redis.ResponseError as error:
            logger.warning("Redis forbids CLIENT LIST (%s): a worker's death is noticed by its heartbeat only", error)
            return "0"

    def _listed(self, client: Client, numbers: dict[str, str]) -> set[str]:
        """Which of the owners have their connections."""
        if not numbers:
            return set()
        rows = client.client_list(client_id=list(numbers.values()))
        return {str(row["name"]) for row in rows if numbers.get(str(row["name"])) == str(row["id"])}

    def _disconnect(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            with contextlib.suppress(Exception):
                client.connection.disconnect()
                client.close()


def drop_socket(connection: Any) -> None:
    """Close this process's copy of a connection's socket without shutting it down: the parent of the fork goes on using it."""
    sock = getattr(connection, "_sock", None)
    if sock is not None:
        connection._sock = None
        sock.close()


def _check(server: dict[str, Any]) -> None:
    if server.get("redis_mode") == "cluster":
        raise InvalidSetting(
            "The broker is a Redis Cluster, which this transport cannot use: one claim takes from several queues. Nothing was "
            "taken. Use a single Redis or Sentinel."
        )
    version = str(server.get("redis_version", ""))
    if tuple(int(part) for part in version.split(".")[:2] if part.isdecimal()) < _OLDEST:
        raise InvalidSetting(f"The broker is Redis {version}; this transport needs 6.2 or newer. Nothing was taken.")


def _pairs(flat: Sequence[bytes | str]) -> dict[str, str]:
    texts = [bytes_to_str(part) for part in flat]
    return dict(zip(texts[::2], texts[1::2], strict=True))

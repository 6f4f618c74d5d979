"""RabbitMQ: a virtual host for each run, and in it a queue for each cell.

AMQP tells how many messages of a queue are ready, and how many consumers it has; not how many are unacknowledged. So the
worker counts the messages that it has been handed and has not answered, in a file that it shares with the lab.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import mmap
import os
import shutil
import struct
import subprocess
import time
import urllib.error
import urllib.request
import uuid
from base64 import b64encode
from pathlib import Path
from typing import Any
from urllib.parse import quote

import kombu
import kombu.exceptions
from amqp.exceptions import AMQPError, NotFound
from kombu import Exchange, Queue
from kombu.transport.native_delayed_delivery import MAX_LEVEL, level_name

from tasks_demo.core.exceptions import EnvironmentNotReady
from tasks_demo.lab.plan.brokers import BrokerKind
from tasks_demo.lab.processes.brokers.protocol import (
    TIMEOUT,
    Holdings,
    OnFetched,
    queue_settings,
    without_password,
)

DEFAULT_URL = "amqp://guest:guest@127.0.0.1:5672//"
#: The port of the management plugin's HTTP API, and the time in which rabbitmqctl must answer, seconds.
API_PORT, CTL_SECONDS = 15672, 60.0
#: Time for which nothing must have moved, seconds. A message is between the server and a worker for milliseconds, and RabbitMQ
#: returns the messages of a closed connection within milliseconds.
SETTLED_SECONDS = 0.5
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}
_HELD = struct.Struct("i")


class RabbitBroker:
    """A RabbitMQ server. The virtual host of a run is ``lab:RUN``: whatever is declared in it goes with it."""

    def __init__(self, kind: BrokerKind, url: str, run: str) -> None:
        self.url = url
        self._kind = kind
        self._run = run
        with kombu.Connection(url) as parsed:
            self._server = parsed.info()

    def prepare(self) -> None:
        made = self._administer(f"lab:{self._run}", create=True)
        try:
            with kombu.Connection(self._address(self._run), connect_timeout=TIMEOUT) as connection:
                connection.ensure_connection(max_retries=10, interval_start=1)
        except (OSError, AMQPError, kombu.exceptions.OperationalError) as error:
            raise EnvironmentNotReady(
                f"RabbitMQ at {without_password(self.url)} cannot be used: {made or error}. The lab makes a virtual host for "
                "each run. Start RabbitMQ, check user and password, and give the user the tag administrator and the server the "
                "management plugin (rabbitmq-plugins enable rabbitmq_management), or run the experiment where rabbitmqctl works."
            ) from error

    def lane(self, name: str, folder: Path) -> RabbitLane:
        return RabbitLane(self._address(self._run), name, self._kind.queue, folder)

    def remove(self, run: str) -> None:
        self._administer(f"lab:{run}", create=False)

    def _address(self, run: str) -> str:
        scheme, _, rest = self.url.partition("://")
        place, _, query = rest.partition("?")
        return f"{scheme}://{place.partition('/')[0]}/{quote(f'lab:{run}', safe='')}" + (f"?{query}" if query else "")

    def _administer(self, vhost: str, *, create: bool) -> str:
        """Create or delete a virtual host by the HTTP API, or else by rabbitmqctl. Returns why neither could, or ""."""
        user, host = self._server["userid"] or "guest", self._server["hostname"] or "localhost"
        try:
            self._by_api(host, user, vhost, create=create)
        except (OSError, http.client.HTTPException) as error:
            program = shutil.which("rabbitmqctl") if host in _LOOPBACK else None
            if program is None:
                return f"its management API does not answer ({error})"
            return _by_ctl(program, user, vhost, create=create)
        return ""

    def _by_api(self, host: str, user: str, vhost: str, *, create: bool) -> None:
        login = b64encode(f"{user}:{self._server['password'] or 'guest'}".encode()).decode()
        name, anything = quote(vhost, safe=""), json.dumps(dict.fromkeys(("configure", "write", "read"), ".*")).encode()
        steps = [(f"vhosts/{name}", b"{}"), (f"permissions/{name}/{quote(user, safe='')}", anything)]
        for path, body in steps if create else steps[:1]:
            request = urllib.request.Request(
                f"http://{host}:{API_PORT}/api/{path}",
                data=body if create else None,
                method="PUT" if create else "DELETE",
                headers={"Authorization": f"Basic {login}", "Content-Type": "application/json"},
            )
            try:
                urllib.request.urlopen(request, timeout=TIMEOUT).close()  # noqa: S310
            except urllib.error.HTTPError as error:
                if create or error.code != http.client.NOT_FOUND:
                    raise


def _by_ctl(program: str, user: str, vhost: str, *, create: bool) -> str:
    anything = [".*"] * 3
    creation = [["add_vhost", vhost], ["set_permissions", "-p", vhost, user, *anything]]
    for command in creation if create else [["delete_vhost", vhost]]:
        try:
            done = subprocess.run(
                [program, "--quiet", *command], capture_output=True, text=True, timeout=CTL_SECONDS, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"rabbitmqctl: {error}"
        if done.returncode:
            return f"rabbitmqctl: {' '.join((done.stderr or done.stdout).split())[:300]}"
    return ""


class RabbitLane:
    """One queue in the virtual host of the run."""

    def __init__(self, url: str, name: str, queue_type: str, folder: Path) -> None:
        self.broker_url = url
        self.queue = Queue(
            name,
            # A topic exchange: RabbitMQ itself then keeps delayed messages of quorum queues.
            Exchange(name, type="topic"),
            routing_key=name,
            queue_arguments={"x-queue-type": "quorum"} if queue_type == "quorum" else None,
        )
        self._delays = [level_name(level) for level in range(MAX_LEVEL + 1)] if queue_type == "quorum" else []
        self._type = queue_type
        self._file = folder / uuid.uuid4().hex[:8]
        self._connection = kombu.Connection(url, connect_timeout=TIMEOUT)
        self._worker: str | None = None
        self._moved_at = time.monotonic()

    def transport_options(self, visibility_timeout: float, worker: str = "") -> dict[str, Any]:
        return {"confirm_publish": True}

    def conf(self, worker: str) -> dict[str, Any]:
        return queue_settings(self.queue.name, "topic", self._type)

    def held(self, worker: str) -> str:
        """The file in which this worker counts what it holds."""
        return f"{self._file}.{worker.partition('@')[0]}"

    def holdings(self, worker: str | None = None) -> Holdings:
        """Ready messages; and those that the worker counts, or without a worker, consumers whose connection is not closed yet.

        ``moving``: fewer than SETTLED_SECONDS ago there was one of either.
        """
        ready, consumers = self._declared(self.queue.name)
        held = consumers if worker is None else self._counted(worker)
        if not ready and not held:
            ready = sum(self._declared(name)[0] for name in self._delays)
        now = time.monotonic()
        if ready or held or worker != self._worker:
            self._worker, self._moved_at = worker, now
        return Holdings(ready, held, moving=now - self._moved_at < SETTLED_SECONDS)

    def _counted(self, worker: str) -> int:
        try:
            (held,) = _HELD.unpack(Path(self.held(worker)).read_bytes())
        except (OSError, struct.error):
            return 1  # it has not begun to count
        return int(held)

    def _declared(self, name: str) -> tuple[int, int]:
        """The number of ready messages and of consumers."""
        channel: Any = self._connection.channel()
        try:
            found = channel.queue_declare(name, passive=True)
        except NotFound:  # which has closed the channel
            return 0, 0
        channel.close()
        return int(found.message_count), int(found.consumer_count)

    def put(self, text: bytes) -> None:
        """Put this into its queue, as a message without properties."""
        channel: Any = self._connection.channel()
        channel.basic_publish(channel.prepare_message(text), "", self.queue.name)
        channel.close()

    def withdraw(self) -> bool:
        """Nothing: Celery acknowledges what it cannot read."""
        return False

    def dead_letters(self) -> int:
        """None: its queue declares no exchange for them."""
        return 0

    def purge(self) -> None:
        """Delete queue and exchange. The rest goes with the virtual host."""
        channel: Any = self._connection.channel()
        channel.queue_delete(self.queue.name)
        channel.exchange_delete(self.queue.exchange.name)

    def disconnect(self) -> None:
        """Forget the connection: its server has ended."""
        self._connection.collect()
        self._connection = kombu.Connection(self.broker_url, connect_timeout=TIMEOUT)

    def close(self) -> None:
        with contextlib.suppress(OSError, AMQPError):
            self._connection.close()


def watch(held: str, fetched: OnFetched | None) -> None:
    """Count, in the file ``held``, the messages that this process has been handed and has not answered.

    ``fetched`` is called where a message has arrived, and Celery has not seen it.
    """
    from celery.signals import worker_ready
    from kombu.transport import pyamqp

    channel: Any = pyamqp.Channel

    descriptor = os.open(f"{held}.new", os.O_RDWR | os.O_CREAT, 0o600)
    os.ftruncate(descriptor, _HELD.size)
    shared = mmap.mmap(descriptor, _HELD.size)
    os.close(descriptor)
    owner = os.getpid()
    unanswered: set[tuple[int, int]] = set()
    deliver, collect = channel._on_basic_deliver, channel.collect

    def count() -> None:
        if os.getpid() == owner:  # pool processes publish on channels of their own
            shared[:] = _HELD.pack(len(unanswered))

    def delivered(self: Any, tag: Any, number: Any, redelivered: Any, exchange: Any, key: Any, message: Any) -> None:
        if tag not in self.no_ack_consumers:
            unanswered.add((id(self), number))
            count()
            if fetched is not None:
                fetched(message.headers)
        deliver(self, tag, number, redelivered, exchange, key, message)

    def answer(original: Any) -> Any:
        def answered(self: Any, delivery_tag: Any, *args: Any, **kwargs: Any) -> Any:
            original(self, delivery_tag, *args, **kwargs)
            unanswered.discard((id(self), delivery_tag))
            count()

        return answered

    def collected(self: Any) -> None:
        unanswered.difference_update({one for one in unanswered if one[0] == id(self)})
        count()
        collect(self)

    channel._on_basic_deliver, channel.collect = delivered, collected
    channel.basic_ack, channel.basic_reject = answer(channel.basic_ack), answer(channel.basic_reject)
    # Only now the lab may believe it: a worker that is starting holds nothing either.
    worker_ready.connect(lambda **_: os.replace(f"{held}.new", held), weak=False)

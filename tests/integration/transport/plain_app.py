"""A Celery project without Django, for workers on the transport; configured by its environment.

BROKER         its URL, stock or reliable
BOOKS          the Unix socket of the Redis where the tasks write down what was done
HOLD           where a worker holds still for ever, to be killed there: a name in HOLDS
OPTIONS        JSON: transport options
PREFETCH       messages per pool process
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import time
from typing import Any

import redis
from celery import Celery
from kombu.transport import redis as stock

import tasks_demo.transport  # noqa: F401  # registers reliable+…
from tasks_demo.transport import channel, qos

app = Celery("plain", broker=os.environ["BROKER"])
app.conf.update(
    broker_transport_options=json.loads(os.environ.get("OPTIONS", "{}")),
    broker_connection_retry_on_startup=True,
    task_acks_late=True,
    task_ignore_result=True,
    worker_cancel_long_running_tasks_on_connection_loss=False,
    worker_prefetch_multiplier=int(os.environ.get("PREFETCH", "1")),
)


def books() -> Any:
    """A client of the Redis where what was done is written down."""
    return redis.Redis(unix_socket_path=os.environ["BOOKS"])


@app.task(name="note")
def note(word: str) -> None:
    """Write down that it ran."""
    with books() as client:
        client.rpush("ran", word)


@app.task(name="wait")
def wait(word: str) -> None:
    """Write down that it began and in which process, and end when it is let go."""
    with books() as client:
        client.set(f"pid:{word}", os.getpid())  # first: a test that has seen "began" reads it
        client.rpush("began", word)
        while not client.exists(f"let-go:{word}"):
            time.sleep(0.02)
        client.rpush("ran", word)


@app.task(name="wait_alone")
def wait_alone(word: str) -> None:
    """As ``wait``, in a process that goes on when its parent dies: Celery's pool has the kernel end it."""
    ctypes.CDLL(None).prctl(1, 0)  # PR_SET_PDEATHSIG
    wait(word)


def _hold(*_: Any, **__: Any) -> None:
    with books() as client:
        client.rpush("holding", os.getpid())
    while True:
        signal.pause()


def _hold_with_messages(self: Any, owner: Any, flight: Any, reply: list[Any]) -> Any:
    return _hold() if len(reply) > 1 else _take(self, owner, flight, reply)


_take = channel.Channel._take
#: claimed: Redis has run the claim, and its reply was not looked at. fetched: before the message is delivered to Celery.
#: acking: before the acknowledgement is sent. The last two are the points of the same names of the lab, on stock too.
HOLDS = {
    "claimed": [(channel.Channel, "_take", _hold_with_messages)],
    "fetched": [(qos.QoS, "append", _hold), (stock.QoS, "append", _hold)],
    "acking": [(qos.QoS, "ack", _hold), (stock.QoS, "ack", _hold)],
}
for owner, name, hold in HOLDS.get(os.environ.get("HOLD", ""), []):
    setattr(owner, name, hold)

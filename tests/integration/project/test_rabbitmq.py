"""The project on RabbitMQ (BROKER_URL): every claim of docs/how-to/rabbitmq.md that no test of the lab shows."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import amqp
import pytest

from project.rabbitmq import DEAD_LETTERS, DELIVERY_LIMIT, QUEUE
from tests.integration.doctor.doctor_command import SOUND, doctor
from tests.integration.servers.rabbitmq import RabbitServer, own_rabbitmq
from tests.integration.servers.redis import EMBEDDED, RedisServer
from tests.support import STATE, Finished, Home, Worker, until

pytestmark = pytest.mark.timeout(600)
#: RabbitMQ delivers what a dead worker held as soon as its connection is gone; the rest is the start of the next worker.
SOON = 60.0


class Site:
    """The project with one RabbitMQ and one Redis."""

    def __init__(self, home: Home, rabbitmq: RabbitServer, redis: RedisServer) -> None:
        self.home, self.rabbitmq = home, rabbitmq
        self.env = {"BROKER_URL": rabbitmq.url, "REDIS_URL": redis.url}

    def worker(self, name: str) -> Worker:
        return Worker(self.home, STATE / f"rabbit-{name}.log", self.env)

    def enqueue(self, *arguments: str, **env: str) -> Finished:
        return self.home.manage("enqueue", *arguments, env={**self.env, **env})


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    folder = STATE / "rabbit-redis"
    folder.mkdir()
    with RedisServer(folder, EMBEDDED, *SOUND) as running:
        yield running


@pytest.fixture
def site(home: Home, rabbitmq: RabbitServer, redis: RedisServer) -> Iterator[Site]:
    with rabbitmq.without(QUEUE, DEAD_LETTERS.name):
        yield Site(home, rabbitmq, redis)


def said(worker: Worker, words: str) -> int:
    return worker.log.read_text(errors="replace").count(words)


@pytest.mark.parametrize("queue_type", ["quorum", "classic"])
def test_project_on_rabbitmq_passes_its_checks(home: Home, queue_type: str) -> None:
    env = {"BROKER_URL": "amqp://guest:guest@127.0.0.1:1//", "BROKER_QUEUE_TYPE": queue_type}
    done = home.manage("check", "--tag", "celery", "--fail-level", "WARNING", env=env)
    assert (done.code, "no issues" in done.out + done.err) == (0, True), done.err


@pytest.mark.parametrize(
    ("env", "words"),
    [
        ({"BROKER_URL": "ftp://host"}, "BROKER_URL must start with redis://, rediss://, unix://, amqp:// or amqps://"),
        ({"BROKER_URL": "amqp://u:hid/den@host//"}, "BROKER_URL has no valid port"),
        ({"BROKER_QUEUE_TYPE": "stream"}, "BROKER_QUEUE_TYPE='stream': write quorum or classic"),
    ],
)
def test_project_refuses_a_broker_that_it_does_not_know(home: Home, env: dict[str, str], words: str) -> None:
    done = home.manage("check", env=env)
    assert done.code != 0
    assert words in done.err
    assert "hid" not in done.err


def test_project_on_rabbitmq_runs_the_jobs_of_a_killed_worker_at_once(site: Site) -> None:
    first, second = site.worker("first"), site.worker("second")
    with first:
        held = site.enqueue("inbox", "-n", "2", "--work", "10000")
        assert held.code == 0, held.err
        until(lambda: said(first, "charge_inbox") >= 2 and site.rabbitmq.depth(QUEUE) == 0, "two jobs in the worker")
        os.kill(first.pid, signal.SIGKILL)
        with second:
            until(lambda: said(second, "received") >= 2, "both jobs in the next worker", SOON)
            until(lambda: said(second, " succeeded in ") == 2, "the end of both jobs", SOON)
            seen = doctor(site.home, **site.env)
            assert seen.failed() == set(), seen.whole
            assert seen.row(f"queue {QUEUE}", "RabbitMQ")["seen"] == (
                f"as declared (quorum); after {DELIVERY_LIMIT} deliveries a message goes to {DEAD_LETTERS.exchange.name}"
            )
            other = doctor(site.home, **site.env, BROKER_QUEUE_TYPE="classic")
            assert (other.code, f"queue {QUEUE}" in other.failed()) == (4, True), other.whole
    assert site.rabbitmq.depth(DEAD_LETTERS.name) == 0


def test_project_on_rabbitmq_keeps_a_message_that_is_delivered_too_often(site: Site) -> None:
    with site.worker("declares"):
        until(lambda: site.rabbitmq.depth(DEAD_LETTERS.name) == 0, "the queue of dead letters")
    assert site.enqueue("acks_early").code == 0
    deliveries = 0
    with amqp.Connection(f"127.0.0.1:{site.rabbitmq.port}") as connection:
        channel = connection.channel()

        def rejected() -> bool:
            nonlocal deliveries
            message = channel.basic_get(QUEUE)
            if message is not None:
                deliveries += 1
                channel.basic_reject(message.delivery_tag, requeue=True)
            return site.rabbitmq.depth(DEAD_LETTERS.name) == 1

        until(rejected, "the dead letter")
    assert deliveries == DELIVERY_LIMIT + 1


def test_project_on_rabbitmq_leaves_a_countdown_to_the_broker(site: Site) -> None:
    publish = "from tasks_demo.demo.tasks import CHARGES; CHARGES['inbox'].apply_async(('c', 1), countdown=8)"
    worker = site.worker("countdown")
    with amqp.Connection(f"127.0.0.1:{site.rabbitmq.port}") as connection:
        # As any Celery project with default settings leaves it; RabbitMQ refuses to change its type.
        connection.channel().exchange_declare(QUEUE, "direct", durable=True, auto_delete=False)
    with worker:
        done = site.home.python(publish, env=site.env)
        assert done.code == 0, done.err
        # Eight seconds are one level: the message does not move from one to the next while they are counted.
        assert site.rabbitmq.depth("celery_delayed_3") == 1
        assert said(worker, "charge_inbox") == 1, "it is listed, not received"
        until(lambda: said(worker, " succeeded in ") == 1, "the job")


def test_project_on_rabbitmq_refuses_to_publish_where_there_is_no_rabbitmq(site: Site) -> None:
    done = site.enqueue("acks_early", BROKER_URL="amqp://guest:guest@127.0.0.1:1//")
    assert (done.code, done.out) == (4, "")
    assert "In the queue: no jobs" in done.err
    assert "Start Redis" not in done.err


def test_project_on_rabbitmq_ends_its_worker_when_a_job_outlives_the_consumer_timeout(
    home: Home, redis: RedisServer
) -> None:
    with own_rabbitmq(erlang="-rabbit consumer_timeout 2000 -rabbit channel_tick_interval 1000") as server:
        site = Site(home, server, redis)
        worker = site.worker("too-long")
        with worker:
            assert site.enqueue("inbox", "--work", "10000").code == 0
            until(lambda: not worker.alive(), "the end of the worker", SOON)
            assert said(worker, "PreconditionFailed") >= 1
        until(lambda: server.depth(QUEUE) == 1, "the job, to be delivered again")

"""The proxy between workers and broker: what passes, what is cut, late or swallowed, and that it says when nothing was."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import redis

from tasks_demo.core.exceptions import EnvironmentNotReady
from tasks_demo.demo.stack.redis import EmbeddedRedis
from tasks_demo.lab.plan.faults import Fault
from tasks_demo.lab.plan.timing import DISTURBED_SECONDS, LATENCY_SECONDS
from tasks_demo.lab.processes.fault_proxy import FaultProxy
from tests.support import until

pytestmark = pytest.mark.timeout(120)
Start = Callable[[Fault], tuple[FaultProxy, "redis.Redis[bytes]"]]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedRedis]:
    with EmbeddedRedis(tmp_path / "redis") as running:
        yield running


@pytest.fixture
def behind(server: EmbeddedRedis, tmp_path: Path) -> Iterator[Start]:
    """Start a proxy before the server, and return it with a client that is connected through it and repeats nothing."""
    with contextlib.ExitStack() as ending:

        def start(fault: Fault) -> tuple[FaultProxy, redis.Redis[bytes]]:
            proxy = FaultProxy(f"redis+{server.url.replace('unix', 'socket')}?virtual_host=0", tmp_path, fault)
            ending.callback(proxy.close)
            proxy.start()
            assert proxy.url.endswith("?virtual_host=0")
            address = proxy.url.replace("redis+socket", "unix").partition("?")[0]
            client = redis.Redis.from_url(address, retry=None, socket_timeout=10)
            ending.callback(client.close)
            client.set("key", b"x" * 300_000)
            return proxy, client

        yield start


def test_proxy_cuts_the_open_connections_and_takes_new_ones(behind: Start) -> None:
    proxy, client = behind(Fault.CUT)
    assert client.get("key") == b"x" * 300_000
    connection = client.connection_pool.get_connection()
    assert proxy.begin("") == 1
    with pytest.raises(redis.ConnectionError):
        connection.read_response()
    client.connection_pool.release(connection)
    assert client.ping()


def test_proxy_without_a_connection_cuts_none(behind: Start) -> None:
    proxy, client = behind(Fault.CUT)
    client.close()
    until(lambda: proxy.begin("") == 0, "the end of the connection at the proxy")


def test_proxy_delays_each_way_until_it_is_healed_and_loses_nothing(behind: Start) -> None:
    proxy, client = behind(Fault.DELAY)
    assert proxy.begin("") == 1
    began = time.monotonic()
    assert client.get("key") == b"x" * 300_000
    assert time.monotonic() - began >= 2 * LATENCY_SECONDS
    assert proxy.heal() == ""
    took = []
    for _ in range(3):  # a machine that stands still delays one of them
        began = time.monotonic()
        client.ping()
        took.append(time.monotonic() - began)
    assert min(took) < LATENCY_SECONDS


def test_proxy_swallows_what_is_said_and_resets_the_connection_when_it_is_healed(
    behind: Start, server: EmbeddedRedis
) -> None:
    proxy, client = behind(Fault.BLACK_HOLE)
    connection = client.connection_pool.get_connection()
    assert proxy.begin("") == 1
    connection.send_command("SET", "key", "swallowed")
    assert not connection.can_read(timeout=0.3)  # still open, and silent
    until(lambda: proxy.heal() == "", "the bytes at the proxy")
    with pytest.raises(redis.ConnectionError):
        connection.read_response()
    client.connection_pool.release(connection)
    assert client.ping()
    with redis.Redis.from_url(server.url) as direct:
        assert direct.get("key") == b"x" * 300_000


@pytest.mark.parametrize(
    ("fault", "said"),
    [(Fault.DELAY, "no request and reply was delayed for the full time"), (Fault.BLACK_HOLE, "no byte was on its way")],
)
def test_proxy_says_that_nothing_was_disturbed(behind: Start, fault: Fault, said: str) -> None:
    proxy, _ = behind(fault)
    assert proxy.begin("") == 1
    assert proxy.heal() == said


def test_proxy_at_a_place_lets_the_request_pass_and_cuts_instead_of_its_answer(
    behind: Start, server: EmbeddedRedis
) -> None:
    proxy, client = behind(Fault.CUT_PUBLISH)
    assert proxy.begin("job 7") == 1
    client.lpush("queue", "job 6")  # another request is answered
    with pytest.raises(redis.ConnectionError):
        client.lpush("queue", "job 7")
    proxy.wait_until_over(threading.Event())
    assert proxy.heal() == ""
    client.lpush("queue", "job 8")
    with redis.Redis.from_url(server.url) as direct:
        assert direct.lrange("queue", 0, -1) == [b"job 8", b"job 7", b"job 6"]


def test_proxy_at_a_place_lets_redis_ask_for_a_script_and_cuts_after_it_has_run(behind: Start) -> None:
    proxy, client = behind(Fault.CUT_PUBLISH)
    push = client.register_script("return redis.call('LPUSH', 'queue', ARGV[1])")
    proxy.begin("job 7")
    with pytest.raises(redis.ConnectionError):
        push(args=["job 7"])
    assert client.lrange("queue", 0, -1) == [b"job 7"]


def test_proxy_at_a_place_waits_for_the_request_on_a_new_connection(behind: Start) -> None:
    proxy, client = behind(Fault.CUT_PUBLISH)
    client.close()
    proxy.begin("job 7")
    with pytest.raises(redis.ConnectionError):
        client.lpush("queue", "job 7")
    assert proxy.heal() == ""
    assert client.llen("queue") == 1


def test_proxy_at_a_place_delays_one_request_and_its_answer(behind: Start) -> None:
    proxy, client = behind(Fault.DELAY_PUBLISH)
    proxy.begin("job 7")
    began = time.monotonic()
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(client.lpush, "queue", "job 7")
        proxy.wait_until_over(threading.Event())
        assert answer.result() == 1
    assert 2 * LATENCY_SECONDS <= time.monotonic() - began < DISTURBED_SECONDS[Fault.DELAY]
    assert proxy.heal() == ""


def test_proxy_at_a_place_swallows_the_request_and_resets_the_connection(behind: Start) -> None:
    proxy, client = behind(Fault.BLACK_HOLE_PUBLISH)
    proxy.begin("job 7")
    client.lpush("queue", "job 6")
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(client.lpush, "queue", "job 7")
        proxy.wait_until_over(threading.Event())
        assert not answer.done()
        assert proxy.heal() == ""
        assert isinstance(answer.exception(), redis.ConnectionError)
    assert client.lrange("queue", 0, -1) == [b"job 6"]


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (Fault.CUT_PUBLISH, "no answer was on its way"),
        (Fault.DELAY_PUBLISH, "no request and reply was delayed for the full time"),
        (Fault.BLACK_HOLE_PUBLISH, "no byte was on its way"),
    ],
)
def test_proxy_at_a_place_says_that_the_request_was_not_made(behind: Start, fault: Fault, said: str) -> None:
    proxy, client = behind(fault)
    proxy.begin("job 7")
    client.lpush("queue", "job 6")
    interrupted = threading.Event()
    interrupted.set()
    proxy.wait_until_over(interrupted)
    assert proxy.heal() == said
    assert client.lpush("queue", "job 7") == 2


def test_proxy_before_tls_is_refused(tmp_path: Path) -> None:
    for url in ("rediss://host:6379/0", "reliable+rediss://host:6379/0", "amqps://host//"):
        with pytest.raises(EnvironmentNotReady, match="name a broker without TLS"):
            FaultProxy(url, tmp_path, Fault.CUT)

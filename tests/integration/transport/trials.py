"""What the transport is held to and takes minutes; the figures are in docs/reference/transport.md.

``make transport-trials`` runs all, ``make transport-trials TRIALS="recovery long"`` some. Each prints what was measured, and
fails if a promise does not hold. Transport options are the defaults. Redis is the embedded one on a Unix socket, with
``appendfsync always``, except where a trial says otherwise.

Over 300 lines: one function for each trial, on the same helpers.
"""

from __future__ import annotations

import contextlib
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event, Thread
from typing import Any

from tests.integration.servers.redis import EMBEDDED, RedisServer
from tests.integration.servers.sentinel import ENCODED, Servers
from tests.integration.transport.hosts import a_host, missing
from tests.integration.transport.plain_workers import Environment, PlainWorker, running_environment, started_template
from tests.support import until

SEED = 1
Template = subprocess.Popen[str]


def spread(times: list[float]) -> str:
    """The percentiles of some seconds."""
    cuts = statistics.quantiles(times, n=100, method="inclusive")
    return f"n = {len(times)}, p50 {cuts[49]:.2f} s, p99 {cuts[98]:.2f} s, most {max(times):.2f} s"


def await_all(environment: Environment, words: list[str], seconds: float) -> None:
    """Wait until every job has run; a job that has not by then is lost, and counted by the caller."""
    with contextlib.suppress(AssertionError):
        until(lambda: environment.count("ran").keys() >= set(words) and environment.nowhere, "all jobs", seconds)


@contextlib.contextmanager
def plain_environment(template: Template, *options: str) -> Iterator[Environment]:
    with (
        tempfile.TemporaryDirectory(prefix="logs-") as logs,
        running_environment(template, Path(logs), *options) as environment,
    ):
        yield environment


class Publisher(Thread):
    """Publishes one job after the other, and remembers those whose publication was confirmed."""

    def __init__(self, environment: Environment, pause: float = 0.002) -> None:
        super().__init__(daemon=True)
        self._environment, self._pause, self._enough = environment, pause, Event()
        self.confirmed: list[str] = []
        self.tried = 0

    def run(self) -> None:
        while not self._enough.wait(self._pause):
            word = f"j{self.tried}"
            self.tried += 1
            with contextlib.suppress(Exception):  # not confirmed: it may run or not
                self._environment.publish("note", word, retry=False)
                self.confirmed.append(word)

    def end(self) -> None:
        self._enough.set()
        self.join(30)


def recovery(template: Template, number: int = 200) -> str:
    """From SIGKILL of a worker's main process, which holds one job, to the start of that job in another worker."""
    with plain_environment(template) as environment:
        environment.worker("-c", "2")
        took: list[float] = []
        for round_ in range(number):
            victim = environment.worker("-c", "2", hold="fetched")
            for attempt in range(1000):  # until the victim gets one, and not the survivor
                word = f"{round_}:{attempt}"
                environment.publish("note", word)
                until(
                    lambda word=word, n=round_: environment.count("ran")[word] or environment.books.llen("holding") > n,
                    "a job",
                )  # type: ignore[misc]
                if environment.books.llen("holding") > round_:
                    break
            assert not environment.count("ran")[word]
            victim._process.kill()
            killed = time.monotonic()
            while not environment.count("ran")[word]:
                time.sleep(0.002)
            took.append(time.monotonic() - killed)
            victim.stop()
            environment.books.delete("ran")
        assert environment.nowhere
        return spread(took)


def connections(template: Template, number: int = 200) -> str:
    """CLIENT KILL of every connection while jobs run, others are prefetched, and acknowledgements are due."""
    with plain_environment(template) as environment:
        workers = [environment.worker("-c", "2", prefetch=4) for _ in range(2)]
        words, dropped = [], 0
        environment.publish("wait", "long")
        for round_ in range(number):
            held = [f"held{round_}:{place}" for place in range(2)]
            short = [f"short{round_}:{place}" for place in range(6)]
            environment.publish("wait", *held)
            environment.publish("note", *short)
            until(lambda held=held: environment.count("began").keys() & set(held), "a job in flight")  # type: ignore[misc]
            dropped += environment.drop_connections()
            environment.release(*held)
            words += held + short
        await_all(environment, words, 60)
        environment.release("long")
        await_all(environment, [*words, "long"], 60)
        ran = environment.count("ran") | environment.count("began")
        lost, twice = {*words, "long"} - ran.keys(), [word for word, times in ran.items() if times > 1]
        assert not lost, lost
        assert not twice, twice
        assert environment.owners().keys() == {worker.pid for worker in workers}
        return f"{number} times, {dropped} connections, {len(words) + 1} jobs: 0 lost, 0 executed twice"


def host(template: Template, number: int = 3) -> str:
    """A host that is cut off without a word, one way or both; the job that runs there starts elsewhere. Then it is healed."""
    if why := missing():
        return f"not run: {why}"
    port, said = 16379, []
    for ways in ("both", "from it", "to it"):
        took = []
        for _ in range(number):
            with (
                a_host() as away,
                plain_environment(
                    template, "--port", str(port), "--bind", away.ours, "--protected-mode", "no"
                ) as environment,
            ):
                victim = environment.worker(host=away.name, broker=f"reliable+redis://{away.ours}:{port}/0")
                environment.publish("wait", "a")
                until(lambda environment=environment: environment.count("began"), "the job")  # type: ignore[misc]
                environment.worker()
                away.cut(ways)
                began = time.monotonic()
                until(lambda environment=environment: environment.count("began")["a"] == 2, "the job elsewhere", 40)  # type: ignore[misc]
                took.append(time.monotonic() - began)
                environment.release("a")
                until(
                    lambda environment=environment: environment.nowhere and environment.count("ran")["a"] == 2,
                    "both have run it",
                )  # type: ignore[misc]
                away.heal()
                until(lambda it=victim: "acknowledgement was refused" in it.said, "the refusal", 60)  # type: ignore[misc]
                until(lambda it=victim, environment=environment: it.pid in environment.owners(), "it is back", 60)  # type: ignore[misc]
        assert max(took) <= 20, took
        said.append(f"{ways}: {', '.join(f'{seconds:.1f}' for seconds in sorted(took))} s")
    return "; ".join(said) + "; each late acknowledgement was refused, nothing lost"


def mixed(template: Template, rounds: int = 20, each: int = 500) -> str:
    """Stock and new publishers and workers on one queue; the main processes of the new workers are killed under load."""
    with plain_environment(template) as environment:
        for _ in range(2):
            environment.worker("-c", "2", prefetch=4, stock=True)
        words, held, kills = [], 0, 0
        new: list[PlainWorker] = []
        for round_ in range(rounds):
            new += [environment.launched("-c", "2", prefetch=4) for _ in range(2 - len(new))]
            for worker in new:
                worker.await_ready()
            fresh = [f"j{round_}:{place}" for place in range(each)]
            both = [
                Thread(target=environment.publish, args=("note", *fresh[kind::2]), kwargs={"stock": bool(kind)})
                for kind in (0, 1)
            ]
            for thread in both:
                thread.start()
            until(lambda first=fresh[0]: environment.count("ran")[first], "the load")  # type: ignore[misc]
            for worker in new:
                before = environment.owners()[worker.pid].held
                worker.kill()
                held, kills = held + before, kills + 1
            for thread in both:
                thread.join()
            for worker in new:
                worker.stop()
            new = []
            words += fresh
        environment.worker("-c", "2", prefetch=4)
        await_all(environment, words, 60)
        ran = environment.count("ran")
        lost, twice = set(words) - ran.keys(), sum(times > 1 for times in ran.values())
        assert not lost, (len(lost), environment.redis.llen("celery"), environment.redis.hlen("unacked"))
        return f"{len(words)} jobs, {kills} kills, about {held} held by the killed: 0 lost, {twice} executed twice"


def long(template: Template, seconds: int = 600) -> str:
    """A job and an ETA of ten minutes, beside another worker that is idle and a stock one."""
    with plain_environment(template) as environment:
        first = environment.worker("-c", "2", prefetch=4)
        environment.publish("wait", "long")
        environment.publish("note", "later", eta=datetime.now(UTC) + timedelta(seconds=seconds))
        began = time.monotonic()
        until(lambda: environment.count("began") and environment.owners()[first.pid].held == 2, "both are held")
        environment.worker()
        environment.worker("-P", "threads", "-c", "1", stock=True)
        until(lambda: environment.count("ran")["later"], "the ETA", seconds + 30)
        until(lambda: time.monotonic() - began > seconds, "the long job's time", seconds)
        environment.release("long")
        until(lambda: environment.nowhere, "both are acknowledged")
        assert environment.count("began") == {"long": 1}
        assert environment.count("ran") == {"long": 1, "later": 1}
        received = sum(path.read_text(errors="replace").count("received") for path in environment.logs())
        assert received == 2, received
        return f"{seconds} s each: one delivery each"


def restarts(template: Template, number: int = 20) -> str:
    """Redis with an append-only file is killed and started again, while jobs are published and run."""
    with plain_environment(template) as environment:
        for _ in range(2):
            environment.worker("-c", "2", prefetch=4)
        publisher = Publisher(environment)
        publisher.start()
        chance = random.Random(SEED)
        for _ in range(number):
            count = len(publisher.confirmed)
            until(lambda count=count: len(publisher.confirmed) > count + 100, "the load", 60)  # type: ignore[misc]
            time.sleep(chance.uniform(0, 0.2))
            environment.server.kill()
            environment.server.start()
        publisher.end()
        await_all(environment, publisher.confirmed, 90)
        ran = environment.count("ran")
        lost = set(publisher.confirmed) - ran.keys()
        twice = sum(times > 1 for times in ran.values())
        assert not lost, (len(lost), environment.redis.llen("celery"), environment.redis.hlen("unacked"))
        return f"{number} restarts, {len(publisher.confirmed)} jobs: 0 lost, {twice} executed twice"


def failover(template: Template, number: int = 10) -> str:
    """The primary behind Sentinel is killed under load. With the replica at its heels; and with one that lags by a second."""
    chance, said = random.Random(SEED), []
    for lag in (0.0, 1.0):
        confirmed = lost = twice = 0
        took = []
        for _ in range(number):
            with contextlib.ExitStack() as stack:
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="failover-")))
                servers = Servers(stack, folder)
                (folder / "books").mkdir()
                books = stack.enter_context(RedisServer(folder / "books", EMBEDDED))
                broker = f"reliable+sentinel://:{ENCODED}@127.0.0.1:{servers.sentinel}/0"
                environment = Environment(books, books, folder, stack, template, broker, master_name="mymaster")
                for _ in range(2):
                    environment.worker("-c", "2", prefetch=4)
                publisher = Publisher(environment)
                publisher.start()
                until(lambda it=publisher: len(it.confirmed) > 100, "the load")  # type: ignore[misc]
                primary: Any = servers.client(servers.second)
                if lag:  # the replica loses its connection and cannot connect again
                    primary.config_set("masterauth", "wrong")
                    servers.client(servers.first).client_kill_filter(_type="replica")
                time.sleep(lag or chance.uniform(0, 0.2))
                servers.kill_primary()
                killed, before = time.monotonic(), len(publisher.confirmed)
                until(lambda it=publisher, n=before: len(it.confirmed) > n + 50, "publications go on", 60)  # type: ignore[misc]
                took.append(time.monotonic() - killed)
                publisher.end()
                until(lambda it=primary: not (it.llen("celery") or it.hlen("unacked")), "all that is there has run", 60)  # type: ignore[misc]
                ran = environment.count("ran")
                confirmed += len(publisher.confirmed)
                lost += len(set(publisher.confirmed) - ran.keys())
                twice += sum(times > 1 for times in ran.values())
        said.append(
            f"replica {f'{lag:g} s behind' if lag else 'not delayed'}: {number} failovers, {confirmed} confirmed, {lost} lost, "
            f"{twice} executed twice, publications go on after {statistics.median(took):.1f} s (median)"
        )
    return "; ".join(said)


TRIALS: dict[str, Callable[[Template], str]] = {
    trial.__name__: trial for trial in (recovery, connections, host, mixed, long, restarts, failover)
}


def main(names: list[str]) -> None:
    """Run them, one line each."""
    with started_template() as template:
        for name in names or list(TRIALS):
            began, before = time.monotonic(), os.getloadavg()[0]
            measured = TRIALS[name](template)
            sys.stdout.write(
                f"{name} ({datetime.now(UTC):%Y-%m-%d %H:%M}, {time.monotonic() - began:.0f} s, load {before:.1f} to "
                f"{os.getloadavg()[0]:.1f}): {measured}\n"
            )
            sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])

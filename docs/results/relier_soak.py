"""Measures relier under the kills of the lab's soak, in processes of its own: ``python relier_soak.py SEED [JOBS KILLS]``.

relier cannot run in the lab's workers (``lab/reports/other_libraries.py`` says why), so this is a program for a virtual
environment with relier 0.1.7, beside a Redis 7 that it starts. As relier's README recommends: its own Celery app, ``rl_task(
idempotent=True, hard_timeout=30)``, ``push``, two workers, ``rl run-resurrector``, a Redis with an append-only file and without
eviction. As in the soak: two processes a worker, about 500 jobs in the queue, and SIGKILL of a worker (main and pool processes)
at random moments while the other one lives; a new one is started under a new name. A job counts its executions in Redis.

It prints one JSON object. What is left when nothing has happened for 90 s is ``lost``, unless the message is still among those
that kombu holds as unacknowledged (``held``): they come back after an hour, kombu's default visibility timeout.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import redis

JOBS, KILLS, QUEUED, QUIET_SECONDS = 3000, 15, 500, 90.0
QUEUES = ("high_priority", "default", "low_priority", "re-queue")


def books() -> redis.Redis:
    return redis.Redis.from_url(os.environ["RELIER_REDIS_URL"].removesuffix("/0") + "/1", decode_responses=True)


if __name__ != "__main__":  # imported by the workers, and by the program itself when it has started a Redis
    from relier import rl_task

    @rl_task(queue="default", idempotent=True, hard_timeout=30, name="relier_soak.charge")
    async def charge(job: str) -> str:
        with books() as client:
            client.hincrby("charged", job, 1)
        return job


def main(seed: int, jobs: int, kills: int) -> dict[str, Any]:
    chance = random.Random(seed)
    due = sorted(chance.sample(range(jobs // 20, jobs - jobs // 20), kills))
    broker = redis.Redis.from_url(os.environ["RELIER_REDIS_URL"], decode_responses=True)
    started, began, landed, task_ids = 0, time.monotonic(), 0, {}

    def worker() -> subprocess.Popen[bytes]:
        nonlocal started
        started += 1
        command = ["celery", "-A", "relier.tasks.app", "worker", "-l", "warning", "-Q", ",".join(QUEUES), "-c", "2"]
        with open("workers.log", "ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", *command, "--include=relier_soak", "-n", f"w{started}@lab"],
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def queued() -> int:
        return sum(broker.llen(name) for name in QUEUES)  # type: ignore[misc]

    with open("workers.log", "ab") as log:
        resurrector = subprocess.Popen(
            [str(Path(sys.executable).with_name("rl")), "run-resurrector"], stdout=log, stderr=log
        )
    workers = [worker(), worker()]
    try:
        for index in range(jobs):
            while queued() > QUEUED:
                time.sleep(0.02)
            task_ids[charge.push(f"job-{index}").id] = f"job-{index}"
            if due and index >= due[0] and all(ready(broker, one) for one in workers):
                due.pop(0)
                time.sleep(chance.uniform(0, 0.05))
                number = chance.randrange(2)
                os.killpg(workers[number].pid, signal.SIGKILL)
                workers[number].wait()
                landed += queued() + broker.hlen("unacked") > 0
                workers[number] = worker()
        seconds, last, at = time.monotonic() - began, -1, time.monotonic()
        while time.monotonic() - at < QUIET_SECONDS:
            done = books().hlen("charged")
            if (done, queued()) != last:
                last, at = (done, queued()), time.monotonic()
            time.sleep(0.5)
        charged = books().hgetall("charged")
        held = {json.loads(one)[0]["headers"]["id"] for one in broker.hvals("unacked")}
        missing = {task for task, job in task_ids.items() if job not in charged}
        return {
            "seed": seed, "jobs": jobs, "kills": landed, "lost": len(missing - held), "held": len(missing & held),
            "held_started": sum(broker.exists(f"celery-task-meta-{task}") for task in missing & held),
            "lost_before_start": sum(not broker.exists(f"celery-task-meta-{task}") for task in missing - held),
            "charged_twice": sum(int(times) > 1 for times in charged.values()),
            "dead_letters": len(list(broker.scan_iter("rl:dlq:*"))), "jobs_per_s": round(jobs / seconds),
            "versions": {name: version(name) for name in ("relier", "celery", "kombu", "redis")}
            | {"python": sys.version.split()[0], "redis-server": broker.info("server")["redis_version"]},
        }  # fmt: skip
    finally:
        for one in (*workers, resurrector):
            one.kill() if one is resurrector else os.killpg(one.pid, signal.SIGKILL)
            one.wait()


_PRESENT: set[int] = set()


def ready(broker: redis.Redis, worker: subprocess.Popen[bytes]) -> bool:
    """Whether this worker has said that it is alive, which it says when it consumes."""
    if worker.pid not in _PRESENT:
        name = next(part for part in worker.args if str(part).endswith("@lab"))  # type: ignore[union-attr]
        if broker.zscore("rl:workers", name) is not None:
            _PRESENT.add(worker.pid)
    return worker.pid in _PRESENT


if __name__ == "__main__":
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    folder = tempfile.mkdtemp(prefix="relier-soak-")
    here = str(Path(__file__).resolve().parent)
    os.environ |= {"RELIER_REDIS_URL": f"redis://127.0.0.1:{port}/0", "RELIER_LOG_LEVEL": "ERROR", "PYTHONPATH": here}
    os.chdir(folder)
    options = ["--port", str(port), "--bind", "127.0.0.1", "--appendonly", "yes", "--maxmemory-policy", "noeviction"]
    with open("redis.log", "wb") as log:
        server = subprocess.Popen([str(shutil.which("redis-server")), *options, "--dir", folder], stdout=log)
    try:
        time.sleep(1.0)
        numbers = [int(argument) for argument in sys.argv[1:]]
        from relier_soak import main as measure  # the task is registered once, under the name that the workers import

        sys.stdout.write(json.dumps(measure(numbers[0], *(numbers[1:] or (JOBS, KILLS)))) + "\n")
    finally:
        server.terminate()
        server.wait()
        shutil.rmtree(folder)

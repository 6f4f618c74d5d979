"""Workers and queues: which jobs a killed worker held, what became of each, and whether the customer was charged."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.bookshop import QUEUES, Bookshop, ShopWorker, opened
from tests.integration.servers.rabbitmq import RabbitServer
from tests.support import until

#: Messages of a killed worker are delivered again after a second; two jobs run and two wait in the worker.
SETTINGS: dict[str, Any] = {
    "CELERY_BROKER_TRANSPORT_OPTIONS": {"visibility_timeout": 1, "unacked_restore_limit": 100},
    "CELERY_WORKER_PREFETCH_MULTIPLIER": 2,
    "CELERY_TASK_ANNOTATIONS": {
        "orders.index_slowly": {"books": "payments"},
        "orders.text_slowly": {"books": "payments"},
    },
    "TASKS_DEMO_BOOKS": {"payments": "tests.integration.dashboard.shop_books.Payments"},
    "TASKS_DEMO_PUBLISH_IN_TRANSACTION": "off",
}


@pytest.fixture(scope="module")
def shop() -> Iterator[Bookshop]:
    with opened(settings=SETTINGS) as project:
        yield project


def fates(shop: Bookshop, worker: ShopWorker) -> dict[str, Any]:
    """The state of this worker, and the fate of each job it held by task ID."""
    return shop.value(
        "{'state': w.state, 'why_incomplete': jobs.why_incomplete, "
        "'unresolved': len(jobs.unresolved), 'dead': len(dead_with_unresolved_jobs()), "
        "'fates': {f.task_id: [f.badge.word, f.begun, len(f.later_runs), f.tally.verdict, f.tally.executions, f.tally.effects] "
        "for f in jobs.fates}}",
        before=(
            "from tasks_demo.dashboard.held_jobs import dead_with_unresolved_jobs, held_jobs\n"
            "from tasks_demo.dashboard.processes import worker\n"
            "from tasks_demo.ledger.worker_process import WorkerProcess\n"
            f"w = worker(WorkerProcess.objects.get(pid={worker.pid}).pk)\njobs = held_jobs(w)\n"
        ),
    )


def test_held_jobs_of_a_killed_worker_have_their_fates(shop: Bookshop, tmp_path: Path) -> None:
    gates = {name: tmp_path / name for name in ("late", "early", "next", "done")}
    begun = {name: Path(f"{gate}.pid") for name, gate in gates.items()}
    gates["done"].touch()
    code = "\n".join(
        f"tasks.{task}.apply_async(({name!r}, {str(gates[name])!r}), task_id={name!r})"
        for task, name in (
            ("index_slowly", "done"),
            ("index_slowly", "late"),
            ("text_slowly", "early"),
            ("index_slowly", "next"),
        )
    )
    with shop.worker() as first:
        assert shop.python(code).code == 0
        until(lambda: begun["late"].exists() and begun["early"].exists(), "the start of two jobs")
        # "next" is received and waits for a free process.
        until(
            lambda: (
                {name: fate[0] for name, fate in fates(shop, first)["fates"].items()}
                == {"late": "running", "early": "running", "next": "received"}
            ),
            "a report of three jobs, and their points in the ledger",
        )
        seen = fates(shop, first)
        assert (seen["state"], seen["dead"]) == ("alive", 0)
        os.killpg(first.pid, signal.SIGKILL)
        until(lambda: not first.alive(), "its death")
    seen = fates(shop, first)
    assert (seen["state"], seen["why_incomplete"], seen["unresolved"], seen["dead"]) == ("dead", "", 3, 1)
    assert {name: fate[:3] for name, fate in seen["fates"].items()} == {
        "late": ["nobody has it yet", True, 0],
        "early": ["not run again", True, 0],
        "next": ["nobody has it yet", False, 0],
    }

    # A starting worker looks once for messages older than the visibility timeout, and again 100 s later.
    aged = "channel.client.zcount(channel.unacked_index_key, time.time() - 1, '+inf') == 0"
    until(
        lambda: shop.value(aged, before="import time\nchannel = app.connection_for_read().default_channel\n"),
        "their age",
    )
    gates["late"].touch()
    gates["next"].touch()
    with shop.worker() as second:
        until(lambda: shop.payments("late") and shop.payments("next"), "both charges by the second worker")
        read = "from tasks_demo.ledger.reading import read_books; import time\n"

        def settled() -> bool:
            assert shop.python(f"{read}read_books()").code == 0
            return fates(shop, first)["unresolved"] == 1

        until(settled, "a verdict for the two that were run again")
        assert fates(shop, second)["state"] == "alive"
        seen = fates(shop, first)
        assert seen["fates"] == {
            "late": ["run again", True, 1, "recovered", 2, 1],
            "early": ["not run again", True, 0, "unresolved", 1, 0],
            "next": ["run again", False, 1, "recovered", 1, 1],
        }
        assert seen["dead"] == 1
        second.stop(20)  # SIGTERM, and time to end by itself
    assert fates(shop, second)["state"] == "stopped"
    assert fates(shop, second)["fates"] == {}, "what a worker has finished it does not hold"


def test_rabbitmq_tells_depth_and_consumers_but_no_age(rabbitmq: RabbitServer) -> None:
    with rabbitmq.without(*QUEUES), opened(rabbitmq.url) as shop:
        asked = (
            "from tasks_demo.dashboard import broker_state\nfrom tasks_demo.dashboard.workers import _queues\n"
            "rows = {row.name: row for row in _queues(broker_state.ask(), [])}\nrow = rows['bookshop']"
        )
        seen = "[row.waiting, row.age, row.consumers, row.badge.word]"
        assert shop.value(seen, before=asked) == ["not there yet", "", "none", "nobody consumes it"]
        with shop.worker():
            assert shop.value(f"{seen}[1:]", before=asked)[::2] == ["empty", "consumed"]
        assert shop.python("tasks.index.delay('1')").code == 0
        waiting = ["1", "not reported by RabbitMQ", "none", "nobody consumes it"]
        until(lambda: shop.value(seen, before=asked) == waiting, "one message that nobody consumes")

